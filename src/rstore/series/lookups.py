"""The value at a time: at exactly that time, the one before or after, or between the two."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, get_args, overload

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_choice, check_count, check_key
from rstore.backends.types import MAX_INT64, MIN_INT64
from rstore.codec.columns import Int64s, array_of, column_of_encoded
from rstore.codec.numbers import number_of
from rstore.codec.segments import Segment, merge
from rstore.errors import InvalidTypeError
from rstore.namespace import rereads
from rstore.series.arrays import Unit, timestamp_of, timestamps_of
from rstore.series.points import Point, Points, point_between
from rstore.series.reader import Summary, between, reading
from rstore.session import ReadSession

Method: TypeAlias = Literal["exact", "previous", "next", "nearest", "linear"]
_FAR: Final = 2**64


class Lookups(Points):
    """Series as functions of time."""

    @overload
    def at(
        self,
        key: str,
        t: int | datetime | np.datetime64,
        method: Method = "exact",
        tolerance: int | None = None,
        *,
        unit: Unit | None = None,
    ) -> Point | None: ...
    @overload
    def at(
        self,
        key: str,
        t: npt.NDArray[Any] | list[int],
        method: Method = "exact",
        tolerance: int | None = None,
        *,
        unit: Unit | None = None,
    ) -> npt.NDArray[Any]: ...
    @rereads
    def at(
        self, key: str, t: Any, method: Method = "exact", tolerance: int | None = None, *, unit: Unit | None = None
    ) -> Any:
        """Return the point at a time, or the closest one in a direction; None if there is none within `tolerance`.

        `method` is "exact"; "previous" or "next", the time itself included; "nearest", of two at the same distance the
        previous one; or "linear", the point on the line between the previous and the next one, at `t` itself.

        Of an array of times, return the array of the values, as a join as of these times does. Where there is none, it
        holds NaN, which makes ints floats, or None where the values are not numbers.

        Datetimes count in their own unit, or in `unit`, which is to be the one that the series was written in.

        Raises `InvalidArgumentError` for "linear" between values that are no numbers, and for ints with a `unit`.

        >>> import numpy as np
        >>> store.extend('price', (10, 1.0), (20, 3.0))
        2
        >>> store.at('price', 14, 'previous'), store.at('price', 14, 'linear'), store.at('price', 14)
        ((10, 1.0), (14, 1.8), None)
        >>> store.at('price', [5, 10, 19, 50], 'previous').tolist()
        [nan, 1.0, 1.0, 3.0]
        >>> store.at('price', np.datetime64('1970-01-01T00:00:20.000'), unit='s')
        (20, 3.0)
        """
        session = self._reader
        key = check_key(key)
        check_choice(method, get_args(Method), "method")
        limit = _FAR if tolerance is None else check_count(tolerance, "tolerance")
        with session.naming(f"the series {key!r}"):
            if hasattr(t, "__len__") and getattr(t, "ndim", 1) > 0 and not isinstance(t, str | bytes):
                return _at_many(session, key, timestamps_of(t, unit, "t"), method, limit)
            return _at(session, key, timestamp_of(t, unit, "t"), method, limit)


def _at(session: ReadSession, key: str, t: int, method: Method, tolerance: int) -> Point | None:
    before, after = _around(session, key, t, method)
    if method == "linear":
        return _on_the_line(t, before, after, tolerance)
    if before is not None and (after is None or t - before[0] <= after[0] - t):
        return before if t - before[0] <= tolerance else None
    return after if after is not None and after[0] - t <= tolerance else None


def _on_the_line(t: int, before: Point | None, after: Point | None, tolerance: int) -> Point | None:
    low, high = (math.nan if point is None else _number(*point) for point in (before, after))
    if before is not None and before[0] == t:
        return before
    if before is None or after is None or max(t - before[0], after[0] - t) > tolerance:
        return None
    return t, low + (high - low) * ((t - before[0]) / (after[0] - before[0]))


def _number(t: int, value: Any) -> float:
    number = number_of(value)
    if number is None:
        kind = "larger int" if type(value) is int else type(value).__name__
        raise InvalidTypeError(f"'linear' needs numbers of at most 64 bits, and at t={t} there is a {kind}")
    return number


def _around(session: ReadSession, key: str, t: int, method: Method) -> tuple[Point | None, Point | None]:
    """Return the last point at or before a time, and the first at or after it; only those that the method needs."""
    if method == "exact":
        return point_between(session, key, t, t, last=True), None
    if method == "next":
        return None, point_between(session, key, t, MAX_INT64, last=False)

    def attempt() -> tuple[Point | None, Point | None] | None:
        before = point_between(session, key, MIN_INT64, t, last=True)
        if method == "previous" or (before is not None and before[0] == t):
            return before, None
        if before is None:
            return None, point_between(session, key, t, MAX_INT64, last=False)
        # Both sides as of one moment: points may have been put or removed since `before` was read.
        segments = session.series.read(key, between(before[0], MAX_INT64, limit=2))
        near = merge([segment.slice(0, 2) for segment in segments])
        times = near.t[:2].tolist()
        if not times or times[0] > t or (len(times) > 1 and times[1] < t):
            return None
        points = list(zip(times, near.slice(0, len(times)).column.values(session.codec), strict=True))
        return points[0], points[1] if len(points) > 1 else None

    return session.until_won(f"concurrent writers keep changing {session.place(key)}", attempt)


def _at_many(session: ReadSession, key: str, asked: Int64s, method: Method, tolerance: int) -> npt.NDArray[Any]:
    if not len(asked):
        return np.empty(0, np.float64)
    t, values = _needed(session, key, np.sort(asked), method)
    if not len(t):
        return np.full(len(asked), np.nan)
    before = np.searchsorted(t, asked, "right") - 1  # -1 where there is none
    after = np.searchsorted(t, asked, "left")  # len(t) where there is none
    far = np.uint64(min(tolerance, _FAR - 1))
    to_before, to_after = _distance(asked, t[np.maximum(before, 0)]), _distance(t[np.minimum(after, len(t) - 1)], asked)
    has_before, has_after = before >= 0, after < len(t)
    if method == "exact":
        return _take(values, before, has_before & (to_before == 0))
    if method == "previous":
        return _take(values, before, has_before & (to_before <= far))
    if method == "next":
        return _take(values, after, has_after & (to_after <= far))
    if method == "nearest":
        left = has_before & (~has_after | (to_before <= to_after))
        away = np.where(left, to_before, to_after)
        return _take(values, np.where(left, before, after), (has_before | has_after) & (away <= far))
    exact = has_before & (to_before == 0)
    if values.dtype.kind not in "biuf":  # somewhere: only the points around the times asked for have to be numbers
        needed = np.unique(np.concatenate([before[has_before], after[has_after & ~exact]])).tolist()
        numbers = np.full(len(t), np.nan)
        numbers[needed] = [_number(int(t[i]), values[i]) for i in needed]
        values = numbers
    between = exact | (has_before & has_after & (np.maximum(to_before, to_after) <= far))
    low = values[np.maximum(before, 0)].astype(np.float64)
    high = values[np.minimum(after, len(t) - 1)].astype(np.float64)
    width = (to_before + to_after).astype(np.float64)
    share = np.divide(to_before.astype(np.float64), width, out=np.zeros(len(asked)), where=width > 0)
    return np.where(between, np.where(exact, low, low + (high - low) * share), np.nan)


def _needed(session: ReadSession, key: str, asked: Int64s, method: Method) -> tuple[Int64s, npt.NDArray[Any]]:
    """Return the points that can be answers, as arrays; chunks between two times asked for stay unopened."""

    def is_between(summary: Summary) -> bool:
        """Return whether no time inside is asked for: then only its edges can be an answer."""
        inside = np.searchsorted(asked, summary.last, "right") - np.searchsorted(asked, summary.first)
        return inside == 0 and summary.meta.first is not None

    first = MIN_INT64 if method in ("previous", "nearest", "linear") else int(asked[0])
    last = MAX_INT64 if method in ("next", "nearest", "linear") else int(asked[-1])
    with reading(session.series, key, first, last) as reader:
        kept = [_edges(piece) if isinstance(piece, Summary) else piece for piece in reader.pieces(is_between)]
    if not kept:
        return np.empty(0, np.int64), np.empty(0)
    t = np.concatenate([segment.t for segment in kept])
    return t, array_of([segment.column for segment in kept], session.codec)


def _edges(summary: Summary) -> Segment:
    """Return the first and the last point of a chunk, by its summary."""
    edges = {summary.first: summary.meta.first, summary.last: summary.meta.last}
    bodies = [encoded for encoded in edges.values() if encoded is not None]
    return Segment(np.array(list(edges), np.int64), None, column_of_encoded(bodies))


def _distance(later: Int64s, earlier: Int64s) -> npt.NDArray[np.uint64]:
    return later.view(np.uint64) - earlier.view(np.uint64)  # right wherever `later` is not before `earlier`


def _take(values: npt.NDArray[Any], indexes: Int64s, found: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return values by index, and a missing value where none was found."""
    taken = values[np.clip(indexes, 0, len(values) - 1)]
    if found.all():
        return taken
    if values.dtype.kind in "iuf":
        return np.where(found, taken, np.nan)
    if values.dtype.kind == "M":
        return np.where(found, taken, np.array("NaT", values.dtype))
    objects = np.array(taken.tolist(), object) if taken.dtype.kind != "O" else taken.copy()
    objects[~found] = None
    return objects
