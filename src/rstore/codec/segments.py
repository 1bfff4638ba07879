"""Segments: many rows of a log as columns, in order of position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from rstore.backends.types import Position, Row
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.columns import Column, Int64s, Kind, column_of_encoded, concat

MIN_ROWS: Final = 8192
"""The fewest points of a chunk, unless it is the only one; every chunk has fewer than twice as many."""
MIN_CHANGES: Final = 1024
"""The same for changes. Fewer, since a state of the past unpacks a whole chunk to fold about a hundred of them."""
MAX_ROWS: Final = 2 * MIN_ROWS
MAX_BYTES: Final = 512 * 1024


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
        if not len(self) or (lo <= self.position(0) and self.position(len(self) - 1) <= hi):
            return self
        return self.slice(self.index(lo), self.index(hi, after=True))


def segment_of_rows(rows: Sequence[Row], *, changes: bool) -> Segment:
    """Return the segment of hot rows, their bodies opened; of a series or of a sequence (`changes`)."""
    t = np.fromiter(map(itemgetter(0), rows), np.int64, len(rows))
    bodies = [*map(itemgetter(2), rows)]
    if not changes:
        return Segment(t, None, column_of_encoded(bodies))
    seq = np.fromiter(map(itemgetter(1), rows), np.int64, len(rows))
    return Segment(t, seq, column_of_changes(bodies))


def column_of_changes(bodies: Sequence[bytes]) -> Column:
    """Return the column of the bodies of changes."""
    return Column(Kind.CHANGES, ChangeColumns.of_bodies(bodies))


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
    if ascending(t, seq):
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


def ascending(t: Int64s, seq: Int64s | None) -> bool:
    """Return whether each position is behind the one before it."""
    rises = t[1:] > t[:-1]
    if seq is not None:
        rises |= (t[1:] == t[:-1]) & (seq[1:] > seq[:-1])
    return bool(rises.all())


def split(segment: Segment, least: int) -> Iterator[Segment]:
    """Yield the segment in pieces of `least` to `2 * least` rows, fewer where they would exceed 512 KiB."""
    n = len(segment)
    pieces = max(1, n // least)
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


def steps_of(t: Int64s) -> npt.NDArray[np.uint64]:
    """Return the distances between neighbours. They are unsigned: between two int64 they need all 64 bits."""
    bits = t.view(np.uint64)
    return bits[1:] - bits[:-1]
