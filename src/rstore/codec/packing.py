"""Columns <-> bytes: numbers by pcodec, everything else by zstd."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from pcodec import ChunkConfig, DeltaSpec, standalone

from rstore.codec.columns import DATE_KINDS, DTYPES, Blobs, Column, Kind
from rstore.errors import CorruptionError

# Level 5 of pcodec: higher levels are slower and save hardly any bytes.
_PCO: Final = ChunkConfig(compression_level=5, enable_8_bit=True)
# Rising numbers compress best by their differences; trying other orders costs time and finds the same.
_PCO_RISING: Final = ChunkConfig(compression_level=5, delta_spec=DeltaSpec.try_consecutive(1))
_ZSTD_LEVEL: Final = 3
_MAX_BYTES: Final = 2**20
"""The largest unpacked column of several values; writers stop at half of it."""
_MAX_ONE: Final = 2**22
_MAX_TIMES: Final = 10
"""A value larger than 4 MiB plus ten times its packed size is stored unpacked; without this bound a forged column of
143 bytes asked for 16 GiB."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""The beginning of a frame. No encoded value begins so, since its first byte is a codec byte, and no UTF-8 does."""
_DICTIONARY: Final = 1
_OFFSETS: Final = 2


def pack(column: Column) -> bytes:
    """Return the bytes of a column."""
    if column.kind is Kind.BOOL:
        return np.packbits(column.data).tobytes()
    if isinstance(column.data, Blobs):
        return _pack_blobs(column.data.compact())
    if column.kind is Kind.STR:
        return _pack_str(column.data)
    return pack_numbers(column.data.view(np.int64) if column.kind in DATE_KINDS else column.data)


def unpack(kind: Kind, data: bytes, n: int) -> Column:
    """Return the column of `n` values that was packed into these bytes."""
    if kind is Kind.BOOL:
        if len(data) != (n + 7) // 8:
            raise CorruptionError("a column of bools has the wrong size")
        return Column(kind, np.unpackbits(np.frombuffer(data, np.uint8), count=n).astype(np.bool_))
    if kind is Kind.ENCODED:
        return Column(kind, _unpack_blobs(data, n))
    if kind is Kind.STR:
        return Column(kind, _unpack_str(data, n))
    if kind in DATE_KINDS:
        return Column(kind, unpack_numbers(data, np.int64, n).view(DTYPES[kind]))
    return Column(kind, unpack_numbers(data, DTYPES[kind], n))


def pack_numbers(numbers: npt.NDArray[Any], *, rising: bool = False) -> bytes:
    """Return the bytes of an array of numbers; `rising` is a hint."""
    return standalone.simple_compress(np.ascontiguousarray(numbers), _PCO_RISING if rising else _PCO)


def unpack_numbers(data: bytes, dtype: Any, n: int) -> npt.NDArray[Any]:
    """Return the array of `n` numbers; never more, whatever the bytes say."""
    numbers = np.empty(n, dtype)
    progress = standalone.simple_decompress_into(data, numbers)
    if progress.n_processed != n or not progress.finished:
        raise CorruptionError(f"a column has {progress.n_processed} numbers instead of {n}")
    return numbers


def _pack_blobs(blobs: Blobs) -> bytes:
    lengths, raw = pack_numbers(np.diff(blobs.offsets)), blobs.raw
    packed = zstandard.compress(raw, _ZSTD_LEVEL)
    if len(raw) > _most_bytes(len(blobs), packed):
        packed = raw  # unpacking must stay in proportion to the stored bytes
    return len(lengths).to_bytes(4, "big") + lengths + packed


def _unpack_blobs(data: bytes, n: int) -> Blobs:
    size = int.from_bytes(data[:4], "big")
    lengths = unpack_numbers(data[4 : 4 + size], np.int64, n)
    packed = data[4 + size :]
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    is_frame = packed[:4] == _ZSTD_MAGIC
    # Compared before any allocation: the frame's header must not decide its size.
    sane = n == 0 or (int(lengths.min()) >= 0 and int(lengths.max()) < 2**31 and total <= _most_bytes(n, packed))
    if not sane or (zstandard.frame_content_size(packed) if is_frame else len(packed)) != total:
        raise CorruptionError("a column of blobs contradicts itself")
    if is_frame:
        packed = zstandard.decompress(packed, max_output_size=total) if total else b""
    return Blobs(packed, offsets)


def _most_bytes(n: int, packed: bytes) -> int:
    """Return the most bytes that `n` values packed into these may have."""
    return _MAX_BYTES if n > 1 else _MAX_ONE + _MAX_TIMES * len(packed)


def _pack_str(values: list[str]) -> bytes:
    some = {values[0], values[len(values) // 2], values[-1]} if values else set()
    # Counting compares where a dict would hash. Three values first: a column of one word is rare.
    constant = len(some) == 1 and values.count(values[0]) == len(values)
    distinct = dict.fromkeys(values[:1] if constant else values)
    if len(distinct) * 2 > len(values):
        return bytes((_OFFSETS,)) + _pack_blobs(Blobs.of_texts(values))
    words = _pack_blobs(Blobs.of_texts(distinct))
    if len(distinct) == 1:
        indexes = b""  # the same word throughout
    else:
        index = {word: i for i, word in enumerate(distinct)}
        indexes = pack_numbers(np.fromiter(map(index.__getitem__, values), np.uint32, len(values)))
    return b"%c%b%b%b%b" % (
        _DICTIONARY,
        len(distinct).to_bytes(4, "big"),
        len(words).to_bytes(4, "big"),
        words,
        indexes,
    )


def _unpack_str(data: bytes, n: int) -> list[str]:
    if data[0] == _OFFSETS:
        return _unpack_blobs(data[1:], n).texts()
    if data[0] != _DICTIONARY:
        raise CorruptionError(f"a column of strings has the unknown layout {data[0]}")
    count, size = int.from_bytes(data[1:5], "big"), int.from_bytes(data[5:9], "big")
    if not 0 < count <= n:
        raise CorruptionError("a dictionary of strings contradicts itself")
    packed = _unpack_blobs(data[9 : 9 + size], count)
    words = packed.texts()
    if count == 1:
        if n > 1 and len(packed.raw) * n > _MAX_BYTES:
            raise _too_long()
        return words * n
    indexes = unpack_numbers(data[9 + size :], np.uint32, n)
    if int(indexes.max()) >= count:
        raise CorruptionError("a dictionary of strings contradicts itself")
    if int(np.diff(packed.offsets)[indexes].sum()) > _MAX_BYTES:
        raise _too_long()
    return list(map(words.__getitem__, indexes.tolist()))


def _too_long() -> CorruptionError:
    # A list shares its words; an array, or packing them again, would not.
    return CorruptionError("a dictionary of strings has longer words than it can have, for so many rows")
