"""Fewer points: the first one, then each next one far enough from the last one kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from rstore.backends.types import MIN_INT64
from rstore.codec.columns import Int64s
from rstore.codec.segments import Segment, steps_of


def thinner(step: int) -> Callable[[Segment], Segment]:
    """Return a function that thins segments: it keeps the first row, then each one `step` after the last kept."""
    earliest = MIN_INT64

    def thin(segment: Segment) -> Segment:
        nonlocal earliest
        t = segment.t
        if int(t[-1]) < earliest:
            return segment.slice(0, 0)
        begin = int(np.searchsorted(t, earliest))
        distances = steps_of(t[begin:])
        low, high = (int(distances.min()), int(distances.max())) if len(distances) else (step, step)
        if low >= step and begin == 0:
            earliest = int(t[-1]) + step
            return segment
        if low == high:
            each = -(-step // low)
            some = t[begin::each]
            earliest = int(some[-1]) + step
            return Segment(some, None, segment.column.every(each, begin))
        kept, earliest = _thin(t.tolist(), begin, step)
        return Segment(t[kept], None, segment.column.take(kept))

    return thin


def _thin(t: list[int], begin: int, step: int) -> tuple[Int64s, int]:
    kept: list[int] = []
    i, n = begin, len(t)
    earliest = t[i]
    while i < n:
        kept.append(i)
        earliest = t[i] + step
        i = bisect_left(t, earliest, i + 1)
    return np.array(kept, np.int64), earliest
