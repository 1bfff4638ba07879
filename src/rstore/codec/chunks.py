"""Segments <-> chunks: many rows of a log as columns, and the bytes they become.

Nouns: a *segment* (rows as columns: positions and values), a *chunk body* (the packed columns) and its *meta* (what
can be answered without unpacking them).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from rstore.backends.types import Position, Row
from rstore.codec.columns import (
    FLOATS,
    LIMITS,
    WIDTHS,
    Blobs,
    Column,
    Int64s,
    Kind,
    column_of_encoded,
    concat,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from rstore.errors import CorruptionError, StoreError

MIN_ROWS: Final = 8192
"""How many points a chunk has at least, unless it is the only one; it has fewer than twice as many."""
MIN_CHANGES: Final = 1024
"""The same for changes: a state of the past unpacks a chunk for a hundred of them, and unpacking 8,192 took longer than
all else. It costs 7 % more bytes."""
MAX_ROWS: Final = 2 * MIN_ROWS
MAX_BYTES: Final = 512 * 1024
_FORMAT: Final = 1
_header = struct.Struct(">BBIII")
_MAX_META_VALUE: Final = 1024
_HAS_VALUES: Final = 1
_HAS_STATS: Final = 2
_HAS_GAPS: Final = 4
_FLAGS: Final = _HAS_VALUES | _HAS_STATS | _HAS_GAPS


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of a log in order of position: timestamps, sequence numbers (None: all 0) and values, equally many."""

    t: Int64s
    seq: Int64s | None
    column: Column

    def __len__(self) -> int:
        return len(self.t)

    def position(self, i: int) -> Position:
        """Return the position of one row."""
        return int(self.t[i]), 0 if self.seq is None else int(self.seq[i])

    def slice(self, start: int, stop: int) -> Segment:
        """Return the rows from `start` to `stop`, excluded."""
        if start == 0 and stop == len(self):
            return self
        seq = None if self.seq is None else self.seq[start:stop]
        return Segment(self.t[start:stop], seq, self.column.slice(start, stop))

    def index(self, position: Position, *, after: bool = False) -> int:
        """Return how many rows stand before a position (`after`: before or at it)."""
        t, seq = position
        start = int(np.searchsorted(self.t, t, "left"))
        stop = int(np.searchsorted(self.t, t, "right"))
        if self.seq is None:
            return stop if seq > 0 or after else start
        return start + int(np.searchsorted(self.seq[start:stop], seq, "right" if after else "left"))

    def between(self, lo: Position, hi: Position) -> Segment:
        """Return the rows from `lo` to `hi`, both included."""
        if not len(self) or (lo <= self.position(0) and self.position(len(self) - 1) <= hi):
            return self
        return self.slice(self.index(lo), self.index(hi, after=True))


def segment_of_rows(rows: Sequence[Row], *, opaque: bool) -> Segment:
    """Return the segment of hot rows, their bodies opened. Opaque bodies (changes) are never a typed column."""
    t = np.fromiter(map(itemgetter(0), rows), np.int64, len(rows))
    bodies = [*map(itemgetter(2), rows)]
    if not opaque:
        return Segment(t, None, column_of_encoded(bodies))
    seq = np.fromiter(map(itemgetter(1), rows), np.int64, len(rows))
    return Segment(t, seq, Column(Kind.ENCODED, Blobs.of(bodies)))


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment of several, in order; at equal positions the row of the later segment wins."""
    segments = [segment for segment in segments if len(segment)]
    if not segments:
        return Segment(np.empty(0, np.int64), None, Column(Kind.INT, np.empty(0, np.int64)))
    t = np.concatenate([segment.t for segment in segments]) if len(segments) > 1 else segments[0].t
    column = concat([segment.column for segment in segments])
    seq = None
    if any(segment.seq is not None for segment in segments):
        seq = np.concatenate([np.zeros(len(s), np.int64) if s.seq is None else s.seq for s in segments])
    if ascending(t, seq):
        return Segment(t, seq, column)
    # Both sorts are stable, so that of equal positions the last one comes last.
    order = np.argsort(t, kind="stable") if seq is None else np.lexsort((seq, t))
    t = t[order]
    last = np.ones(len(t), np.bool_)
    last[:-1] = t[1:] != t[:-1]
    if seq is not None:
        seq = seq[order]
        last[:-1] |= seq[1:] != seq[:-1]
        seq = seq[last]
    return Segment(t[last], seq, column.take(order[last]))


def ascending(t: Int64s, seq: Int64s | None) -> bool:
    """Return whether each position is behind the one before it."""
    rises = t[1:] > t[:-1]
    if seq is not None:
        rises |= (t[1:] == t[:-1]) & (seq[1:] > seq[:-1])
    return bool(rises.all())


def split(segment: Segment, least: int) -> Iterator[Segment]:
    """Yield the segment in pieces of `least` rows to twice as many, and fewer where they would exceed 512 KiB."""
    n = len(segment)
    pieces = max(1, n // least)
    for i in range(pieces if n else 0):
        start, stop = i * n // pieces, (i + 1) * n // pieces
        piece = segment.slice(start, stop)
        if piece.column.size() <= MAX_BYTES:
            yield piece
            continue
        begin = size = 0
        for row, one in enumerate(piece.column.sizes()):
            if size + one > MAX_BYTES and row > begin:
                yield piece.slice(begin, row)
                begin, size = row, 0
            size += one
        yield piece.slice(begin, len(piece))


def pack_chunk(segment: Segment) -> bytes:
    """Return the body of a chunk: header, timestamps, sequence numbers, values."""
    t = pack_numbers(segment.t, rising=True)
    seq = b"" if segment.seq is None or not segment.seq.any() else pack_numbers(segment.seq)
    values = pack(segment.column)
    return _header.pack(_FORMAT, segment.column.kind, len(segment), len(t), len(seq)) + t + seq + values


def unpack_chunk(body: bytes, n: int) -> Segment:
    """Return the segment of a chunk's body that is known to hold `n` rows.

    Raises `CorruptionError` for whatever cannot have been packed.
    """
    try:
        return _unpack_chunk(body, n)
    except StoreError:
        raise
    except (struct.error, ValueError, TypeError, IndexError, RuntimeError, zstandard.ZstdError) as error:
        raise CorruptionError("a chunk cannot be unpacked") from error
    except BaseException as error:
        # A panic of pcodec's Rust code derives from BaseException; nothing else of its kind is caught here.
        if type(error).__name__ != "PanicException":
            raise
        raise CorruptionError("a chunk cannot be unpacked") from error


def _unpack_chunk(body: bytes, n: int) -> Segment:
    version, kind, rows, t_size, seq_size = _header.unpack_from(body)
    if version != _FORMAT or rows != n or n > MAX_ROWS:
        raise CorruptionError("a chunk's header is damaged, or written by a newer version")
    start = _header.size + t_size
    t = unpack_numbers(body[_header.size : start], np.int64, n)
    seq = unpack_numbers(body[start : start + seq_size], np.int64, n) if seq_size else None
    return Segment(t, seq, unpack(Kind(kind), body[start + seq_size :], n))


class Gaps(NamedTuple):
    """The smallest and the largest distance between two points of a chunk that follow one another."""

    least: int
    most: int


class Stats(NamedTuple):
    """Of a chunk of numbers; what is not a number (NaN) is left out."""

    n: int
    low: float
    high: float
    total: float
    squares: float
    """The sum of the squared distances from the mean."""
    area: float
    """The sum of each value times the time until the next point; NaN where a value is NaN."""


class Meta(NamedTuple):
    """What can be told of a chunk of points without unpacking it."""

    first: bytes | None
    last: bytes | None
    """Encoded values; None past 1 KiB."""
    gaps: Gaps | None
    stats: Stats | None


_gaps = struct.Struct(">QQ")
_int_stats = struct.Struct(">I16s16s16sdd")
_float_stats = struct.Struct(">Iddddd")


def pack_meta(segment: Segment) -> bytes:
    """Return the meta of a chunk of points."""
    column = segment.column
    first, last = column.slice(0, 1).encoded()[0], column.slice(len(column) - 1, len(column)).encoded()[0]
    flags, tail = 0, b""
    if len(first) <= _MAX_META_VALUE and len(last) <= _MAX_META_VALUE:
        flags |= _HAS_VALUES
        tail += len(first).to_bytes(2, "big") + first + len(last).to_bytes(2, "big") + last
    steps = steps_of(segment.t)
    if len(steps):
        flags |= _HAS_GAPS
        tail += _gaps.pack(int(steps.min()), int(steps.max()))
    if column.is_number and (stats := stats_of(column.data, steps)) is not None:
        flags |= _HAS_STATS
        if column.data.dtype.kind == "f":
            tail += _float_stats.pack(*stats)
        else:
            exact = (int(one).to_bytes(16, "big", signed=True) for one in stats[1:4])
            tail += _int_stats.pack(stats.n, *exact, stats.squares, stats.area)
    return bytes((_FORMAT, column.kind, flags)) + tail


def steps_of(t: Int64s) -> npt.NDArray[np.uint64]:
    """Return the distances between neighbours. They are unsigned: between two int64 they need all 64 bits."""
    bits = t.view(np.uint64)
    return bits[1:] - bits[:-1]


def stats_of(values: npt.NDArray[Any], steps: npt.NDArray[np.uint64]) -> Stats | None:
    """Return the statistics of an array of numbers or bools, `steps` apart; None if there is none that is a number."""
    n = len(values)
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind != "f":
            exact = exact_sum(values)
            wide = values.astype(np.float64)
            return Stats(n, int(values.min()), int(values.max()), exact, _squares(wide, exact / n), _area(wide, steps))
        present = values.astype(np.float64, copy=False)
        total = float(present.sum())
        if math.isnan(total):  # there may be some that are not numbers: looking for them takes as long as all else
            present = present[~np.isnan(present)]
            total = float(present.sum())
        if not len(present):
            return None
        area = _area(present, steps) if len(present) == n else math.nan
        squares = _squares(present, total / len(present))
        return Stats(len(present), float(present.min()), float(present.max()), total, squares, area)


def exact_sum(values: npt.NDArray[Any]) -> int:
    """Return the sum of ints or bools; NumPy's own wraps around."""
    if values.dtype.itemsize < 8:
        return int(values.sum(dtype=np.int64))  # of at most 2**31 that have 32 bits
    return int((values & 0xFFFFFFFF).sum()) + (int((values >> 32).sum()) << 32)


def _area(values: npt.NDArray[np.float64], steps: npt.NDArray[np.uint64]) -> float:
    return float(np.dot(values[:-1], steps.astype(np.float64)))


def _squares(values: npt.NDArray[np.float64], mean: float) -> float:
    distances = values - mean
    return float(np.dot(distances, distances))


# By the byte, since the hash of a member of an enum is computed in Python: how many bytes an encoded value has, where
# that is told by its kind; whether the values are floats; and between which limits they lie, where they are exact.
_SHAPES: Final[dict[int, tuple[int | None, bool, tuple[int, int] | None]]] = {
    int(kind): (WIDTHS[kind] + 1 if kind in WIDTHS else None, kind in FLOATS, LIMITS.get(kind)) for kind in Kind
}
_ENCODED: Final = int(Kind.ENCODED)


def unpack_meta(meta: bytes, n: int, span: int) -> Meta:
    """Unpack the meta of a chunk that has `n` points, the last of them `span` after the first.

    Raises `CorruptionError` for what no points can have. What some could have, and these have not, `check()` finds.
    """
    try:
        version, code, flags = meta[0], meta[1], meta[2]
        size_of_one, has_floats, limits = _SHAPES[code]
        if version != _FORMAT or flags & ~_FLAGS:
            raise CorruptionError("a chunk's meta is damaged, or written by a newer version")
        at = 3
        values: list[bytes | None] = [None, None]
        if flags & _HAS_VALUES:
            for i in range(2):
                size = int.from_bytes(meta[at : at + 2], "big")
                values[i] = value = meta[at + 2 : at + 2 + size]
                at += 2 + size
                if code != _ENCODED and (value[0] != code or size_of_one not in (size, None)):
                    raise _contradiction()
        gaps = stats = None
        if flags & _HAS_GAPS:
            gaps = Gaps(*_gaps.unpack_from(meta, at))
            at += _gaps.size
        if flags & _HAS_STATS and has_floats:
            stats = Stats(*_float_stats.unpack_from(meta, at))
            at += _float_stats.size
        elif flags & _HAS_STATS:
            count, low, high, total, squares, area = _int_stats.unpack_from(meta, at)
            at += _int_stats.size
            stats = Stats(count, _exact(low), _exact(high), _exact(total), squares, area)
    except (LookupError, ValueError, struct.error) as error:
        raise CorruptionError("a chunk's meta cannot be unpacked") from error
    if at != len(meta) or not _may_be_gaps(gaps, n, span) or not _may_be_stats(stats, n, limits, floats=has_floats):
        raise _contradiction()
    return Meta(values[0], values[1], gaps, stats)


def _exact(number: bytes) -> int:
    return int.from_bytes(number, "big", signed=True)


def _may_be_gaps(gaps: Gaps | None, n: int, span: int) -> bool:
    if gaps is None:
        return n == 1
    return n > 1 and 0 < gaps.least <= gaps.most and gaps.least * (n - 1) <= span <= gaps.most * (n - 1)


def _may_be_stats(stats: Stats | None, n: int, limits: tuple[int, int] | None, *, floats: bool) -> bool:
    if stats is None:
        return limits is None  # and floats may all be NaN
    # Each comparison is false for NaN, which a total may be, and squares, where there are infinities; the area anyway.
    count, low, high, total, squares, _ = stats
    if floats:
        return 0 < count <= n and low <= high and not squares < 0
    if limits is None:
        return False
    least, most = limits
    return count == n and least <= low <= high <= most and low * n <= total <= high * n and squares >= 0


def _contradiction() -> CorruptionError:
    return CorruptionError("a chunk's meta contradicts itself, or its chunk")


def _import_all() -> None:
    # NumPy and pcodec import modules at the first use of what needs them, which cannot be while the interpreter ends.
    t = np.arange(2, dtype=np.int64)
    segment = Segment(t, None, Column(Kind.INT, t))
    pack_meta(segment)
    unpack_chunk(pack_chunk(merge([segment])), len(segment))


_import_all()
