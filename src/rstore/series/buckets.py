"""The buckets of time into which a series is divided, and what is made of the points in each.

Nouns: a *bucket* (the points of one stretch of time) and a *part* (what is known of the points of one bucket that lie
in one piece: several parts make a bucket).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import nan, sqrt
from statistics import median
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from rstore.backends.types import MIN_INT64
from rstore.codec.chunk_meta import ChunkStats, stats_of
from rstore.codec.numbers import number_of
from rstore.codec.segments import Segment, steps_of
from rstore.errors import InvalidTypeError
from rstore.series.points import Point, point_between
from rstore.series.reader import Piece, Summary, reading
from rstore.session import ReadSession

Named: TypeAlias = Literal["count", "sum", "mean", "min", "max", "first", "last", "std", "median", "twa"]
Aggregate: TypeAlias = Named | Callable[[Any], Any]

_OF_ANYTHING: Final = {"count", "first", "last"}


@dataclass(frozen=True, slots=True)
class Part:
    """The points of one bucket in one piece; `values` only where an aggregate needs each of them."""

    n: int
    first: Point
    last: Point
    stats: ChunkStats | None
    values: Any = None


@dataclass(frozen=True, slots=True)
class Buckets:
    """How time is divided: each bucket is `width` long, and one begins at `origin`."""

    width: int
    origin: int
    right: bool
    """Whether a bucket holds its end instead of its begin."""

    def number(self, t: int) -> int:
        """Return which bucket holds a timestamp; the one that begins at the origin is 0."""
        return (t - self.origin - self.right) // self.width

    def divide(self, t: list[int]) -> Iterator[tuple[int, int, int]]:
        """Yield (bucket, start, stop) of each run of timestamps that lie in one bucket."""
        start = 0
        while start < len(t):
            number = self.number(t[start])
            end = self.origin + (number + 1) * self.width + self.right  # the first time that is not in it
            stop = bisect_left(t, end, start)
            yield number, start, stop
            start = stop


def name_of(aggregate: Aggregate) -> str:
    """Return what an aggregate is called among several."""
    return aggregate if isinstance(aggregate, str) else getattr(aggregate, "__name__", repr(aggregate))


def needs_values(aggregates: Sequence[Aggregate]) -> bool:
    """Return whether an aggregate needs each value."""
    return any(callable(one) or one == "median" for one in aggregates)


def suffices(summary: Summary, buckets: Buckets, aggregates: Sequence[Aggregate]) -> bool:
    """Return whether the summary of a chunk tells all that the aggregates ask for."""
    if needs_values(aggregates) or buckets.number(summary.first) != buckets.number(summary.last):
        return False
    stats = summary.meta.stats
    # With NaN among the values, the first and the last that are none are not in the summary.
    return summary.meta.first is not None and stats is not None and stats.n == summary.n


def gathered(
    session: ReadSession, pieces: Iterator[Piece], buckets: Buckets, aggregates: Sequence[Aggregate]
) -> Iterator[tuple[int, list[Part]]]:
    """Yield each bucket that has points with its parts, in order."""
    current = 0
    parts: list[Part] = []
    for piece in pieces:
        for number, part in _parts(session, piece, buckets, aggregates):
            if parts and number != current:
                yield current, parts
                parts = []
            current = number
            parts.append(part)
    if parts:
        yield current, parts


def _parts(
    session: ReadSession, piece: Piece, buckets: Buckets, aggregates: Sequence[Aggregate]
) -> Iterator[tuple[int, Part]]:
    if isinstance(piece, Summary):
        first, last = (session.codec.decode(one) for one in (piece.meta.first, piece.meta.last) if one is not None)
        yield buckets.number(piece.first), Part(piece.n, (piece.first, first), (piece.last, last), piece.meta.stats)
        return
    numeric = any(callable(one) or one not in _OF_ANYTHING for one in aggregates)
    needed = next((name_of(one) for one in aggregates if not callable(one) and one not in _OF_ANYTHING), None)
    values = piece.column.array(session.codec) if needed is None else numbers_of(piece, session, needed)
    t, column = piece.t, piece.column
    if values.dtype.kind == "f" and np.isnan(values).any():
        present = np.flatnonzero(~np.isnan(values))
        t, values, column = t[present], values[present], column.take(present)
    # The first and the last are what was written: among ints and floats, an array would make floats of all.
    plain = None if column.is_number else column.values(session.codec)
    for number, start, stop in buckets.divide(t.tolist()):
        run = values[start:stop]
        edges = (run[0].item(), run[-1].item()) if plain is None else (plain[start], plain[stop - 1])
        stats = stats_of(run, steps_of(t[start:stop])) if numeric and values.dtype.kind in "biuf" else None
        yield (
            number,
            Part(
                stop - start,
                (int(t[start]), edges[0]),
                (int(t[stop - 1]), edges[1]),
                stats,
                run if needs_values(aggregates) else None,
            ),
        )


def numbers_of(segment: Segment, session: ReadSession, purpose: str) -> Any:
    """Return the values of a segment as an array of numbers; `purpose` is what needs them."""
    values = segment.column.numbers(session.codec)
    if values is None:
        t, kind = _no_number(segment, session)
        raise InvalidTypeError(f"{purpose!r} needs numbers of at most 64 bits, and at t={t} there is {kind}")
    return values


def _no_number(segment: Segment, session: ReadSession) -> tuple[int, str]:
    """Return where the first value is with which one cannot compute as with the others, and what it is."""
    for t, value in zip(segment.t.tolist(), segment.column.values(session.codec), strict=True):
        if number_of(value) is None:
            return t, "a larger int" if type(value) is int else f"a value of type {type(value).__name__}"
    return int(segment.t[0]), "another value"


def in_force(session: ReadSession, key: str, t: int) -> int:
    """Return the time of the last value before `t` that is not NaN; `t` if there is none."""
    last = point_between(session, key, MIN_INT64, t - 1, last=True) if t > MIN_INT64 else None
    if last is None or number_of(last[1]) == number_of(last[1]):  # not NaN
        return t if last is None else last[0]
    with reading(session.series, key, MIN_INT64, last[0]) as reader:
        for segment in reader.segments(reverse=True):
            present = _present(segment, session)
            if len(present):
                return int(segment.t[present[-1]])
    return t


def held(session: ReadSession, pieces: Iterator[Piece], t: int) -> tuple[Point | None, Iterator[Piece]]:
    """Return the last point before `t` that is not NaN, and the pieces from `t` on."""
    last: Point | None = None
    for piece in pieces:
        if isinstance(piece, Summary):
            return last, chain([piece], pieces)
        n = piece.index((t, 0))
        before = piece.slice(0, n)
        present = _present(before, session)
        if len(present):
            last = int(before.t[present[-1]]), before.column.value(int(present[-1]), session.codec)
        if n < len(piece):
            return last, chain([piece.slice(n, len(piece))], pieces)
    return last, iter(())


def _present(segment: Segment, session: ReadSession) -> Any:
    values = numbers_of(segment, session, "twa")
    return np.flatnonzero(values == values)  # noqa: PLR0124 - which NaN is not


def aggregated(aggregate: Aggregate, parts: list[Part], begin: int, end: int, carried: Point | None) -> Any:
    """Return the aggregate of one bucket; "twa" from `begin` on, if a point is carried into it."""
    if callable(aggregate):
        result = aggregate(np.concatenate([part.values for part in parts]))
        return result.item() if isinstance(result, np.number) else result  # as the other aggregates: Python's own
    if aggregate == "count":
        return sum(part.n for part in parts)
    if aggregate == "first":
        return parts[0].first[1]
    if aggregate == "last":
        return parts[-1].last[1]
    if aggregate == "median":
        return float(median(np.concatenate([part.values for part in parts]).tolist()))
    stats = [part.stats for part in parts if part.stats is not None]
    n, total = sum(one.n for one in stats), sum(one.total for one in stats)
    if aggregate == "sum":
        return total
    if aggregate == "mean":
        return total / n
    if aggregate == "min":
        return min(one.low for one in stats)
    if aggregate == "max":
        return max(one.high for one in stats)
    if aggregate == "std":
        mean = total / n
        distances = [one.total / one.n - mean for one in stats]
        # Not `** 2`, which raises where the product is infinite.
        squares = sum(one.squares + one.n * (far * far) for one, far in zip(stats, distances, strict=True))
        return sqrt(squares / (n - 1)) if n > 1 else nan
    return _mean_over_time(parts, stats, begin, end, carried)


def _mean_over_time(parts: list[Part], stats: list[ChunkStats], begin: int, end: int, carried: Point | None) -> float:
    """Return the mean of a function that is constant from each point to the next one."""
    since, area = parts[0].first[0], 0.0
    if carried is not None:
        since = begin
        area = _number(carried) * (parts[0].first[0] - begin)
    before: Point | None = None
    for part, one in zip(parts, stats, strict=True):
        if before is not None:
            area += _number(before) * (part.first[0] - before[0])
        area += one.area
        before = part.last
    if before is not None:
        area += _number(before) * (end - before[0])
    return area / (end - since) if end > since else float(parts[-1].last[1])


def _number(point: Point) -> float:
    """Return the value of a point, which is a number, as one of Python's: NumPy's own would overflow."""
    number: float = point[1].item() if isinstance(point[1], np.generic) else point[1]
    return number
