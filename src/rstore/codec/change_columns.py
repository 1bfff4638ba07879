"""Many changes as columns: headers, operators, items and values apart, so that alike ones pack to next to nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rstore.codec.changes import OP_CODES, OPS, UNARY_CODES, Step, StoredChange, Tally, pack_change, unpack_change
from rstore.codec.columns import Blobs, Column, Int64s, Kind, Packed, column_of_encoded, concat
from rstore.codec.packing import pack, pack_numbers, unpack, unpack_numbers
from rstore.errors import CorruptionError

MAX_STEPS: Final = 2**17
"""The most steps of a chunk; writers stop at half of it, since each counts as 7 bytes or more."""

_FIXED_BYTES: Final = 5
_STEP_BYTES: Final = 7
_IS_UNARY: Final = np.array([code in UNARY_CODES for code in range(256)])


class ChangeColumns(Packed):
    """Changes in order of position, without their positions. Immutable by agreement: slices share their data."""

    __slots__ = ("ids", "items", "lags", "n", "notes", "ops", "schemas", "starts", "tags", "value_starts", "values")

    def __init__(
        self,
        n: Int64s,
        lags: Int64s,
        steps: tuple[Int64s | None, npt.NDArray[np.uint8], list[str]],
        values: Column | None,
        extras: tuple[npt.NDArray[np.uint64] | None, Int64s | None, list[str] | None, list[bytes] | None],
    ) -> None:
        self.n = n
        """Commit numbers."""
        self.lags = lags
        """Recorded times less timestamps, modulo 2^64."""
        self.starts, self.ops, self.items = steps
        """Change `i` has the steps from `starts[i]` to `starts[i + 1]`; None: one step each."""
        self.values = values
        """The operands of the steps that have one; None if none has."""
        self.tags, self.schemas, self.ids, self.notes = extras
        """None where no change has any; "" and b"" for one that has none."""
        unary = _IS_UNARY[self.ops]
        self.value_starts = None
        """Step `i` has the operands from `value_starts[i]` to `value_starts[i + 1]`; None: one operand each."""
        if unary.any():
            self.value_starts = _starts(~unary)

    @classmethod
    def of(cls, changes: Sequence[StoredChange]) -> ChangeColumns:
        """Return the columns of some changes."""
        size = len(changes)
        steps = [step for change in changes for step in change.steps]
        starts = None
        if len(steps) != size:
            starts = _starts(np.fromiter((len(change.steps) for change in changes), np.int64, size))
        ops = np.fromiter((OP_CODES[step.op] for step in steps), np.uint8, len(steps))
        encoded = [step.encoded for step in steps if step.encoded is not None]
        t = np.fromiter((change.t for change in changes), np.int64, size)
        recorded = np.fromiter((change.recorded for change in changes), np.int64, size)
        tags = schemas = ids = notes = None
        if any(change.tag for change in changes):
            tags = np.fromiter((change.tag for change in changes), np.uint64, size)
        if any(change.schema for change in changes):
            schemas = np.fromiter((change.schema for change in changes), np.int64, size)
        if any(change.id for change in changes):
            ids = [change.id or "" for change in changes]
        if any(change.note for change in changes):
            notes = [change.note or b"" for change in changes]
        return cls(
            np.fromiter((change.n for change in changes), np.int64, size),
            recorded - t,  # wraps around
            (starts, ops, [step.item for step in steps]),
            column_of_encoded(encoded) if encoded else None,
            (tags, schemas, ids, notes),
        )

    @classmethod
    def of_bodies(cls, bodies: Sequence[bytes]) -> ChangeColumns:
        """Return the columns of the bodies of rows."""
        return cls.of([unpack_change(0, 0, body) for body in bodies])

    def __len__(self) -> int:
        return len(self.n)

    def bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of the steps of the changes from `start` to `stop`, excluded."""
        return (start, stop) if self.starts is None else (int(self.starts[start]), int(self.starts[stop]))

    def slice(self, start: int, stop: int) -> ChangeColumns:
        """Return the changes from `start` to `stop`, excluded."""
        first, last = self.bounds(start, stop)
        starts = None if self.starts is None else self.starts[start : stop + 1] - first
        values = self.values
        if values is not None:
            low, high = (first, last) if self.value_starts is None else map(int, self.value_starts[[first, last]])
            values = values.slice(low, high) if high > low else None
        return ChangeColumns(
            self.n[start:stop],
            self.lags[start:stop],
            (starts, self.ops[first:last], self.items[first:last]),
            values,
            (
                None if self.tags is None else self.tags[start:stop],
                None if self.schemas is None else self.schemas[start:stop],
                None if self.ids is None else self.ids[start:stop],
                None if self.notes is None else self.notes[start:stop],
            ),
        )

    def take(self, indexes: Sequence[int]) -> ChangeColumns:
        """Return the changes at these indexes."""
        changes = self.changes(np.zeros(len(self), np.int64), None)
        return ChangeColumns.of([changes[i] for i in indexes])

    def joined(self, others: Sequence[Packed]) -> ChangeColumns:
        """Return these changes with others behind them."""
        parts = [self, *(other for other in others if isinstance(other, ChangeColumns))]
        starts = None
        if any(part.starts is not None for part in parts):
            starts = _starts(np.concatenate([part.counts() for part in parts]))
        values = [part.values for part in parts if part.values is not None]
        return ChangeColumns(
            np.concatenate([part.n for part in parts]),
            np.concatenate([part.lags for part in parts]),
            (starts, np.concatenate([part.ops for part in parts]), [item for part in parts for item in part.items]),
            concat(values) if values else None,
            (
                _joined(parts, "tags", np.uint64),
                _joined(parts, "schemas", np.int64),
                _joined_list(parts, "ids", ""),
                _joined_list(parts, "notes", b""),
            ),
        )

    def encoded(self) -> list[bytes]:
        """Return the body of the row of each."""
        return [*map(pack_change, self.changes(np.zeros(len(self), np.int64), None))]

    def counts(self) -> Int64s:
        """Return how many steps each change has."""
        return np.ones(len(self), np.int64) if self.starts is None else np.diff(self.starts)

    def steps(self) -> Iterator[Step]:
        """Yield all steps."""
        encoded: Iterator[bytes | None] = iter(()) if self.values is None else iter(self.values.encoded())
        ops = map(OPS.__getitem__, self.ops.tolist())
        if self.value_starts is None:
            yield from map(Step, self.items, ops, encoded)
            return
        for item, op, has in zip(self.items, ops, (~_IS_UNARY[self.ops]).tolist(), strict=True):
            yield Step(item, op, next(encoded) if has else None)

    def changes(self, t: Int64s, seq: Int64s | None) -> list[StoredChange]:
        """Return the changes, which stand at these positions."""
        size, steps = len(self), [*self.steps()]
        if self.starts is None:
            divided: Any = [[step] for step in steps]
        else:
            bounds = self.starts.tolist()
            divided = [steps[start:stop] for start, stop in pairwise(bounds)]
        return [
            *map(
                StoredChange,
                t.tolist(),
                repeat(0, size) if seq is None else seq.tolist(),
                self.n.tolist(),
                (t + self.lags).tolist(),
                divided,
                repeat(0, size) if self.tags is None else self.tags.tolist(),
                repeat(None, size) if self.ids is None else [one or None for one in self.ids],
                repeat(None, size) if self.notes is None else [one or None for one in self.notes],
                repeat(0, size) if self.schemas is None else self.schemas.tolist(),
                self.sizes(),
            )
        ]

    def tally(self) -> Tally:
        """Return the tally of these changes."""
        return Tally(len(self), 0 if self.tags is None else int(self.tags.sum()), int(self.n.max(initial=0)))

    def size(self) -> int:
        """Return about how many bytes all take."""
        size = _FIXED_BYTES * len(self) + _STEP_BYTES * len(self.items) + len("".join(self.items).encode())
        if (values := self.values) is not None:
            apart = len(values) if not isinstance(values.data, Blobs) else 0  # the codec byte of each
            numbers = values.data.nbytes if isinstance(values.data, np.ndarray) else values.size()
            size += numbers + apart
        for extra in (self.ids, self.notes):
            if extra is not None:
                size += sum(map(len, extra))
        return size

    def sizes(self) -> list[int]:
        """Return about how many bytes each takes."""
        items = [len(item) if item.isascii() else len(item.encode()) for item in self.items]
        of_steps = np.fromiter(items, np.int64, len(items)) + _STEP_BYTES
        if self.values is not None:
            has = slice(None) if self.value_starts is None else ~_IS_UNARY[self.ops]
            of_steps[has] += _sizes_of(self.values)
        ends = np.zeros(len(items) + 1, np.int64)
        np.cumsum(of_steps, out=ends[1:])
        sizes = (np.diff(ends) if self.starts is None else np.diff(ends[self.starts])) + _FIXED_BYTES
        for extra in (self.ids, self.notes):
            if extra is not None:
                sizes += np.fromiter(map(len, extra), np.int64, len(extra))
        return list(sizes.tolist())


def _sizes_of(values: Column) -> Any:
    if isinstance(values.data, np.ndarray):
        return values.data.itemsize + 1
    if isinstance(values.data, Blobs):
        return np.diff(values.data.offsets)
    return np.fromiter((len(text.encode("utf-8", "surrogatepass")) + 1 for text in values.data), np.int64, len(values))


def _starts(counts: npt.NDArray[Any]) -> Int64s:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _joined(parts: Sequence[ChangeColumns], name: str, dtype: Any) -> npt.NDArray[Any] | None:
    arrays = [getattr(part, name) for part in parts]
    if all(array is None for array in arrays):
        return None
    return np.concatenate(
        [np.zeros(len(part), dtype) if array is None else array for part, array in zip(parts, arrays, strict=True)]
    )


def _joined_list(parts: Sequence[ChangeColumns], name: str, missing: Any) -> list[Any] | None:
    lists = [getattr(part, name) for part in parts]
    if all(one is None for one in lists):
        return None
    return [
        value
        for part, one in zip(parts, lists, strict=True)
        for value in ([missing] * len(part) if one is None else one)
    ]


_IN_ORDER: Final = 1
_ONE_OP: Final = 2
_FLAGS: Final = _IN_ORDER | _ONE_OP
_header = struct.Struct(">BBI9I")
"""Flags, kind of the values, number of steps, and the bytes of all parts but the last, the values."""


def pack_changes(columns: ChangeColumns) -> bytes:
    """Return the bytes of some changes."""
    flags, first = 0, int(columns.n[0])
    if (columns.n == first + np.arange(len(columns))).all():
        flags |= _IN_ORDER
    if (columns.ops == columns.ops[0]).all():
        flags |= _ONE_OP
    parts = (
        first.to_bytes(8, "big") if flags & _IN_ORDER else pack_numbers(columns.n),
        pack_numbers(columns.lags) if columns.lags.any() else b"",
        b"" if columns.tags is None else columns.tags.astype(">u8").tobytes(),
        b"" if columns.schemas is None else pack_numbers(columns.schemas),
        b"" if columns.ids is None else pack(Column(Kind.STR, columns.ids)),
        b"" if columns.notes is None else pack(Column(Kind.ENCODED, Blobs.of(columns.notes))),
        b"" if columns.starts is None else pack_numbers(columns.counts()),
        bytes((int(columns.ops[0]),)) if flags & _ONE_OP else pack_numbers(columns.ops),
        pack(Column(Kind.STR, columns.items)),
    )
    values = columns.values
    kind, packed = (0, b"") if values is None else (int(values.kind), pack(values))
    return _header.pack(flags, kind, len(columns.ops), *map(len, parts)) + b"".join(parts) + packed


def unpack_changes(data: bytes, rows: int) -> ChangeColumns:
    """Return the `rows` changes that were packed into these bytes.

    Raises `CorruptionError` for what contradicts itself, before it allocates more than a chunk may have.
    """
    flags, kind, count, *sizes = _header.unpack_from(data)
    if flags & ~_FLAGS or not rows <= count <= MAX_STEPS:
        raise _contradiction()
    parts: list[bytes] = []
    at = _header.size
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    n, lags, tags, schemas, ids, notes, counts, ops, items = parts
    if (flags & _IN_ORDER and len(n) != 8) or (tags and len(tags) != 8 * rows) or (flags & _ONE_OP and len(ops) != 1):
        raise _contradiction()
    starts = _starts(unpack_numbers(counts, np.int64, rows)) if counts else None
    sound = count == rows if starts is None else bool((np.diff(starts) > 0).all()) and int(starts[-1]) == count
    codes = np.full(count, ops[0], np.uint8) if flags & _ONE_OP else unpack_numbers(ops, np.uint8, count)
    if not sound or int(codes.max()) >= len(OPS):
        raise _contradiction()
    operands = count - int(_IS_UNARY[codes].sum())
    if (kind == 0) is not (operands == 0) or kind == Kind.CHANGES:
        raise _contradiction()
    if flags & _IN_ORDER:
        first = int.from_bytes(n, "big")
        if not 0 < first <= 2**63 - rows:
            raise _contradiction()
        numbers = first + np.arange(rows)
    else:
        numbers = unpack_numbers(n, np.int64, rows)
    if int(numbers.min()) < 1:
        raise _contradiction()
    return ChangeColumns(
        numbers,
        unpack_numbers(lags, np.int64, rows) if lags else np.zeros(rows, np.int64),
        (starts, codes, unpack(Kind.STR, items, count).data),
        unpack(Kind(kind), data[at:], operands) if operands else None,
        (
            np.frombuffer(tags, ">u8").astype(np.uint64) if tags else None,
            unpack_numbers(schemas, np.int64, rows) if schemas else None,
            unpack(Kind.STR, ids, rows).data if ids else None,
            unpack(Kind.ENCODED, notes, rows).data.encoded() if notes else None,
        ),
    )


def _contradiction() -> CorruptionError:
    return CorruptionError("a chunk of changes contradicts itself")
