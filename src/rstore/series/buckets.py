"""Buckets: the stretches of time into which a series is divided, and the points that fall into each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from rstore.backends.types import MIN_INT64
from rstore.codec.chunk_meta import stats_of
from rstore.codec.numbers import number_of
from rstore.codec.segments import Segment, steps_of
from rstore.errors import InvalidTypeError
from rstore.series.aggregates import OF_ANYTHING, Aggregate, BucketPart, name_of, needs_values
from rstore.series.points import Point, point_between
from rstore.series.reader import Piece, Summary, reading
from rstore.session import ReadSession


@dataclass(frozen=True, slots=True)
class Buckets:
    """The division of time: each bucket is `width` long, and one begins at `origin`."""

    width: int
    origin: int
    right: bool
    """Whether a bucket holds its end instead of its begin."""

    def number(self, t: int) -> int:
        """Return the number of the bucket that holds a timestamp; bucket 0 begins at the origin."""
        return (t - self.origin - self.right) // self.width

    def divide(self, t: list[int]) -> Iterator[tuple[int, int, int]]:
        """Yield (bucket, start, stop) of each run of timestamps that lie in one bucket."""
        start = 0
        while start < len(t):
            number = self.number(t[start])
            end = self.origin + (number + 1) * self.width + self.right  # the first time behind it
            stop = bisect_left(t, end, start)
            yield number, start, stop
            start = stop


def suffices(summary: Summary, buckets: Buckets, aggregates: Sequence[Aggregate]) -> bool:
    """Return whether the summary of a chunk is enough for the aggregates."""
    if needs_values(aggregates) or buckets.number(summary.first) != buckets.number(summary.last):
        return False
    stats = summary.meta.stats
    # With NaN among the values, the summary lacks the first and the last number.
    return summary.meta.first is not None and stats is not None and stats.n == summary.n


def gathered(
    session: ReadSession, pieces: Iterator[Piece], buckets: Buckets, aggregates: Sequence[Aggregate]
) -> Iterator[tuple[int, list[BucketPart]]]:
    """Yield each bucket that has points with its parts, in order."""
    current = 0
    parts: list[BucketPart] = []
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
) -> Iterator[tuple[int, BucketPart]]:
    if isinstance(piece, Summary):
        first, last = (session.codec.decode(one) for one in (piece.meta.first, piece.meta.last) if one is not None)
        yield (
            buckets.number(piece.first),
            BucketPart(piece.n, (piece.first, first), (piece.last, last), piece.meta.stats),
        )
        return
    numeric = any(callable(one) or one not in OF_ANYTHING for one in aggregates)
    needed = next((name_of(one) for one in aggregates if not callable(one) and one not in OF_ANYTHING), None)
    values = piece.column.array(session.codec) if needed is None else numbers_of(piece, session, needed)
    t, column = piece.t, piece.column
    if values.dtype.kind == "f" and np.isnan(values).any():
        present = np.flatnonzero(~np.isnan(values))
        t, values, column = t[present], values[present], column.take(present)
    # The first and the last value keep their types: an array of ints and floats holds floats only.
    plain = None if column.is_number else column.values(session.codec)
    for number, start, stop in buckets.divide(t.tolist()):
        run = values[start:stop]
        edges = (run[0].item(), run[-1].item()) if plain is None else (plain[start], plain[stop - 1])
        stats = stats_of(run, steps_of(t[start:stop])) if numeric and values.dtype.kind in "biuf" else None
        first, last = (int(t[start]), edges[0]), (int(t[stop - 1]), edges[1])
        yield number, BucketPart(stop - start, first, last, stats, run if needs_values(aggregates) else None)


def numbers_of(segment: Segment, session: ReadSession, purpose: str) -> Any:
    """Return the values of a segment as an array of numbers, which the `purpose` needs."""
    values = segment.column.numbers(session.codec)
    if values is None:
        t, kind = _no_number(segment, session)
        raise InvalidTypeError(f"{purpose!r} needs numbers of at most 64 bits, and at t={t} there is {kind}")
    return values


def _no_number(segment: Segment, session: ReadSession) -> tuple[int, str]:
    """Return the time and the kind of the first value that is no number of at most 64 bits."""
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
