"""Segments <-> the bodies of chunks: header, timestamps, sequence numbers and values, each packed as a column."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import zstandard

from rstore.codec.change_columns import pack_changes, unpack_changes
from rstore.codec.chunk_meta import pack_meta
from rstore.codec.columns import Blobs, Column, Kind
from rstore.codec.packing import pack, pack_numbers, unpack, unpack_numbers
from rstore.codec.segments import MAX_BYTES, MAX_ROWS, Segment, merge
from rstore.errors import CorruptionError, StoreError

_FORMAT: Final = 1
_header = struct.Struct(">BBIII")


def pack_chunk(segment: Segment) -> bytes:
    """Return the body of a chunk: header, timestamps, sequence numbers, values."""
    t = pack_numbers(segment.t, rising=True)
    seq = b"" if segment.seq is None or not segment.seq.any() else pack_numbers(segment.seq)
    kind, values = _pack_values(segment.column)
    return _header.pack(_FORMAT, kind, len(segment), len(t), len(seq)) + t + seq + values


def _pack_values(column: Column) -> tuple[Kind, bytes]:
    if column.kind is not Kind.CHANGES:
        return column.kind, pack(column)
    if column.size() > MAX_BYTES:  # a single change: the bounds of columns are those of many values
        return Kind.ENCODED, pack(Column(Kind.ENCODED, Blobs.of(column.encoded())))
    return Kind.CHANGES, pack_changes(column.data)


def unpack_chunk(body: bytes, n: int) -> Segment:
    """Return the segment of a chunk's body that is known to hold `n` rows.

    Raises `CorruptionError` for whatever cannot have been packed.
    """
    try:
        return _unpack_chunk(body, n)
    except StoreError:
        raise
    except BaseException as error:
        # A panic of pcodec's Rust code derives from BaseException; nothing else of its kind is caught here.
        if not isinstance(error, _DAMAGED) and type(error).__name__ != "PanicException":
            raise
        raise CorruptionError("a chunk cannot be unpacked") from error


_DAMAGED: Final = (struct.error, ValueError, TypeError, IndexError, RuntimeError, zstandard.ZstdError)


def _unpack_chunk(body: bytes, n: int) -> Segment:
    version, kind, rows, t_size, seq_size = _header.unpack_from(body)
    if version != _FORMAT or rows != n or n > MAX_ROWS:
        raise CorruptionError("a chunk's header is damaged, or written by a newer version")
    start = _header.size + t_size
    t = unpack_numbers(body[_header.size : start], np.int64, n)
    seq = unpack_numbers(body[start : start + seq_size], np.int64, n) if seq_size else None
    values = body[start + seq_size :]
    if kind == Kind.CHANGES:
        return Segment(t, seq, Column(Kind.CHANGES, unpack_changes(values, n)))
    return Segment(t, seq, unpack(Kind(kind), values, n))


def _import_all() -> None:
    # NumPy and pcodec import modules at the first use of what needs them, which cannot be while the interpreter ends.
    t = np.arange(2, dtype=np.int64)
    segment = Segment(t, None, Column(Kind.INT, t))
    pack_meta(segment)
    unpack_chunk(pack_chunk(merge([segment])), len(segment))


_import_all()
