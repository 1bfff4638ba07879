"""A sequence of one moment, read a section at a time: a chunk with the hot rows in it, or hot rows between chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from rstore.backends.types import FIRST, LAST, LogSnapshot, Position
from rstore.codec.change_meta import CommitRange
from rstore.codec.changes import commit_number
from rstore.codec.segments import Segment
from rstore.codec.threads import spread
from rstore.log.reader import LogReader, position_of, sections

_AT_ONCE: Final = 8
"""So many chunks are fetched and unpacked at once, when it is clear that more than one is read."""


class Moment:
    """The sections of a sequence between two positions, as of one moment."""

    def __init__(self, logs: LogReader, key: str, snapshot: LogSnapshot) -> None:
        self._logs = logs
        self._key = key
        self._snapshot = snapshot
        self.head = snapshot.view.head
        rows = logs.open_rows(key, snapshot.view.rows, self.head)
        self._sections = [*sections(snapshot.view.chunks, rows)]
        self._opened: dict[int, Segment] = {}

    def __len__(self) -> int:
        return len(self._sections)

    def first(self, i: int) -> Position:
        """Return the position of the first change of a section."""
        chunk, rows = self._sections[i]
        return position_of(rows[0]) if chunk is None else chunk.first

    def n(self, i: int) -> int:
        """Return how many changes a section has, or more, where a hot row overlays one of its chunk."""
        chunk, rows = self._sections[i]
        return len(rows) + (0 if chunk is None else chunk.n)

    def index(self, position: Position) -> int:
        """Return the last section that begins up to a position; -1 if none does."""
        lo, hi = 0, len(self._sections)
        while lo < hi:
            middle = (lo + hi) // 2
            if self.first(middle) <= position:
                lo = middle + 1
            else:
                hi = middle
        return lo - 1

    def commits(self, i: int) -> CommitRange | None:
        """Return which commits are in a section; None if only opening it tells."""
        chunk, rows = self._sections[i]
        return None if chunk is None or rows else self._logs.open_commits(self._key, chunk, self.head)

    def find(self, i: int, n: int) -> Position | None:
        """Return the position of a commit in a section; None if it is not there."""
        chunk, rows = self._sections[i]
        if chunk is None:
            return next((position_of(row) for row in rows if commit_number(row.body) == n), None)
        segment = self.open(i)
        hits = (segment.column.data.n == n).nonzero()[0]
        return segment.position(int(hits[0])) if len(hits) else None

    def open(self, i: int) -> Segment:
        """Return the changes of a section; the two that were opened last are kept."""
        if (segment := self._opened.pop(i, None)) is None:
            segment = next(self._open([i]))
            if len(self._opened) > 1:
                del self._opened[next(iter(self._opened))]
        self._opened[i] = segment
        return segment

    def segments(self, chosen: Sequence[int], lo: Position = FIRST, hi: Position = LAST) -> Iterator[Segment]:
        """Yield the changes of some sections between two positions, some sections ahead of the caller."""
        start, size = 0, 1
        while start < len(chosen):
            for segment in self._open(chosen[start : start + size]):
                if len(part := segment.between(lo, hi)):
                    yield part
            start, size = start + size, min(2 * size, _AT_ONCE)

    def _open(self, chosen: Sequence[int]) -> Iterator[Segment]:
        some = [self._sections[i] for i in chosen]
        bodies = self._snapshot.bodies([section.chunk for section in some if section.chunk is not None])
        opened = spread(partial(self._logs.open_chunk, self._key, head=self.head), bodies)
        for chunk, rows in some:
            yield self._logs.overlay([] if chunk is None else [next(opened)], rows)
