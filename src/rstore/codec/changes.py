"""Changes and states <-> bytes, for event sequences.

Nouns: a *step* (item, operator's name, encoded value or None) and a *change* (the steps of one `apply`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from rstore.errors import CorruptionError

_FORMAT: Final = 1
_TAGGED: Final = 2
_TAG_BYTES: Final = 8

FOLD_RULES: Final = 2
"""The version of the operators' rules. A checkpoint of another version is not used."""

_step = struct.Struct(">HBI")
_read_step = _step.unpack_from
_STEP_BYTES: Final = _step.size
_entry = struct.Struct(">HI")
_state = struct.Struct(">BIQ")
_NO_VALUE: Final = 0xFFFFFFFF


class Step(NamedTuple):
    """One operator applied to one item."""

    item: str
    op: str
    encoded: bytes | None


class Tally(NamedTuple):
    """Identifies the changes of a sequence: their number, and the sum of the tags of sealed ones."""

    n: int = 0
    tags: int = 0

    @classmethod
    def of(cls, n: int, tags: int) -> Tally:
        """Return the tally of `n` changes whose tags add up to `tags`."""
        return cls(n, tags & _MASK)

    @classmethod
    def of_all(cls, bodies: Collection[bytes]) -> Tally:
        """Return the tally of these changes."""
        return cls.of(len(bodies), sum(map(tag_of, bodies)))

    def plus(self, body: bytes) -> Tally:
        """Return the tally with one more change."""
        tag = tag_of(body)
        return Tally(self.n + 1, self.tags + tag & _MASK) if tag else Tally(self.n + 1, self.tags)


NONE: Final = Tally()
_MASK: Final = 2 ** (8 * _TAG_BYTES) - 1


def new_tag() -> bytes:
    """Draw the random tag that identifies a sealed change."""
    return os.urandom(_TAG_BYTES)


def tag_of(body: bytes) -> int:
    """Return the tag of a change; 0 if it is not sealed."""
    return int.from_bytes(body[1 : 1 + _TAG_BYTES], "big") if body[:1] == b"\x02" else 0


def pack_change(steps: Iterable[Step], tag: bytes = b"") -> bytes:
    """Return the bytes of a change."""
    parts = [bytes((_TAGGED,)) + tag if tag else bytes((_FORMAT,))]
    for item, op, encoded in steps:
        raw_item, raw_op = item.encode(), op.encode()
        parts += (
            _step.pack(len(raw_item), len(raw_op), _NO_VALUE if encoded is None else len(encoded)),
            raw_item,
            raw_op,
            encoded or b"",
        )
    return b"".join(parts)


def unpack_change(body: bytes) -> list[Step]:
    """Return the steps of a change."""
    steps: list[Step] = []
    at, end = 1, len(body)
    try:
        if body[0] == _TAGGED and end > _TAG_BYTES:
            at += _TAG_BYTES
        elif body[0] != _FORMAT:
            raise CorruptionError("a change is damaged, or written by a newer version")
        while at < end:
            item_size, op_size, size = _read_step(body, at)
            op_at = at + _STEP_BYTES + item_size
            value_at = op_at + op_size
            at = value_at if size == _NO_VALUE else value_at + size
            encoded = None if size == _NO_VALUE else body[value_at:at]
            steps.append(Step(body[op_at - item_size : op_at].decode(), body[op_at:value_at].decode(), encoded))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise CorruptionError("a change cannot be unpacked") from error
    if at != end:
        raise CorruptionError("a change was cut short")
    return steps


def repack(body: bytes, steps: Iterable[Step]) -> bytes:
    """Return the bytes of a change with other steps, under the same tag."""
    return pack_change(steps, body[1 : 1 + _TAG_BYTES] if body[0] == _TAGGED else b"")


def pack_state(state: Iterable[tuple[str, bytes]], tally: Tally) -> bytes:
    """Return the bytes of a checkpoint: the encoded value of every item, and the tally of the changes behind it."""
    parts = [_state.pack(FOLD_RULES, *tally)]
    for item, encoded in state:
        raw_item = item.encode()
        parts += _entry.pack(len(raw_item), len(encoded)), raw_item, encoded
    return b"".join(parts)


def unpack_state(body: bytes) -> tuple[dict[str, bytes], Tally] | None:
    """Return the encoded value of every item and the tally of their changes; None if other fold rules made them."""
    if body[:1] != bytes((FOLD_RULES,)):
        return None
    state: dict[str, bytes] = {}
    try:
        (_, *tally), at, end = _state.unpack_from(body), _state.size, len(body)
        while at < end:
            item_size, size = _entry.unpack_from(body, at)
            at += _entry.size
            value_at = at + item_size
            state[body[at:value_at].decode()] = body[value_at : value_at + size]
            at = value_at + size
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptionError("a checkpoint cannot be unpacked") from error
    if at != end:
        raise CorruptionError("a checkpoint was cut short")
    return state, Tally(*tally)


_facts = struct.Struct(">BBq")
_HAS_HORIZON: Final = 1


def pack_horizon(horizon: int | None) -> bytes:
    """Return the facts of an event sequence."""
    return b"" if horizon is None else _facts.pack(_FORMAT, _HAS_HORIZON, horizon)


def unpack_horizon(facts: bytes) -> int | None:
    """Return the horizon from the facts of an event sequence."""
    if not facts:
        return None
    if len(facts) != _facts.size or facts[0] != _FORMAT:
        raise CorruptionError("the facts of an event sequence are damaged, or written by a newer version")
    horizon: int = _facts.unpack(facts)[2]
    return horizon
