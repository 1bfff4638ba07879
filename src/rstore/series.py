"""The time-series verbs: what was measured, and when."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from rstore.arguments import check_bound, check_count, check_freq, check_key, check_timestamp
from rstore.backends.base import MAX_INT64, MIN_INT64, Position
from rstore.codec.chunks import Segment, merge
from rstore.codec.columns import Int64s, column_of
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.log import DIRECT_ROWS
from rstore.session import Session, Verbs

Grid: TypeAlias = range  # inside the class, `range` is a verb


class Series(Verbs):
    """Series of (timestamp, value) points; timestamps are int64 of any meaning, points come in time order."""

    _freq: int | None = None
    """The default `freq` of `range`, `missing` and `iscomplete`; set it on a subclass or on an object."""

    def extend(self, key: str, *points: tuple[int, Any]) -> int:
        """Put (timestamp, value) points into a series, and return how many were given.

        A point at a timestamp that has one already replaces it. All of the points are stored or none.

        Raises `InvalidArgumentError` for a malformed point and `SerializationError` for a value that cannot be dumped.

        >>> store.extend('temperature', (60, 20.5), (0, 20.1))
        2
        >>> store.range('temperature')
        [(0, 20.1), (60, 20.5)]
        """
        return self.extend_many(key, points)

    def extend_many(self, key: str, points: Iterable[tuple[int, Any]]) -> int:
        """Put the (timestamp, value) points of any iterable into a series; the same as `extend` otherwise.

        The iterable is read to its end before anything is stored.

        >>> store.extend_many('squares', ((t, t * t) for t in range(100)))
        100
        >>> store.last('squares')
        (99, 9801)
        """
        session = self._writer
        logs, codec = session.series, session.codec
        key = check_key(key)
        given = points if isinstance(points, tuple | list) else _read_all(points)
        timestamps, values = _split(given)
        timestamps = _in_range(timestamps)
        if len(given) >= DIRECT_ROWS:
            with session.naming(f"a value for the series {key!r}"):
                column = column_of(values, codec)
            logs.put(key, merge([Segment(np.array(timestamps, np.int64), None, column)]))
            return len(given)
        with session.naming(f"a value for the series {key!r}"):
            # Later points win: a dict keeps the last value of a timestamp.
            encoded = dict(zip(timestamps, map(codec.encode, values), strict=True))
        if encoded:
            logs.append(key, [(t, 0, body) for t, body in encoded.items()])
        return len(given)

    def remove(self, *keys: str, start: int | None = None, end: int | None = None) -> None:
        """Delete the points from `start` to `end`, both included, of one or several series; without bounds, all.

        A series without points is no more. Unknown series are nothing to remove.

        Raises `InvalidArgumentError` without a key.

        >>> store.extend('s', (1, 'a'), (2, 'b'), (3, 'c'))
        3
        >>> store.remove('s', start=2)
        >>> store.range('s')
        [(1, 'a')]
        """
        logs = self._writer.series
        if not keys:
            raise InvalidTypeError("remove takes at least one key; remove(*store.timeseries()) removes all series")
        checked = list(dict.fromkeys(check_key(key) for key in keys))
        lo, hi = check_bound(start, MIN_INT64), check_bound(end, MAX_INT64)
        with logs.together(checked):
            for key in checked:
                if (lo, hi) == (MIN_INT64, MAX_INT64):
                    logs.drop(key)
                elif lo <= hi:
                    logs.rewrite(key, (lo, 0), (hi, 0), remove=True)

    def range(
        self,
        key: str,
        start: int | None = None,
        *,
        n: int | None = None,
        end: int | None = None,
        freq: int | None = None,
    ) -> list[tuple[int, Any]]:
        """Return the points from `start` to `end`, both included, in time order; at most `n` of them.

        With `freq`: the first point, then each next one at least `freq` after the last one kept. An unknown series
        has no points.

        >>> store.extend_many('clock', ((t, t % 60) for t in range(0, 600, 10)))
        60
        >>> store.range('clock', 100, end=200, freq=40)
        [(100, 40), (140, 20), (180, 0)]
        >>> store.range('clock', 100, n=2)
        [(100, 40), (110, 50)]
        """
        session = self._reader
        lo, hi = (check_bound(start, MIN_INT64), 0), (check_bound(end, MAX_INT64), 0)
        limit = None if n is None else check_count(n)
        step = self._step(freq)
        key = check_key(key)
        if lo > hi or limit == 0:
            return []
        with session.naming(f"the series {key!r}"):
            return self._range(session, key, lo, hi, limit, step)

    def _range(
        self, session: Session, key: str, lo: Position, hi: Position, limit: int | None, step: int | None
    ) -> list[tuple[int, Any]]:
        points: list[tuple[int, Any]] = []
        view = session.series.view(key, lo, hi, limit=limit if step is None else None)
        thin = None if step is None else _thinner(step)
        for found in session.series.segments(key, view, lo, hi):
            segment = found if thin is None else thin(found)
            if limit is not None:
                segment = segment.slice(0, min(len(segment), limit - len(points)))
            points += zip(segment.t.tolist(), segment.column.values(session.codec), strict=True)
            if len(points) == limit:
                break
        return points

    def first(self, key: str) -> tuple[int, Any] | None:
        """Return the oldest point, or None if the series is unknown."""
        return self._edge(key, last=False)

    def last(self, key: str) -> tuple[int, Any] | None:
        """Return the newest point, or None if the series is unknown."""
        return self._edge(key, last=True)

    def _edge(self, key: str, *, last: bool) -> tuple[int, Any] | None:
        session = self._reader
        key = check_key(key)
        with session.naming(f"the series {key!r}"):
            return self._edge_of(session, key, last=last)

    def _edge_of(self, session: Session, key: str, *, last: bool) -> tuple[int, Any] | None:
        logs, codec = session.series, session.codec
        view = logs.view(key, limit=1, reverse=last, bodies=False)
        edge = -1 if last else 0
        row = view.rows[edge] if view.rows else None
        if view.chunks:
            chunk = view.chunks[edge]
            t = (chunk.last if last else chunk.first)[0]
            if row is None or (row.t < t if last else row.t > t):
                meta = logs.open_meta(key, chunk)
                encoded = meta.last if last else meta.first
                return self._unpacked_edge(key, last=last) if encoded is None else (t, codec.decode(encoded))
        return None if row is None else (row.t, codec.decode(logs.open_row(key, row)))

    def _unpacked_edge(self, key: str, *, last: bool) -> tuple[int, Any] | None:
        """Return the first or last point, of a chunk whose summary leaves it out because it is large."""
        session = self._reader
        view = session.series.view(key, limit=1, reverse=last)
        edge = -1 if last else 0
        segments = [segment for segment in session.series.segments(key, view) if len(segment)]
        if not segments:
            return None
        segment = segments[edge]
        i = len(segment) - 1 if last else 0
        return segment.position(i)[0], segment.column.value(i, session.codec)

    def missing(self, key: str, start: int, end: int | None = None, freq: int | None = None) -> list[int]:
        """Return the timestamps of the grid `start, start + freq, … <= end` that have no point exactly there.

        `end` defaults to `start`.

        Raises `InvalidArgumentError` if there is neither a `freq` nor a default one.

        >>> store.extend('hourly', (0, 'a'), (3600, 'b'), (10800, 'c'))
        3
        >>> store.missing('hourly', 0, 10800, freq=3600)
        [7200]
        """
        grid = self._grid(start, end, freq)
        expected = grid.start
        gaps: list[Grid] = []
        for present in self._present(key, grid):
            for t in present:
                if t > expected:
                    gaps.append(Grid(expected, t, grid.step))
                expected = t + grid.step
        gaps.append(Grid(expected, grid.stop, grid.step))
        return list(chain.from_iterable(gaps))

    def iscomplete(self, key: str, start: int, end: int | None = None, freq: int | None = None) -> bool:
        """Return whether no timestamp of the grid `start, start + freq, … <= end` is missing."""
        grid = self._grid(start, end, freq)
        return sum(map(len, self._present(key, grid))) == grid_size(grid)

    def timeseries(self) -> list[str]:
        """Return the keys of all series, in order."""
        return self._reader.series.keys()

    def _step(self, freq: int | None) -> int | None:
        freq = self._freq if freq is None else freq
        return None if freq is None else check_freq(freq)

    def _grid(self, start: int, end: int | None, freq: int | None) -> Grid:
        start = check_timestamp(start)
        end = start if end is None else check_timestamp(end)
        step = self._step(freq)
        if step is None:
            raise InvalidTypeError("missing and iscomplete need a freq: pass one, or set _freq on the class or object")
        return Grid(start, end + 1, step)

    def _present(self, key: str, grid: Grid) -> Iterator[list[int]]:
        """Yield the timestamps of the grid that have a point, in order."""
        session = self._reader
        key = check_key(key)
        if grid.start >= grid.stop:
            return
        lo, hi = (grid.start, 0), (grid.stop - 1, 0)
        view = session.series.view(key, lo, hi)
        for segment in session.series.segments(key, view, lo, hi):
            # Unsigned, because the distance between two int64 needs all 64 bits.
            distance = segment.t.astype(np.uint64) - np.array(grid.start, np.int64).astype(np.uint64)
            yield segment.t[distance % np.uint64(grid.step) == 0].tolist()


def grid_size(grid: Grid) -> int:
    """Return the number of timestamps of a grid; `len` ends at 2**63 - 1."""
    return max(0, (grid.stop - grid.start + grid.step - 1) // grid.step)


def _read_all(points: Iterable[Any]) -> Sequence[Any]:
    try:
        iterator = iter(points)
    except TypeError as error:
        raise InvalidTypeError(f"points are an iterable, not {type(points).__name__}") from error
    return list(iterator)


def _split(points: Sequence[Any]) -> tuple[list[int], list[Any]]:
    """Return the timestamps and the values of some points.

    Not `zip(*points)`, which takes ten times as long for a million points.
    """
    if set(map(type, points)) - {tuple, list} and not all(isinstance(point, tuple | list) for point in points):
        raise _malformed(points)
    try:
        timestamps: list[int] = [t for t, _ in points]
        values = list(map(itemgetter(1), points))
    except (TypeError, ValueError):
        raise _malformed(points) from None
    return timestamps, values


def _malformed(points: Sequence[Any]) -> InvalidTypeError:
    for i, point in enumerate(points):
        if not isinstance(point, tuple | list) or len(point) != 2:
            return InvalidTypeError(
                f"point {i} is not a (timestamp, value) pair, nothing was stored: "
                "extend takes points one by one, extend_many an iterable of them"
            )
    return InvalidTypeError("a point is a (timestamp, value) pair; nothing was stored")


def _check_all(timestamps: Sequence[Any]) -> list[int]:
    checked = []
    for i, t in enumerate(timestamps):
        try:
            checked.append(check_timestamp(t))
        except (InvalidTypeError, InvalidValueError) as error:
            raise type(error)(f"point {i}: {error}; nothing was stored") from error
    return checked


def _in_range(timestamps: list[int]) -> list[int]:
    """Return timestamps that were checked; by the extremes, where all of them are ints."""
    if timestamps and set(map(type, timestamps)) == {int} and min(timestamps) >= MIN_INT64:
        return timestamps if max(timestamps) <= MAX_INT64 else _check_all(timestamps)
    return _check_all(timestamps)


def _thinner(step: int) -> Callable[[Segment], Segment]:
    """Return what keeps the first row, then each next one at least `step` after the last one kept, over segments."""
    earliest = MIN_INT64

    def thin(segment: Segment) -> Segment:
        nonlocal earliest
        t = segment.t
        if int(t[-1]) < earliest:
            return segment.slice(0, 0)
        begin = int(np.searchsorted(t, earliest))
        distances = np.diff(t[begin:].astype(np.uint64))  # unsigned: between two int64 they need all 64 bits
        low, high = (int(distances.min()), int(distances.max())) if len(distances) else (step, step)
        if low >= step and begin == 0:
            kept = None
            earliest = int(t[-1]) + step
        elif low == high:
            kept = np.arange(begin, len(t), -(-step // low))
            earliest = int(t[kept[-1]]) + step
        else:
            kept, earliest = _thin(t.tolist(), begin, step)
        return segment if kept is None else Segment(t[kept], None, segment.column.take(kept))

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
