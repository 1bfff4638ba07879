"""Changes and states <-> bytes, for event sequences.

Nouns: a *step* (item, operator's name, encoded value or None), a *stored change* (the steps of one `apply` behind its
header), a *tally* (identifies a set of changes) and a *tip* (the last commit of a sequence).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from rstore.errors import CorruptionError

FOLD_RULES: Final = 4
"""The version of the operators' rules. A checkpoint of another version is not used."""

OPS: Final = (
    *("setitem", "delitem", "add", "sub", "mul", "truediv"),
    *("floordiv", "mod", "pow", "concat", "neg", "not_"),
)
"""The names of the operators, in the order of their codes."""
OP_CODES: Final = {name: code for code, name in enumerate(OPS)}
UNARY_CODES: Final = frozenset(OP_CODES[name] for name in ("delitem", "neg", "not_"))

_BASE: Final = 0x40  # the format; the flags are the bits below
_HAS_TAG: Final = 1
_HAS_LAG: Final = 2
_HAS_ID: Final = 4
_HAS_NOTE: Final = 8
_HAS_SCHEMA: Final = 16
_WIDE: Final = 32
_NARROW_N: Final = 2**32
_MASK: Final = 2**64 - 1
_SIGN: Final = 2**63

_begin = struct.Struct(">BI")
_wide_begin = struct.Struct(">BQ")
_uint64 = struct.Struct(">Q")
_uint32 = struct.Struct(">I")
_uint16 = struct.Struct(">H")
_step = struct.Struct(">BHI")
_read_step = _step.unpack_from
_STEP_BYTES: Final = _step.size
_entry = struct.Struct(">HI")
_position = struct.Struct(">qI")


class Step(NamedTuple):
    """One operator applied to one item."""

    item: str
    op: str
    encoded: bytes | None


class StoredChange(NamedTuple):
    """The steps of one `apply`, its position, and its header."""

    t: int
    seq: int
    n: int
    """The number of its commit in the sequence, from 1 on."""
    recorded: int
    """When it was committed, by the backend's clock in POSIX milliseconds; never before the commit ahead of it."""
    steps: Sequence[Step]
    tag: int = 0
    """Random, in a sealed log; 0 in a plain one."""
    id: str | None = None
    note: bytes | None = None
    """An encoded value."""
    schema: int = 0
    """The version of the application's items and values."""
    size: int = 0
    """About how many bytes it takes as a row."""

    @property
    def position(self) -> tuple[int, int]:
        """Where it stands in its sequence."""
        return self.t, self.seq


def new_tag() -> int:
    """Draw the random tag that identifies a sealed change."""
    return int.from_bytes(os.urandom(8), "big")


def new_birth() -> int:
    """Draw the random number that tells a sequence from a later one of its name."""
    return new_tag() or 1


def pack_change(change: StoredChange) -> bytes:
    """Return the body of the row of a change; its position is not in it."""
    t, _, n, recorded, steps, tag, id_, note, schema, _ = change
    flags = _BASE
    head = b""
    if recorded != t:
        flags |= _HAS_LAG
        head = _uint64.pack(recorded - t & _MASK)
    if schema:
        flags |= _HAS_SCHEMA
        head += _uint16.pack(schema)
    if id_ is not None:
        flags |= _HAS_ID
        raw = id_.encode()
        head += bytes((len(raw),)) + raw
    if note is not None:
        flags |= _HAS_NOTE
        head += _uint32.pack(len(note)) + note
    if tag:
        flags |= _HAS_TAG
    parts = [_begin.pack(flags, n) if n < _NARROW_N else _wide_begin.pack(flags | _WIDE, n), head]
    for item, op, encoded in steps:
        raw_item = item.encode()
        if encoded is None:
            parts += _step.pack(OP_CODES[op], len(raw_item), 0), raw_item
        else:
            parts += _step.pack(OP_CODES[op], len(raw_item), len(encoded)), raw_item, encoded
    if tag:
        parts.append(_uint64.pack(tag))  # last, so that the digest covers all bytes before it
    return b"".join(parts)


def unpack_change(t: int, seq: int, body: bytes) -> StoredChange:
    """Return the change of a row.

    Raises `CorruptionError` for bytes that `pack_change` cannot have made.
    """
    recorded, tag, id_, note, schema = t, 0, None, None, 0
    steps: list[Step] = []
    end = len(body)
    try:
        flags, n = _begin.unpack_from(body)
        at = 5
        if flags & 0xC0 != _BASE:
            raise CorruptionError("a change is damaged, or written by a newer version")
        if flags != _BASE:
            if flags & _WIDE:
                n = _uint64.unpack_from(body, 1)[0]
                at = 9
            if flags & _HAS_LAG:
                recorded = (t + _uint64.unpack_from(body, at)[0] + _SIGN & _MASK) - _SIGN
                at += 8
            if flags & _HAS_SCHEMA:
                schema = _uint16.unpack_from(body, at)[0]
                at += 2
            if flags & _HAS_ID:
                stop = at + 1 + body[at]
                id_ = body[at + 1 : stop].decode()
                at = stop
            if flags & _HAS_NOTE:
                stop = at + 4 + _uint32.unpack_from(body, at)[0]
                note = body[at + 4 : stop]
                at = stop
            if flags & _HAS_TAG:
                end -= 8
                tag = _uint64.unpack_from(body, end)[0]
        while at < end:
            code, item_size, size = _read_step(body, at)
            value_at = at + _STEP_BYTES + item_size
            item = body[value_at - item_size : value_at].decode()
            at = value_at + size
            if (size == 0) is not (code in UNARY_CODES):
                raise CorruptionError("a change has an operand too many, or lacks one")
            steps.append(Step(item, OPS[code], body[value_at:at] if size else None))
    except IndexError as error:
        raise CorruptionError("the operator of a change is unknown, or the change was cut short") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptionError("a change cannot be unpacked") from error
    if at != end or not steps or not 0 < n < 2**63:
        raise CorruptionError("a change was cut short")
    return StoredChange(t, seq, n, recorded, steps, tag, id_, note, schema, len(body))


def commit_number(body: bytes) -> int:
    """Return the n of the body of a change, without unpacking it."""
    return int.from_bytes(body[1:9] if body and body[0] & _WIDE else body[1:5], "big")


class Tally(NamedTuple):
    """Identifies a set of changes: how many, the sum of the tags of sealed ones, and the highest commit number."""

    n: int = 0
    tags: int = 0
    """Modulo 2^64."""
    top: int = 0

    @classmethod
    def of_all(cls, changes: Iterable[StoredChange]) -> Tally:
        """Return the tally of these changes."""
        n = tags = top = 0
        for change in changes:
            n += 1
            tags += change.tag
            top = max(top, change.n)
        return cls(n, tags & _MASK, top)

    def plus(self, change: StoredChange) -> Tally:
        """Return the tally with one more change."""
        return Tally(self.n + 1, self.tags + change.tag & _MASK, max(self.top, change.n))

    def joined(self, n: int, tags: int, top: int) -> Tally:
        """Return the tally with `n` more changes, whose tags add up to `tags`."""
        return Tally(self.n + n, self.tags + tags & _MASK, max(self.top, top))


NONE: Final = Tally()


class Tip(NamedTuple):
    """The last commit of a sequence, and the changes that there are behind it."""

    n: int = 0
    recorded: int = -(2**63)
    digest: bytes = bytes(32)
    """Hashes the changes that the last prune left, in the order of positions, and then each commit since."""
    tally: Tally = NONE
    birth: int = 0
    """Random, drawn with the first commit, 0 before: tells the sequence from a later one of its name."""

    def follows(self, earlier: Tip) -> bool:
        """Return whether it is of the same sequence as an earlier tip, or the same tip."""
        return self.birth == earlier.birth and self.n >= earlier.n


_tip = struct.Struct(">Qq32sQQQQ")
TIP_BYTES: Final = _tip.size


def pack_tip(tip: Tip) -> bytes:
    """Return the bytes of a tip."""
    if not tip.birth:
        raise ValueError("a tip without a birth is of no sequence")
    return _tip.pack(tip.n, tip.recorded, tip.digest, *tip.tally, tip.birth)


def unpack_tip(data: bytes) -> Tip:
    """Return the tip that was packed into these bytes."""
    if len(data) != TIP_BYTES:
        raise CorruptionError("the version of an event sequence is damaged, or written by a newer version")
    n, recorded, digest, *tally, birth = _tip.unpack(data)
    return Tip(n, recorded, digest, Tally(*tally), birth)


def link_of(t: int, seq: int, body: bytes, *, tagged: bool) -> bytes:
    """Return the hash of one change, of which all counts but the tag, a random number.

    Hashed on its own, so that a chain in another order than that of positions needs no more of each change than this.
    """
    return sha256(_position.pack(t, seq) + (body[:-8] if tagged else body)).digest()


def linked(digest: bytes, link: bytes) -> bytes:
    """Return the digest of a sequence with one more change."""
    return sha256(digest + link).digest()


def next_digest(digest: bytes, t: int, seq: int, body: bytes, *, tagged: bool) -> bytes:
    """Return the digest of a sequence after one more commit."""
    return linked(digest, link_of(t, seq, body, tagged=tagged))


_state = struct.Struct(">BHQQQ")


def pack_state(state: Iterable[tuple[str, bytes]], tally: Tally, schema: int = 0) -> bytes:
    """Return the bytes of a checkpoint: the encoded value of every item, and the tally of the changes behind it.

    `schema` is the schema version that its values were brought to.
    """
    parts = [_state.pack(FOLD_RULES, schema, *tally)]
    for item, encoded in state:
        raw_item = item.encode()
        parts += _entry.pack(len(raw_item), len(encoded)), raw_item, encoded
    return b"".join(parts)


def unpack_state(body: bytes, schema: int = 0) -> tuple[dict[str, bytes], Tally] | None:
    """Return the encoded value of every item and the tally of their changes.

    None if they were computed by other fold rules, or under another schema version.
    """
    if body[:1] != bytes((FOLD_RULES,)):
        return None
    state: dict[str, bytes] = {}
    try:
        (_, made_under, *tally), at, end = _state.unpack_from(body), _state.size, len(body)
        if made_under != schema:
            return None
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


class Facts(NamedTuple):
    """The facts of an event sequence: what pruning left of it."""

    horizon: int | None = None
    """History is told from this time on; None if nothing was pruned."""
    known_from: int = -(2**63)
    """… and from this recorded time on."""
    pruned_n: int = 0
    """The number of the last commit when it was pruned."""
    baseline: int | None = None
    """The time of the last change that was folded into the baseline."""
    baseline_n: int = 0
    """The commit number of the baseline; 0 where it has no items."""
    prunes: int = 0
    """How often it was pruned: the digest begins anew each time."""


_facts = struct.Struct(">BBqqQqQI")
_FACTS_FORMAT: Final = 2
_HAS_HORIZON: Final = 1
_HAS_BASELINE: Final = 2


def pack_facts(facts: Facts) -> bytes:
    """Return the bytes of the facts of an event sequence; nothing if it was never pruned."""
    if facts.horizon is None:
        return b""
    flags = _HAS_HORIZON | (0 if facts.baseline is None else _HAS_BASELINE)
    numbers = facts.horizon, facts.known_from, facts.pruned_n, facts.baseline or 0, facts.baseline_n, facts.prunes
    return _facts.pack(_FACTS_FORMAT, flags, *numbers)


def unpack_facts(data: bytes) -> Facts:
    """Return the facts of an event sequence."""
    if not data:
        return Facts()
    if len(data) != _facts.size or data[0] != _FACTS_FORMAT or not data[1] & _HAS_HORIZON:
        raise CorruptionError("the facts of an event sequence are damaged, or written by a newer version")
    _, flags, horizon, known_from, pruned_n, baseline, *counts = _facts.unpack(data)
    return Facts(horizon, known_from, pruned_n, baseline if flags & _HAS_BASELINE else None, *counts)
