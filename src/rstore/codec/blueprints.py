"""Objects that a pickle of data may hold beside builtin types: recorded as blueprints, built when all of it is loaded.

Nouns: a *blueprint* (the arguments, state and items that a pickle gives for one object; a class of its own for each
global) and to *build* (to make the object of a blueprint whose parts are built; `building` does so for a whole pickle).

The pickle machine calls the globals that it finds, and methods of the objects that they return: `append`,
`__setitem__`, `__setstate__`. It finds only blueprints, which record these calls, so that no code of a class runs.
Classes written in C whose constructors take any argument (datetime, Decimal, complex) are called at once.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import uuid
import zoneinfo
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar, Final, Self, TypeVar, cast

from rstore.errors import CorruptionError, SerializationError, UnsafeValueError

Planned = TypeVar("Planned", bound="Blueprint")

MAX_FRACTION_BITS: Final = 100_000
"""A larger numerator or denominator takes seconds to normalize."""


class Blueprint:
    """The description of one object in a pickle."""

    __slots__ = ("args", "begun", "items", "state")

    original: ClassVar[Any]
    """The global that this class stands for; None for one that is no data by itself."""
    is_called: ClassVar[bool] = False
    """Whether calling it returns the object at once instead of a blueprint."""

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

    def hashed(self) -> Iterable[Any]:
        """Return the parts that are hashed when it is built."""
        return ()

    def begin(self) -> Any:
        """Return the object, still empty, if it can be part of itself; else None."""
        return None

    def build(self) -> Any:
        """Return the object; all parts are built by now."""
        raise NotImplementedError

    def check_args(self, *counts: int) -> None:
        """Refuse a blueprint with a state or items, or with another number of arguments than these."""
        if len(self.args) not in counts or self.state is not None or self.items:
            raise malformed(self)


def malformed(blueprint: Blueprint) -> CorruptionError:
    """Return the error for a blueprint that nothing can be built from."""
    name = getattr(blueprint.original, "__qualname__", "an object")
    return CorruptionError(f"a pickle holds a {name} that cannot be one: damaged, or forged")


class Bare(Blueprint):
    """A class that is only named: the factory of a defaultdict, the class of an array."""

    __slots__ = ()

    def build(self) -> Any:
        """Refuse: a class alone is no object."""
        raise malformed(self)


class _Fraction(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        self.check_args(2)
        if not all(type(n) is int for n in self.args) or self.args[1] <= 0:
            raise malformed(self)
        if max(n.bit_length() for n in self.args) > MAX_FRACTION_BITS:
            raise UnsafeValueError(f"a pickle holds a Fraction of more than {MAX_FRACTION_BITS:,} bits")
        return fractions.Fraction(*self.args)


class _Range(Blueprint):
    __slots__ = ()

    def build(self) -> Any:
        self.check_args(3)
        if not all(type(n) is int for n in self.args) or not self.args[2]:
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

    def hashed(self) -> Iterable[Any]:
        if not all(type(item) is tuple and len(item) == 2 for item in self.items):
            raise malformed(self)
        return [key for key, _ in self.items]

    def begin(self) -> Any:
        if self.args or self.state is not None:
            raise malformed(self)
        return collections.OrderedDict()

    def build(self) -> Any:
        self.begun.update(self.items)
        return self.begun


class _DefaultDict(_OrderedDict):
    __slots__ = ()

    def begin(self) -> Any:
        factory = self.args[0] if self.args else None
        factory = factory.original if isinstance(factory, type) and issubclass(factory, Bare) else factory
        if len(self.args) > 1 or self.state is not None or (factory is not None and factory not in FACTORIES):
            raise malformed(self)
        return collections.defaultdict(factory)

    def parts(self) -> list[Any]:
        return self.items


class _Counter(Blueprint):
    __slots__ = ()

    def begin(self) -> Any:
        self.check_args(1)
        if type(self.args[0]) is not dict:
            raise malformed(self)
        return collections.Counter()

    def build(self) -> Any:
        dict.update(self.begun, self.args[0])
        return self.begun


# Classes, not functions: a pickle could set attributes of a function, `__defaults__` for example, for good. It cannot
# set those of a class with the `__setstate__` of a blueprint.
class _Zone(Blueprint):
    __slots__ = ()

    original = zoneinfo.ZoneInfo

    def __new__(cls, key: Any = None, from_cache: Any = 1) -> Any:  # pyright: ignore[reportInconsistentConstructor]
        # For an unknown key, ZoneInfo itself imports packages and opens files.
        if type(key) is not str or key not in known_zones():
            raise SerializationError("a pickle names a time zone that this machine does not know")
        return zoneinfo.ZoneInfo(key) if from_cache else zoneinfo.ZoneInfo.no_cache(key)


class _ZoneMethod(Blueprint):
    """Stands for `getattr` in pickles: returns the function that rebuilds zones, and refuses all other attributes."""

    __slots__ = ()

    original = None

    def __new__(cls, owner: Any = None, name: Any = None) -> Any:  # pyright: ignore[reportInconsistentConstructor]
        if owner is _Zone and name == "_unpickle":
            return _Zone
        raise UnsafeValueError("a pickle asks for an attribute of an object: it was not loaded")


class _Decimal(Blueprint):
    __slots__ = ()

    original = decimal.Decimal
    is_called = True

    def __new__(cls, text: Any = None) -> Any:  # pyright: ignore[reportInconsistentConstructor]
        if type(text) is not str:  # an int of a megabyte would take minutes
            raise CorruptionError("a pickle holds a Decimal that is not made of text: damaged, or forged")
        return decimal.Decimal(text)


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
    ("decimal", "Decimal"): _Decimal,
    ("builtins", "complex"): complex,
    ("builtins", "getattr"): _ZoneMethod,
    ("zoneinfo", "ZoneInfo"): _Zone,
}


def blueprint_of(base: type[Planned], original: Any) -> type[Planned]:
    """Return the class of blueprints for a global."""
    return cast(
        "type[Planned]", type(f"Blueprint of {original.__name__}", (base,), {"__slots__": (), "original": original})
    )


_CLASSES: Final[dict[type, type[Blueprint]]] = {
    fractions.Fraction: _Fraction,
    range: _Range,
    uuid.UUID: _Uuid,
    collections.deque: _Deque,
    collections.OrderedDict: _OrderedDict,
    collections.defaultdict: _DefaultDict,
    collections.Counter: _Counter,
}
_CLASSES.update((factory, Bare) for factory in FACTORIES)
STANDARD: Final = {(kind.__module__, kind.__name__): blueprint_of(base, kind) for kind, base in _CLASSES.items()}
