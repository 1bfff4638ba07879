"""How points get into a series where some of them may be there already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast, get_args

import numpy as np

from rstore.arguments import check_choice
from rstore.backends.types import Position
from rstore.codec.columns import Int64s
from rstore.codec.segments import Segment, merge
from rstore.log.writer import DIRECT_ROWS, Keep, Logs


def check_keep(on_duplicate: Any) -> Keep:
    """Return `on_duplicate` if it can be one."""
    return cast("Keep", check_choice(on_duplicate, get_args(Keep), "on_duplicate"))


def put(logs: Logs, key: str, given: Segment, keep: Keep, *, pack: bool = False) -> None:
    """Put points, in any order, into a series; of two at one timestamp `keep` says which stays.

    `pack`: into chunks, however few they are.

    Raises `StoreIntegrityError` if there are two, and `keep` is "error".
    """
    if not len(given):
        return
    batch = merge([given if keep == "last" else _reversed(given)])  # of equal timestamps, the last one stays
    if keep == "last" and not pack:
        logs.put(key, batch)
        return
    if keep == "error" and len(batch) < len(given):
        raise logs.taken(key, _repeated(given.t))
    # What is there has to be read anyway, and a rewrite is what finds that somebody else was faster.
    logs.rewrite(key, batch.position(0), batch.position(len(batch) - 1), add=batch, keep=keep)


def put_together(logs: Logs, given: Mapping[str, Segment], keep: Keep) -> None:
    """Put points into several series: into all of them or, if it raises, into none."""
    given = {key: given[key] for key in sorted(given) if len(given[key])}
    # As hot rows, a table of a thousand lines would be more than the step at the end of a transaction of Redis can do.
    pack = sum(map(len, given.values())) > 2 * logs.max_rows

    def work(inside: Logs) -> None:
        for key, segment in given.items():  # in one order for all, or they would wait for one another
            put(inside, key, segment, keep, pack=pack)

    replaces = pack or keep != "last" or any(len(segment) >= DIRECT_ROWS for segment in given.values())
    logs.together(given, work, create=True, within=_range(given.values()) if replaces else None)


def _range(segments: Collection[Segment]) -> tuple[Position, Position] | None:
    if not segments:
        return None
    return (min(int(one.t.min()) for one in segments), 0), (max(int(one.t.max()) for one in segments), 0)


def _reversed(segment: Segment) -> Segment:
    order = np.arange(len(segment) - 1, -1, -1)
    return Segment(segment.t[::-1], None, segment.column.take(order))


def _repeated(t: Int64s) -> int:
    ordered = np.sort(t)
    return int(ordered[1:][ordered[1:] == ordered[:-1]][0])
