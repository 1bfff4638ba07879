"""Columns in and out: NumPy, pandas, polars and Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_freq, check_key, check_range
from rstore.codec.chunks import Segment
from rstore.codec.columns import Int64s, array_of
from rstore.errors import InvalidTypeError, InvalidValueError, NotSupportedError, StoreNotAvailableError
from rstore.log import Keep
from rstore.pieces import reading
from rstore.series.arrays import Unit, check_unit, column_from, timestamps_of
from rstore.series.points import Points, check_all_keys
from rstore.series.writing import check_keep, put, put_together
from rstore.session import Session

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

Arrays = tuple[Int64s, npt.NDArray[Any]]


class Columns(Points):
    """Series as a column of timestamps and one of values."""

    def extend_columns(
        self, key: str, timestamps: Any, values: Any, *, unit: Unit | None = None, on_duplicate: Keep = "last"
    ) -> int:
        """Put a column of values at a column of timestamps into a series, in any order; return how many there are.

        Both are one-dimensional: NumPy or Arrow arrays, pandas or polars columns, lists. Numbers, bools, datetimes and
        strings keep their type; for other values give a list. Timestamps are ints, or datetimes, which count in
        their own unit, or in `unit`: "D", "s", "ms", "us" or "ns".

        Raises `InvalidArgumentError` for what cannot be a column, for missing values, and for different lengths.

        >>> import numpy as np
        >>> store.extend_columns('load', np.array([10, 20, 30]), np.array([0.5, 0.75, 0.25]))
        3
        >>> store.range('load', n=2)
        [(10, 0.5), (20, 0.75)]
        """
        session = self._writer
        logs, key, keep = session.series, check_key(key), check_keep(on_duplicate)
        segment = _segment(session, key, timestamps, values, unit)
        put(logs, key, segment, keep)
        return len(segment)

    def extend_frame(
        self,
        frame: Any,
        *,
        prefix: str = "",
        timestamps: Any = None,
        unit: Unit | None = None,
        on_duplicate: Keep = "last",
        atomic: bool = True,
    ) -> int:
        """Put each column of a table into a series of its own, named `prefix` and the column; return how many.

        A table is a pandas or polars DataFrame, an Arrow table, or a dict of columns. `timestamps` is the name of the
        column that holds them, or a column; without it, the index of a pandas DataFrame.

        All columns are stored or, if it raises, none, in one transaction. With `atomic=False` each of them is stored as
        a whole, one after the other: for a table that is too large for one transaction of Redis, and where others are
        not to wait for a large one.

        Raises `NotSupportedError` on a Redis Cluster for more than one column, unless `atomic=False` is given or the
        namespace lies in one bucket, and on Redis for a table that is larger than a transaction may be.

        `to_pandas`, `to_polars` and `to_arrow` bring several series together again.

        >>> store.extend_frame({'t': [1, 2], 'low': [0.5, 0.7], 'high': [1.5, 1.8]}, prefix='air.', timestamps='t')
        2
        >>> store.range_many(['air.low', 'air.high'], 2)
        {'air.low': [(2, 0.7)], 'air.high': [(2, 1.8)]}
        """
        session = self._writer
        logs, keep = session.series, check_keep(on_duplicate)
        columns, index = _columns_of(frame)
        if isinstance(timestamps, str):
            if timestamps not in columns:
                raise InvalidValueError(f"the table has no column {timestamps!r}; it has {', '.join(columns)}")
            index = columns.pop(timestamps)
        elif timestamps is not None:
            index = timestamps
        if index is None:
            raise InvalidTypeError("timestamps=… names the column of the table that holds them")
        _check_name(prefix, "prefix")
        segments = {
            (key := check_key(prefix + _check_name(name, "the name of a column"))): _segment(
                session, key, index, column, unit, what=f"the values of the column {name!r}"
            )
            for name, column in columns.items()
        }
        if atomic and len(segments) > 1:
            if not session.backend.transactional:
                raise NotSupportedError(
                    "the series of this table lie in several slots of a Redis Cluster, which cannot be written as one: "
                    "with atomic=False each series is written on its own; nothing was stored"
                )
            put_together(logs, segments, keep)
        else:
            for key, segment in segments.items():
                put(logs, key, segment, keep)
        return len(segments)

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
            if lo > hi:
                return _arrays(session, [])
            view = session.series.view(key, (lo, 0), (hi, 0))
            return _arrays(session, list(session.series.segments(key, view, (lo, 0), (hi, 0))))

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
        session.check_open()
        key, (lo, hi) = check_key(key), check_range(start, end)
        check_freq(size, "size")
        return _batches(session, key, lo, hi, size, reverse=reverse)

    def to_pandas(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> pandas.DataFrame:
        """Return one or several series as the columns of a pandas DataFrame, joined on time.

        The index holds the timestamps; with `unit` they are what an int counts since 1970, and become datetimes in
        UTC. Where a series has no point at a timestamp of another one, its value is missing.

        Raises `StoreNotAvailableError` without pandas: `pip install 'rlib-store[pandas]'`.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise _not_installed("pandas") from error
        columns = {
            key: pandas.Series(_plain(values), index=_index(t, unit, {"D": "s"}), name=key)
            for key, (t, values) in self._several(keys, start, end).items()
        }
        frame = pandas.concat(columns, axis=1, sort=True)
        frame.index.name = "timestamp"
        return frame if unit is None else frame.tz_localize("UTC")

    def to_polars(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> polars.DataFrame:
        """Return one or several series as a polars DataFrame with a column `timestamp`, joined on time.

        `unit` and missing points are as in `to_pandas`.

        Raises `StoreNotAvailableError` without polars: `pip install 'rlib-store[polars]'`.
        """
        try:
            import polars
        except ModuleNotFoundError as error:
            raise _not_installed("polars") from error
        columns = [
            polars.DataFrame({"timestamp": _index(t, unit, {"D": "ms", "s": "ms"}), key: _plain(values, {"s": "ms"})})
            for key, (t, values) in self._several(keys, start, end, reserved="timestamp").items()
        ]
        frame = columns[0]
        for column in columns[1:]:
            frame = frame.join(column, on="timestamp", how="full", coalesce=True)
        frame = frame.sort("timestamp")
        return frame if unit is None else frame.with_columns(polars.col("timestamp").dt.replace_time_zone("UTC"))

    def to_arrow(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> pyarrow.Table:
        """Return one or several series as an Arrow table with a column `timestamp`, joined on time.

        `unit` and missing points are as in `to_pandas`.

        Raises `StoreNotAvailableError` without pyarrow: `pip install 'rlib-store[arrow]'`.
        """
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise _not_installed("arrow", "pyarrow") from error
        several = self._several(keys, start, end, reserved="timestamp")
        t = np.unique(np.concatenate([t for t, _ in several.values()]))
        times = pyarrow.array(_index(t, unit, {"D": "s"}))
        table = {"timestamp": times if unit is None else times.cast(pyarrow.timestamp(times.type.unit, tz="UTC"))}
        for key, (at, values) in several.items():
            where = np.full(len(t), -1, np.int64)
            where[np.searchsorted(t, at)] = np.arange(len(at))
            try:
                column = pyarrow.array(_plain(values))
            except pyarrow.ArrowException as error:
                raise InvalidTypeError(f"the values of {key!r} have no Arrow type in common, see the cause") from error
            table[key] = column.take(pyarrow.array(where, mask=where < 0))
        return pyarrow.table(table)

    def _several(
        self, keys: tuple[str, ...], start: int | None, end: int | None, *, reserved: str | None = None
    ) -> dict[str, Arrays]:
        session = self._reader
        checked, (lo, hi) = check_all_keys(keys), check_range(start, end)
        if not checked:
            raise InvalidTypeError("this takes at least one key; to_pandas(*store.timeseries()) takes all series")
        if reserved in checked:
            raise InvalidValueError(f"the series {reserved!r} cannot be a column: that one holds the timestamps")
        if lo > hi:
            return {key: _arrays(session, []) for key in checked}
        found = {}
        for key, view in zip(checked, session.series.views(checked, (lo, 0), (hi, 0)), strict=True):
            with session.naming(f"the series {key!r}"):
                found[key] = _arrays(session, list(session.series.segments(key, view, (lo, 0), (hi, 0))))
        return found


def _check_name(name: Any, what: str) -> str:
    """Return `name` if it is a str, which may be empty."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} is a str, not {type(name).__name__}")
    return name


def _segment(
    session: Session, key: str, timestamps: Any, values: Any, unit: Unit | None, what: str = "values"
) -> Segment:
    with session.naming(f"a value for the series {key!r}"):
        t = timestamps_of(timestamps, unit)
        column = column_from(values, session.codec, what)
    if len(t) != len(column):
        raise InvalidValueError(f"timestamps have {len(t):,} elements, {what} {len(column):,}; nothing was stored")
    return Segment(t, None, column)


def _columns_of(frame: Any) -> tuple[dict[str, Any], Any]:
    """Return the columns of a table by name, and its index if it has one."""
    if isinstance(frame, Mapping):
        return dict(frame), None
    if hasattr(frame, "column_names") and hasattr(frame, "column"):  # Arrow
        return {name: frame.column(name) for name in frame.column_names}, None
    if hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        return {name: frame[name] for name in frame.columns}, getattr(frame, "index", None)
    raise InvalidTypeError(f"a table is a DataFrame, an Arrow table or a dict of columns, not {type(frame).__name__}")


def _arrays(session: Session, segments: list[Segment]) -> Arrays:
    if not segments:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    t = np.concatenate([segment.t for segment in segments]) if len(segments) > 1 else segments[0].t
    values = array_of([segment.column for segment in segments], session.codec)
    return t, values if values.flags.writeable else values.copy()  # of hot rows alone they lie in bytes


def _batches(session: Session, key: str, lo: int, hi: int, size: int, *, reverse: bool) -> Iterator[Arrays]:
    if lo > hi:
        return
    held: list[Segment] = []
    n = 0
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
                yield _arrays(session, batch)
        if n:
            yield _arrays(session, held[::-1] if reverse else held)


def _cut(held: list[Segment], size: int, *, reverse: bool) -> tuple[list[Segment], list[Segment]]:
    """Return `size` rows of some segments, in order of time, and the rest, in the order in which they came."""
    batch: list[Segment] = []
    rest: list[Segment] = []
    for segment in held:
        n = min(size, len(segment))
        size -= n
        cut = len(segment) - n
        taken, left = (
            (segment.slice(cut, len(segment)), segment.slice(0, cut))
            if reverse
            else (segment.slice(0, n), segment.slice(n, len(segment)))
        )
        if len(taken):
            batch.append(taken)
        if len(left):
            rest.append(left)
    return batch[::-1] if reverse else batch, rest


def _plain(values: npt.NDArray[Any], finer: Mapping[str, str] | None = None) -> Any:
    """Return an array as other libraries take it: strings as objects, datetimes in a unit that they know."""
    if isinstance(values.dtype, np.dtypes.StringDType):
        return values.astype(object)
    if finer and values.dtype.kind == "M" and (unit := np.datetime_data(values.dtype)[0]) in finer:
        return values.astype(f"M8[{finer[unit]}]")
    return values


def _index(t: Int64s, unit: Unit | None, finer: Mapping[str, str]) -> npt.NDArray[Any]:
    """Return timestamps as datetimes of `unit`, or of the finer one that a library has instead."""
    if unit is None:
        return t
    times = t.view(f"M8[{check_unit(unit)}]")
    exact = times.astype(f"M8[{finer.get(unit, unit)}]")
    if np.isnat(exact).any() or (exact.astype(times.dtype) != times).any():
        raise InvalidValueError(f"unit={unit!r}: a timestamp is too far from 1970 to be a datetime")
    return exact


def _not_installed(extra: str, package: str | None = None) -> StoreNotAvailableError:
    return StoreNotAvailableError(f"{package or extra} is not installed: pip install 'rlib-store[{extra}]'")
