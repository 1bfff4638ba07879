"""The reasons why a value cannot be dumped or loaded: the inner object and the way out, never the value itself."""

from __future__ import annotations

import pickletools
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from inspect import isawaitable, isgenerator
from itertools import islice
from typing import Any, Final

from rstore.errors import SerializationError

_MAX_LOOKED_AT: Final = 1_000
_MAX_OPCODES: Final = 10_000
_MAX_NAME: Final = 100
_PARTS: Final = "store its parts instead, or override _dump and _load, or choose another serializer"


def cannot_load(body: bytes | memoryview, error: Exception) -> SerializationError:
    """Return the error for a body that could not be loaded."""
    gone = _find_gone(bytes(body)) if isinstance(error, AttributeError | ImportError) and body[:1] == b"\x80" else None
    why = f"{type(error).__name__}"
    if gone is not None:
        module, name = gone
        why += f"; it was dumped from {name!r} of the module {module!r}, which is gone, or has another name now"
    return SerializationError(f"a value cannot be loaded from its {len(body):,} bytes: {why}")


def _find_gone(body: bytes) -> tuple[str, str] | None:
    """Return the first global of a pickle that is not there, without importing anything."""
    texts: list[str] = []
    try:
        for opcode, argument, _ in islice(pickletools.genops(body), _MAX_OPCODES):
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
                texts.append(str(argument)[:_MAX_NAME])
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                module, name = texts[-2:]
                if not _is_there(module, name):
                    return module, name
    except ValueError:  # a damaged pickle, of which nothing is known
        return None
    return None


def _is_there(module: str, name: str) -> bool:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None


def cannot_dump(value: Any, error: Exception, dump: Callable[[Any], Any] | None) -> SerializationError:
    """Return the error for a value that could not be dumped; `dump` finds out which object inside is to blame."""
    culprit, seen = value, 0
    if isinstance(error, RecursionError):
        return SerializationError(f"a value of type {type(value).__name__} is nested too deeply to be dumped")
    while dump is not None and (inner := _first_failing(culprit, dump)) is not None and seen < _MAX_LOOKED_AT:
        culprit, seen = inner, seen + 1
    what = f"a value of type {type(value).__name__} cannot be dumped"
    if culprit is not value:
        what += f": it holds {_name(culprit)}"
    if dump is not None and isinstance(culprit, Mapping) and (key := _failing_key(culprit, dump)) is not None:
        return SerializationError(
            f"{what} with a key of type {type(key).__name__}; make a str of it, or choose another serializer"
        )
    return SerializationError(f"{what}; {way_out(culprit, _PARTS)}")


def _first_failing(value: Any, dump: Callable[[Any], Any]) -> Any:
    """Return the first part of a container that cannot be dumped, or None."""
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = (part for pair in list(value.items()) for part in pair)
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, type | types.ModuleType | Enum):
        parts = list(vars(value).values())
    for part in islice(parts, _MAX_LOOKED_AT):
        try:
            dump(part)
        except Exception:  # noqa: BLE001 - whatever a value's own __reduce__ raises: it is the one
            return part
    return None


def _failing_key(value: Mapping[Any, Any], dump: Callable[[Any], Any]) -> Any:
    """Return the first key that can be dumped as a value but not as a key; None if there is none."""
    for key in islice(list(value), _MAX_LOOKED_AT):
        try:
            dump({key: None})
        except Exception:  # noqa: BLE001 - as above
            return key
    return None


def _name(culprit: Any) -> str:
    if isinstance(culprit, types.FunctionType):
        return f"the function {culprit.__qualname__}"[:_MAX_NAME]
    return f"one of type {type(culprit).__module__}.{type(culprit).__qualname__}".replace("builtins.", "")[:_MAX_NAME]


def way_out(culprit: Any, otherwise: str) -> str:
    """Return advice for an object that cannot be dumped; `otherwise` where there is none better."""
    if isawaitable(culprit):
        return "await it first, and store its result"
    if isgenerator(culprit):
        return "store list(…) of it"
    if isinstance(culprit, types.FunctionType | types.BuiltinFunctionType | types.ModuleType | type):
        return "store its name instead"
    if type(culprit) is int:
        return "it is too large: store str(…) of it, or choose another serializer"
    return otherwise
