"""Putting points into a series that may have points at their timestamps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast, get_args

import numpy as np

from rstore.arguments import check_choice
from rstore.backends.types import Position
from rstore.codec.columns import Int64s
from rstore.codec.segments import Segment
from rstore.log.packing import DIRECT_ROWS, Logs
from rstore.log.rewrite import Keep


def check_keep(on_duplicate: Any) -> Keep:
    """Return `on_duplicate` if it can be one."""
    return cast("Keep", check_choice(on_duplicate, get_args(Keep), "on_duplicate"))


def put(logs: Logs, key: str, points: Segment, keep: Keep, *, pack: bool = False) -> None:
    """Put points, in any order, into a series; of two at one timestamp `keep` says which stays.

    `pack`: into chunks, however few they are.

    Raises `StoreIntegrityError` if there are two, and `keep` is "error".
    """
    if not len(points):
        return
    if keep == "last" and not pack:
        logs.put(key, points)
        return
    if keep == "error":
        _check_distinct(logs, key, points.t)
    elif keep == "first":
        # Backwards: of equal timestamps, a merge keeps the last one.
        order = np.arange(len(points) - 1, -1, -1)
        points = Segment(points.t[::-1], None, points.column.take(order))
    # The points that are there have to be read anyway, and a rewrite notices a concurrent one.
    logs.rewrite(key, *_range([points]), add=points, keep=keep)


def put_together(logs: Logs, points: Mapping[str, Segment], keep: Keep) -> None:
    """Put points into several series: into all of them or, if it raises, into none."""
    points = {key: points[key] for key in sorted(points) if len(points[key])}
    # As hot rows, a table of a thousand lines would be more than the step at the end of a transaction of Redis can do.
    pack = sum(map(len, points.values())) > 2 * logs.max_rows

    def work(inside: Logs) -> None:
        for key, segment in points.items():  # in one order for all, or they would wait for one another
            put(inside, key, segment, keep, pack=pack)

    replaces = pack or keep != "last" or any(len(segment) >= DIRECT_ROWS for segment in points.values())
    logs.atomically(points, work, create=True, within=_range(points.values()) if points and replaces else None)


def _range(segments: Collection[Segment]) -> tuple[Position, Position]:
    return (min(int(one.t.min()) for one in segments), 0), (max(int(one.t.max()) for one in segments), 0)


def _check_distinct(logs: Logs, key: str, t: Int64s) -> None:
    ordered = np.sort(t)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise logs.taken(key, int(repeated[0]))
