"""Value <-> bytes: a codec byte that names the format, then the body.

Nouns: a *body* (the dumped bytes of one value) and an *encoded value* (codec byte + body).
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np

from rstore.backends.types import LARGE_BYTES
from rstore.codec.compression import COMPRESSED, decompress
from rstore.codec.failures import cannot_dump, cannot_load
from rstore.codec.formats import JSON, MSGPACK, PICKLE, Json, MsgPack, Pickle, Serializer
from rstore.errors import CorruptionError, SerializationError, StoreError, StoreNotAvailableError, UnsafeValueError

# No codec byte is 0xC1: a plain record can then never be taken for a sealed one.
CUSTOM_BYTES: Final = 0x04
CUSTOM_STR: Final = 0x05
INT: Final = 0x10
FLOAT: Final = 0x11
BOOL: Final = 0x12
STR: Final = 0x13

# The elements of arrays: the format that `struct` knows each by, little-endian.
NUMBERS: Final = {
    0x14: "b", 0x15: "h", 0x16: "i", 0x17: "B", 0x18: "H", 0x19: "I", 0x1A: "Q", 0x1B: "e", 0x1C: "f",
}  # fmt: skip
# … and for datetime64, stored as int64, the unit.
DATES: Final = {0x30: "D", 0x31: "s", 0x32: "ms", 0x33: "us", 0x34: "ns"}

_NAMES: Final = {
    PICKLE: "pickle",
    JSON: "json",
    MSGPACK: "msgpack",
    CUSTOM_BYTES: "a subclass",
    CUSTOM_STR: "a subclass",
}

_int64 = struct.Struct("<Bq")
_float64 = struct.Struct("<Bd")

Dump: TypeAlias = Callable[[Any], bytes | str]
Load: TypeAlias = Callable[[Any], Any]
Upcast: TypeAlias = Callable[[str, Any, int], Any]


class Codec:
    """Encodes and decodes values, the same for all three models.

    int64, float, bool and str have codecs of their own, so that a chunk of them is a typed column, unless a subclass
    overrides `_dump` or `_load`: then every value passes through these.
    """

    def __init__(
        self,
        serializer: Serializer,
        custom: tuple[Dump, Load] | None = None,
        *,
        compresses: bool = False,
        schema_version: int = 0,
        upcast: Upcast | None = None,
    ) -> None:
        self.compresses = compresses
        """Whether values of keys are compressed; series and sequences have compressed chunks anyway."""
        self.schema_version: Final = schema_version
        """The version of the application's items and values that changes are recorded under."""
        self.upcast: Final = upcast
        """Brings the value of an item from an older version to this one; None if it stays what it is."""
        self.typed: Final = custom is None
        """Whether int64, float, bool and str have codecs of their own here."""
        self._dumps: Callable[[Any], Any] = serializer.dumps if custom is None else custom[0]
        self._mark = bytes((serializer.codec,))
        self.pickles: Final = self.typed and serializer.codec == PICKLE
        """Whether values come back as they were, of whichever type."""
        self._checks_by_loading = (JSON, MSGPACK) if serializer.runs_code else (JSON, MSGPACK, PICKLE)
        # The formats that may be loaded. A pickle runs code, so only a pickle store loads one; JSON and MessagePack are
        # harmless to a pickle store that used one of these before, and typed values to a subclass.
        self.loads: dict[int, Load] = {COMPRESSED: self._load_compressed, **_NATIVE_LOADS}
        if custom is None:
            self.loads |= {JSON: Json().loads, serializer.codec: serializer.loads}
            if self.pickles:
                self.loads[MSGPACK] = lambda body: MsgPack().loads(body)
        else:
            load = custom[1]
            self.loads |= {CUSTOM_BYTES: load, CUSTOM_STR: lambda body: load(body.decode("utf-8", "surrogatepass"))}
        self.loads_by_byte = [self.loads.get(i) for i in range(256)]
        """The same, indexed by the codec byte: a list takes half the time of a dict (benchmarks: `paths`)."""

    def is_exact(self, value: Any) -> bool:
        """Return whether a value has a codec of its own, which gives back the same one."""
        return self.typed and type(value) in _NATIVE_DUMPS

    def encode(self, value: Any, stamp: bytes = b"") -> bytes:
        """Return the encoded value, with a stamp behind its codec byte.

        Raises `SerializationError` if it cannot be dumped.
        """
        native = _NATIVE_DUMPS.get(type(value)) if self.typed else None
        if native is not None and (encoded := native(value)) is not None:
            return stamped(encoded, stamp)
        try:
            body = self._dumps(value)
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # a value's own __reduce__ or a subclass may raise any
            raise self.cannot_dump(value, error) from error
        if self.typed:
            whole: bytes = self._mark + stamp + body
            return whole
        if isinstance(body, str):
            return b"\x05" + stamp + body.encode("utf-8", "surrogatepass")
        if isinstance(body, bytes | bytearray | memoryview):
            return b"\x04" + stamp + bytes(body)
        raise SerializationError(f"_dump returns bytes or str, not {type(body).__name__}")

    def encode_alike(self, values: Sequence[Any], stamps: Iterable[bytes]) -> Iterator[bytes] | None:
        """Encode many values without a frame for each (benchmarks: `paths`); None if some have a codec of their own.

        The iterator raises any error of the serializer, or of a value's own `__reduce__`.
        """
        if not self.typed or not _NATIVE_DUMPS.keys().isdisjoint(map(type, values)):
            return None
        dumped = map(pickle.dumps, values, repeat(5)) if self._dumps is Pickle.dumps else map(self._dumps, values)
        return map(b"".join, zip(repeat(self._mark), stamps, dumped, strict=False))

    def cannot_dump(self, value: Any, error: Exception) -> SerializationError:
        """Return the error for a value that could not be dumped."""
        # Not by calling a subclass's `_dump` again: it may do more than return bytes.
        return cannot_dump(value, error, self._dumps if self.typed else None)

    def decode(self, encoded: bytes) -> Any:
        """Return the value of an encoded value."""
        if not encoded:
            raise CorruptionError("a stored value is empty: not even a codec byte is left")
        if len(encoded) > LARGE_BYTES and encoded[0] in (PICKLE, COMPRESSED):
            # The others get bytes: a subclass may count on it, and a str would be copied once more.
            return self.load(encoded[0], memoryview(encoded)[1:])
        return self.load(encoded[0], encoded[1:])

    def check(self, encoded: bytes) -> None:
        """Raise the errors of `decode` that show without running code that the writer chose."""
        if not encoded or is_native(encoded):
            self.decode(encoded)
        elif encoded[0] not in self.loads:
            raise self._refusal(encoded[0])
        elif encoded[0] == COMPRESSED:
            codec, body = self._unpack(memoryview(encoded)[1:])
            self.check(b"%c%b" % (codec, body))
        elif encoded[0] in self._checks_by_loading:  # loading them runs no code
            try:
                self.decode(encoded)
            except StoreNotAvailableError as error:
                raise SerializationError(f"{error}") from error
        elif encoded[0] == PICKLE and not (encoded.startswith(pickle.PROTO, 1) and encoded.endswith(pickle.STOP)):
            raise CorruptionError("a pickle does not begin and end like one: it was cut short, or is damaged")

    def load(self, codec: int, body: bytes | memoryview) -> Any:
        """Return the value of a body.

        Raises `UnsafeValueError` for a pickle where pickles are not loaded, and `SerializationError` if it cannot be
        loaded.
        """
        load = self.loads.get(codec)
        if load is None:
            raise self._refusal(codec)
        try:
            return load(body)
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # a value's own __setstate__ or a subclass may raise any
            raise cannot_load(body, error) from error

    def _load_compressed(self, body: bytes | memoryview) -> Any:
        return self.load(*self._unpack(body))

    def _unpack(self, body: bytes | memoryview) -> tuple[int, bytes]:
        """Return the codec byte and the body inside a compressed body; the codec is judged before it is unpacked."""
        if len(body) == 0 or body[0] == COMPRESSED:
            raise CorruptionError("a compressed value does not say what is inside")
        if body[0] not in self.loads:
            raise self._refusal(body[0])
        return body[0], decompress(memoryview(body)[1:])

    def _refusal(self, codec: int) -> StoreError:
        if codec == PICKLE:
            return UnsafeValueError(
                "the value is a pickle, and this store's serializer is not pickle: it was not loaded "
                "(serializer='data' loads those that hold data alone)"
            )
        if codec in _NAMES or codec in _NATIVE_LOADS:
            writer = _NAMES.get(codec, "a ready-made serializer")
            return SerializationError(f"the value was written with {writer}, which this store does not read")
        return CorruptionError(f"the codec byte 0x{codec:02X} is unknown: damaged, or written by a newer version")


def is_native(encoded: bytes) -> bool:
    """Return whether this is an encoded value of a type that has a codec of its own, the same in every store."""
    return encoded[:1] != b"" and encoded[0] in _NATIVE_LOADS


def has_own_codec(value: Any) -> bool:
    """Return whether this is a value of a type that has a codec of its own."""
    dump = _NATIVE_DUMPS.get(type(value))
    return dump is not None and (type(value) is not int or dump(value) is not None)


def stamped(encoded: bytes, stamp: bytes) -> bytes:
    """Return an encoded value with a stamp behind its codec byte; a large one is not copied twice."""
    if not stamp:
        return encoded
    if len(encoded) > LARGE_BYTES:
        return b"".join((encoded[:1], stamp, memoryview(encoded)[1:]))
    return encoded[:1] + stamp + encoded[1:]


def _dump_int(value: int) -> bytes | None:
    try:
        return _int64.pack(INT, value)
    except struct.error:  # beyond 64 bits
        return None


def _dump_float(value: float) -> bytes:
    return _float64.pack(FLOAT, value)


def _dump_bool(value: bool) -> bytes:
    return b"\x12\x01" if value else b"\x12\x00"


def dump_str(value: str) -> bytes:
    """Return the encoded value of a str."""
    return b"\x13" + value.encode("utf-8", "surrogatepass")  # a str value, unlike a key, may hold lone surrogates


def _load_bool(body: bytes) -> bool:
    if body not in (b"\x00", b"\x01"):
        raise CorruptionError("a stored bool is neither true nor false")
    return body == b"\x01"


def _load_str(body: bytes) -> str:
    return body.decode("utf-8", "surrogatepass")


def _load_number(form: str) -> Callable[[bytes], Any]:
    unpack = struct.Struct("<" + form).unpack

    def load(body: bytes) -> Any:
        try:
            return unpack(body)[0]
        except struct.error as error:
            raise CorruptionError("a stored number has the wrong size") from error

    return load


def _load_date(unit: str) -> Callable[[bytes], Any]:
    load_int, dtype = _load_number("q"), np.dtype(f"M8[{unit}]")
    return lambda body: np.int64(load_int(body)).view(dtype)


_NATIVE_DUMPS: Final[dict[type, Callable[[Any], bytes | None]]] = {
    int: _dump_int,
    float: _dump_float,
    bool: _dump_bool,
    str: dump_str,
}
_NATIVE_LOADS: Final[dict[int, Callable[[bytes], Any]]] = {
    INT: _load_number("q"),
    FLOAT: _load_number("d"),
    BOOL: _load_bool,
    STR: _load_str,
    **{codec: _load_number(form) for codec, form in NUMBERS.items()},
    **{codec: _load_date(unit) for codec, unit in DATES.items()},
}
NATIVE: Final = frozenset(_NATIVE_LOADS)
"""The codec bytes of the types that have a codec of their own; no value of these types can be changed."""
