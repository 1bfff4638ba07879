"""Objects that a pickle of data may hold beside builtin types: recorded as blueprints, built when all of it is loaded.

Nouns: a *blueprint* (the arguments, state and items that a pickle gives for one object; a class of its own for each
global) and to *build* (to make the object of a blueprint whose parts are built).

The pickle machine calls what it finds, and methods of what it made: `append`, `__setitem__`, `__setstate__`. It finds
blueprints alone, which record, so that no code of a class runs. Classes of C whose constructors take any argument
(datetime, Decimal, complex) are called at once.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Final, Self

import numpy as np

from rstore.errors import CorruptionError, SerializationError, StoreError, UnsafeValueError

MAX_FRACTION_BITS: Final = 100_000
"""A larger numerator or denominator takes seconds to normalize."""


class Blueprint:
    """The description of one object in a pickle."""

    __slots__ = ("args", "begun", "items", "state")

    original: ClassVar[Any]
    """The global that this class stands for."""

    args: tuple[Any, ...]
    state: Any
    items: list[Any]
    begun: Any
    """The object, still empty, if it can be part of itself."""

    def __new__(cls, *args: Any) -> Self:
        """Record the arguments."""
        made = super().__new__(cls)
        made.args, made.state, made.items, made.begun = args, None, [], None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if self.state is not None:
            raise CorruptionError("a pickle gives one object two states")
        self.state = state

    def append(self, item: Any) -> None:
        """Record an item, as the machine adds it."""
        self.items.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Record some items, as the machine adds them."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def parts(self) -> list[Any]:
        """Return everything that has to be built before the object."""
        return [*self.args, self.state, *self.items]

    def begin(self) -> Any:
        """Return the object, still empty, if it can be part of itself; else None."""
        return None

    def build(self) -> Any:
        """Return the object; all parts are built by now."""
        raise NotImplementedError


def malformed(blueprint: Blueprint) -> CorruptionError:
    """Return the error for a blueprint that nothing can be built from."""
    name = getattr(blueprint.original, "__qualname__", "an object")
    return CorruptionError(f"a pickle holds a {name} that cannot be one: damaged, or forged")


class _Bare(Blueprint):
    """A class that is only named: the factory of a defaultdict, the class of an array."""

    __slots__ = ()

    def build(self) -> Any:
        raise malformed(self)


class _Fraction(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if not (
            len(self.args) == 2
            and all(type(n) is int for n in self.args)
            and self.args[1] > 0
            and self.state is None
            and not self.items
        ):
            raise malformed(self)
        if max(n.bit_length() for n in self.args) > MAX_FRACTION_BITS:
            raise UnsafeValueError(f"a pickle holds a Fraction of more than {MAX_FRACTION_BITS:,} bits")
        return fractions.Fraction(*self.args)


class _Range(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if not (
            len(self.args) == 3
            and all(type(n) is int for n in self.args)
            and self.args[2]
            and self.state is None
            and not self.items
        ):
            raise malformed(self)
        return range(*self.args)


class _Uuid(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if self.args or self.items or type(self.state) is not dict or not self.state.keys() <= {"int", "is_safe"}:
            raise malformed(self)
        number, safe = self.state.get("int"), self.state.get("is_safe")
        if type(number) is not int or not 0 <= number < 2**128 or (safe is not None and type(safe) is not int):
            raise malformed(self)
        return uuid.UUID(int=number, is_safe=uuid.SafeUUID(safe))


class _Deque(Blueprint):
    __slots__ = ()

    def begin(self) -> Any:
        if len(self.args) not in (0, 1, 2) or (self.args and self.args[0] not in ((), [])):
            raise malformed(self)
        most = self.args[1] if len(self.args) == 2 else None
        if (most is not None and (type(most) is not int or not 0 <= most < 2**63)) or self.state is not None:
            raise malformed(self)
        return collections.deque(maxlen=most)

    def build(self) -> Any:
        self.begun.extend(self.items)
        return self.begun


class _OrderedDict(Blueprint):
    __slots__ = ()

    def begin(self) -> Any:
        if self.args or self.state is not None:
            raise malformed(self)
        return collections.OrderedDict[Any, Any]()

    def build(self) -> Any:
        self.begun.update(_pairs(self, self.items))
        return self.begun


class _DefaultDict(Blueprint):
    __slots__ = ()

    def begin(self) -> Any:
        factory = self.args[0] if self.args else None
        factory = factory.original if isinstance(factory, type) and issubclass(factory, _Bare) else factory
        if len(self.args) > 1 or self.state is not None or (factory is not None and factory not in FACTORIES):
            raise malformed(self)
        return collections.defaultdict[Any, Any](factory)

    def parts(self) -> list[Any]:
        return self.items

    def build(self) -> Any:
        self.begun.update(_pairs(self, self.items))
        return self.begun


class _Counter(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if len(self.args) != 1 or type(self.args[0]) is not dict or self.state is not None or self.items:
            raise malformed(self)
        counter = collections.Counter[Any]()
        dict.update(counter, self.args[0])
        return counter


def _pairs(blueprint: Blueprint, items: list[Any]) -> list[Any]:
    if not all(type(item) is tuple and len(item) == 2 for item in items):
        raise malformed(blueprint)
    return items


# -- NumPy ------------------------------------------------------------------------------------------------------------


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
        flat = np.frombuffer(raw, dtype) if raw else np.empty(shape, dtype).reshape(-1)
        if order == "K" and axes is not None:
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order="F" if order == "F" else "C")
    except (TypeError, ValueError) as error:
        raise malformed(blueprint) from error


class _Array(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        if len(self.args) not in (4, 5) or self.state is not None or self.items:
            raise malformed(self)
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
        if len(self.args) != 2 or self.state is not None or self.items or not isinstance(self.args[0], np.dtype):
            raise malformed(self)
        dtype, raw = self.args
        return _array(self, raw, dtype, (), "C")[()]


# -- the globals of data ----------------------------------------------------------------------------------------------


def _zone_method(owner: Any, name: Any) -> Any:
    """Return the function that pickles of time zones get from their class; no other attribute is to be had."""
    if owner is _zone and name == "_unpickle":
        return _zone
    raise UnsafeValueError("a pickle asks for an attribute of an object: it was not loaded")


def _zone(key: Any, from_cache: Any = 1) -> zoneinfo.ZoneInfo:
    # ZoneInfo itself imports packages and opens files by a key that it does not know.
    if type(key) is not str or key not in known_zones():
        raise SerializationError("a pickle names a time zone that this machine does not know")
    return zoneinfo.ZoneInfo(key) if from_cache else zoneinfo.ZoneInfo.no_cache(key)


@cache
def known_zones() -> frozenset[str]:
    """Return the keys of all time zones."""
    return frozenset(zoneinfo.available_timezones())


FACTORIES: Final = frozenset((list, dict, set, int, float, str, bytes, bool, tuple, frozenset, bytearray))
"""The factories that a defaultdict may have."""

DIRECT: Final[dict[tuple[str, str], Any]] = {
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "date"): datetime.date,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("builtins", "complex"): complex,
    ("builtins", "getattr"): _zone_method,
    ("zoneinfo", "ZoneInfo"): _zone,
}


def blueprint_of(base: type[Blueprint], original: Any) -> type[Blueprint]:
    """Return the class of blueprints for a global."""
    made: type[Blueprint] = type(f"Blueprint of {original.__name__}", (base,), {"__slots__": (), "original": original})
    return made


def _standard() -> dict[tuple[str, str], type[Blueprint]]:
    from numpy._core import multiarray, numeric  # the modules that NumPy's pickles name

    numpy_globals = {
        ("numeric", "_frombuffer"): (_Array, numeric._frombuffer),  # type: ignore[attr-defined] # noqa: SLF001
        ("multiarray", "_reconstruct"): (_Reconstructed, multiarray._reconstruct),  # noqa: SLF001
        ("multiarray", "scalar"): (_Scalar, multiarray.scalar),
    }
    table: dict[tuple[str, str], type[Blueprint]] = {
        ("fractions", "Fraction"): blueprint_of(_Fraction, fractions.Fraction),
        ("builtins", "range"): blueprint_of(_Range, range),
        ("uuid", "UUID"): blueprint_of(_Uuid, uuid.UUID),
        ("collections", "deque"): blueprint_of(_Deque, collections.deque),
        ("collections", "OrderedDict"): blueprint_of(_OrderedDict, collections.OrderedDict),
        ("collections", "defaultdict"): blueprint_of(_DefaultDict, collections.defaultdict),
        ("collections", "Counter"): blueprint_of(_Counter, collections.Counter),
        ("numpy", "dtype"): blueprint_of(_Dtype, np.dtype),
        ("numpy", "ndarray"): blueprint_of(_Bare, np.ndarray),
    }
    table |= {("builtins", factory.__name__): blueprint_of(_Bare, factory) for factory in FACTORIES}
    for (module, name), (base, original) in numpy_globals.items():
        made = blueprint_of(base, original)
        table |= {(f"numpy._core.{module}", name): made, (f"numpy.core.{module}", name): made}
    return table


STANDARD: Final = _standard()


def build(root: Any) -> Any:
    """Build all blueprints of a loaded value, without recursion: nesting has no limit but memory.

    Lists, dicts and sets are filled in place, so that what is shared stays shared, and what holds itself holds itself.
    """
    built: dict[int, Any] = {}  # what replaces an object, by its id
    kept: list[Any] = []  # so that no id is used twice
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        one, ready = todo.pop()
        at = id(one)
        if ready:
            replaced = _rebuilt(one, built)
            if replaced is not one:
                built[at] = replaced
            continue
        if at in built:
            continue
        kind = type(one)
        if kind in _NAMES:
            built[at] = _original(one)
        elif isinstance(one, Blueprint):
            kept.append(one)
            pending = [part for part in one.parts() if part and type(part) not in _LEAVES]
            one.begun = one.begin()
            if one.begun is not None:
                built[at] = one.begun
            if not pending:
                built[at] = one.build()
            else:
                todo.append((one, True))
                todo.extend([(part, False) for part in pending])
        elif kind in _CONTAINERS:
            parts = (*one, *one.values()) if kind is dict else one
            pending = [part for part in parts if type(part) not in _LEAVES]
            if pending:
                kept.append(one)
                if kind in _IN_PLACE:
                    built[at] = one
                todo.append((one, True))
                todo.extend([(part, False) for part in pending])
    return built.get(id(root), root)


_IN_PLACE: Final = frozenset((list, dict, set))
_CONTAINERS: Final = _IN_PLACE | {tuple, frozenset}
_LEAVES: Final = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, decimal.Decimal))
_NAMES: Final = frozenset((type, types.FunctionType))


def _original(named: Any) -> Any:
    """Return the class that a pickle only names."""
    if named is _zone:
        return zoneinfo.ZoneInfo
    if isinstance(named, type):
        return named.original if issubclass(named, Blueprint) else named
    raise UnsafeValueError("a pickle holds a function: it was not loaded")


def _rebuilt(one: Any, built: dict[int, Any]) -> Any:
    """Return an object with what replaces its parts in their places."""

    def of(part: Any) -> Any:
        return built.get(id(part), part)

    if isinstance(one, Blueprint):
        one.args, one.state, one.items = tuple(map(of, one.args)), of(one.state), list(map(of, one.items))
        return one.build()
    if type(one) is dict:
        pairs = [(of(key), of(value)) for key, value in one.items()]
        one.clear()
        one.update(pairs)
        return one
    parts = [of(part) for part in one]
    if type(one) is list:
        one[:] = parts
    elif type(one) is set:
        one.clear()
        one.update(parts)
    else:
        return type(one)(parts)
    return one
