"""The head of an event sequence: its version tells which changes there are, its facts tell the horizon."""

from __future__ import annotations

from struct import Struct
from typing import Final

from rstore.backends.types import Head, Model
from rstore.codec.changes import Tally, pack_horizon, unpack_horizon
from rstore.codec.envelope import Cell, Envelope
from rstore.errors import TamperedError
from rstore.log.reader import mark_of

_tally: Final = Struct(">IQ")


def seal_tally(envelope: Envelope, key: str, head: Head | None, tally: Tally) -> bytes | None:
    """Return the next version of a sealed event sequence that then has these changes; None without a key.

    It tells the changes, so that none can be taken away unnoticed, and no checkpoint put back that a change in the
    past made void. Only an older version can be put back, with all that belongs to it: the sequence as it once was.
    With their number alone, an older version would let any change be taken away, and not just the last. Their tags are
    secret, so that no other changes with the same sum can be found without the key.
    """
    if not envelope.keyed:
        return None
    return envelope.seal(_tally.pack(*tally), *_version_place(envelope, key, head))


def tally_of(envelope: Envelope, key: str, head: Head) -> Tally | None:
    """Return the changes that an event sequence has by its version; None if it is not sealed."""
    if not head.sealed:
        return None
    opened = envelope.open(head.version, *_version_place(envelope, key, head))
    if opened is head.version or len(opened) != _tally.size:
        raise TamperedError(f"the version of the event sequence {key!r} is none that was written here")
    return Tally(*_tally.unpack(opened))


def problem_of(found: Tally, told: Tally) -> str | None:
    """Return why a sequence with the changes that were found contradicts its version."""
    if found.n != told.n:
        return f"it has {found.n:,} changes instead of {told.n:,}"
    return None if found == told else "some of its changes are others than it had"


def _version_place(envelope: Envelope, key: str, head: Head | None) -> tuple[bytes, bytes]:
    return envelope.where(Cell.FACT, key), b"n" + mark_of(Model.EVENTS, head)


def seal_horizon(envelope: Envelope, key: str, horizon: int | None) -> bytes:
    """Return the facts of an event sequence: with a key, they are sealed even if it has no horizon."""
    if horizon is None and not envelope.keyed:
        return b""
    return envelope.seal_block(pack_horizon(horizon), envelope.where(Cell.FACT, key))


def open_horizon(envelope: Envelope, key: str, head: Head) -> int | None:
    """Return the horizon of an event sequence.

    Raises `TamperedError` if it was taken out of a sealed one, whose pruned changes would seem to have never been.
    """
    where = envelope.where(Cell.FACT, key)
    if not head.facts and head.sealed:
        raise envelope.emptied(where)
    return unpack_horizon(head.facts and envelope.open_block(head.facts, where))
