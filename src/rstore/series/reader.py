"""A series read bit by bit, from one moment: a summary of each chunk where that is enough, points where it is not.

Nouns: a *piece* (the points of one chunk, or between two chunks) and a *summary* (what is known of a chunk without
unpacking it).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from rstore.backends.types import Chunk, LogSnapshot, Position, Row
from rstore.codec.chunk_meta import Meta
from rstore.codec.segments import Segment, merge
from rstore.codec.threads import spread
from rstore.log.reader import LogReader

AT_ONCE: Final = 8
"""So many chunks are fetched and unpacked at once: enough for all cores, and no more than some megabytes."""
_AHEAD: Final = 64


class Summary(NamedTuple):
    """A whole chunk, unopened: the timestamps of its first and last point, how many there are, and its meta."""

    first: int
    last: int
    n: int
    meta: Meta


Piece: TypeAlias = Segment | Summary


class _Part(NamedTuple):
    """A chunk with the hot rows between its first and last point, or hot rows between two chunks."""

    chunk: Chunk | None
    rows: Sequence[Row]


class Reader:
    """A series between two timestamps, both included, as it was at one moment."""

    def __init__(self, logs: LogReader, key: str, snapshot: LogSnapshot, lo: int, hi: int) -> None:
        self._logs = logs
        self._key = key
        self._snapshot = snapshot
        self._lo: Position = (lo, 0)
        self._hi: Position = (hi, 0)
        self._parts = list(self._divide())

    def _divide(self) -> Iterator[_Part]:
        view = self._snapshot.view
        rows, start = self._logs.open_rows(self._key, view.rows, view.head), 0
        for chunk in view.chunks:
            before = bisect_left(rows, chunk.first, lo=start, key=_position)
            within = bisect_right(rows, chunk.last, lo=before, key=_position)
            if before > start:
                yield _Part(None, rows[start:before])
            yield _Part(chunk, rows[before:within])
            start = within
        if start < len(rows):
            yield _Part(None, rows[start:])

    def segments(self, *, reverse: bool = False) -> Generator[Segment, None, None]:
        """Yield all points, in order of time or, piece by piece, backwards; no piece is empty."""
        yield from (piece for piece in self.pieces(lambda _: False, reverse=reverse) if isinstance(piece, Segment))

    def pieces(self, suffices: Callable[[Summary], bool], *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the pieces in order: the summary of a chunk where it suffices, points elsewhere; none is empty.

        A chunk that lies partly outside, or has hot rows inside, is never summed up.
        """
        pending: list[tuple[_Part, Summary | None]] = []
        opening = 0
        for part in reversed(self._parts) if reverse else self._parts:
            summary = self._summary(part)
            if summary is not None and not suffices(summary):
                summary = None
            opening += part.chunk is not None and summary is None
            pending.append((part, summary))
            if opening == AT_ONCE or len(pending) == _AHEAD:
                yield from self._open(pending)
                pending, opening = [], 0
        yield from self._open(pending)

    def _summary(self, part: _Part) -> Summary | None:
        chunk = part.chunk
        if chunk is None or part.rows or chunk.first < self._lo or chunk.last > self._hi:
            return None
        return Summary(
            chunk.first[0], chunk.last[0], chunk.n, self._logs.open_meta(self._key, chunk, self._snapshot.view.head)
        )

    def _open(self, pending: Iterable[tuple[_Part, Summary | None]]) -> Iterator[Piece]:
        wanted = [part.chunk for part, summary in pending if summary is None and part.chunk is not None]
        open_chunk = partial(self._logs.open_chunk, self._key, head=self._snapshot.view.head)
        opened = spread(open_chunk, self._snapshot.bodies(wanted))
        for part, summary in pending:
            if summary is not None:
                yield summary
                continue
            segments = [] if part.chunk is None else [next(opened).between(self._lo, self._hi)]
            if part.rows:
                segments.append(self._logs.segment(part.rows))
            segment = merge(segments) if len(segments) > 1 else segments[0]
            if len(segment):
                yield segment


@contextmanager
def reading(logs: LogReader, key: str, lo: int, hi: int) -> Generator[Reader, None, None]:
    """Read a series between two timestamps, both included, as it is now."""
    with logs.snapshot(key, (lo, 0), (hi, 0)) as snapshot:
        yield Reader(logs, key, snapshot, lo, hi)


def _position(row: Row) -> Position:
    return row.t, row.seq
