"""Columns of any library -> NumPy arrays: NumPy, pandas, polars, Arrow, or a list.

Nothing here imports pandas or polars, which hand out NumPy arrays. An object that knows the Arrow C data interface
alone is read by pyarrow.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_choice, check_int64, check_timestamp
from rstore.codec.columns import Column, Int64s, Kind, column_of, column_of_array, sole_type
from rstore.codec.serializers import Codec
from rstore.errors import InvalidTypeError, InvalidValueError, StoreError, StoreNotAvailableError

Unit: TypeAlias = Literal["D", "s", "ms", "us", "ns"]
"""The unit of a timestamp, counted since 1970-01-01 UTC; the names are NumPy's."""

UNITS: Final = ("D", "s", "ms", "us", "ns")

Mask: TypeAlias = npt.NDArray[np.bool_]


def check_unit(unit: Any) -> Unit:
    """Return `unit` if it is one."""
    return cast("Unit", check_choice(unit, UNITS, "unit"))


def timestamps_of(given: Any, unit: Unit | None = None, what: str = "timestamps") -> Int64s:
    """Return a column of timestamps as int64; datetimes in their own unit, or in `unit`.

    Raises `InvalidArgumentError` for floats, bools, objects, missing values and more than one dimension, for ints with
    a `unit`, and where a datetime has a finer time than `unit` can tell.
    """
    unit = None if unit is None else check_unit(unit)
    if isinstance(given, list | tuple):
        times = _from_list(given, what)
        _check_no_unit(unit if given else None, what)
        return times
    array, _ = _read(given, what)
    if not len(array):
        return np.empty(0, np.int64)
    if array.dtype.kind == "M":
        return _from_datetimes(array, unit, what)
    if array.dtype.kind not in "iu":
        raise InvalidTypeError(f"{what} are ints or datetimes, not {_named(given, array)}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and int(array.max()) >= 2**63:
        raise InvalidValueError(f"{what} lie outside of -2**63 … 2**63 - 1")
    _check_no_unit(unit, what)
    return np.ascontiguousarray(array, np.int64)


def timestamp_of(given: Any, unit: Unit | None, what: str) -> int:
    """Return one timestamp: an int, or a datetime of NumPy, pandas or Python, as `timestamps_of` would.

    One without a time zone is in UTC.
    """
    unit = None if unit is None else check_unit(unit)
    if isinstance(given, np.ndarray) and given.ndim == 0:
        given = given[()]
    if isinstance(given, datetime):
        pandas_own = getattr(given, "to_datetime64", None)  # in its own unit
        if pandas_own is not None:
            given = pandas_own()
        else:
            ahead = np.timedelta64(given.utcoffset() or timedelta(), "us")
            given = np.datetime64(given.replace(tzinfo=None), "us") - ahead
    if isinstance(given, np.datetime64):
        return int(_from_datetimes(np.array([given]), unit, what)[0])
    t = check_int64(given, what)
    _check_no_unit(unit, what)
    return t


def _check_no_unit(unit: Unit | None, what: str) -> None:
    if unit is not None:
        raise InvalidTypeError(f"unit={unit!r} is for datetimes, and {what} are ints, which count what they count")


def column_from(given: Any, codec: Codec, what: str = "values") -> Column:
    """Return the column of some values; of an array with its type.

    Raises `InvalidArgumentError` for objects other than strings, missing values and more than one dimension.
    """
    if isinstance(given, list | tuple):
        return column_of(list(given), codec)
    return _column_of(_read(given, what)[0], codec, what)


def cells_from(given: Any, codec: Codec, what: str) -> tuple[Column, Mask | None]:
    """Return the cells of a table's column that have a value, and a mask of them; None if all have one.

    A list has all of its cells: it may hold any value, and None is one.
    """
    if isinstance(given, list | tuple):
        return column_from(given, codec, what), None
    array, missing = _read(given, what, drop=True)
    return _column_of(array, codec, what), None if missing is None else ~missing


def _column_of(array: npt.NDArray[Any], codec: Codec, what: str) -> Column:
    if not len(array):  # of any type: it has no value that could become another one
        return Column(Kind.INT, np.empty(0, np.int64))
    if array.dtype.kind == "O" and sole_type(strings := array.tolist()) is str:  # those of Arrow and pandas
        return column_of(strings, codec)
    if array.dtype.kind == "M":
        unit, step = np.datetime_data(array.dtype)
        if step != 1 or unit not in UNITS:
            raise InvalidTypeError(f"{what} count {step} {unit}: convert them to one of {', '.join(UNITS)}")
    column = column_of_array(array, codec)
    if column is None:
        hint = ": a list may hold any value" if array.dtype.kind == "O" else ""
        raise InvalidTypeError(f"{what} of type {array.dtype} cannot be a column{hint}")
    return column


def _from_list(given: list[Any] | tuple[Any, ...], what: str) -> Int64s:
    """Return the array of a list of ints; NumPy alone would take bools for ints, and make floats of large ones."""
    if sole_type(given) is int:
        with suppress(OverflowError):
            return np.fromiter(given, np.int64, len(given))
    return np.array([_checked(t, i, what) for i, t in enumerate(given)], np.int64)


def _checked(t: Any, i: int, what: str) -> int:
    if isinstance(t, np.datetime64 | date):
        raise InvalidTypeError(
            f"{what}, element {i}: a list holds ints; datetimes come as an array, as of {_array_from(t)}"
        )
    try:
        return check_timestamp(t)
    except (InvalidTypeError, InvalidValueError) as error:
        raise type(error)(f"{what}, element {i}: {error}") from error


def _array_from(t: Any) -> str:
    """Return how a list of dates or datetimes becomes an array."""
    if isinstance(t, datetime) and t.tzinfo is not None:
        return "pandas.to_datetime(…, utc=True)"
    unit = np.datetime_data(t)[0] if isinstance(t, np.datetime64) else "us" if isinstance(t, datetime) else "D"
    return f"np.array(…, 'M8[{unit}]')"


def _named(given: Any, array: npt.NDArray[Any]) -> str:
    """Return the kind of an array that holds no timestamps, and how to make timestamps of it."""
    if getattr(given, "nlevels", 1) > 1:
        return "a MultiIndex: reset_index() makes columns of its levels, and timestamps='…' of extend_frame takes one"
    kind = str(getattr(given, "dtype", array.dtype))
    if kind.startswith("period"):
        return f"{kind}: to_timestamp() makes datetimes of periods"
    if array.dtype.kind == "f":
        return (
            f"{array.dtype}: missing ones become NaN, which is no time; where all are whole, astype('int64') makes ints"
        )
    if array.dtype.kind == "m":
        return f"{array.dtype}: add the datetime since which these durations count"
    first = array[0] if array.dtype.kind == "O" else None
    if isinstance(first, date):
        return f"objects of the type {type(first).__name__}: {_array_from(first)} makes an array of datetimes"
    if array.dtype.kind in "TU" or isinstance(first, str):
        return "strings: pandas.to_datetime(…) or np.array(…, 'M8[s]') makes datetimes of them"
    return str(array.dtype)


def _read(given: Any, what: str, *, drop: bool = False) -> tuple[npt.NDArray[Any], Mask | None]:
    """Return the array of a column, and a mask of the elements that were missing; None if none were.

    With `drop`, missing elements are left out of the array; otherwise they are refused.
    """
    dimensions = getattr(given, "shape", (0,))  # of a DataFrame, too, before it is searched for missing values
    if len(dimensions) != 1:
        raise InvalidValueError(f"{what} have one dimension, not {len(dimensions)}")
    if is_lazy(given):
        raise InvalidTypeError(f"{what} are lazy: collect() them first")
    try:
        if hasattr(dtype := getattr(given, "dtype", None), "categories") and hasattr(dtype, "ordered"):
            return _read_categories(given, what, drop=drop)
        given = _plain(given)
        missing = _missing(given)
        if missing is not None:
            _check_dropped(what, " (NaT)" if getattr(dtype, "kind", None) == "M" else "", drop=drop)
            given = _without_missing(given, missing)
        if (hasattr(given, "dtype") or hasattr(given, "type")) and hasattr(given, "__len__") and not len(given):
            return np.empty(0, np.int64), missing
        array = _to_numpy(given)
    except StoreError:
        raise
    except BaseException as error:  # any error of its library, where NumPy has no such type
        check_refusal(error)
        raise InvalidTypeError(f"{what} cannot become an array of NumPy, see the cause") from error
    if array.ndim == 0:
        raise InvalidTypeError(f"{what} are an array or a list, not {type(given).__name__}")
    if array.ndim != 1:
        raise InvalidValueError(f"{what} have one dimension, not {array.ndim}")
    return array, missing


def check_refusal(error: BaseException) -> None:
    """Raise an error that is no refusal of a library, such as an interrupt; a panic of polars is a refusal."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _read_categories(given: Any, what: str, *, drop: bool) -> tuple[npt.NDArray[Any], Mask | None]:
    """Read a column of categories of pandas as the values that its codes stand for."""
    codes = np.asarray(given.cat.codes if hasattr(given, "cat") else given.codes)
    missing = codes < 0
    if missing.any():
        _check_dropped(what, "", drop=drop)
    values, _ = _read(given.dtype.categories, what)
    return values[codes[~missing]], missing if missing.any() else None


def _check_dropped(what: str, kind: str, *, drop: bool) -> None:
    if not drop:
        raise InvalidValueError(
            f"{what} have missing values{kind}, and a point cannot be missing: drop them, or fill them"
        )


def _to_numpy(given: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any]
    if getattr(getattr(given, "dtype", None), "tz", None) is not None and hasattr(given, "to_numpy"):
        array = given.to_numpy(dtype=f"M8[{given.dtype.unit}]")  # pandas: UTC instead of objects
    elif callable(getattr(given, "null_count", None)):
        array = given.to_numpy()  # polars: `__array__` cuts the NULs off the ends of strings
    elif hasattr(given, "to_numpy") and not hasattr(given, "__array__"):
        array = given.to_numpy()
    else:
        array = np.asarray(given)
    return array


def is_lazy(given: Any) -> bool:
    """Return whether an object is yet to be computed, like a LazyFrame of polars."""
    return hasattr(given, "collect") and not hasattr(given, "__len__")


def _plain(given: Any) -> Any:
    """Return the array behind a wrapper: Arrow in pandas, a dictionary, runs, a capsule."""
    if hasattr(getattr(given, "dtype", None), "pyarrow_dtype"):
        given = given.array.__arrow_array__() if hasattr(given, "array") else given.__arrow_array__()
    kind: Any = getattr(given, "type", None)
    if hasattr(kind, "run_end_type"):  # whose nulls are not counted
        from pyarrow.compute import call_function

        return _plain(call_function("run_end_decode", [given]))
    if hasattr(kind, "index_type"):
        return _plain(given.cast(kind.value_type))
    if hasattr(kind, "extension_name"):
        return _plain(_of_extension(given, kind.extension_name))
    if hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
        return given
    if hasattr(given, "__arrow_c_array__") or hasattr(given, "__arrow_c_stream__"):
        with installed("arrow", "pyarrow"):
            import pyarrow
        return _plain(pyarrow.array(given) if hasattr(given, "__arrow_c_array__") else pyarrow.chunked_array(given))
    return given


@contextmanager
def installed(extra: str, package: str) -> Generator[None]:
    """Say how a package is installed that is imported inside."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreNotAvailableError(f"{package} is not installed: pip install 'rlib-store[{extra}]'") from error


def _of_extension(given: Any, name: str) -> Any:
    if name != "arrow.bool8":
        raise ValueError(f"only its own library knows what the Arrow type {name!r} stands for: cast it to another one")
    import pyarrow

    return given.cast(pyarrow.bool_())  # in chunks, Arrow itself would hand out its ints


def _missing(given: Any) -> Mask | None:
    """Return which elements of an array are missing; None if all are there. NaN is a float like others."""
    if isinstance(given, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(given)
    elif isinstance(dtype := getattr(given, "dtype", None), np.dtype):
        # An array or a Series of NumPy's own types: missing there are NaN, NaT, and None among objects.
        if hasattr(dtype, "na_object"):
            missing = np.array([type(one) is not str for one in given.tolist()], np.bool_)
        elif dtype.kind == "M":
            missing = np.isnat(np.asarray(given))
        elif dtype.kind == "O" and hasattr(given, "isna") and getattr(given, "nlevels", 1) == 1:  # not of a MultiIndex
            missing = np.asarray(given.isna())
        else:
            return None
    elif hasattr(given, "null_count"):  # Arrow and polars
        if not (given.null_count() if callable(given.null_count) else given.null_count):
            return None
        missing = np.asarray(given.is_null())
    elif hasattr(given, "isna"):  # pandas
        missing = np.asarray(given.isna(), np.bool_)
    else:
        return None
    return missing if missing.any() else None


def _without_missing(given: Any, missing: Mask) -> Any:
    for name in ("drop_null", "drop_nulls"):  # Arrow, polars
        if hasattr(given, name):
            return getattr(given, name)()
    return given[~missing]


def _from_datetimes(array: npt.NDArray[Any], unit: Unit | None, what: str) -> Int64s:
    if np.isnat(array).any():
        raise InvalidValueError(f"{what} hold NaT, which is no time")
    own, step = np.datetime_data(array.dtype)
    if unit is None and step != 1:
        raise InvalidTypeError(f"{what} count {step} {own}: say with unit= what they are to count")
    converted = in_unit(array, unit or own)
    if converted is None:
        raise InvalidValueError(f"{what} are finer than a unit of {unit!r}, or too far from 1970: round them first")
    return converted.view(np.int64)


def in_unit(array: npt.NDArray[Any], unit: str) -> npt.NDArray[Any] | None:
    """Return datetimes in another unit, as a copy in this machine's byte order; None where one cannot be exact."""
    try:
        converted = array.astype(f"M8[{unit}]")
        exact = (converted.astype(array.dtype) == array) & ~np.isnat(converted)
    except OverflowError:  # which NumPy raises from 2.5 on; before, it wraps around
        return None
    return converted if exact.all() else None
