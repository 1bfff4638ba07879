"""Columns: many values of one kind.

Nouns: a *column* (an array, a list of str, or something packed) and *blobs* (encoded values back to back, with offsets,
so that one can be taken out without its neighbours).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from rstore.codec import serializers
from rstore.codec.numbers import NUMBERS, array_of_numbers
from rstore.codec.serializers import Codec
from rstore.errors import CorruptionError

Int64s: TypeAlias = npt.NDArray[np.int64]


class Kind(IntEnum):
    """The kind of a column's values; the numbers are part of the layout, and the codec bytes of single values."""

    INT = serializers.INT
    FLOAT = serializers.FLOAT
    BOOL = serializers.BOOL
    STR = serializers.STR
    INT8 = 0x14
    INT16 = 0x15
    INT32 = 0x16
    UINT8 = 0x17
    UINT16 = 0x18
    UINT32 = 0x19
    UINT64 = 0x1A
    FLOAT16 = 0x1B
    FLOAT32 = 0x1C
    ENCODED = 0x20
    CHANGES = 0x21
    """Only of chunks of changes."""
    DATE_D = 0x30
    DATE_S = 0x31
    DATE_MS = 0x32
    DATE_US = 0x33
    DATE_NS = 0x34


_KIND_OF_TYPE: Final[dict[type, Kind]] = {int: Kind.INT, float: Kind.FLOAT, bool: Kind.BOOL, str: Kind.STR}
DTYPES: Final[dict[Kind, np.dtype[Any]]] = {
    Kind.INT: np.dtype("<i8"),
    Kind.FLOAT: np.dtype("<f8"),
    Kind.BOOL: np.dtype("?"),
    **{Kind(code): np.dtype("<" + form) for code, form in serializers.NUMBERS.items()},
    **{Kind(code): np.dtype(f"<M8[{unit}]") for code, unit in serializers.DATES.items()},
}
_KINDS: Final = {dtype: kind for kind, dtype in DTYPES.items()}
_ARRAYS: Final = {int(kind) for kind in DTYPES}
WIDTHS: Final = {kind: dtype.itemsize for kind, dtype in DTYPES.items()}
"""The bytes of one element, for kinds that are stored as arrays."""
INTS: Final = {kind for kind, dtype in DTYPES.items() if dtype.kind in "iu"}
FLOATS: Final = {kind for kind, dtype in DTYPES.items() if dtype.kind == "f"}
LIMITS: Final[dict[Kind, tuple[int, int]]] = {Kind.BOOL: (0, 1)} | {
    kind: (int(np.iinfo(DTYPES[kind]).min), int(np.iinfo(DTYPES[kind]).max)) for kind in INTS
}
"""The smallest and the largest value, for kinds with exact arithmetic."""
DATE_KINDS: Final = {Kind(code) for code in serializers.DATES}


class Packed(ABC):
    """Many encoded values, kept in some other way than one by one."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def slice(self, start: int, stop: int) -> Self:
        """Return the values from `start` to `stop`, excluded."""

    @abstractmethod
    def take(self, indexes: Sequence[int]) -> Self:
        """Return the values at these indexes."""

    @abstractmethod
    def joined(self, others: Sequence[Packed]) -> Self:
        """Return these values, with others of the same kind behind them."""

    @abstractmethod
    def encoded(self) -> list[bytes]:
        """Return all as a list."""

    @abstractmethod
    def sizes(self) -> list[int]:
        """Return about how many bytes each takes."""

    @abstractmethod
    def size(self) -> int:
        """Return about how many bytes all take."""


class Blobs(Packed):
    """Byte strings back to back: `raw[offsets[i]:offsets[i + 1]]` is the i-th."""

    __slots__ = ("offsets", "raw")

    def __init__(self, raw: bytes, offsets: Int64s) -> None:
        self.raw = raw
        self.offsets = offsets

    @classmethod
    def of(cls, parts: Sequence[bytes]) -> Blobs:
        """Return the blobs of a list."""
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
        return cls(b"".join(parts), offsets)

    @classmethod
    def of_texts(cls, values: Iterable[str]) -> Blobs:
        """Return the blobs of some texts, in UTF-8."""
        return cls.of([value.encode("utf-8", "surrogatepass") for value in values])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def texts(self) -> list[str]:
        """Return all as texts."""
        return [part.decode("utf-8", "surrogatepass") for part in self.encoded()]

    def encoded(self) -> list[bytes]:
        """Return all as a list."""
        raw = self.raw
        return [raw[start:stop] for start, stop in pairwise(self.offsets.tolist())]

    def slice(self, start: int, stop: int) -> Blobs:
        """Return some, without copying the bytes."""
        return Blobs(self.raw, self.offsets[start : stop + 1])

    def take(self, indexes: Sequence[int]) -> Blobs:
        """Return those at these indexes."""
        parts = self.encoded()
        return Blobs.of([parts[i] for i in indexes])

    def joined(self, others: Sequence[Packed]) -> Blobs:
        """Return these with others behind them."""
        return Blobs.of([part for one in (self, *others) for part in one.encoded()])

    def sizes(self) -> list[int]:
        """Return the bytes of each."""
        return list(np.diff(self.offsets).tolist())

    def size(self) -> int:
        """Return the bytes of all."""
        return int(self.offsets[-1] - self.offsets[0])

    def compact(self) -> Blobs:
        """Return the same blobs without the bytes around them."""
        start, stop = int(self.offsets[0]), int(self.offsets[-1])
        return Blobs(self.raw[start:stop], self.offsets - start)


class Column:
    """Values of one kind, in order. Immutable by agreement: slices share their data."""

    __slots__ = ("data", "kind")

    def __init__(self, kind: Kind, data: Any) -> None:
        self.kind = kind
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @property
    def is_number(self) -> bool:
        """Whether the values are an array of numbers or bools, to compute with."""
        return isinstance(self.data, np.ndarray) and self.kind not in DATE_KINDS

    def slice(self, start: int, stop: int) -> Column:
        """Return the values from `start` to `stop`, excluded."""
        if start == 0 and stop == len(self):
            return self
        if isinstance(self.data, Packed):
            return Column(self.kind, self.data.slice(start, stop))
        return Column(self.kind, self.data[start:stop])

    def take(self, indexes: Int64s) -> Column:
        """Return the values at these indexes."""
        if isinstance(self.data, np.ndarray):
            return Column(self.kind, self.data[indexes])
        if isinstance(self.data, Packed):
            return Column(self.kind, self.data.take(indexes.tolist()))
        return Column(self.kind, [self.data[i] for i in indexes.tolist()])

    def every(self, step: int, start: int) -> Column:
        """Return each `step`-th value from `start` on."""
        if isinstance(self.data, Packed):
            return Column(self.kind, self.data.take(range(start, len(self), step)))
        return Column(self.kind, self.data[start::step])

    def values(self, codec: Codec) -> list[Any]:
        """Return the values as Python objects; of datetime64 as NumPy's, since Python has no nanoseconds."""
        if isinstance(self.data, np.ndarray):
            return list(self.data) if self.kind in DATE_KINDS else list(self.data.tolist())
        if isinstance(self.data, Packed):
            return [codec.decode(encoded) for encoded in self.data.encoded()]
        return list(self.data)

    def value(self, i: int, codec: Codec) -> Any:
        """Return one value as a Python object."""
        return self.slice(i, i + 1).values(codec)[0]

    def encoded(self) -> list[bytes]:
        """Return the encoded value of each."""
        if isinstance(self.data, Packed):
            return self.data.encoded()
        if isinstance(self.data, np.ndarray):
            mark, raw, size = bytes((self.kind,)), self.data.tobytes(), self.data.itemsize
            return [mark + raw[i : i + size] for i in range(0, len(raw), size)]
        return list(map(serializers.dump_str, self.data))

    def array(self, codec: Codec) -> npt.NDArray[Any]:
        """Return the values as an array: of numbers, bools, times or strings if all are, else of objects."""
        if isinstance(self.data, np.ndarray):
            return self.data
        values = self.values(codec)
        types = set(map(type, values))
        if types == {str}:
            with suppress(UnicodeEncodeError):  # a lone surrogate
                return np.array(values, np.dtypes.StringDType())
        with suppress(OverflowError):
            if types <= {int, float} and types:
                return np.array(values, np.int64 if types == {int} else np.float64)
        if types == {bool}:
            return np.array(values, np.bool_)
        if not types <= _KIND_OF_TYPE.keys() and (numbers := array_of_numbers(values, types)) is not None:
            kinds = {NUMBERS[one].kind for one in types}
            if len(kinds) == 1 or "b" not in kinds:
                return numbers
        array = np.empty(len(values), object)
        array[:] = values
        return array

    def numbers(self, codec: Codec) -> npt.NDArray[Any] | None:
        """Return the values as an array to compute with; None unless all are numbers of at most 64 bits."""
        if isinstance(self.data, np.ndarray):
            return self.data if self.is_number else None
        values = self.values(codec)
        return array_of_numbers(values, set(map(type, values)))

    def size(self) -> int:
        """Return about how many bytes the values take; 0 where all are small."""
        if isinstance(self.data, Packed):
            return self.data.size()
        return len("".join(self.data).encode("utf-8", "surrogatepass")) if self.kind is Kind.STR else 0

    def sizes(self) -> list[int]:
        """Return the bytes of each value, of a column whose size is not 0."""
        packed = self.data if isinstance(self.data, Packed) else Blobs.of_texts(self.data)
        return packed.sizes()


def sole_type(values: Sequence[Any]) -> type | None:
    """Return the type that all values are of, exactly; None if there are several, or no values."""
    types = list(map(type, values))  # counting compares; a set would hash each
    return types[0] if types and types.count(types[0]) == len(types) else None


def column_of(values: list[Any], codec: Codec) -> Column:
    """Return the column of some Python values: typed if all are of one type that has a codec of its own.

    It keeps the list, which must not change any more: copying a million values takes as long as compressing them.
    """
    if codec.typed:
        sole = sole_type(values)
        kind = None if sole is None else _KIND_OF_TYPE.get(sole)
        if kind is Kind.STR:
            return Column(kind, values)
        if kind is not None:
            try:  # not np.array: it goes through all of them once more to find their type
                return Column(kind, np.fromiter(values, DTYPES[kind], len(values)))
            except OverflowError:  # an int beyond 64 bits
                pass
    return Column(Kind.ENCODED, Blobs.of([codec.encode(value) for value in values]))


def column_of_array(array: npt.NDArray[Any], codec: Codec) -> Column | None:
    """Return the column of a one-dimensional array, of the same type; None if no column has that type."""
    is_text = array.dtype.kind in "TU"
    kind = None if is_text else _KINDS.get(array.dtype.newbyteorder("<"))
    if kind is None and not is_text:
        return None
    if kind is None or not codec.typed:
        return column_of(list(array) if kind in DATE_KINDS else array.tolist(), codec)
    return Column(kind, np.ascontiguousarray(array, DTYPES[kind]))


def array_of(columns: Sequence[Column], codec: Codec) -> npt.NDArray[Any]:
    """Return the values of several columns as one array, of the type that holds all of them."""
    arrays = [column.array(codec) for column in columns]
    if not arrays:
        return np.empty(0, np.float64)
    families = {"number" if array.dtype.kind in "iuf" else array.dtype.kind for array in arrays}
    if len(families) == 1:
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    array = np.empty(sum(map(len, arrays)), object)
    array[:] = [value for column in columns for value in column.values(codec)]
    return array


def column_of_encoded(parts: Sequence[bytes]) -> Column:
    """Return the column of some encoded values: typed if all have the same codec of their own."""
    if not all(parts):
        raise CorruptionError("a stored value is empty: not even a codec byte is left")
    codecs = {part[0] for part in parts}
    code = codecs.pop() if len(codecs) == 1 else None
    try:
        if code in _ARRAYS:
            kind = Kind(code)
            data = np.frombuffer(b"".join([part[1:] for part in parts]), DTYPES[kind])
            if kind is Kind.BOOL and int(data.view(np.uint8).max()) > 1:
                raise CorruptionError("a stored bool is neither true nor false")
            if len(data) == len(parts):
                return Column(kind, data)
        if code == Kind.STR:
            return Column(Kind.STR, [part[1:].decode("utf-8", "surrogatepass") for part in parts])
    except ValueError as error:
        raise CorruptionError("a stored value has the wrong size or is no text") from error
    return Column(Kind.ENCODED, Blobs.of(parts))


def concat(columns: Sequence[Column]) -> Column:
    """Join columns into one; mixed kinds become encoded values."""
    if len(columns) == 1:
        return columns[0]
    kinds = {column.kind for column in columns}
    if len(kinds) == 1 and isinstance(columns[0].data, Packed):
        return Column(columns[0].kind, columns[0].data.joined([column.data for column in columns[1:]]))
    kind = _common(kinds)
    if kind is not None:
        if kind is Kind.STR:
            return Column(kind, [value for column in columns for value in column.data])
        return Column(kind, np.concatenate([column.data for column in columns], dtype=DTYPES[kind]))
    return Column(Kind.ENCODED, Blobs.of([part for column in columns for part in column.encoded()]))


def _common(kinds: set[Kind]) -> Kind | None:
    """Return the kind that holds values of all these kinds exactly and as their own type; None if there is none."""
    if len(kinds) == 1:
        return next(iter(kinds))
    if not (kinds <= INTS or kinds <= FLOATS):
        return None
    common = np.result_type(*[DTYPES[kind] for kind in kinds])
    return _KINDS[common] if common.kind != "f" or kinds <= FLOATS else None  # uint64 with int64 would be float64
