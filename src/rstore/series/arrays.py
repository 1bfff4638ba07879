"""Whatever people keep columns in -> NumPy arrays: NumPy, pandas, polars, Arrow, or a list.

Nothing here imports pandas or polars: all of them hand out NumPy arrays. What knows the Arrow C data interface alone
is read by pyarrow.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_choice, check_int64, check_timestamp
from rstore.codec.columns import Column, Int64s, column_of, column_of_array, sole_type
from rstore.codec.serializers import Codec
from rstore.errors import InvalidTypeError, InvalidValueError, StoreError, StoreNotAvailableError

Unit: TypeAlias = Literal["D", "s", "ms", "us", "ns"]
"""What a timestamp counts since 1970-01-01 UTC; the same names as NumPy's."""

UNITS: Final = ("D", "s", "ms", "us", "ns")


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
        _check_no_unit(unit if given else None, what)
        return _from_list(given, what)
    array = _array_of(given, what)
    if array.dtype.kind == "M":
        return _from_datetimes(array, unit, what)
    if array.dtype.kind not in "iu":
        hint = ": missing ones become NaN, which is no time" if array.dtype.kind == "f" else ""
        raise InvalidTypeError(f"{what} are ints or datetimes, not {array.dtype}{hint}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and len(array) and int(array.max()) >= 2**63:
        raise InvalidValueError(f"{what} lie outside of -2**63 … 2**63 - 1")
    _check_no_unit(unit if len(array) else None, what)
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

    Raises `InvalidArgumentError` for objects, missing values and more than one dimension.
    """
    if isinstance(given, list | tuple):
        return column_of(list(given), codec)
    array = _array_of(given, what)
    if array.dtype.kind == "M":
        _check_datetimes(array, what)
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
    if isinstance(t, np.datetime64 | datetime):
        raise InvalidTypeError(f"{what}, element {i}: a list holds ints; datetimes come as an array, as of NumPy")
    try:
        return check_timestamp(t)
    except (InvalidTypeError, InvalidValueError) as error:
        raise type(error)(f"{what}, element {i}: {error}") from error


def _array_of(given: Any, what: str) -> npt.NDArray[Any]:
    dimensions = getattr(given, "shape", (0,))  # of a DataFrame, too, before anybody asks what is missing in it
    if len(dimensions) != 1:
        raise InvalidValueError(f"{what} have one dimension, not {len(dimensions)}")
    if is_lazy(given):
        raise InvalidTypeError(f"{what} are lazy: collect() them first")
    try:
        given = _plain(given)
        missing = _has_missing(given)
        zone = getattr(getattr(given, "dtype", None), "tz", None)
        if zone is not None and hasattr(given, "to_numpy"):
            array: npt.NDArray[Any] = given.to_numpy(dtype=f"M8[{given.dtype.unit}]")  # pandas: UTC instead of objects
        elif hasattr(given, "to_numpy") and not hasattr(given, "__array__"):
            array = given.to_numpy()
        else:
            array = np.asarray(given)
    except StoreError:
        raise
    except Exception as error:  # whatever the library it is from raises where NumPy has no such type
        raise InvalidTypeError(f"{what} cannot become an array of NumPy, see the cause") from error
    if missing:
        raise InvalidValueError(f"{what} have missing values, and a point cannot be missing: drop them, or fill them")
    if array.ndim == 0:
        raise InvalidTypeError(f"{what} are an array or a list, not {type(given).__name__}")
    if array.ndim != 1:
        raise InvalidValueError(f"{what} have one dimension, not {array.ndim}")
    if array.dtype.kind == "O" and array.size and _is_text(given):
        return np.array(array, np.dtypes.StringDType())  # the strings of Arrow and pandas come as objects
    return array


def is_lazy(given: Any) -> bool:
    """Return whether something is yet to be computed, as a LazyFrame of polars."""
    return hasattr(given, "collect") and not hasattr(given, "__len__")


def _plain(given: Any) -> Any:
    """Return what an array stands for, where it is none of its own: Arrow in pandas, a dictionary, runs, a capsule."""
    if hasattr(getattr(given, "dtype", None), "pyarrow_dtype"):
        given = given.array.__arrow_array__() if hasattr(given, "array") else given.__arrow_array__()
    kind: Any = getattr(given, "type", None)
    if hasattr(kind, "run_end_type"):  # whose nulls are not counted
        from pyarrow.compute import call_function

        return _plain(call_function("run_end_decode", [given]))
    if hasattr(kind, "index_type"):
        return _plain(given.cast(kind.value_type))
    if hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
        return given
    if hasattr(given, "__arrow_c_array__") or hasattr(given, "__arrow_c_stream__"):
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise StoreNotAvailableError(
                "an Arrow array is read by pyarrow: pip install 'rlib-store[arrow]'"
            ) from error
        return _plain(pyarrow.array(given) if hasattr(given, "__arrow_c_array__") else pyarrow.chunked_array(given))
    return given


def _is_text(given: Any) -> bool:
    """Return whether an array that is not NumPy's says of itself that it holds strings."""
    kind = str(getattr(given, "dtype", None) or getattr(given, "type", "")).lower()
    texts = ("str", "string", "large_string", "string_view", "utf8", "categorical", "category")
    return kind in texts or kind.startswith("enum(")


def _has_missing(given: Any) -> bool:
    """Return whether an array has nulls; NaN is a float like others."""
    if isinstance(given, np.ma.MaskedArray):
        return bool(np.ma.is_masked(given))
    dtype = getattr(given, "dtype", None)
    if isinstance(dtype, np.dtype):
        # An array or a Series of NumPy's own types: what can be missing there is NaN, NaT, and None among objects.
        if hasattr(dtype, "na_object"):
            return set(map(type, given.tolist())) > {str}
        return dtype.kind == "O" and hasattr(given, "isna") and _is_plain_index(given) and bool(given.isna().any())
    count = getattr(given, "null_count", 0)  # Arrow and polars
    number: Any = count() if callable(count) else count
    if not number and hasattr(given, "isna"):
        number = given.isna().sum()  # pandas
    return bool(number)


def _is_plain_index(given: Any) -> bool:
    return getattr(given, "nlevels", 1) == 1  # pandas cannot tell it of a MultiIndex


def _check_datetimes(array: npt.NDArray[Any], what: str) -> None:
    if np.isnat(array).any():
        raise InvalidValueError(f"{what} hold NaT, which is no time")


def _from_datetimes(array: npt.NDArray[Any], unit: Unit | None, what: str) -> Int64s:
    _check_datetimes(array, what)
    own, step = np.datetime_data(array.dtype)
    if unit is None and step != 1:
        raise InvalidTypeError(f"{what} count {step} {own}: say with unit= what they are to count")
    converted = array.astype(f"M8[{unit or own}]")  # a copy in this machine's byte order
    if (converted.astype(array.dtype) != array).any():
        raise InvalidValueError(f"{what} are finer than a unit of {unit!r}, or too far from 1970: round them first")
    return converted.view(np.int64)
