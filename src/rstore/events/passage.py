"""A passage through all changes of a sequence, and the laying out of changes anew, with a few chunks in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import starmap
from typing import Final

import numpy as np

from rstore.backends.types import Chunk, Head, LogSnapshot, Row
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import StoredChange, pack_change, unpack_change
from rstore.codec.columns import Column, Kind
from rstore.codec.segments import Segment
from rstore.codec.threads import spread
from rstore.log.packing import DIRECT_ROWS, Logs
from rstore.log.reader import LogReader, sections
from rstore.series.reader import AT_ONCE

_HELD: Final = 8 * DIRECT_ROWS
_HELD_BYTES: Final = 8 * 1024 * 1024
"""Twice so many changes, or bytes of them, are held before half of them are packed."""


def passage(logs: LogReader, key: str, snapshot: LogSnapshot) -> Iterator[StoredChange]:
    """Yield all changes of a sequence in order of position; the bodies of a few chunks are in memory at once."""
    view = snapshot.view

    def opened() -> Iterator[Segment]:
        for start in range(0, len(view.chunks), AT_ONCE):
            some = snapshot.bodies(view.chunks[start : start + AT_ONCE])
            yield from spread(partial(logs.open_chunk, key, head=view.head), some)

    segments = opened()
    for chunk, rows in sections(view.chunks, logs.open_rows(key, view.rows, view.head)):
        if chunk is None:
            yield from starmap(unpack_change, rows)
        else:
            segment = logs.overlay([next(segments)], rows)
            yield from segment.column.data.changes(segment.t, segment.seq)


class Layout:
    """Changes on their way into a sequence, in order of position: hot rows if they are few, else chunks."""

    def __init__(self, logs: Logs, key: str, head: Head) -> None:
        self._logs = logs
        self._key = key
        self._head = head
        self._held: list[StoredChange] = []
        self._size = 0
        self._chunks: list[Chunk] = []

    def add(self, change: StoredChange) -> None:
        """Add the next change."""
        self._held.append(change)
        self._size += change.size
        if len(self._held) >= 2 * _HELD or (self._size >= 2 * _HELD_BYTES and len(self._held) > 1):
            half = len(self._held) // 2  # so that no small chunk is left at the end
            self._pack(self._held[:half])
            self._held = self._held[half:]
            self._size = sum(change.size for change in self._held)

    def _pack(self, changes: list[StoredChange]) -> None:
        t = np.fromiter((change.t for change in changes), np.int64, len(changes))
        seq = np.fromiter((change.seq for change in changes), np.int64, len(changes))
        segment = Segment(t, seq, Column(Kind.CHANGES, ChangeColumns.of(changes)))
        self._chunks += self._logs.seal_chunks(self._key, segment, self._head)

    def finish(self) -> tuple[list[Row], list[Chunk]]:
        """Return all rows and chunks, sealed."""
        if not self._chunks and len(self._held) < DIRECT_ROWS:
            bodies = [(change.t, change.seq, pack_change(change)) for change in self._held]
            return self._logs.seal_rows(self._key, bodies, self._head), []
        if self._held:
            self._pack(self._held)
        return [], self._chunks
