"""Segments <-> chunks: many rows of a log as columns, and the bytes they become.

Nouns: a *segment* (rows as columns: positions and values), a *chunk body* (the packed columns) and its *meta* (what
can be answered without unpacking them).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import zstandard

from rstore.backends.base import Position, Row
from rstore.codec.columns import (
    Blobs,
    Column,
    Int64s,
    Kind,
    column_of_encoded,
    concat,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
)
from rstore.errors import CorruptionError, StoreError

MIN_ROWS: Final = 8192
MAX_ROWS: Final = 2 * MIN_ROWS
MAX_BYTES: Final = 512 * 1024
_FORMAT: Final = 1
_header = struct.Struct(">BBIII")
_MAX_META_VALUE: Final = 1024
_HAS_VALUES: Final = 1
_HAS_STATS: Final = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of a log in order of position: timestamps, sequence numbers (None: all 0) and values, equally many."""

    t: Int64s
    seq: Int64s | None
    column: Column

    def __len__(self) -> int:
        return len(self.t)

    def position(self, i: int) -> Position:
        """Return the position of one row."""
        return int(self.t[i]), 0 if self.seq is None else int(self.seq[i])

    def slice(self, start: int, stop: int) -> Segment:
        """Return the rows from `start` to `stop`, excluded."""
        if start == 0 and stop == len(self):
            return self
        seq = None if self.seq is None else self.seq[start:stop]
        return Segment(self.t[start:stop], seq, self.column.slice(start, stop))

    def index(self, position: Position, *, after: bool = False) -> int:
        """Return how many rows stand before a position (`after`: before or at it)."""
        t, seq = position
        start = int(np.searchsorted(self.t, t, "left"))
        stop = int(np.searchsorted(self.t, t, "right"))
        if self.seq is None:
            return stop if seq > 0 or after else start
        return start + int(np.searchsorted(self.seq[start:stop], seq, "right" if after else "left"))

    def between(self, lo: Position, hi: Position) -> Segment:
        """Return the rows from `lo` to `hi`, both included."""
        return self.slice(self.index(lo), self.index(hi, after=True))


def segment_of_rows(rows: Sequence[Row], *, opaque: bool) -> Segment:
    """Return the segment of hot rows, their bodies opened. Opaque bodies (changes) are never a typed column."""
    t = np.fromiter((row.t for row in rows), np.int64, len(rows))
    seq = np.fromiter((row.seq for row in rows), np.int64, len(rows))
    bodies = [row.body for row in rows]
    column = Column(Kind.ENCODED, Blobs.of(bodies)) if opaque else column_of_encoded(bodies)
    return Segment(t, seq if opaque else None, column)


def merge(segments: Sequence[Segment]) -> Segment:
    """Return one segment of several, in order; at equal positions the row of the later segment wins."""
    segments = [segment for segment in segments if len(segment)]
    if not segments:
        return Segment(np.empty(0, np.int64), None, Column(Kind.INT, np.empty(0, np.int64)))
    t = np.concatenate([segment.t for segment in segments]) if len(segments) > 1 else segments[0].t
    column = concat([segment.column for segment in segments])
    seq = None
    if any(segment.seq is not None for segment in segments):
        seq = np.concatenate([np.zeros(len(s), np.int64) if s.seq is None else s.seq for s in segments])
    if _ascending(t, seq):
        return Segment(t, seq, column)
    # Both sorts are stable, so that of equal positions the last one comes last.
    order = np.argsort(t, kind="stable") if seq is None else np.lexsort((seq, t))
    t = t[order]
    last = np.ones(len(t), np.bool_)
    last[:-1] = t[1:] != t[:-1]
    if seq is not None:
        seq = seq[order]
        last[:-1] |= seq[1:] != seq[:-1]
        seq = seq[last]
    return Segment(t[last], seq, column.take(order[last]))


def _ascending(t: Int64s, seq: Int64s | None) -> bool:
    rises = t[1:] > t[:-1]
    if seq is not None:
        rises |= (t[1:] == t[:-1]) & (seq[1:] > seq[:-1])
    return bool(rises.all())


def split(segment: Segment) -> Iterator[Segment]:
    """Yield the segment in pieces of 8,192 to 16,384 rows, and fewer where they would exceed 512 KiB."""
    n = len(segment)
    pieces = max(1, n // MIN_ROWS)
    for i in range(pieces if n else 0):
        start, stop = i * n // pieces, (i + 1) * n // pieces
        piece = segment.slice(start, stop)
        if piece.column.size() <= MAX_BYTES:
            yield piece
            continue
        begin = size = 0
        for row, one in enumerate(piece.column.sizes()):
            if size + one > MAX_BYTES and row > begin:
                yield piece.slice(begin, row)
                begin, size = row, 0
            size += one
        yield piece.slice(begin, len(piece))


def pack_chunk(segment: Segment) -> bytes:
    """Return the body of a chunk: header, timestamps, sequence numbers, values."""
    t = pack_numbers(segment.t)
    seq = b"" if segment.seq is None or not segment.seq.any() else pack_numbers(segment.seq)
    values = pack(segment.column)
    return _header.pack(_FORMAT, segment.column.kind, len(segment), len(t), len(seq)) + t + seq + values


def unpack_chunk(body: bytes, n: int) -> Segment:
    """Return the segment of a chunk's body that is known to hold `n` rows.

    Raises `CorruptionError` for whatever cannot have been packed.
    """
    try:
        return _unpack_chunk(body, n)
    except StoreError:
        raise
    except (struct.error, ValueError, TypeError, IndexError, RuntimeError, zstandard.ZstdError) as error:
        raise CorruptionError("a chunk cannot be unpacked") from error
    except BaseException as error:
        # A panic of pcodec's Rust code derives from BaseException; nothing else of its kind is caught here.
        if type(error).__name__ != "PanicException":
            raise
        raise CorruptionError("a chunk cannot be unpacked") from error


def _unpack_chunk(body: bytes, n: int) -> Segment:
    version, kind, rows, t_size, seq_size = _header.unpack_from(body)
    if version != _FORMAT or rows != n or n > MAX_ROWS:
        raise CorruptionError("a chunk's header is damaged, or written by a newer version")
    start = _header.size + t_size
    t = unpack_numbers(body[_header.size : start], np.int64, n)
    seq = unpack_numbers(body[start : start + seq_size], np.int64, n) if seq_size else None
    return Segment(t, seq, unpack(Kind(kind), body[start + seq_size :], n))


class Stats(NamedTuple):
    """Of a chunk of numbers, all of them finite."""

    low: float
    high: float
    total: float


class Meta(NamedTuple):
    """What can be told of a chunk of points without unpacking it. Encoded values past 1 KiB are left out."""

    first: bytes | None
    last: bytes | None
    stats: Stats | None


def pack_meta(segment: Segment) -> bytes:
    """Return the meta of a chunk of points."""
    column = segment.column
    first, last = column.slice(0, 1).encoded()[0], column.slice(len(column) - 1, len(column)).encoded()[0]
    flags, tail = 0, b""
    if len(first) <= _MAX_META_VALUE and len(last) <= _MAX_META_VALUE:
        flags |= _HAS_VALUES
        tail += len(first).to_bytes(2, "big") + first + len(last).to_bytes(2, "big") + last
    if (stats := _stats(column)) is not None:
        flags |= _HAS_STATS
        tail += stats
    return bytes((_FORMAT, column.kind, flags)) + tail


def _stats(column: Column) -> bytes | None:
    if column.kind is Kind.INT:
        # Sixteen bytes hold the sum of 16,384 int64; summed in halves, since NumPy's own sum wraps around.
        low, high = column.data & 0xFFFFFFFF, column.data >> 32
        total = int(low.sum()) + (int(high.sum()) << 32)
        return struct.pack(">qq", int(column.data.min()), int(column.data.max())) + total.to_bytes(
            16, "big", signed=True
        )
    if column.kind is Kind.FLOAT and bool(np.isfinite(column.data).all()):
        with np.errstate(over="ignore"):
            total_f = float(column.data.sum())
        if np.isfinite(total_f):
            return struct.pack(">ddd", float(column.data.min()), float(column.data.max()), total_f)
    return None


def unpack_meta(meta: bytes) -> Meta:
    """Return what the meta of a chunk of points says."""
    try:
        version, kind, flags = meta[0], Kind(meta[1]), meta[2]
        at = 3
        values: list[bytes | None] = [None, None]
        if flags & _HAS_VALUES:
            for i in range(2):
                size = int.from_bytes(meta[at : at + 2], "big")
                values[i] = meta[at + 2 : at + 2 + size]
                at += 2 + size
        stats: Stats | None = None
        if flags & _HAS_STATS and kind is Kind.INT:
            low, high = struct.unpack_from(">qq", meta, at)
            stats = Stats(low, high, int.from_bytes(meta[at + 16 : at + 32], "big", signed=True))
        elif flags & _HAS_STATS:
            stats = Stats(*struct.unpack_from(">ddd", meta, at))
    except (IndexError, ValueError, struct.error) as error:
        raise CorruptionError("a chunk's meta cannot be unpacked") from error
    if version != _FORMAT:
        raise CorruptionError("a chunk's meta is damaged, or written by a newer version")
    return Meta(values[0], values[1], stats)
