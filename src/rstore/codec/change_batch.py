"""Many new changes of one sequence at once: bodies, digest and columns, the same as made one by one.

Nouns: a *batch* (changes as columns, in the order of their commits) and a *tail* (the steps in the body of a change).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import pairwise, repeat
from operator import add
from typing import Any, Final

import numpy as np

from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import OPS, Step, StoredChange, Tip, next_digest, pack_change
from rstore.codec.columns import DTYPES, Column, Int64s, Kind, column_of_encoded, sole_type
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec

_PLAIN: Final = 0x42  # of a change with a recorded time of its own
_TAGGED: Final = 0x43
_NOTED: Final = 0x08
_VERSIONED: Final = 0x10
_NARROW_N: Final = 2**32

_head = struct.Struct(">qIBIQ")
_POSITION_BYTES: Final = 12
_step = struct.Struct(">BHI")
_uint16 = struct.Struct(">H")
_uint32 = struct.Struct(">I")
_uint64 = struct.Struct(">Q")

_KINDS: Final[dict[type | None, Kind]] = {int: Kind.INT, float: Kind.FLOAT, bool: Kind.BOOL, str: Kind.STR}


class Encoded(bytes):
    """An encoded value among values that are not encoded yet."""

    __slots__ = ()


def encode_values(values: Sequence[Any], codec: Codec) -> tuple[list[bytes | None], Column | None]:
    """Return the encoded value of each, and all of them as a column; None stands for none."""
    kind = _KINDS.get(sole_type(values)) if codec.typed else None
    column = None
    if kind is Kind.STR:
        column = Column(kind, values)
    elif kind is not None:
        try:
            column = Column(kind, np.fromiter(values, DTYPES[kind], len(values)))
        except OverflowError:  # an int beyond 64 bits
            kind = None
    if column is not None:
        return [*column.encoded()], column
    encode = codec.encode
    encoded = [one if type(one) is Encoded or one is None else encode(one) for one in values]
    there = [one for one in encoded if one is not None]
    return encoded, column_of_encoded(there) if there else None


@dataclass
class Batch:
    """New changes of one sequence in the order of their commits."""

    t: Int64s
    seq: Int64s
    n: Int64s
    recorded: int
    starts: Int64s | None
    """As in `ChangeColumns`."""
    items: list[str]
    codes: list[int]
    encoded: list[bytes | None]
    column: Column | None
    notes: list[bytes] | None
    schema: int = 0
    """The schema version of all of them."""
    tags: Any = None

    def __len__(self) -> int:
        return len(self.t)

    @cached_property
    def lags(self) -> Int64s:
        """Recorded times less timestamps, modulo 2^64."""
        return np.int64(self.recorded) - self.t

    def tag(self) -> None:
        """Draw the tags of sealed changes."""
        self.tags = np.frombuffer(os.urandom(8 * len(self)), np.uint64)

    def columns(self, order: Int64s | None) -> Segment:
        """Return the changes as a segment, in the order of their positions."""
        columns = ChangeColumns(
            self.n,
            self.lags,
            (self.starts, np.array(self.codes, np.uint8), self.items),
            self.column,
            (self.tags, np.full(len(self), self.schema) if self.schema else None, None, self.notes),
        )
        if order is None:
            return Segment(self.t, self.seq if self.seq.any() else None, Column(Kind.CHANGES, columns))
        return Segment(self.t[order], self.seq[order], Column(Kind.CHANGES, columns.take(order.tolist())))

    def changes(self) -> list[StoredChange]:
        """Return the changes one by one."""
        steps = [*map(Step, self.items, map(OPS.__getitem__, self.codes), self.encoded)]
        divided = [[step] for step in steps] if self.starts is None else _divided(steps, self.starts)
        return [
            StoredChange(t, seq, n, self.recorded, these, tag, None, note or None, self.schema, size)
            for t, seq, n, these, tag, note, size in zip(
                self.t.tolist(),
                self.seq.tolist(),
                self.n.tolist(),
                divided,
                repeat(0, len(self)) if self.tags is None else self.tags.tolist(),
                repeat(None, len(self)) if self.notes is None else self.notes,
                self.sizes(),
                strict=True,
            )
        ]

    @cached_property
    def _tails(self) -> list[bytes]:
        values = [one or b"" for one in self.encoded]
        tails = [*map(add, map(_prefix, self.codes, self.items, map(len, values)), values)]
        if self.starts is not None:
            bounds = pairwise(self.starts.tolist())
            tails = [tails[i] if j - i == 1 else b"".join(tails[i:j]) for i, j in bounds]
        if self.notes is not None:
            tails = [
                _uint32.pack(len(note)) + note + tail if note else tail
                for note, tail in zip(self.notes, tails, strict=True)
            ]
        if self.schema:
            prefix = _uint16.pack(self.schema)
            tails = [prefix + tail for tail in tails]
        return tails

    def sizes(self) -> list[int]:
        """Return about how many bytes each takes as a row."""
        more = _head.size - _POSITION_BYTES + (0 if self.tags is None else 8)
        return [len(tail) + more for tail in self._tails]

    @cached_property
    def _heads(self) -> list[bytes] | None:
        """Position and header of each change; None if not all have the same fields."""
        if int(self.n[-1]) >= _NARROW_N or not self.lags.all():
            return None
        flags = (_PLAIN if self.tags is None else _TAGGED) | (_VERSIONED if self.schema else 0)
        of_each: Iterable[int] = repeat(flags)
        if self.notes is not None:
            of_each = [flags | _NOTED if note else flags for note in self.notes]
        lags = self.lags.view(np.uint64).tolist()
        return [*map(_head.pack, self.t.tolist(), self.seq.tolist(), of_each, self.n.tolist(), lags)]

    @cached_property
    def bodies(self) -> list[bytes]:
        """The body of the row of each change."""
        if self._heads is None:
            return [*map(pack_change, self.changes())]
        bodies = [head[_POSITION_BYTES:] + tail for head, tail in zip(self._heads, self._tails, strict=True)]
        if self.tags is None:
            return bodies
        return [body + _uint64.pack(tag) for body, tag in zip(bodies, self.tags.tolist(), strict=True)]

    def digest(self, tip: Tip) -> bytes:
        """Return the digest of the sequence behind these changes."""
        digest = tip.digest
        if self._heads is None:
            tagged = self.tags is not None
            for t, seq, body in zip(self.t.tolist(), self.seq.tolist(), self.bodies, strict=True):
                digest = next_digest(digest, t, seq, body, tagged=tagged)
            return digest
        for link in [sha256(head + tail).digest() for head, tail in zip(self._heads, self._tails, strict=True)]:
            digest = sha256(digest + link).digest()  # written out: `next_digest` takes twice the time
        return digest


@lru_cache(maxsize=2**12)
def _prefix(code: int, item: str, size: int) -> bytes:
    """Return the beginning of a step: all but its value, of so many bytes."""
    raw = item.encode()
    return _step.pack(code, len(raw), size) + raw


def _divided(steps: Sequence[Any], starts: Int64s) -> list[Sequence[Any]]:
    return [steps[start:stop] for start, stop in pairwise(starts.tolist())]
