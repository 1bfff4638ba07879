"""Points as callers give them -> their timestamps and values, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final

import numpy as np

from rstore.arguments import check_timestamp
from rstore.backends.types import MAX_INT64, MIN_INT64
from rstore.codec.columns import Int64s, sole_type
from rstore.errors import InvalidTypeError, InvalidValueError

_ONE_BY_ONE: Final = "extend takes points one by one, extend_many an iterable of them"


def split_points(given: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return the timestamps, not yet checked, and the values of some points.

    Not `zip(*points)`, which holds an argument for each point.
    """
    points = given if isinstance(given, tuple | list) else _read_all(given)
    mixed = sole_type(points) not in (tuple, list) and not set(map(type, points)) <= {tuple, list}
    if mixed and not all(isinstance(point, tuple | list) for point in points):
        raise _malformed(points)
    try:
        return [t for t, _ in points], list(map(itemgetter(1), points))
    except (TypeError, ValueError):
        raise _malformed(points) from None


def _read_all(points: Iterable[Any]) -> Sequence[Any]:
    try:
        iterator = iter(points)
    except TypeError as error:
        raise InvalidTypeError(f"points are an iterable, not {type(points).__name__}") from error
    return list(iterator)


def _malformed(points: Sequence[Any]) -> InvalidTypeError:
    for i, point in enumerate(points):
        if not isinstance(point, tuple | list) or len(point) != 2:
            return InvalidTypeError(f"point {i} is not a (timestamp, value) pair, nothing was stored: {_ONE_BY_ONE}")
    return InvalidTypeError("a point is a (timestamp, value) pair; nothing was stored")


def times_of(timestamps: list[Any]) -> Int64s:
    """Return many timestamps, checked; NumPy itself refuses ints that are too large."""
    if sole_type(timestamps) is int:
        with suppress(OverflowError):
            return np.fromiter(timestamps, np.int64, len(timestamps))
    return np.array(few_times(timestamps), np.int64)


def few_times(timestamps: list[Any]) -> list[int]:
    """Return a few timestamps, checked; if all are ints, by their extremes."""
    if sole_type(timestamps) is int and min(timestamps) >= MIN_INT64 and max(timestamps) <= MAX_INT64:
        return timestamps
    checked = []
    for i, t in enumerate(timestamps):
        try:
            checked.append(check_timestamp(t))
        except (InvalidTypeError, InvalidValueError) as error:
            several = isinstance(t, tuple | list) and len(t) == 2  # two points in one list look like one point
            hint = f" ({_ONE_BY_ONE})" if several else ""
            raise type(error)(f"point {i}: {error}; nothing was stored{hint}") from error
    return checked
