"""Arrays, scalars and dtypes of NumPy, as a pickle of data may hold them.

A dtype is made anew from its description, and an array from its bytes, so that no constructor of NumPy is called with
what a pickle chose.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any, Final

import numpy as np
from numpy._core import multiarray, numeric  # the modules that NumPy's pickles name

from rstore.codec.blueprints import Bare, Blueprint, blueprint_of, malformed
from rstore.errors import CorruptionError, StoreError, UnsafeValueError


class _Dtype(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        try:
            return build_dtype(self.args, self.state)
        except StoreError:
            raise
        except Exception as error:  # whatever NumPy says of a forged dtype
            raise malformed(self) from error


_NATIVE_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_simple = re.compile("b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV][0-9]{1,9}")


def build_dtype(args: tuple[Any, ...], state: Any) -> np.dtype[Any]:
    """Return the dtype that NumPy's pickles describe so, without objects in it."""
    name = args[0]
    if type(name) is not str or len(args) != 3 or (state is not None and (type(state) is not tuple or len(state) < 8)):
        raise CorruptionError("a pickle describes a dtype in a way that NumPy does not")
    if state is None:
        state = (3, "|", None, None, None, -1, -1, 0)
    _, order, subarray, names, fields, itemsize, _, flags = state[:8]
    if subarray is not None:
        base, shape = subarray
        dtype: np.dtype[Any] = np.dtype((base, shape))
    elif names is not None:
        dtype = np.dtype(
            {
                "names": list(names),
                "formats": [fields[name][0] for name in names],
                "offsets": [fields[name][1] for name in names],
                "itemsize": itemsize,
            },
            align=bool(flags & 0x80),
        )
    elif name in ("M8", "m8"):
        _, (unit, step, _, _) = state[8]
        dtype = np.dtype(f"{name}[{int(step)}{bytes(unit).decode('ascii')}]" if unit != b"generic" else name)
    elif _simple.fullmatch(name):
        dtype = np.dtype(name)
    else:
        raise CorruptionError("a pickle describes a dtype that is not one of numbers, text or bytes")
    if order in ("<", ">") and order != _NATIVE_ORDER and names is None and subarray is None:
        dtype = dtype.newbyteorder(order)
    if dtype.hasobject:
        raise UnsafeValueError("a pickle holds an array of objects: it was not loaded")
    return dtype


def _array(blueprint: Blueprint, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    if isinstance(shape, int):
        shape = (shape,)
    if not (
        isinstance(raw, bytes | bytearray)
        and isinstance(dtype, np.dtype)
        and type(shape) is tuple
        and all(type(n) is int and n >= 0 for n in shape)
        and math.prod(shape) * dtype.itemsize == len(raw)
        and order in ("C", "F", "K")
    ):
        raise malformed(blueprint)
    try:
        # Not `np.empty`: it takes text of no characters for one of one, and so would allocate what is not stored.
        flat = (
            np.frombuffer(raw, dtype)
            if raw
            else np.ndarray(math.prod(shape), dtype, bytes(1) if isinstance(raw, bytes) else bytearray(1))
        )
        if order == "K" and axes is not None:
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order="F" if order == "F" else "C")
    except (TypeError, ValueError) as error:
        raise malformed(blueprint) from error


class _Array(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        self.check_args(4, 5)
        return _array(self, *self.args)


class _Reconstructed(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if self.items or type(self.state) is not tuple or len(self.state) != 5 or self.args[:1] != (np.ndarray,):
            raise malformed(self)
        _, shape, dtype, is_fortran, raw = self.state
        if isinstance(raw, list):
            raise UnsafeValueError("a pickle holds an array of objects: it was not loaded")
        raw = bytearray(raw) if isinstance(raw, bytes) else raw  # writable, as what was pickled so
        return _array(self, raw, dtype, shape, "F" if is_fortran else "C")


class _Scalar(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        self.check_args(2)
        dtype, raw = self.args
        return _array(self, raw, dtype, (), "C")[()]


_FUNCTIONS: Final[dict[tuple[str, str], type[Blueprint]]] = {
    ("numeric", "_frombuffer"): blueprint_of(_Array, numeric._frombuffer),  # type: ignore[attr-defined] # noqa: SLF001
    ("multiarray", "_reconstruct"): blueprint_of(_Reconstructed, multiarray._reconstruct),  # noqa: SLF001
    ("multiarray", "scalar"): blueprint_of(_Scalar, multiarray.scalar),
}

NUMPY: Final[dict[tuple[str, str], type[Blueprint]]] = {
    ("numpy", "dtype"): blueprint_of(_Dtype, np.dtype),
    ("numpy", "ndarray"): blueprint_of(Bare, np.ndarray),
} | {
    (f"numpy.{core}.{module}", name): made
    for (module, name), made in _FUNCTIONS.items()
    for core in ("_core", "core")  # as NumPy 2 and NumPy 1 name it
}
"""The globals of NumPy's pickles."""
