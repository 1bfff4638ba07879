"""The head of an event sequence: its version tells the last commit, its facts tell what pruning left."""

from __future__ import annotations

from typing import Final

from rstore.backends.types import Head, Model
from rstore.codec.changes import Facts, Tally, Tip, pack_facts, pack_tip, unpack_facts, unpack_tip
from rstore.codec.ciphers import HEADER_BYTES, PREFIX_BYTES
from rstore.codec.envelope import Cell, Envelope
from rstore.errors import TamperedError
from rstore.log.reader import mark_of
from rstore.log.writer import STAMP_BYTES, new_stamp


def seal_tip(envelope: Envelope, key: str, head: Head | None, tip: Tip) -> bytes:
    """Return the next version of an event sequence, whose last commit is then this one.

    A sealed one tells the changes, so that none can be taken away unnoticed, and no checkpoint put back that a change
    in the past made void. Only an older version can be put back, with all that belongs to it: the sequence as it once
    was. With their number alone, an older version would let any change be taken away, and not just the last. Their
    tags are secret, so that no other changes with the same sum can be found without the key.
    """
    packed = pack_tip(tip)
    if not envelope.keyed:
        return new_stamp() + packed
    return envelope.seal(packed, *_version_place(envelope, key, head))


def open_tip(envelope: Envelope, key: str, head: Head) -> Tip:
    """Return the last commit of an event sequence by its version."""
    if not head.sealed:
        return unpack_tip(head.version[STAMP_BYTES:])
    opened = envelope.open(head.version, *_version_place(envelope, key, head))
    if opened is head.version:
        raise TamperedError(f"the version of the event sequence {key!r} is none that was written here")
    return unpack_tip(opened)


def told_version(head: Head) -> bytes:
    """Return the version of an event sequence as callers see it: its random part, without what it tells."""
    return head.version[PREFIX_BYTES:HEADER_BYTES] if head.sealed else head.version[:STAMP_BYTES]


def problem_of(found: Tally, told: Tally) -> str | None:
    """Return why a sequence with the changes that were found contradicts its version."""
    if found.n != told.n:
        return f"it has {found.n:,} changes instead of {told.n:,}"
    return None if found == told else "some of its changes are others than it had"


def _version_place(envelope: Envelope, key: str, head: Head | None) -> tuple[bytes, bytes]:
    return envelope.where(Cell.FACT, key), b"n" + mark_of(Model.EVENTS, head)


def seal_facts(envelope: Envelope, key: str, facts: Facts) -> bytes:
    """Return the facts of an event sequence: with a key, they are sealed even if it was never pruned."""
    packed = pack_facts(facts)
    if not packed and not envelope.keyed:
        return b""
    return envelope.seal_block(packed, envelope.where(Cell.FACT, key))


def open_facts(envelope: Envelope, key: str, head: Head) -> Facts:
    """Return the facts of an event sequence.

    Raises `TamperedError` if they were taken out of a sealed one, whose pruned changes would seem to have never been.
    """
    where = envelope.where(Cell.FACT, key)
    if not head.facts and head.sealed:
        raise envelope.emptied(where)
    return unpack_facts(head.facts and envelope.open_block(head.facts, where))


NEVER_PRUNED: Final = Facts()
