"""Series in fewer points: one for each bucket of time, or as many as a plot can show.

Nouns: a *bucket* (the points of one stretch of time) and a *part* (what is known of the points of one bucket that lie
in one piece: several parts make a bucket).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import nan, sqrt
from statistics import median
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from rstore.arguments import check_choice, check_count, check_freq, check_int64, check_key, check_range
from rstore.backends.nouns import FIRST
from rstore.codec.chunks import Segment, Stats, stats_of, steps_of
from rstore.codec.numbers import number_of
from rstore.errors import InvalidTypeError, InvalidValueError, StoreNotAvailableError
from rstore.pieces import Piece, Summary, reading
from rstore.series.points import Point, Points
from rstore.session import Session

Named: TypeAlias = Literal["count", "sum", "mean", "min", "max", "first", "last", "std", "median", "twa"]
Aggregate: TypeAlias = Named | Callable[[Any], Any]

_NAMES: Final = get_args(Named)
_OF_ANYTHING: Final = {"count", "first", "last"}
_MOST_BUCKETS: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class _Part:
    """The points of one bucket in one piece; `values` only where an aggregate needs each of them."""

    n: int
    first: Point
    last: Point
    stats: Stats | None
    values: Any = None


class Resampling(Points):
    """Series in fewer points."""

    def resample(
        self,
        key: str,
        every: int,
        agg: Aggregate | Sequence[Aggregate] = "mean",
        start: int | None = None,
        end: int | None = None,
        *,
        origin: int = 0,
        closed: Literal["left", "right"] = "left",
        label: Literal["left", "right"] = "left",
        fill: Any = None,
    ) -> list[Point]:
        """Return one point for each bucket of `every`, of the points from `start` to `end`, both included.

        Buckets begin at `origin` and whole multiples of `every` before and after it. A bucket holds its begin and not
        its end, or the other way round with `closed="right"`; its timestamp is its begin, or with `label="right"` its
        end. `agg` is "count", "sum", "mean", "min", "max", "first", "last", "std" (of a sample), "median", "twa" (the
        mean weighted by time: each value holds until the next one, or the end of its bucket), or a function of an array
        of values. With a list of them, each value is a dict. NaN is left out, as in pandas.

        Buckets without points are left out. `fill` puts them in, between the first and the last one: "previous" and
        "linear" by their neighbours, anything else as it is.

        Whole chunks inside of a bucket are answered without being read, but for "median" and functions.

        Raises `InvalidArgumentError` where an aggregate needs numbers and there are others, for more than ten million
        buckets with `fill`, and if there is no such series.

        >>> store.extend_many('load', ((t, t / 2) for t in range(0, 60, 5)))
        12
        >>> store.resample('load', 30)
        [(0, 6.25), (30, 21.25)]
        >>> store.resample('load', 30, ['count', 'max'])
        [(0, {'count': 6, 'max': 12.5}), (30, {'count': 6, 'max': 27.5})]
        """
        session = self._reader
        key, width, base = check_key(key), check_freq(every, "every"), check_int64(origin, "origin")
        lo, hi = check_range(start, end)
        for given, name in ((closed, "closed"), (label, "label")):
            check_choice(given, ("left", "right"), name)
        aggregates = _check_aggregates(agg)
        if lo > hi:
            return _nothing(session, key)
        buckets = _Buckets(width, base, right=closed == "right")
        found: list[Point] = []
        with session.naming(f"the series {key!r}"), reading(session.series, key, lo, hi) as reader:
            pieces = reader.pieces(lambda summary: _suffices(summary, buckets, aggregates))
            carried: Point | None = None
            for number, parts in _gathered(session, pieces, buckets, aggregates):
                begin = base + number * width
                values = {_name(one): _aggregated(one, parts, begin, begin + width, carried) for one in aggregates}
                carried = parts[-1].last
                found.append((number, values if isinstance(agg, list | tuple) else next(iter(values.values()))))
        if not found:
            return _nothing(session, key)
        if fill is not None:
            try:
                found = _filled(found, fill)
            except (TypeError, OverflowError) as error:
                raise InvalidTypeError(f"fill={fill!r} needs numbers: others have nothing in between") from error
        shift = base + (width if label == "right" else 0)
        return [(number * width + shift, value) for number, value in found]

    def downsample(
        self, key: str, n: int, start: int | None = None, end: int | None = None, *, method: str = "minmaxlttb"
    ) -> list[Point]:
        """Return about `n` points that look in a plot as all of them do, from `start` to `end`, both included.

        They are points of the series: of each stretch its lowest and highest ones, and among those the ones that
        Largest-Triangle-Three-Buckets chooses ("minmaxlttb"), or just the lowest and highest ones ("minmax").

        Raises `StoreNotAvailableError` without tsdownsample: `pip install 'rlib-store[plot]'`, and
        `InvalidArgumentError` if there is no such series.

        Source: J. Van Der Donckt and others, MinMaxLTTB, 2023, arXiv:2305.00332.
        """
        session = self._reader
        key, (lo, hi) = check_key(key), check_range(start, end)
        wanted = check_count(n)
        check_choice(method, ("minmaxlttb", "minmax"), "method")
        if wanted < 3:
            raise InvalidValueError(f"n is 3 or more, not {wanted}")
        thin, choose = _downsamplers(method)
        if lo > hi:
            return _nothing(session, key)
        with session.naming(f"the series {key!r}"), reading(session.series, key, lo, hi) as reader:
            held = sum(piece.n if isinstance(piece, Summary) else len(piece) for piece in reader.pieces(lambda _: True))
            kept_t: list[Any] = []
            kept_v: list[Any] = []
            share = 1.0 if held <= 4 * wanted else 4 * wanted / held
            for segment in reader.segments():
                values = _numbers(segment, session, "downsample")
                keep = len(segment) if share == 1.0 else max(2, 2 * round(len(segment) * share / 2))
                chosen = slice(None) if keep >= len(values) else thin(values, n_out=keep)
                kept_t.append(segment.t[chosen])
                kept_v.append(values[chosen])
        if not kept_t:
            return _nothing(session, key)
        t, v = np.concatenate(kept_t), np.concatenate(kept_v)
        if len(t) > wanted:
            since = t.view(np.uint64) - t[:1].view(np.uint64)  # unsigned: between two int64 they need all 64 bits
            chosen = choose(since.astype(np.float64), v, wanted)
            t, v = t[chosen], v[chosen]
        return list(zip(t.tolist(), v.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Buckets:
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


def _nothing(session: Session, key: str) -> list[Point]:
    """Return no points, of a series that is there: of a misspelt key, an empty answer would say nothing."""
    if session.series.view(key, FIRST, FIRST, limit=1, bodies=False).head is None:
        raise InvalidValueError(
            f"there is no series {key!r} in namespace {session.generations.namespace!r}; "
            "timeseries() lists those there are"
        )
    return []


def _downsamplers(method: str) -> tuple[Any, Any]:
    """Return what thins out one piece, and what chooses among all that is left."""
    try:
        tsdownsample = import_module("tsdownsample")
    except ModuleNotFoundError as error:
        raise StoreNotAvailableError("tsdownsample is not installed: pip install 'rlib-store[plot]'") from error
    thin, triangles = tsdownsample.MinMaxDownsampler().downsample, tsdownsample.LTTBDownsampler().downsample
    if method == "minmax":
        return thin, lambda _, v, n: thin(v, n_out=n - n % 2)
    return thin, lambda t, v, n: triangles(t, v, n_out=n)


def _check_aggregates(agg: Any) -> list[Aggregate]:
    given = list(agg) if isinstance(agg, list | tuple) else [agg]
    if not given:
        raise InvalidValueError("agg is an aggregate, or a list of at least one")
    for one in given:
        if not callable(one):
            check_choice(one, _NAMES, "agg, if it is no function,")
    if len({_name(one) for one in given}) < len(given):
        raise InvalidValueError("agg names the same aggregate twice; functions go by their __name__")
    return given


def _name(aggregate: Aggregate) -> str:
    return aggregate if isinstance(aggregate, str) else getattr(aggregate, "__name__", repr(aggregate))


def _needs_values(aggregates: Sequence[Aggregate]) -> bool:
    return any(callable(one) or one == "median" for one in aggregates)


def _suffices(summary: Summary, buckets: _Buckets, aggregates: Sequence[Aggregate]) -> bool:
    """Return whether the summary of a chunk tells all that the aggregates ask for."""
    if _needs_values(aggregates) or buckets.number(summary.first) != buckets.number(summary.last):
        return False
    stats = summary.meta.stats
    # With NaN among the values, the first and the last that are none are not in the summary.
    return summary.meta.first is not None and stats is not None and stats.n == summary.n


def _gathered(
    session: Session, pieces: Iterator[Piece], buckets: _Buckets, aggregates: Sequence[Aggregate]
) -> Iterator[tuple[int, list[_Part]]]:
    """Yield each bucket that has points with its parts, in order."""
    current = 0
    parts: list[_Part] = []
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
    session: Session, piece: Piece, buckets: _Buckets, aggregates: Sequence[Aggregate]
) -> Iterator[tuple[int, _Part]]:
    if isinstance(piece, Summary):
        first, last = (session.codec.decode(one) for one in (piece.meta.first, piece.meta.last) if one is not None)
        yield buckets.number(piece.first), _Part(piece.n, (piece.first, first), (piece.last, last), piece.meta.stats)
        return
    numeric = any(callable(one) or one not in _OF_ANYTHING for one in aggregates)
    needed = next((_name(one) for one in aggregates if not callable(one) and one not in _OF_ANYTHING), None)
    values = piece.column.array(session.codec) if needed is None else _numbers(piece, session, needed)
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
            _Part(
                stop - start,
                (int(t[start]), edges[0]),
                (int(t[stop - 1]), edges[1]),
                stats,
                run if _needs_values(aggregates) else None,
            ),
        )


def _numbers(segment: Segment, session: Session, purpose: str) -> Any:
    values = segment.column.numbers(session.codec)
    if values is None:
        t, kind = _no_number(segment, session)
        raise InvalidTypeError(f"{purpose!r} needs numbers of at most 64 bits, and at t={t} there is {kind}")
    return values


def _no_number(segment: Segment, session: Session) -> tuple[int, str]:
    """Return where the first value is with which one cannot compute as with the others, and what it is."""
    for t, value in zip(segment.t.tolist(), segment.column.values(session.codec), strict=True):
        if number_of(value) is None:
            return t, "a larger int" if type(value) is int else f"a value of type {type(value).__name__}"
    return int(segment.t[0]), "another value"


def _aggregated(aggregate: Aggregate, parts: list[_Part], begin: int, end: int, carried: Point | None) -> Any:
    """Return the aggregate of one bucket."""
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
        squares = sum(one.squares + one.n * (one.total / one.n - mean) ** 2 for one in stats)
        return sqrt(squares / (n - 1)) if n > 1 else nan
    return _mean_over_time(parts, stats, begin, end, carried)


def _mean_over_time(parts: list[_Part], stats: list[Stats], begin: int, end: int, carried: Point | None) -> float:
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


def _filled(found: list[Point], fill: Any) -> list[Point]:
    """Return the buckets with those between that have no points."""
    if not found:
        return []
    size = found[-1][0] - found[0][0] + 1
    if size > _MOST_BUCKETS:
        raise InvalidValueError(f"{size:,} buckets are too many to be filled: every is larger, or the range shorter")
    filled = found[:1]
    for number, value in found[1:]:
        before, known = filled[-1]
        for one in range(before + 1, number):
            share = (one - before) / (number - before)
            filled.append((one, _between(known, value, share, fill)))
        filled.append((number, value))
    return filled


def _between(before: Any, after: Any, share: float, fill: Any) -> Any:
    if isinstance(before, dict):
        return {name: _between(before[name], after[name], share, fill) for name in before}
    if isinstance(fill, str) and fill == "previous":
        return before
    if isinstance(fill, str) and fill == "linear":
        before, after = (value if (number := number_of(value)) is None else number for value in (before, after))
        return before + (after - before) * share
    return fill
