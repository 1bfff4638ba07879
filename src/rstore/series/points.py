"""Points in and out: the verbs that everything else about series stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from rstore.arguments import check_count, check_freq, check_key, check_range
from rstore.backends.types import MAX_INT64, MIN_INT64, View, ViewQuery
from rstore.codec.columns import Int64s, column_of
from rstore.codec.segments import Segment
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.log.packing import DIRECT_ROWS, Logs
from rstore.log.rewrite import Keep
from rstore.namespace import rereads
from rstore.series.inputs import few_times, split_points, times_of
from rstore.series.reader import Summary, between, reading
from rstore.series.thinning import thinner
from rstore.series.writing import check_keep, put
from rstore.session import ReadSession
from rstore.verbs import Verbs

T = TypeVar("T")
Point: TypeAlias = tuple[int, Any]


class Span(NamedTuple):
    """From when to when there are points, and how many."""

    first: int
    last: int
    n: int


class Compaction(NamedTuple):
    """The report of `compact`: how many series, how many hot points in them, how many chunks before and after."""

    series: int
    hot: int
    chunks_before: int
    chunks_after: int


class Points(Verbs):
    """Series as (timestamp, value) points."""

    _freq: int | None = None
    """The default `freq` of `range`, `missing`, `iscomplete` and `gaps`; set it on a subclass or on an object."""

    # -- in -----------------------------------------------------------------------------------------------------------

    def extend(self, key: str, *points: Point, on_duplicate: Keep = "last") -> int:
        """Put (timestamp, value) points into a series, and return how many were given.

        All of the points are stored or none. A point at a timestamp that has one already replaces it; with
        `on_duplicate="first"` the one that is there stays, with `"error"` nothing is stored.

        Raises `InvalidArgumentError` for a malformed point, `SerializationError` for a value that cannot be dumped,
        and with `on_duplicate="error"` `StoreIntegrityError` for a timestamp that is taken.

        >>> store.extend('temperature', (60, 20.5), (0, 20.1))
        2
        >>> store.range('temperature')
        [(0, 20.1), (60, 20.5)]
        """
        return self.extend_many(key, points, on_duplicate=on_duplicate)

    def extend_many(self, key: str, points: Iterable[Point], *, on_duplicate: Keep = "last") -> int:
        """Put the (timestamp, value) points of any iterable into a series; the same as `extend` otherwise.

        The iterable is read to its end before anything is stored.

        >>> store.extend_many('squares', ((t, t * t) for t in range(100)))
        100
        >>> store.last('squares')
        (99, 9801)
        """
        session = self._writer
        logs = session.series  # which a frozen store refuses, before the points are asked for
        key, keep = check_key(key), check_keep(on_duplicate)
        timestamps, values = split_points(points)
        if len(timestamps) >= DIRECT_ROWS or keep != "last":
            put(logs, key, _segment(session, key, times_of(timestamps), values), keep)
            return len(timestamps)
        timestamps = few_times(timestamps)
        with session.naming(f"a value for the series {key!r}"):
            # Later points win: a dict keeps the last value of a timestamp.
            encoded = dict(zip(timestamps, map(session.codec.encode, values), strict=True))
        if encoded:
            logs.append(key, [(t, 0, body) for t, body in encoded.items()])
        return len(timestamps)

    def replace_range(self, key: str, points: Iterable[Point], start: int | None = None, end: int | None = None) -> int:
        """Exchange the points from `start` to `end`, both included, for others; return how many these are.

        No reader ever sees a part of it. Without bounds, the whole series is exchanged.

        Raises `InvalidArgumentError` for a point outside of the range.

        >>> store.extend('plan', (1, 'a'), (2, 'b'), (3, 'c'))
        3
        >>> store.replace_range('plan', [(2, 'B')], start=2)
        1
        >>> store.range('plan')
        [(1, 'a'), (2, 'B')]
        """
        session = self._writer
        logs, key = session.series, check_key(key)
        lo, hi = check_range(start, end)
        if lo > hi:
            raise InvalidValueError(f"the range ends at {hi}, before it starts at {lo}")
        timestamps, values = split_points(points)
        t = times_of(timestamps)
        if len(t) and not lo <= int(t.min()) <= int(t.max()) <= hi:
            raise InvalidValueError(f"a point lies outside of the range from {lo} to {hi}; nothing was stored")
        segment = _segment(session, key, t, values) if len(t) else None
        logs.rewrite(key, (lo, 0), (hi, 0), add=segment, remove=True)
        return len(t)

    def remove(self, *keys: str, start: int | None = None, end: int | None = None) -> None:
        """Delete the points from `start` to `end`, both included, of one or several series; without bounds, all.

        A series without points is no more. Unknown series are nothing to remove. An event sequence of that name stays:
        `forget` deletes it, and `prune` its obsolete events.

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
        checked = sorted({check_key(key) for key in keys})  # one order for all, or they would wait for one another
        lo, hi = check_range(start, end)

        def take_away(logs: Logs) -> None:
            for key in checked:
                if (lo, hi) == (MIN_INT64, MAX_INT64):
                    logs.drop(key)
                elif lo <= hi:
                    logs.rewrite(key, (lo, 0), (hi, 0), remove=True)

        logs.atomically(checked, take_away)

    def compact(self, key: str | None = None) -> Compaction:
        """Put the points of a series, or of all, into as few and as full chunks as they fit in, and report it.

        Ordinary writes already do so bit by bit; this does it now, for instance before a file is archived. Others can
        read and write meanwhile.

        >>> store.extend('few', (1, 1.5), (2, 2.5))
        2
        >>> store.compact('few')
        Compaction(series=1, hot=2, chunks_before=0, chunks_after=1)
        """
        logs = self._writer.series
        keys = logs.keys() if key is None else [check_key(key)]
        reports = [logs.compact(one) for one in keys]
        return Compaction(
            sum(chunks > 0 for _, _, chunks in reports),
            *(sum(column) for column in zip((0, 0, 0), *reports, strict=True)),
        )

    # -- out ----------------------------------------------------------------------------------------------------------

    @rereads
    def range(
        self,
        key: str,
        start: int | None = None,
        *,
        n: int | None = None,
        end: int | None = None,
        freq: int | None = None,
    ) -> list[Point]:
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
        key, (lo, hi) = check_key(key), check_range(start, end)
        limit, step = None if n is None else check_count(n), self._step(freq)
        if lo > hi or limit == 0:
            return []
        with session.naming(f"the series {key!r}"):
            if step is None:
                return _points(session, session.series.read(key, between(lo, hi, limit=limit)), limit)
            with reading(session.series, key, lo, hi) as reader:  # how far it has to read shows on the way
                return _points(session, map(thinner(step), reader.segments()), limit)

    @rereads
    def range_many(
        self, keys: Iterable[str], start: int | None = None, end: int | None = None
    ) -> dict[str, list[Point]]:
        """Return the points of several series from `start` to `end`, both included, in one round trip.

        Each series is read at one moment; one that is unknown has no points.

        >>> store.extend('a', (1, 'x'), (2, 'y'))
        2
        >>> store.range_many(['a', 'b'], start=2)
        {'a': [(2, 'y')], 'b': []}
        """
        session = self._reader
        checked, (lo, hi) = check_all_keys(keys), check_range(start, end)
        return read_many(session, checked, lo, hi, _points)

    @rereads
    def tail(self, key: str, n: int) -> list[Point]:
        """Return the last `n` points, in time order.

        >>> store.extend_many('ticks', ((t, t * 2) for t in range(100)))
        100
        >>> store.tail('ticks', 2)
        [(98, 196), (99, 198)]
        """
        session = self._reader
        key, limit = check_key(key), check_count(n)
        if limit == 0:
            return []
        with session.naming(f"the series {key!r}"):
            return _points(session, session.series.read(key, ViewQuery(limit=limit, reverse=True)))[-limit:]

    def first(self, key: str) -> Point | None:
        """Return the oldest point, or None if the series is unknown."""
        return self._edge(key, last=False)

    def last(self, key: str) -> Point | None:
        """Return the newest point, or None if the series is unknown."""
        return self._edge(key, last=True)

    @rereads
    def latest(self, *keys: str) -> dict[str, Point]:
        """Return the newest point of each of some series, without those that are unknown, in one round trip.

        >>> store.extend('a', (1, 'x'), (2, 'y'))
        2
        >>> store.latest('a', 'b')
        {'a': (2, 'y')}
        """
        session = self._reader
        checked = check_all_keys(keys)
        views = session.series.views(checked, ViewQuery(limit=1, reverse=True, bodies=False))
        points = {key: _edge_of(session, key, view, last=True) for key, view in zip(checked, views, strict=True)}
        return {key: point for key, point in points.items() if point is not None}

    @rereads
    def span(self, key: str, start: int | None = None, end: int | None = None) -> Span | None:
        """Return the first and the last timestamp from `start` to `end`, both included, and the number of points.

        None if there are none. Whole chunks are counted without being read.

        >>> store.extend_many('ticks', ((t, 'x') for t in range(0, 50, 5)))
        10
        >>> store.span('ticks', 12)
        Span(first=15, last=45, n=7)
        """
        session = self._reader
        key, (lo, hi) = check_key(key), check_range(start, end)
        with reading(session.series, key, lo, hi) as reader:
            spans = [
                Span(piece.first, piece.last, piece.n)
                if isinstance(piece, Summary)
                else Span(int(piece.t[0]), int(piece.t[-1]), len(piece))
                for piece in reader.pieces(lambda _: True)
            ]
        return Span(spans[0].first, spans[-1].last, sum(span.n for span in spans)) if spans else None

    def timeseries(self) -> list[str]:
        """Return the keys of all series, in order."""
        return self._reader.series.keys()

    @rereads
    def _edge(self, key: str, *, last: bool) -> Point | None:
        session, key = self._reader, check_key(key)
        view = session.series.view(key, ViewQuery(limit=1, reverse=last, bodies=False))
        return _edge_of(session, key, view, last=last)

    def _step(self, freq: int | None) -> int | None:
        freq = self._freq if freq is None else freq
        return None if freq is None else check_freq(freq)


def check_all_keys(keys: Iterable[str]) -> list[str]:
    """Return several keys, each of them once."""
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise InvalidTypeError(f"keys are several, as in [key], not {keys!r}")
    return list(dict.fromkeys(map(check_key, keys)))


def read_many(
    session: ReadSession, keys: list[str], lo: int, hi: int, read: Callable[[ReadSession, Iterator[Segment]], T]
) -> dict[str, T]:
    """Read the points of several series in one round trip; return the results of `read` by key."""
    found, query = {}, between(lo, hi)
    for key, view in zip(keys, session.series.views(keys, query), strict=True):
        with session.naming(f"the series {key!r}"):
            found[key] = read(session, session.series.segments(key, view, query.lo, query.hi))
    return found


def _points(session: ReadSession, segments: Iterable[Segment], limit: int | None = None) -> list[Point]:
    points: list[Point] = []
    for segment in segments:
        few = segment if limit is None else segment.slice(0, min(len(segment), limit - len(points)))
        points += zip(few.t.tolist(), few.column.values(session.codec), strict=True)
        if len(points) == limit:
            break
    return points


def _edge_of(session: ReadSession, key: str, view: View, *, last: bool) -> Point | None:
    """Return the first or the last point of a view that has no bodies."""
    logs, codec = session.series, session.codec
    edge = -1 if last else 0
    row = view.rows[edge] if view.rows else None
    with session.naming(f"the series {key!r}"):
        if view.chunks:
            chunk = view.chunks[edge]
            t = (chunk.last if last else chunk.first)[0]
            if row is None or (row.t < t if last else row.t > t):
                meta = logs.open_meta(key, chunk, view.head)
                encoded = meta.last if last else meta.first
                if encoded is None:  # it is large, and left out of the summary
                    return point_between(session, key, MIN_INT64, MAX_INT64, last=last)
                return t, codec.decode(encoded)
        return None if row is None else (row.t, codec.decode(logs.open_row(key, row, view.head)))


def point_between(session: ReadSession, key: str, lo: int, hi: int, *, last: bool) -> Point | None:
    """Return the first or the last point from `lo` to `hi`, both included."""
    segments = [*filter(len, session.series.read(key, between(lo, hi, limit=1, reverse=last)))]
    if not segments:
        return None
    segment = segments[-1 if last else 0]
    i = len(segment) - 1 if last else 0
    return segment.position(i)[0], segment.column.value(i, session.codec)


def _segment(session: ReadSession, key: str, t: Int64s, values: list[Any]) -> Segment:
    with session.naming(f"a value for the series {key!r}"):
        return Segment(t, None, column_of(values, session.codec))
