"""Pickle restricted to data: the types and the speed of pickle, for bytes that anybody may have written.

Nouns: *data* (builtin types, a short list of classes from the standard library, arrays of NumPy) and the classes that
a program *allows* beside them.
"""

from __future__ import annotations

import copyreg
import datetime
import decimal
import fractions
import io
import pickle
import re
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Final, cast

import numpy as np

from rstore.codec import blueprints, building, numpy_blueprints, pickle_grammar
from rstore.codec.blueprints import DIRECT, MAX_FRACTION_BITS, STANDARD, Blueprint, blueprint_of, malformed
from rstore.codec.failures import way_out
from rstore.codec.numpy_blueprints import NUMPY
from rstore.errors import InvalidTypeError, InvalidValueError, SerializationError, StoreError, UnsafeValueError

_MAX_NAME: Final = 100
_STACK_GLOBAL: Final = b"\x93"
_global: Final = re.compile(_STACK_GLOBAL)  # not `in`: a memoryview compares its items, and finds no bytes
_HOOKS: Final = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)
_GENERATORS: Final = frozenset(("dataclasses", "attr._make"))
"""Modules whose generated hooks only move fields."""

_INSTANCES: Final = frozenset(
    (
        datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, zoneinfo.ZoneInfo,
        decimal.Decimal, complex, range, uuid.UUID, deque, OrderedDict, defaultdict, Counter,
    )
)  # fmt: skip
_NAMED: Final = frozenset(
    {id(found) for found in DIRECT.values() if not issubclass(found, Blueprint)}
    | {id(kind.original) for kind in (STANDARD | NUMPY).values()}
    | {id(decimal.Decimal), id(zoneinfo.ZoneInfo)}
)
"""The globals that pickles of these may name, by identity: not all of them have a hash."""
_UNPICKLE_ZONE: Final = zoneinfo.ZoneInfo._unpickle  # type: ignore[attr-defined] # noqa: SLF001 - its pickles name it
_ARRAY_KINDS: Final = frozenset("biufcSUVmM")


class DataPickle:
    """The serializer `'data'`, with more classes than it knows by itself.

    Args:
        allow: Dataclasses, enums, named tuples and attrs classes that values may hold. They are found by module and
            qualified name, so that both have to stay. An object is rebuilt from its fields: neither `__init__` nor
            any other method of its class is called.

    Values may hold None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range;
    deque, OrderedDict, defaultdict (of a builtin type) and Counter; the types of `datetime`, `ZoneInfo`, `Decimal`,
    `Fraction` and `UUID`; arrays and scalars of NumPy but for those of objects. Subclasses of these are refused.

    It writes pickles, and reads those that the pickle serializer wrote, as long as they hold data alone. Everything
    else raises `SerializationError` when it is stored, with the class named, and `UnsafeValueError` when it is read;
    nothing of it runs.

    Raises `InvalidTypeError` if `allow` holds what is no class, and `InvalidValueError` for a class that cannot be
    rebuilt without running code of its own.

    >>> from http import HTTPMethod
    >>> from rstore import DataPickle, Store
    >>> with Store('file.db', frozen=False, serializer=DataPickle(allow=[HTTPMethod])) as store:
    ...     store['methods'] = {HTTPMethod.GET: 'read', HTTPMethod.PUT: 'write'}
    ...     store['methods'][HTTPMethod.PUT]
    'write'
    """

    codec: ClassVar[int] = 0x01  # that of pickles
    runs_code: ClassVar[bool] = False

    def __init__(self, *, allow: Iterable[type] = ()) -> None:
        if isinstance(allow, type) and not hasattr(type(allow), "__iter__"):
            raise InvalidTypeError(f"allow is a list of classes: allow=[{allow.__name__}]")
        self._allowed = {kind: _blueprint_for(kind) for kind in allow}
        table = DIRECT | STANDARD | NUMPY | {_name_of(kind): made for kind, made in self._allowed.items()}
        self._unpickler = type("_Loading", (_Unpickler,), {"table": table})
        self._pickler = type("_Dumping", (_Pickler,), {"allowed": self._allowed})

    def __repr__(self) -> str:
        return f"DataPickle(allow=[{', '.join(kind.__qualname__ for kind in self._allowed)}])"

    def dumps(self, value: Any) -> bytes:
        """Return the pickle of a value that holds data alone."""
        buffer = io.BytesIO()
        self._pickler(buffer, 5).dump(value)
        body = buffer.getvalue()
        if copyreg._extension_registry:  # type: ignore[attr-defined] # noqa: SLF001 - it has no public name
            pickle_grammar.check(body)
        else:
            pickle_grammar.check_written(body)
        return body

    def dumps_each(self, values: Iterable[Any]) -> Iterator[bytes]:
        """Yield the pickles of many values."""
        return map(self.dumps, values)

    def loads(self, body: bytes | memoryview) -> Any:
        """Return the value of a pickle that holds data alone."""
        pickle_grammar.check(body)
        if _global.search(body) is None:
            return pickle.loads(body)  # noqa: S301 - it names nothing, and so makes builtin types alone
        machine = self._unpickler(io.BytesIO(body))
        value = machine.load()
        if machine.needs_building:
            return building.build(value, pickle_grammar.most_hashed(len(body)))
        return value


class _Unpickler(pickle.Unpickler):
    table: ClassVar[dict[tuple[str, str], Any]]
    needs_building = False

    def find_class(self, module: str, name: str, /) -> Any:
        found = self.table.get((module, name))
        if found is None:
            raise UnsafeValueError(
                f"the value is a pickle that holds {_shorten(f'{module}.{name}')}, which is no data: it was not "
                "loaded; serializer=DataPickle(allow=[…]) takes dataclasses, enums, named tuples and attrs classes"
            )
        if issubclass(found, Blueprint) and not found.is_called:
            self.needs_building = True
        return found


def _shorten(name: str) -> str:
    """Return a name that stored bytes give, fit for a message."""
    return repr(name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…")


class _Pickler(pickle.Pickler):
    allowed: ClassVar[dict[type, type[_Allowed]]]
    holds_zone = False

    def reducer_override(self, obj: Any) -> Any:
        """Refuse what cannot be read back; called for every object but those of builtin types."""
        kind = type(obj)
        if kind in _INSTANCES:
            if kind is defaultdict and obj.default_factory not in blueprints.FACTORIES | {None}:
                raise _refusal(obj.default_factory, "as the factory of a defaultdict: only builtin types are")
            if kind in (OrderedDict, Counter) and vars(obj):
                raise _refusal(obj, "with attributes of its own")
            if kind is zoneinfo.ZoneInfo:
                self.holds_zone = True
                if obj.key not in blueprints.known_zones():
                    raise _refusal(obj, "unless it is one of zoneinfo.available_timezones()")
            if kind in copyreg.dispatch_table and kind is not complex:
                raise _refusal(obj, "since copyreg has another way to pickle it")
            return NotImplemented
        if (blueprint := self.allowed.get(kind)) is not None:
            if kind in copyreg.dispatch_table:
                raise _refusal(obj, "since copyreg has another way to pickle it")
            blueprint.check(obj)
            return NotImplemented
        if kind is fractions.Fraction:
            if max(obj.numerator.bit_length(), obj.denominator.bit_length()) > MAX_FRACTION_BITS:
                raise _refusal(obj, f"with more than {MAX_FRACTION_BITS:,} bits")
            return fractions.Fraction, (obj.numerator, obj.denominator)  # Python 3.11.0 writes a str
        if kind is np.ndarray or (isinstance(obj, np.generic) and kind.__module__ == "numpy"):
            if not _is_exact(obj.dtype) or (kind is not np.ndarray and obj.dtype.kind == "V"):
                raise _refusal(obj, f"of dtype {obj.dtype.name}")
            return NotImplemented
        if isinstance(obj, np.dtype):
            if not _is_exact(obj):
                raise _refusal(obj, "of objects, or with metadata")
            return NotImplemented
        if id(obj) in _NAMED or (isinstance(obj, type) and obj in self.allowed):
            return NotImplemented
        if self.holds_zone and (obj is getattr or obj == _UNPICKLE_ZONE):  # by which a zone names its class
            return NotImplemented
        raise _refusal(obj)


def _refusal(obj: Any, why: str = "") -> SerializationError:
    kind = obj if isinstance(obj, type) else type(obj)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if why:
        return SerializationError(f"it holds a {name}, which serializer='data' does not take {why}")
    if isinstance(obj, type):
        way = "a class itself is no data: store its name"
    elif _is_allowable(kind):
        way = f"allow it by serializer=DataPickle(allow=[{kind.__name__}])"
    else:
        way = way_out(obj, "store its parts, as a dict for example, or override _dump and _load")
    return SerializationError(f"it holds a {name}, which serializer='data' does not take: {way}")


@lru_cache(maxsize=256)
def _is_exact(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is read back as it is."""
    if dtype.hasobject or dtype.kind not in _ARRAY_KINDS or dtype.metadata is not None:
        return False
    _, args, state = cast("tuple[Any, tuple[Any, ...], Any]", dtype.__reduce__())
    try:
        again = numpy_blueprints.build_dtype(args, state)
    except (StoreError, ValueError, TypeError):
        return False
    return again == dtype and again.isalignedstruct == dtype.isalignedstruct


# -- classes that a program allows ------------------------------------------------------------------------------------


def _name_of(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _is_allowable(kind: type) -> bool:
    try:
        _blueprint_for(kind)
    except (InvalidTypeError, InvalidValueError):
        return False
    return True


def _blueprint_for(kind: Any) -> type[_Allowed]:
    if not isinstance(kind, type):
        raise InvalidTypeError(f"allow holds classes, not a {type(kind).__name__}")
    if (own := _own_hook(kind)) is not None:
        raise InvalidValueError(f"{kind.__qualname__} defines {own}: it cannot be rebuilt without running that")
    if issubclass(kind, Enum):
        return blueprint_of(_Member, kind)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return blueprint_of(_NamedTuple, kind)
    if not (is_dataclass(kind) or hasattr(kind, "__attrs_attrs__")):
        raise InvalidValueError(
            f"{kind.__qualname__} is no dataclass, enum, named tuple or attrs class, and objects of other classes "
            "cannot be rebuilt without running code of theirs: store their parts"
        )
    try:
        object.__new__(kind)
    except TypeError as error:
        raise InvalidValueError(f"{kind.__qualname__} is abstract, or derives from a builtin type") from error
    return _fields_blueprint(kind)


def _own_hook(kind: type) -> str | None:
    """Return the name of a method of its own that a class has run when an object is pickled, rebuilt or let go of."""
    if hasattr(kind, "__del__"):
        return "__del__"
    if issubclass(kind, Enum):  # whose way comes before all others
        return None if kind.__reduce_ex__ is Enum.__reduce_ex__ else "__reduce_ex__"
    for name in _HOOKS:
        base = next((base for base in kind.__mro__ if name in base.__dict__), object)
        made_by = getattr(base.__dict__[name], "__globals__", {}).get("__name__") if base is not object else ""
        is_of_named_tuple = name == "__getnewargs__" and base.__bases__ == (tuple,)
        if base.__module__ != "builtins" and made_by not in _GENERATORS and not is_of_named_tuple:
            return name
    return None


class _Allowed(Blueprint):
    """An object of a class that a program allows."""

    __slots__ = ()

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse an object that would not be read back as it is."""
        raise NotImplementedError


class _Member(_Allowed):
    """A member of an enum."""

    __slots__ = ()

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse a member that is not found by its value: NaN, for example, is not equal to itself."""
        try:
            again = cls.find(obj.value)
        except SerializationError:
            again = None
        if again is not obj and again != obj:
            raise _refusal(obj, "since its value is not equal to itself, or is that of another member")

    @classmethod
    def find(cls, value: Any) -> Any:
        """Return the member of a value."""
        kind: type[Enum] = cls.original
        for member in kind.__members__.values():
            if type(member.value) is type(value) and member.value == value:
                return member
        # Combined flags are no members; the standard way makes them, and calls nothing of the program.
        if issubclass(kind, Flag) and type(value) is int and _is_standard(kind):
            return kind(value)
        raise SerializationError(f"{kind.__qualname__} has no member of the stored value")

    def build(self) -> Any:
        if len(self.args) != 1 or self.state is not None or self.items:
            raise malformed(self)
        return self.find(self.args[0])


def _is_standard(kind: type[Flag]) -> bool:
    return getattr(kind._missing_, "__func__", None) is Flag._missing_.__func__  # type: ignore[attr-defined]


class _NamedTuple(_Allowed):
    __slots__ = ()

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse one with attributes beside its fields."""
        if getattr(obj, "__dict__", None) or len(obj) != len(cls.original._fields):
            raise _refusal(obj, "with more than its fields")

    def build(self) -> Any:
        if len(self.args) != len(self.original._fields) or self.state or self.items:
            raise malformed(self)
        return tuple.__new__(self.original, self.args)


class _Fields(_Allowed):
    """An object of a dataclass or an attrs class."""

    __slots__ = ()

    names: ClassVar[tuple[str, ...]]
    """The fields, in order."""
    slots: ClassVar[dict[str, types.MemberDescriptorType]]
    """The setter of an attribute that has a slot."""

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse an object with attributes that would not be read back."""
        for name in getattr(obj, "__dict__", ()):
            if not cls.takes(name):
                raise SerializationError(
                    f"it holds a {cls.original.__qualname__} with an attribute that hides one of its class"
                )

    @classmethod
    def takes(cls, name: Any) -> bool:
        """Return whether an attribute in the dict of an object may have this name: one that hides no method."""
        if type(name) is not str or name in cls.names:
            return type(name) is str
        found = getattr(cls.original, name, None)
        return not name.startswith("__") and (found is None or isinstance(found, cached_property))

    def begin(self) -> Any:
        if self.args or self.items:
            raise malformed(self)
        return object.__new__(self.original)

    def build(self) -> Any:
        for one in self._states(self.state):
            for name, value in one.items():
                if (slot := self.slots.get(name)) is not None:
                    slot.__set__(self.begun, value)
                elif hasattr(self.begun, "__dict__") and self.takes(name):
                    self.begun.__dict__[name] = value
                else:
                    raise malformed(self)
        return self.begun

    def _states(self, state: Any) -> list[dict[Any, Any]]:
        if state is None:
            return []
        if type(state) is dict:
            return [state]
        if type(state) is tuple and len(state) == 2 and all(one is None or type(one) is dict for one in state):
            return [one for one in state if one is not None]  # attributes in the dict, and in slots
        if type(state) in (list, tuple) and len(state) == len(self.names):
            return [dict(zip(self.names, state, strict=True))]  # as dataclasses with slots write it
        raise malformed(self)


def _fields_blueprint(kind: Any) -> type[_Fields]:
    made = blueprint_of(_Fields, kind)
    named: Iterable[Any] = fields(kind) if is_dataclass(kind) else kind.__attrs_attrs__
    made.names = tuple(field.name for field in named)
    made.slots = {
        name: slot
        for base in reversed(made.original.__mro__)
        for name, slot in base.__dict__.items()
        if isinstance(slot, types.MemberDescriptorType)
    }
    return made
