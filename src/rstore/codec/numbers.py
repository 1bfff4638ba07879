"""Conversions between numbers of any kind: Python's own and NumPy's scalars, of at most 64 bits."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt

NUMBERS: Final[dict[type, np.dtype[Any]]] = {
    **{dtype.type: dtype for dtype in map(np.dtype, "?bhilqBHILQefd")},
    bool: np.dtype(np.bool_),
    int: np.dtype(np.int64),
    float: np.dtype(np.float64),
}
"""The types of numbers, and their dtype in an array."""


def array_of_numbers(values: list[Any], types: set[type]) -> npt.NDArray[Any] | None:
    """Return values of these types as an array of their common type; None unless all are numbers."""
    if not types or not types <= NUMBERS.keys():
        return None
    dtypes = {NUMBERS[one] for one in types}
    common = np.result_type(*dtypes)
    whole = all(dtype.kind in "biu" for dtype in dtypes)  # of int64 and uint64, NumPy would make floats
    for dtype in (np.dtype(np.int64), np.dtype(np.uint64)) if whole and common.itemsize == 8 else (common,):
        with suppress(OverflowError):
            return np.fromiter(map(int, values) if whole else values, dtype, len(values))
    return None


def number_of(value: Any) -> float | None:
    """Return a number of at most 64 bits as Python's own; None if it is none."""
    if type(value) not in NUMBERS:
        return None
    number: float = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, int) and not -(2**63) <= number < 2**64 else number
