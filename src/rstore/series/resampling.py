"""Series in fewer points: one for each bucket of time, or as many as a plot can show."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from rstore.arguments import check_choice, check_count, check_freq, check_int64, check_key, check_range
from rstore.backends.nouns import FIRST, MAX_INT64, MIN_INT64
from rstore.codec.numbers import number_of
from rstore.ending import check_running
from rstore.errors import InvalidTypeError, InvalidValueError, StoreNotAvailableError
from rstore.pieces import Summary, reading
from rstore.series.buckets import (
    Aggregate,
    Buckets,
    Named,
    aggregated,
    gathered,
    held,
    in_force,
    name_of,
    numbers_of,
    suffices,
)
from rstore.series.points import Point, Points
from rstore.session import Session

_NAMES: Final = get_args(Named)
_MOST_BUCKETS: Final = 10_000_000


class _Found(NamedTuple):
    """A bucket that has points: what they are made into, and the last of them."""

    number: int
    values: dict[str, Any]
    last: Point


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
        mean weighted by time: each value holds until the next one, also from before `start` and into the buckets that
        follow, and the last one to the end of its bucket), or a function of an array of values. With a list of them,
        each value is a dict. NaN is left out, as in pandas.

        Buckets without points are left out. `fill` puts them in, between the first and the last one: "previous" as the
        one before them (for "twa" with the value that holds), "linear" on the line between their neighbours, and any
        value that is no str as it is.

        Whole chunks inside of a bucket are answered without being read, but for "median" and functions.

        Raises `InvalidArgumentError` where an aggregate needs numbers and there are others, for more than ten million
        buckets with `fill`, for a label outside of int64, and if there is no such series.

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
        if isinstance(fill, str):
            check_choice(fill, ("previous", "linear"), "fill, if it is a word,")
        if lo > hi:
            return _nothing(session, key)
        buckets = Buckets(width, base, right=closed == "right")
        with session.naming(f"the series {key!r}"):
            while (found := _find(session, key, lo, hi, buckets, aggregates)) is None:
                pass  # the value that holds at the start was taken away while it was read
        if not found:
            return _nothing(session, key)
        points = [(one.number, one.values) for one in found]
        if fill is not None:
            try:
                points = _filled(found, aggregates, fill)
            except (TypeError, OverflowError) as error:
                raise InvalidTypeError(f"fill={fill!r} needs numbers: others have nothing in between") from error
        shift = base + (width if label == "right" else 0)
        labels = [number * width + shift for number, _ in points]
        if labels[0] < MIN_INT64 or labels[-1] > MAX_INT64:
            raise InvalidValueError(
                f"every={width}: a bucket would have its label outside of -2**63 … 2**63 - 1: choose another origin"
            )
        sole = None if isinstance(agg, list | tuple) else name_of(aggregates[0])
        return [(t, values if sole is None else values[sole]) for t, (_, values) in zip(labels, points, strict=True)]

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
                values = numbers_of(segment, session, "downsample")
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


def _nothing(session: Session, key: str) -> list[Point]:
    """Return no points, of a series that is there: of a misspelt key, an empty answer would say nothing."""
    if session.series.view(key, FIRST, FIRST, limit=1, bodies=False).head is None:
        raise InvalidValueError(f"there is no series {session.place(key)}; timeseries() lists those there are")
    return []


def _downsamplers(method: str) -> tuple[Any, Any]:
    """Return what thins out one piece, and what chooses among all that is left."""
    check_running("no points can be chosen")
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
    if len({name_of(one) for one in given}) < len(given):
        raise InvalidValueError("agg names the same aggregate twice; functions go by their __name__")
    return given


def _find(
    session: Session, key: str, lo: int, hi: int, buckets: Buckets, aggregates: list[Aggregate]
) -> list[_Found] | None:
    """Return the buckets that have points; None if the value that holds at `lo` was taken away meanwhile."""
    since = in_force(session, key, lo) if "twa" in aggregates else lo
    with reading(session.series, key, since, hi) as reader:
        carried: Point | None = None
        pieces = reader.pieces(lambda summary: summary.first >= lo and suffices(summary, buckets, aggregates))
        if since < lo:
            carried, pieces = held(session, pieces, lo)
            if carried is None:
                return None
        found: list[_Found] = []
        for number, parts in gathered(session, pieces, buckets, aggregates):
            begin = buckets.origin + number * buckets.width
            end, begin = begin + buckets.width, max(begin, lo)
            values = {name_of(one): aggregated(one, parts, begin, end, carried) for one in aggregates}
            carried = parts[-1].last
            found.append(_Found(number, values, carried))
    return found


def _filled(found: list[_Found], aggregates: list[Aggregate], fill: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return the buckets with those between that have no points."""
    size = found[-1].number - found[0].number + 1
    if size > _MOST_BUCKETS:
        raise InvalidValueError(f"{size:,} buckets are too many to be filled: every is larger, or the range shorter")
    filled: list[tuple[int, dict[str, Any]]] = []
    for one, other in pairwise(found):
        filled.append((one.number, one.values))
        # A mean over time is no longer that of the bucket before: what holds is its last value.
        kept = one.values | ({"twa": float(one.last[1])} if "twa" in aggregates else {})
        before, after = one.values, other.values
        for number in range(one.number + 1, other.number):
            share = (number - one.number) / (other.number - one.number)
            between = {name: _between(kept[name], before[name], after[name], share, fill) for name in kept}
            filled.append((number, between))
    filled.append((found[-1].number, found[-1].values))
    return filled


def _between(kept: Any, before: Any, after: Any, share: float, fill: Any) -> Any:
    if not isinstance(fill, str):
        return fill
    if fill == "previous":
        return kept
    before, after = (value if (number := number_of(value)) is None else number for value in (before, after))
    return before + (after - before) * share
