"""Digests of values, the same in every process for equal values.

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
_float64: Final = struct.Struct(">d")


def digest_of(value: Any, encode: Callable[[Any], bytes]) -> bytes:
    """Return 64 bytes that tell a value from others; of what cannot be taken apart, those of its encoded bytes."""
    try:
        return _digest(value)
    except Exception:  # noqa: BLE001 - of any type, also too deep or cyclic
        return _join(b"encoded", [encode(value)])


def _digest(value: Any) -> bytes:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return _join(kind.__name__.encode(), [b"%d" % (value or 0)])
    if kind is str:
        return _join(b"str", [value.encode("utf-8", "surrogatepass")])
    if kind is bytes or kind is bytearray:
        return _join(kind.__name__.encode(), [bytes(value)])
    if kind is float:
        return _join(b"float", [_float64.pack(value)])
    if kind is list or kind is tuple:
        return _join(kind.__name__.encode(), map(_digest, value))
    if kind is dict:
        return _join(b"dict", sorted(_join(b"pair", map(_digest, pair)) for pair in value.items()))
    if kind is set or kind is frozenset:
        return _join(kind.__name__.encode(), sorted(map(_digest, value)))
    if isinstance(value, _NAMED):
        return _join(b"name", [f"{value.__module__}.{value.__qualname__}".encode()])
    return _of_parts(value)


def _of_parts(value: Any) -> bytes:
    """Return the digest of an object by what pickle would make it of."""
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return _join(b"name", [f"{type(value).__module__}.{reduced}".encode()])
    make, arguments, *rest = reduced
    if isinstance(make, partial):  # of `__new__` with keyword arguments
        arguments, make = (make.args, make.keywords, arguments), make.func
    parts = [_digest(make), *map(_digest, arguments)]
    for place, part in enumerate(rest):
        # Behind the state come the items of a list, and the pairs of a dict in their order.
        parts.append(_digest(part if place == 0 or part is None else list(part)))
    return _join(b"object", parts)


def _join(kind: bytes, parts: Iterable[bytes]) -> bytes:
    digest = sha512(kind)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
