"""Classes that a program allows in pickles of data: dataclasses, attrs classes, enums and named tuples.

An object is rebuilt from its fields; no method of its class is called.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from functools import cached_property
from typing import Any, ClassVar, Final

from rstore.codec.blueprints import Blueprint, blueprint_of, malformed
from rstore.codec.failures import way_out
from rstore.errors import InvalidTypeError, InvalidValueError, SerializationError

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


def name_of(kind: type) -> tuple[str, str]:
    """Return module and qualified name, by which pickles find a class."""
    return kind.__module__, kind.__qualname__


def is_allowable(kind: type) -> bool:
    """Return whether a program may allow a class."""
    try:
        blueprint_for(kind)
    except (InvalidTypeError, InvalidValueError):
        return False
    return True


def blueprint_for(kind: Any) -> type[AllowedBlueprint]:
    """Return the class of blueprints for a class that a program allows.

    Raises `InvalidTypeError` for an object that is no class, and `InvalidValueError` for a class that cannot be rebuilt
    without running code of its own.
    """
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
    """Return the method of its own that a class has run when an object is pickled, rebuilt or freed; None for none."""
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


class AllowedBlueprint(Blueprint):
    """An object of a class that a program allows."""

    __slots__ = ()

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse an object that would not be read back as it is."""
        raise NotImplementedError


class _Member(AllowedBlueprint):
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
            raise refusal(obj, "since its value is not equal to itself, or is that of another member")

    @classmethod
    def find(cls, value: Any) -> Any:
        """Return the member of a value."""
        kind: type[Enum] = cls.original
        for member in kind.__members__.values():
            if type(member.value) is type(value) and member.value == value:
                return member
        # Combined flags are no members; the standard way makes them, and calls nothing of the program.
        missing: Any = getattr(kind._missing_, "__func__", None)
        if issubclass(kind, Flag) and type(value) is int and missing is vars(Flag)["_missing_"].__func__:
            return kind(value)
        raise SerializationError(f"{kind.__qualname__} has no member of the stored value")

    def build(self) -> Any:
        self.check_args(1)
        return self.find(self.args[0])


class _NamedTuple(AllowedBlueprint):
    __slots__ = ()

    @classmethod
    def check(cls, obj: Any) -> None:
        """Refuse one with attributes beside its fields."""
        if getattr(obj, "__dict__", None) or len(obj) != len(cls.original._fields):
            raise refusal(obj, "with more than its fields")

    def build(self) -> Any:
        if len(self.args) != len(self.original._fields) or self.state or self.items:
            raise malformed(self)
        return tuple.__new__(self.original, self.args)


class _Fields(AllowedBlueprint):
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


def refusal(obj: Any, why: str = "") -> SerializationError:
    """Return the error for an object that is no data, with the way to allow it."""
    kind = obj if isinstance(obj, type) else type(obj)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if why:
        return SerializationError(f"it holds a {name}, which serializer='data' does not take {why}")
    if isinstance(obj, type):
        way = "a class itself is no data: store its name"
    elif is_allowable(kind):
        way = f"allow it by serializer=DataPickle(allow=[{kind.__name__}])"
    else:
        way = way_out(obj, "store its parts, as a dict for example, or override _dump and _load")
    return SerializationError(f"it holds a {name}, which serializer='data' does not take: {way}")
