"""Series in fewer points: one for each bucket of time, or as many as a plot can show."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_choice, check_count, check_freq, check_int64, check_key, check_range
from rstore.backends.common.interpreter import check_running
from rstore.backends.types import FIRST, MAX_INT64, MIN_INT64, ViewQuery
from rstore.codec.columns import Int64s
from rstore.codec.numbers import number_of
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.namespace import rereads
from rstore.series.aggregates import Aggregate, NamedAggregate, aggregated, name_of
from rstore.series.arrays import installed
from rstore.series.buckets import Buckets, gathered, held, in_force, numbers_of, suffices
from rstore.series.points import Point, Points
from rstore.series.reader import Summary, reading
from rstore.session import ReadSession

_NAMES: Final = get_args(NamedAggregate)
_MAX_BUCKETS: Final = 1_000_000
"""As tuples and dicts, that many take a quarter of a gigabyte."""


class _FilledBucket(NamedTuple):
    """A bucket that has points: their aggregates, and the last point."""

    number: int
    values: dict[str, Any]
    last: Point


class Resampling(Points):
    """Series in fewer points."""

    @rereads
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

        Raises `InvalidArgumentError` where an aggregate needs numbers and there are others, for more than a million
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
            found = session.until_won(  # a concurrent write may remove the value that holds at the start
                f"concurrent writers keep changing {session.place(key)}",
                lambda: _find(session, key, lo, hi, buckets, aggregates),
            )
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

    @rereads
    def downsample(
        self, key: str, n: int, start: int | None = None, end: int | None = None, *, method: str = "minmaxlttb"
    ) -> list[Point]:
        """Return about `n` points that look in a plot as all of them do, from `start` to `end`, both included.

        They are points of the series, each of them once: of each stretch its lowest and highest ones, and among those
        the ones that Largest-Triangle-Three-Buckets chooses ("minmaxlttb"), or just the lowest and highest ones
        ("minmax"). They are fewer than `n` where those fall together, as where a value does not change. NaN is left
        out, as in `resample`.

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
        with session.naming(f"the series {key!r}"):
            t, v, present = _thinned(session, key, lo, hi, wanted, thin)
            if len(t) < min(wanted, present):  # most of the points that the summaries count are NaN
                t, v, _ = _thinned(session, key, lo, hi, wanted, thin, present)
        if not len(t):
            return _nothing(session, key)
        if len(t) > wanted:
            since = t.view(np.uint64) - t[:1].view(np.uint64)  # unsigned: between two int64 they need all 64 bits
            # Sorted, each once: both ends of a stretch are one point where its values are all the same.
            chosen = np.unique(choose(since.astype(np.float64), v, wanted))
            t, v = t[chosen], v[chosen]
        return list(zip(t.tolist(), v.tolist(), strict=True))


def _thinned(
    session: ReadSession, key: str, lo: int, hi: int, wanted: int, thin: Any, present: int | None = None
) -> tuple[Int64s, npt.NDArray[Any], int]:
    """Return about four times the points that are wanted: the lowest and the highest ones of each stretch.

    The last result is the number of points that are not NaN. If it is not known before (`present`), the summaries of
    the chunks give an upper bound.
    """
    with reading(session.series, key, lo, hi) as reader:
        if present is None:
            present = sum(
                (piece.meta.stats.n if piece.meta.stats else piece.n) if isinstance(piece, Summary) else len(piece)
                for piece in reader.pieces(lambda _: True)
            )
        share = 4 * wanted / max(present, 1)
        kept_t: list[Any] = [np.empty(0, np.int64)]
        kept_v: list[Any] = []
        present = 0
        for segment in reader.segments():
            t, values = segment.t, numbers_of(segment, session, "downsample")
            if values.dtype.kind == "f" and (missing := np.isnan(values)).any():
                t, values = t[~missing], values[~missing]
            present += len(t)
            keep = max(2, 2 * round(len(t) * share / 2))
            if keep < len(t):
                chosen = np.unique(thin(values, n_out=keep))
                t, values = t[chosen], values[chosen]
            kept_t.append(t)
            kept_v.append(values)
    return np.concatenate(kept_t), np.concatenate(kept_v) if kept_v else np.empty(0), present


def _nothing(session: ReadSession, key: str) -> list[Point]:
    """Return no points of an existing series; a misspelt key must not seem to be an empty one."""
    if session.series.view(key, ViewQuery(hi=FIRST, limit=1, bodies=False)).head is None:
        raise InvalidValueError(f"there is no series {session.place(key)}; timeseries() lists those there are")
    return []


def _downsamplers(method: str) -> tuple[Any, Any]:
    """Return two functions: one thins out a piece, the other chooses among all points that are left."""
    check_running("no points can be chosen")
    with installed("plot", "tsdownsample"):
        tsdownsample = import_module("tsdownsample")
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
    session: ReadSession, key: str, lo: int, hi: int, buckets: Buckets, aggregates: list[Aggregate]
) -> list[_FilledBucket] | None:
    """Return the buckets that have points; None if the value that holds at `lo` was taken away meanwhile."""
    since = in_force(session, key, lo) if "twa" in aggregates else lo
    with reading(session.series, key, since, hi) as reader:
        carried: Point | None = None
        pieces = reader.pieces(lambda summary: summary.first >= lo and suffices(summary, buckets, aggregates))
        if since < lo:
            carried, pieces = held(session, pieces, lo)
            if carried is None:
                return None
        found: list[_FilledBucket] = []
        for number, parts in gathered(session, pieces, buckets, aggregates):
            begin = buckets.origin + number * buckets.width
            end, begin = begin + buckets.width, max(begin, lo)
            values = {name_of(one): aggregated(one, parts, begin, end, carried) for one in aggregates}
            carried = parts[-1].last
            found.append(_FilledBucket(number, values, carried))
    return found


def _filled(found: list[_FilledBucket], aggregates: list[Aggregate], fill: Any) -> list[tuple[int, dict[str, Any]]]:
    """Return the buckets with those between that have no points."""
    size = found[-1].number - found[0].number + 1
    if size > _MAX_BUCKETS:
        raise InvalidValueError(
            f"{size:,} buckets are too many to be filled, the most are {_MAX_BUCKETS:,}: choose a larger every, or a "
            "shorter range"
        )
    filled: list[tuple[int, dict[str, Any]]] = []
    for one, other in pairwise(found):
        filled.append((one.number, one.values))
        # In force is the last value of the bucket before, and not its mean over time.
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
