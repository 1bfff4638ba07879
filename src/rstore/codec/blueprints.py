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
import types
import uuid
import zoneinfo
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Final, Self

from rstore.errors import CorruptionError, SerializationError, UnsafeValueError

MAX_FRACTION_BITS: Final = 100_000
"""A larger numerator or denominator takes seconds to normalize."""


class Blueprint:
    """What a pickle says of one object."""

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


class Bare(Blueprint):
    """A class that is only named: the factory of a defaultdict, the class of an array."""

    __slots__ = ()

    def build(self) -> Any:
        """Refuse: a class alone makes no object."""
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
        factory = factory.original if isinstance(factory, type) and issubclass(factory, Bare) else factory
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
"""What a defaultdict may call."""

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


STANDARD: Final[dict[tuple[str, str], type[Blueprint]]] = {
    ("fractions", "Fraction"): blueprint_of(_Fraction, fractions.Fraction),
    ("builtins", "range"): blueprint_of(_Range, range),
    ("uuid", "UUID"): blueprint_of(_Uuid, uuid.UUID),
    ("collections", "deque"): blueprint_of(_Deque, collections.deque),
    ("collections", "OrderedDict"): blueprint_of(_OrderedDict, collections.OrderedDict),
    ("collections", "defaultdict"): blueprint_of(_DefaultDict, collections.defaultdict),
    ("collections", "Counter"): blueprint_of(_Counter, collections.Counter),
} | {("builtins", factory.__name__): blueprint_of(Bare, factory) for factory in FACTORIES}


def build(root: Any) -> Any:
    """Return what was loaded with all blueprints built, without recursion: nesting has no limit but memory.

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
