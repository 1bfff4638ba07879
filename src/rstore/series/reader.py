"""A series read bit by bit, as of one moment: summaries of chunks where they suffice, points elsewhere.

Nouns: a *piece* (the points of one chunk, or between two chunks) and a *summary* (a whole chunk, without its points).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from rstore.backends.types import LogSnapshot, Position, ViewQuery
from rstore.codec.chunk_meta import Meta
from rstore.codec.segments import Segment
from rstore.codec.threads import spread
from rstore.log.reader import LogReader, Section, sections

AT_ONCE: Final = 8
"""So many chunks are fetched and unpacked at once: enough for all cores, and no more than some megabytes."""
_MAX_PENDING: Final = 64


class Summary(NamedTuple):
    """A whole chunk, unopened: the timestamps of its first and last point, how many there are, and its meta."""

    first: int
    last: int
    n: int
    meta: Meta


Piece: TypeAlias = Segment | Summary


class SeriesReader:
    """Reads a series between two timestamps, both included, as of one moment."""

    def __init__(self, logs: LogReader, key: str, snapshot: LogSnapshot, lo: int, hi: int) -> None:
        self._logs = logs
        self._key = key
        self._snapshot = snapshot
        self._lo: Position = (lo, 0)
        self._hi: Position = (hi, 0)
        rows = logs.open_rows(key, snapshot.view.rows, snapshot.view.head)
        self._sections = list(sections(snapshot.view.chunks, rows))

    def segments(self, *, reverse: bool = False) -> Generator[Segment, None, None]:
        """Yield all points, in order of time or, in `reverse`, the last piece first; no piece is empty."""
        yield from (piece for piece in self.pieces(lambda _: False, reverse=reverse) if isinstance(piece, Segment))

    def pieces(self, suffices: Callable[[Summary], bool], *, reverse: bool = False) -> Iterator[Piece]:
        """Yield the pieces in order: the summary of a chunk where it suffices, points elsewhere; none is empty.

        A chunk that lies partly outside the range, or has hot rows inside, has no summary.
        """
        pending: list[tuple[Section, Summary | None]] = []
        opening = 0
        for section in reversed(self._sections) if reverse else self._sections:
            summary = self._summary(section)
            if summary is not None and not suffices(summary):
                summary = None
            opening += section.chunk is not None and summary is None
            pending.append((section, summary))
            if opening == AT_ONCE or len(pending) == _MAX_PENDING:
                yield from self._open(pending)
                pending, opening = [], 0
        yield from self._open(pending)

    def _summary(self, section: Section) -> Summary | None:
        chunk = section.chunk
        if chunk is None or section.rows or chunk.first < self._lo or chunk.last > self._hi:
            return None
        return Summary(
            chunk.first[0], chunk.last[0], chunk.n, self._logs.open_meta(self._key, chunk, self._snapshot.view.head)
        )

    def _open(self, pending: Iterable[tuple[Section, Summary | None]]) -> Iterator[Piece]:
        wanted = [section.chunk for section, summary in pending if summary is None and section.chunk is not None]
        open_chunk = partial(self._logs.open_chunk, self._key, head=self._snapshot.view.head)
        opened = spread(open_chunk, self._snapshot.bodies(wanted))
        for section, summary in pending:
            if summary is not None:
                yield summary
                continue
            segments = [] if section.chunk is None else [next(opened).between(self._lo, self._hi)]
            segment = self._logs.overlay(segments, section.rows)
            if len(segment):
                yield segment


@contextmanager
def reading(logs: LogReader, key: str, lo: int, hi: int) -> Generator[SeriesReader, None, None]:
    """Read a series between two timestamps, both included, as it is now."""
    with logs.snapshot(key, (lo, 0), (hi, 0)) as snapshot:
        yield SeriesReader(logs, key, snapshot, lo, hi)


def between(lo: int, hi: int, *, limit: int | None = None, reverse: bool = False) -> ViewQuery:
    """Ask for the points between two timestamps, both included."""
    return ViewQuery((lo, 0), (hi, 0), limit, reverse)
