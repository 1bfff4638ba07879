"""Bytes that tell values apart, the same in every process for equal values.

A pickle will not do: that of a set depends on the process, that of a list on which of its equal strings are one object.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha512
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

_NAMED: Final = (type, FunctionType, BuiltinFunctionType)
_DIGEST_BYTES: Final = 64
_float64: Final = struct.Struct(">d")


def told_of(value: Any, encode: Callable[[Any], bytes]) -> bytes:
    """Return at most 64 bytes that tell a value from others; of what cannot be taken apart, by its encoded bytes."""
    try:
        return _told(value)
    except Exception:  # noqa: BLE001 - of any type, also too deep or cyclic
        return _leaf(b"encoded", encode(value))


def _told(value: Any) -> bytes:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return _leaf(kind.__name__.encode(), b"%d" % (value or 0))
    if kind is str:
        return _leaf(b"str", value.encode("utf-8", "surrogatepass"))
    if kind is bytes or kind is bytearray:
        return _leaf(kind.__name__.encode(), value)
    if kind is float:
        return _leaf(b"float", _float64.pack(value))
    if kind is list or kind is tuple:
        return _join(kind.__name__.encode(), map(_told, value))
    if kind is dict:
        return _join(b"dict", sorted(_join(b"pair", map(_told, pair)) for pair in value.items()))
    if kind is set or kind is frozenset:
        return _join(kind.__name__.encode(), sorted(map(_told, value)))
    if isinstance(value, _NAMED):
        return _leaf(b"name", f"{value.__module__}.{value.__qualname__}".encode())
    return _of_parts(value)


def _of_parts(value: Any) -> bytes:
    """Tell an object by what pickle would make it of."""
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return _leaf(b"name", f"{type(value).__module__}.{reduced}".encode())
    make, arguments, *rest = reduced
    if isinstance(make, partial):  # of `__new__` with keyword arguments
        arguments, make = (make.args, make.keywords, arguments), make.func
    parts = [_told(make), *map(_told, arguments)]
    for place, part in enumerate(rest):
        # Behind the state come the items of a list, and the pairs of a dict in their order.
        parts.append(_told(part if place == 0 or part is None else list(part)))
    return _join(b"object", parts)


def _join(kind: bytes, parts: Iterable[bytes]) -> bytes:
    return _short(kind + b"(" + b"".join(b"%d:%b" % (len(part), part) for part in parts))


def _leaf(kind: bytes, content: bytes) -> bytes:
    return _short(kind + b":" + content)


def _short(told: bytes) -> bytes:
    """Return bytes as they are if they are shorter than a digest, else their digest."""
    return told if len(told) < _DIGEST_BYTES else sha512(told).digest()
