"""The meta of a chunk of points: first and last value, gaps and statistics, readable without unpacking the chunk."""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rstore.codec.columns import FLOATS, LIMITS, WIDTHS, Kind
from rstore.codec.segments import Segment, steps_of
from rstore.errors import CorruptionError

_FORMAT: Final = 1
_MAX_META_VALUE: Final = 1024
_HAS_VALUES: Final = 1
_HAS_STATS: Final = 2
_HAS_GAPS: Final = 4
_FLAGS: Final = _HAS_VALUES | _HAS_STATS | _HAS_GAPS


class Gaps(NamedTuple):
    """The smallest and the largest distance between two points of a chunk that follow one another."""

    least: int
    most: int


class ChunkStats(NamedTuple):
    """The statistics of a chunk of numbers, NaN left out."""

    n: int
    low: float
    high: float
    total: float
    squares: float
    """The sum of the squared distances from the mean."""
    area: float
    """The sum of each value times the time until the next point; NaN where a value is NaN."""


class Meta(NamedTuple):
    """All that is known of a chunk of points without unpacking it."""

    first: bytes | None
    last: bytes | None
    """Encoded values; None past 1 KiB."""
    gaps: Gaps | None
    stats: ChunkStats | None


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


def stats_of(values: npt.NDArray[Any], steps: npt.NDArray[np.uint64]) -> ChunkStats | None:
    """Return the statistics of an array of numbers or bools, `steps` apart; None if there is none that is a number."""
    n = len(values)
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind != "f":
            exact = exact_sum(values)
            wide = values.astype(np.float64)
            return ChunkStats(
                n, int(values.min()), int(values.max()), exact, _squares(wide, exact / n), _area(wide, steps)
            )
        present = values.astype(np.float64, copy=False)
        total = float(present.sum())
        if math.isnan(total):  # some are not numbers; only then look for them, which costs a pass
            present = present[~np.isnan(present)]
            total = float(present.sum())
        if not len(present):
            return None
        area = _area(present, steps) if len(present) == n else math.nan
        squares = _squares(present, total / len(present))
        return ChunkStats(len(present), float(present.min()), float(present.max()), total, squares, area)


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


# Indexed by byte, since an enum computes its hash in Python: the size of an encoded value (None if it varies), whether
# the values are floats, and their limits if they are exact.
_SHAPES: Final[dict[int, tuple[int | None, bool, tuple[int, int] | None]]] = {
    int(kind): (WIDTHS[kind] + 1 if kind in WIDTHS else None, kind in FLOATS, LIMITS.get(kind)) for kind in Kind
}
_ENCODED: Final = int(Kind.ENCODED)


def unpack_meta(meta: bytes, n: int, span: int) -> Meta:
    """Unpack the meta of a chunk that has `n` points, the last of them `span` after the first.

    Raises `CorruptionError` for a meta that no points can have. `check()` finds one that only these points cannot have.
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
            stats = ChunkStats(*_float_stats.unpack_from(meta, at))
            at += _float_stats.size
        elif flags & _HAS_STATS:
            count, low, high, total, squares, area = _int_stats.unpack_from(meta, at)
            at += _int_stats.size
            stats = ChunkStats(count, _exact(low), _exact(high), _exact(total), squares, area)
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


def _may_be_stats(stats: ChunkStats | None, n: int, limits: tuple[int, int] | None, *, floats: bool) -> bool:
    if stats is None:
        return limits is None  # and floats may all be NaN
    # Each comparison is false for NaN, which infinite values make of total and squares; the area may be any number.
    count, low, high, total, squares, _ = stats
    if floats:
        return 0 < count <= n and low <= high and not squares < 0
    if limits is None:
        return False
    least, most = limits
    return count == n and least <= low <= high <= most and low * n <= total <= high * n and squares >= 0


def _contradiction() -> CorruptionError:
    return CorruptionError("a chunk's meta contradicts itself, or its chunk")
