"""Aggregates: one value made of all points of a bucket.

Noun: a *part* (the points of one bucket that lie in one piece); a bucket has several where it spans pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from statistics import median
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from rstore.codec.chunk_meta import ChunkStats
from rstore.series.points import Point

NamedAggregate: TypeAlias = Literal["count", "sum", "mean", "min", "max", "first", "last", "std", "median", "twa"]
Aggregate: TypeAlias = NamedAggregate | Callable[[Any], Any]

OF_ANYTHING: Final = {"count", "first", "last"}
"""Aggregates of any values; all others need numbers."""


@dataclass(frozen=True, slots=True)
class BucketPart:
    """The points of one bucket in one piece; `values` only where an aggregate needs each of them."""

    n: int
    first: Point
    last: Point
    stats: ChunkStats | None
    values: Any = None


def name_of(aggregate: Aggregate) -> str:
    """Return the name of an aggregate among several."""
    return aggregate if isinstance(aggregate, str) else getattr(aggregate, "__name__", repr(aggregate))


def needs_values(aggregates: Sequence[Aggregate]) -> bool:
    """Return whether an aggregate needs each value."""
    return any(callable(one) or one == "median" for one in aggregates)


def aggregated(aggregate: Aggregate, parts: list[BucketPart], begin: int, end: int, carried: Point | None) -> Any:
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
    return _mean_over_time(parts, begin, end, carried)


def _mean_over_time(parts: list[BucketPart], begin: int, end: int, carried: Point | None) -> float:
    """Return the mean of a function that is constant from each point to the next one."""
    held = None if carried is None else (begin, carried[1])
    since, area = parts[0].first[0] if held is None else begin, 0.0
    for part in parts:
        if held is not None:
            area += _number(held) * (part.first[0] - held[0])
        area += 0.0 if part.stats is None else part.stats.area
        held = part.last
    last = parts[-1].last
    area += _number(last) * (end - last[0])
    return area / (end - since) if end > since else float(last[1])


def _number(point: Point) -> float:
    """Return the value of a point, which is a number, as one of Python's: NumPy's own would overflow."""
    number: float = point[1].item() if isinstance(point[1], np.generic) else point[1]
    return number
