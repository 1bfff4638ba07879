"""The key/value verbs: what is true now."""

from __future__ import annotations

from rstore.keyvalue.atomic import Atomic
from rstore.keyvalue.entries import Entries
from rstore.keyvalue.mapping import Mapped


class Values(Mapped, Entries, Atomic):
    """A mapping of str to any value, in the order of the keys' UTF-8 bytes."""
