"""Whatever people keep columns in -> NumPy arrays: NumPy, pandas, polars, Arrow, or a list.

Nothing here imports pandas, polars or pyarrow: all of them hand out NumPy arrays.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rstore.arguments import check_timestamp
from rstore.codec.columns import Column, Int64s, column_of, column_of_array
from rstore.codec.serializers import Codec
from rstore.errors import InvalidTypeError, InvalidValueError

Unit: TypeAlias = Literal["D", "s", "ms", "us", "ns"]
"""What a timestamp counts since 1970-01-01 UTC; the same names as NumPy's."""

UNITS: Final = ("D", "s", "ms", "us", "ns")


def check_unit(unit: Any) -> Unit:
    """Return `unit` if it is one."""
    if unit not in UNITS:
        raise InvalidValueError(f"unit is one of {', '.join(UNITS)}, not {unit!r}")
    known: Unit = unit
    return known


def timestamps_of(given: Any, unit: Unit | None = None, what: str = "timestamps") -> Int64s:
    """Return a column of timestamps as int64; datetimes in their own unit, or in `unit`.

    Raises `InvalidArgumentError` for floats, bools, objects, missing values and more than one dimension, and where a
    datetime has a finer time than `unit` can tell.
    """
    if isinstance(given, list | tuple):
        return _from_list(given, what)
    array = _array_of(given, what)
    if array.dtype.kind == "M":
        return _from_datetimes(array, unit, what)
    if array.dtype.kind not in "iu":
        hint = ": missing ones become NaN, which is no time" if array.dtype.kind == "f" else ""
        raise InvalidTypeError(f"{what} are ints or datetimes, not {array.dtype}{hint}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and len(array) and int(array.max()) >= 2**63:
        raise InvalidValueError(f"{what} lie outside of -2**63 … 2**63 - 1")
    return np.ascontiguousarray(array, np.int64)


def column_from(given: Any, codec: Codec, what: str = "values") -> Column:
    """Return the column of some values; of an array with its type.

    Raises `InvalidArgumentError` for objects, missing values and more than one dimension.
    """
    if isinstance(given, list | tuple):
        return column_of(given, codec)
    array = _array_of(given, what)
    if array.dtype.kind == "M":
        array = _plain_datetimes(array, what)
    column = column_of_array(array, codec)
    if column is None:
        hint = ": a list may hold any value" if array.dtype.kind == "O" else ""
        raise InvalidTypeError(f"{what} of type {array.dtype} cannot be a column{hint}")
    return column


def _from_list(given: list[Any] | tuple[Any, ...], what: str) -> Int64s:
    """Return the array of a list of ints; NumPy alone would take bools for ints, and make floats of large ones."""
    if set(map(type, given)) <= {int}:
        with suppress(OverflowError):
            return np.array(given, np.int64)
    return np.array([_checked(t, i, what) for i, t in enumerate(given)], np.int64)


def _checked(t: Any, i: int, what: str) -> int:
    try:
        return check_timestamp(t)
    except (InvalidTypeError, InvalidValueError) as error:
        raise type(error)(f"{what}, element {i}: {error}; nothing was stored") from error


def _array_of(given: Any, what: str) -> npt.NDArray[Any]:
    if _count_missing(given):
        raise InvalidValueError(f"{what} have missing values, and a point cannot be missing: drop them, or fill them")
    zone = getattr(getattr(given, "dtype", None), "tz", None)
    if zone is not None and hasattr(given, "to_numpy"):
        array = given.to_numpy(dtype=f"M8[{given.dtype.unit}]")  # pandas: UTC instead of objects
    elif hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
        array = np.asarray(given)
    elif hasattr(given, "to_numpy"):
        array = given.to_numpy()
    else:
        try:
            array = np.asarray(given)
        except (TypeError, ValueError) as error:
            raise InvalidTypeError(f"{what} are an array, not {type(given).__name__}") from error
    if array.ndim != 1:
        raise InvalidValueError(f"{what} have one dimension, not {array.ndim}")
    array = np.asarray(array)
    if array.dtype.kind == "O" and array.size and _is_text(given):
        return np.array(array, np.dtypes.StringDType())  # the strings of Arrow and pandas come as objects
    return array


def _is_text(given: Any) -> bool:
    """Return whether an array that is not NumPy's says of itself that it holds strings."""
    kind = str(getattr(given, "dtype", None) or getattr(given, "type", "")).lower()
    return kind in ("str", "string", "large_string", "string_view", "utf8", "categorical", "category", "enum")


def _count_missing(given: Any) -> int:
    """Return how many nulls an array of Arrow or polars has; NaN is a float like others."""
    count = getattr(given, "null_count", 0)
    number: Any = count() if callable(count) else count
    if not number and hasattr(given, "isna") and getattr(getattr(given, "dtype", None), "kind", "O") != "f":
        number = given.isna().sum()  # pandas
    return int(number)


def _plain_datetimes(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    unit, step = np.datetime_data(array.dtype)
    if step != 1 or unit not in UNITS:
        raise InvalidTypeError(f"{what} count {step} {unit}: convert them to one of {', '.join(UNITS)}")
    if np.isnat(array).any():
        raise InvalidValueError(f"{what} hold NaT, which is no time")
    return array


def _from_datetimes(array: npt.NDArray[Any], unit: Unit | None, what: str) -> Int64s:
    plain = _plain_datetimes(array, what)
    converted = plain.astype(f"M8[{unit or np.datetime_data(plain.dtype)[0]}]")  # a copy in this machine's byte order
    if (converted.astype(plain.dtype) != plain).any():
        raise InvalidValueError(f"{what} are finer than a unit of {unit!r}, or too far from 1970: round them first")
    return converted.view(np.int64)
