"""Tables in and out, a series a column: pandas, polars, Arrow, and dicts."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_key, check_range
from rstore.codec.columns import Int64s
from rstore.codec.segments import Segment
from rstore.errors import InvalidTypeError, InvalidValueError, NotSupportedError, StoreError
from rstore.log.rewrite import Keep
from rstore.namespace import rereads
from rstore.series.arrays import Unit, cells_from, check_refusal, check_unit, in_unit, installed, is_lazy, timestamps_of
from rstore.series.columns import Arrays, Columns, arrays_of, check_lengths
from rstore.series.points import check_all_keys, read_many
from rstore.series.writing import check_keep, put, put_together
from rstore.session import ReadSession

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


_PANDAS: Final = {"D": "s"}
"""Units of datetimes that pandas lacks, and the finer ones that it has instead."""


class SeriesTables(Columns):
    """Several series as the columns of a table."""

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
        column that holds them, or a column; without it, the index of a pandas DataFrame. Where a column has no value,
        its series gets no point: null in Arrow and polars, NA, NaT and None in pandas, masked in NumPy. NaN is a value.

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
        keys = {name: check_key(prefix + _check_name(name, "the name of a column")) for name in columns}
        t = timestamps_of(index, unit)
        segments = {keys[name]: _segment(session, keys[name], t, name, column) for name, column in columns.items()}
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

    def to_pandas(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> pandas.DataFrame:
        """Return one or several series as the columns of a pandas DataFrame, joined on time.

        The index holds the timestamps; with `unit` they are what an int counts since 1970, and become datetimes in
        UTC. Where a series has no point at a timestamp of another one, its value is missing: NaT among datetimes, and
        NA among numbers and bools, for which they become one of the nullable types of pandas, "Float64", "Int64" and
        the like. NaN stays a value.

        Raises `StoreNotAvailableError` without pandas: `pip install 'rlib-store[pandas]'`.
        """
        with installed("pandas", "pandas"):
            import pandas
        several = self._several(keys, start, end)
        n = len(_all_times(several))
        columns = {}
        for key, (t, values) in several.items():
            index = _index(t, unit, _PANDAS)
            with _converting(key, "pandas"):
                given = _nullable(values) if len(t) < n else _plain(values, _PANDAS)
                columns[key] = pandas.Series(given, index=index, name=key)
        frame = pandas.concat(columns, axis=1, sort=True)
        frame.index.name = "timestamp"
        return frame if unit is None else frame.tz_localize("UTC")

    def to_polars(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> polars.DataFrame:
        """Return one or several series as a polars DataFrame with a column `timestamp`, joined on time.

        `unit` is as in `to_pandas`; where a series has no point, there is a null.

        Raises `StoreNotAvailableError` without polars: `pip install 'rlib-store[polars]'`.
        """
        with installed("polars", "polars"):
            import polars
        columns = []
        for key, (t, values) in self._several(keys, start, end, reserved="timestamp").items():
            index = _index(t, unit, {"D": "ms", "s": "ms"})
            _check_one_type(key, values, "polars")
            with _converting(key, "polars"):
                columns.append(polars.DataFrame({"timestamp": index, key: _plain(values, {"s": "ms"})}))
        frame = columns[0]
        for column in columns[1:]:
            frame = frame.join(column, on="timestamp", how="full", coalesce=True)
        frame = frame.sort("timestamp")
        return frame if unit is None else frame.with_columns(polars.col("timestamp").dt.replace_time_zone("UTC"))

    def to_arrow(
        self, *keys: str, start: int | None = None, end: int | None = None, unit: Unit | None = None
    ) -> pyarrow.Table:
        """Return one or several series as an Arrow table with a column `timestamp`, joined on time.

        `unit` is as in `to_pandas`; where a series has no point, there is a null.

        Raises `StoreNotAvailableError` without pyarrow: `pip install 'rlib-store[arrow]'`.
        """
        with installed("arrow", "pyarrow"):
            import pyarrow
        several = self._several(keys, start, end, reserved="timestamp")
        t = _all_times(several)
        times = pyarrow.array(_index(t, unit, {"D": "s"}))
        table = {"timestamp": times if unit is None else times.cast(pyarrow.timestamp(times.type.unit, tz="UTC"))}
        for key, (at, values) in several.items():
            where = np.full(len(t), -1, np.int64)
            where[np.searchsorted(t, at)] = np.arange(len(at))
            _check_one_type(key, values, "Arrow")
            with _converting(key, "Arrow"):
                column = pyarrow.array(_plain(values, {}))
            table[key] = column.take(pyarrow.array(where, mask=where < 0))
        return pyarrow.table(table)

    @rereads
    def _several(
        self, keys: tuple[str, ...], start: int | None, end: int | None, *, reserved: str | None = None
    ) -> dict[str, Arrays]:
        session = self._reader
        checked, (lo, hi) = check_all_keys(keys), check_range(start, end)
        if not checked:
            raise InvalidTypeError("this takes at least one key; to_pandas(*store.timeseries()) takes all series")
        if reserved in checked:
            raise InvalidValueError(f"the series {reserved!r} cannot be a column: that one holds the timestamps")
        return read_many(session, checked, lo, hi, arrays_of)


def _check_name(name: Any, what: str) -> str:
    """Return `name` if it is a str, which may be empty."""
    if not isinstance(name, str):
        raise InvalidTypeError(f"{what} is a str, not {type(name).__name__}")
    return name


def _segment(session: ReadSession, key: str, t: Int64s, name: str, given: Any) -> Segment:
    """Return the points of a column; a missing value is no point."""
    what = f"the values of the column {name!r}"
    with session.naming(f"a value for the series {key!r}"):
        column, there = cells_from(given, session.codec, what)
    check_lengths(len(t), len(column) if there is None else len(there), what)
    return Segment(t if there is None else t[there], None, column)


def _columns_of(frame: Any) -> tuple[dict[str, Any], Any]:
    """Return the columns of a table by name, and its index if it has one."""
    if isinstance(frame, Mapping):
        return dict(frame), None
    if is_lazy(frame):
        raise InvalidTypeError("the table is lazy: collect() it first")
    if hasattr(frame, "column_names") and hasattr(frame, "column"):  # Arrow
        return {name: frame.column(name) for name in _distinct(frame.column_names)}, None
    if hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        return {name: frame[name] for name in _distinct(list(frame.columns))}, getattr(frame, "index", None)
    raise InvalidTypeError(f"a table is a DataFrame, an Arrow table or a dict of columns, not {type(frame).__name__}")


def _distinct(names: Sequence[Any]) -> Sequence[Any]:
    for name in set(names):
        if names.count(name) > 1:
            raise InvalidValueError(f"the table has {names.count(name)} columns {name!r}, and a series has one name")
    return names


def _all_times(several: Mapping[str, Arrays]) -> Int64s:
    return np.unique(np.concatenate([t for t, _ in several.values()]))


def _check_one_type(key: str, values: npt.NDArray[Any], library: str) -> None:
    """Refuse values of several types, some of which a library would convert, such as dates to datetimes."""
    types = set(map(type, values.tolist())) - {type(None)} if values.dtype.kind == "O" else ()
    if len(types) > 1:
        names = ", ".join(sorted(one.__name__ for one in types))
        raise InvalidTypeError(f"the values of {key!r} cannot be a column of {library}: they are of the types {names}")


@contextmanager
def _converting(key: str, library: str) -> Generator[None]:
    """Name the series whose values a library refuses as a column."""
    try:
        yield
    except (MemoryError, StoreError):
        raise
    except BaseException as error:  # any error of the library
        check_refusal(error)
        raise InvalidTypeError(f"the values of {key!r} cannot be a column of {library}, see the cause") from error


def _nullable(values: npt.NDArray[Any]) -> Any:
    """Return an array as pandas holds numbers and bools with missing ones, none of which is NaN."""
    from pandas import arrays

    kind = {"i": arrays.IntegerArray, "u": arrays.IntegerArray, "f": arrays.FloatingArray, "b": arrays.BooleanArray}
    if values.dtype == np.float16:
        values = values.astype(np.float32)  # pandas has no smaller one
    if values.dtype.kind not in kind:
        return _plain(values, _PANDAS)
    return kind[values.dtype.kind](values, np.zeros(len(values), np.bool_))


def _plain(values: npt.NDArray[Any], finer: Mapping[str, str]) -> Any:
    """Return an array as other libraries take it: strings as objects, datetimes in a unit that they know."""
    if isinstance(values.dtype, np.dtypes.StringDType):
        return values.astype(object)
    if values.dtype.kind != "M":
        return values
    unit = np.datetime_data(values.dtype)[0]
    exact = in_unit(values, finer.get(unit, unit))
    # Arrow and polars count days in 32 bits, and wrap around.
    wraps = (
        unit == "D"
        and unit not in finer
        and bool((values.view(np.int64).astype(np.int32) != values.view(np.int64)).any())
    )
    if exact is None or wraps:
        raise InvalidValueError(f"a datetime of the unit {unit!r} is too far from 1970 to be one there")
    return exact


def _index(t: Int64s, unit: Unit | None, finer: Mapping[str, str]) -> npt.NDArray[Any]:
    """Return timestamps as datetimes of `unit`, or of the finer unit that a library has instead."""
    if unit is None:
        return t
    times = t.view(f"M8[{check_unit(unit)}]")
    exact = in_unit(times, finer.get(unit, unit))
    if exact is None:
        raise InvalidValueError(f"unit={unit!r}: a timestamp is too far from 1970 to be a datetime")
    return exact
