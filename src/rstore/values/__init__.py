"""The key/value verbs: what is true now."""

from __future__ import annotations

from rstore.values.atomic import Atomic
from rstore.values.entries import Entries
from rstore.values.mapping import Mapped
from rstore.values.records import Entry as Entry
from rstore.values.watching import Change as Change
from rstore.values.watching import Watch as Watch
from rstore.values.watching import Watching as Watching


class Values(Mapped, Entries, Atomic):
    """A mapping of str to any value, in the order of the keys' UTF-8 bytes."""
