"""Columns in and out, one series at a time: arrays of NumPy, pandas, polars and Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_freq, check_key, check_range
from rstore.codec.columns import Int64s, array_of
from rstore.codec.segments import Segment
from rstore.errors import ConflictError, InvalidValueError, TamperedError, WrongKeyError
from rstore.log.rewrite import Keep
from rstore.namespace import rereads
from rstore.series.arrays import Unit, column_from, timestamps_of
from rstore.series.points import Points
from rstore.series.reader import between, reading
from rstore.series.writing import check_keep, put
from rstore.session import ReadSession

Arrays = tuple[Int64s, npt.NDArray[Any]]


class Columns(Points):
    """Series as a column of timestamps and one of values."""

    def extend_columns(
        self, key: str, timestamps: Any, values: Any, *, unit: Unit | None = None, on_duplicate: Keep = "last"
    ) -> int:
        """Put a column of values at a column of timestamps into a series, in any order; return how many there are.

        Both are one-dimensional: NumPy or Arrow arrays, pandas or polars columns, lists. Numbers, bools, datetimes and
        strings keep their type, but for time zones, which become UTC, and categories, which become their values; for
        others give a list. Timestamps are ints, or datetimes, which count in their own unit, or in `unit`: "D", "s",
        "ms", "us" or "ns".

        Raises `InvalidArgumentError` for what cannot be a column, for missing values, for different lengths, and for
        ints with a `unit`.

        >>> import numpy as np
        >>> store.extend_columns('load', np.array([10, 20, 30]), np.array([0.5, 0.75, 0.25]))
        3
        >>> store.range('load', n=2)
        [(10, 0.5), (20, 0.75)]
        """
        session = self._writer
        logs, key, keep = session.series, check_key(key), check_keep(on_duplicate)
        with session.naming(f"a value for the series {key!r}"):
            t = timestamps_of(timestamps, unit)
            column = column_from(values, session.codec)
        check_lengths(len(t), len(column), "values")
        put(logs, key, Segment(t, None, column), keep)
        return len(t)

    @rereads
    def range_columns(self, key: str, start: int | None = None, end: int | None = None) -> Arrays:
        """Return the timestamps, int64, and the values, of the points from `start` to `end`, both included.

        The values have the type that they were written with, the widest one where there are several; ints and floats
        together become float64, NumPy's scalars among Python's own numbers as well, and whatever else is mixed an array
        of objects. Both arrays are the caller's own to change.

        >>> store.extend('load', (10, 0.5), (20, 0.75), (30, 0.25))
        3
        >>> timestamps, values = store.range_columns('load', 20)
        >>> timestamps.tolist(), values.mean().item()
        ([20, 30], 0.5)
        """
        session = self._reader
        key, (lo, hi) = check_key(key), check_range(start, end)
        with session.naming(f"the series {key!r}"):
            return arrays_of(session, session.series.read(key, between(lo, hi)))

    def batches(
        self, key: str, start: int | None = None, end: int | None = None, *, size: int = 65536, reverse: bool = False
    ) -> Iterator[Arrays]:
        """Yield the points from `start` to `end`, both included, as (timestamps, values) of `size` points each.

        The last batch may be smaller. All of them are of the moment at which the first one was asked for, whatever is
        written meanwhile, and never more than a few are in memory. In `reverse`, the last points come first; inside a
        batch the order is that of time.

        Close the iterator, or read it to its end: until then the store cannot reuse the space of what was replaced.

        Raises `ConflictError` if the store was closed or discarded, or the process forked, meanwhile.

        >>> store.extend_many('long', ((t, t / 2) for t in range(250)))
        250
        >>> [len(timestamps) for timestamps, values in store.batches('long', size=100)]
        [100, 100, 50]
        """
        session = self._reader
        key, (lo, hi) = check_key(key), check_range(start, end)
        check_freq(size, "size")
        return self._while_open(_batches(session, key, lo, hi, size, reverse=reverse))


def check_lengths(t: int, values: int, what: str) -> None:
    """Refuse columns that are not equally long."""
    if t != values:
        raise InvalidValueError(f"timestamps have {t:,} elements, {what} {values:,}; nothing was stored")


def arrays_of(session: ReadSession, some: Iterable[Segment]) -> Arrays:
    """Return the timestamps and the values of some segments, as arrays that are the caller's own."""
    segments = list(some)
    if not segments:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    t = np.concatenate([segment.t for segment in segments]) if len(segments) > 1 else segments[0].t
    values = array_of([segment.column for segment in segments], session.codec)
    return t, values if values.flags.writeable else values.copy()  # those of hot rows alone lie in bytes


def _batches(session: ReadSession, key: str, lo: int, hi: int, size: int, *, reverse: bool) -> Iterator[Arrays]:
    held: list[Segment] = []
    n = 0
    known = session.now.incarnation
    try:
        with (
            session.naming(f"the series {key!r}"),
            reading(session.series, key, lo, hi) as reader,
            closing(reader.segments(reverse=reverse)) as segments,
        ):
            for segment in segments:
                held.append(segment)
                n += len(segment)
                while n >= size:
                    batch, held = _cut(held, size, reverse=reverse)
                    n -= size
                    yield arrays_of(session, batch)
            if n:
                yield arrays_of(session, held[::-1] if reverse else held)
    except (WrongKeyError, TamperedError) as error:
        if session.now.incarnation == known:
            raise
        raise ConflictError(f"the series {session.place(key)} was discarded while it was read") from error


def _cut(held: list[Segment], size: int, *, reverse: bool) -> tuple[list[Segment], list[Segment]]:
    """Return `size` rows, which the last segment completes, in order of time, and what is left of that segment."""
    *whole, last = held
    n = size - sum(map(len, whole))
    at = len(last) - n if reverse else n
    early, late = last.slice(0, at), last.slice(at, len(last))
    batch, rest = ([late, *reversed(whole)], early) if reverse else ([*whole, early], late)
    return batch, [rest] if len(rest) else []
