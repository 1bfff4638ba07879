"""Missing points: grids of timestamps that ought to have a point, and gaps between points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np

from rstore.arguments import check_int64, check_key, check_range
from rstore.codec.segments import Segment
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.namespace import rereads
from rstore.series.points import Points
from rstore.series.reader import Summary, reading

Grid: TypeAlias = range  # inside the classes, `range` is a verb
_MAX_MISSING: Final = 10_000_000
"""A list of more timestamps takes half a gigabyte."""


class Grids(Points):
    """Series against the times at which they ought to have points."""

    @rereads
    def missing(self, key: str, start: int, end: int | None = None, freq: int | None = None) -> list[int]:
        """Return the timestamps of the grid `start, start + freq, … <= end` that have no point exactly there.

        `end` defaults to `start`. Chunks that have all of their part of the grid are not read.

        Raises `InvalidArgumentError` if there is neither a `freq` nor a default one, and if more than ten million are
        missing: ask for a shorter range, for `gaps`, or whether it `iscomplete`.

        >>> store.extend('hourly', (0, 'a'), (3600, 'b'), (10800, 'c'))
        3
        >>> store.missing('hourly', 0, 10800, freq=3600)
        [7200]
        """
        missing: list[int] = []
        for run in self._missing(key, self._grid(start, end, freq)):
            # Not `len(run)`, which fails past 2**63.
            if len(missing) + (run.stop - run.start - 1) // run.step >= _MAX_MISSING:
                raise InvalidValueError(
                    f"the series {self._reader.place(key)} lacks more than {_MAX_MISSING:,} of the timestamps: "
                    "ask for a shorter range, or for gaps()"
                )
            missing += run
        return missing

    @rereads
    def iscomplete(self, key: str, start: int, end: int | None = None, freq: int | None = None) -> bool:
        """Return whether no timestamp of the grid `start, start + freq, … <= end` is missing."""
        return not any(True for _ in self._missing(key, self._grid(start, end, freq)))

    @rereads
    def gaps(
        self, key: str, start: int | None = None, end: int | None = None, freq: int | None = None
    ) -> list[tuple[int, int]]:
        """Return where nothing was recorded for longer than `freq`, as (from, to) in order of time.

        From and to are the timestamps of two points that follow one another, further apart than `freq`; or `start` and
        the first point, or the last point and `end`, where these are given.

        Raises `InvalidArgumentError` if there is neither a `freq` nor a default one.

        >>> store.extend('pulse', (0, 'a'), (60, 'b'), (119, 'c'), (300, 'd'))
        4
        >>> store.gaps('pulse', end=400, freq=60)
        [(119, 300), (300, 400)]
        """
        session = self._reader
        key, (lo, hi) = check_key(key), check_range(start, end)
        step = self._known_step(freq)
        found: list[tuple[int, int]] = []
        before = start
        with reading(session.series, key, lo, hi) as reader:
            for piece in reader.pieces(lambda summary: summary.meta.gaps is None or summary.meta.gaps.most <= step):
                first = piece.first if isinstance(piece, Summary) else int(piece.t[0])
                if before is not None and first - before > step:
                    found.append((before, first))
                if isinstance(piece, Segment):
                    wide = np.flatnonzero(np.diff(piece.t.view(np.uint64)) > np.uint64(step))
                    found += zip(piece.t[wide].tolist(), piece.t[wide + 1].tolist(), strict=True)
                before = piece.last if isinstance(piece, Summary) else int(piece.t[-1])
        if before is not None and end is not None and end - before > step:
            found.append((before, end))
        return found

    def _known_step(self, freq: int | None) -> int:
        step = self._step(freq)
        if step is None:
            raise InvalidTypeError("this needs a freq: pass one, or set _freq on the class or object")
        return step

    def _grid(self, start: int, end: int | None, freq: int | None) -> Grid:
        start = check_int64(start, "start")
        end = start if end is None else check_int64(end, "end")
        return Grid(start, end + 1, self._known_step(freq))

    def _missing(self, key: str, grid: Grid) -> Iterator[Grid]:
        """Yield the runs of the grid that have no points, in order."""
        session = self._reader
        key = check_key(key)
        step, expected = grid.step, grid.start
        with reading(session.series, key, grid.start, grid.stop - 1) as reader:
            for piece in reader.pieces(lambda summary: _has_all(summary, grid)):
                if isinstance(piece, Summary):
                    first, last = piece.first, piece.last
                    first += (grid.start - first) % step
                    last -= (last - grid.start) % step
                    if first > expected:
                        yield Grid(expected, first, step)
                    expected = max(expected, last + step)
                    continue
                # Unsigned, because the distance between two int64 needs all 64 bits.
                distance = piece.t.view(np.uint64) - np.array(grid.start, np.int64).view(np.uint64)
                present = piece.t[distance % np.uint64(step) == 0]
                if not len(present):
                    continue
                if int(present[0]) > expected:
                    yield Grid(expected, int(present[0]), step)
                for i in np.flatnonzero(np.diff(present.view(np.uint64)) > np.uint64(step)).tolist():
                    yield Grid(int(present[i]) + step, int(present[i + 1]), step)
                expected = int(present[-1]) + step
        if expected < grid.stop:
            yield Grid(expected, grid.stop, step)


def _has_all(summary: Summary, grid: Grid) -> bool:
    """Return whether a chunk, by its summary, has every timestamp of the grid between its first and its last."""
    gaps = summary.meta.gaps
    if gaps is None or gaps.least != gaps.most:
        return False
    return grid.step % gaps.most == 0 and (summary.first - grid.start) % gaps.most == 0
