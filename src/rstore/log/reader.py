"""Reading a log: its views, and the rows, chunks and segments in them, opened."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, starmap
from operator import itemgetter, lt
from typing import Any, Final, NamedTuple

from rstore.backends.contract import ReadTransaction
from rstore.backends.types import (
    FIRST,
    LAST,
    Chunk,
    Head,
    HeldLogSnapshot,
    Log,
    LogSnapshot,
    Model,
    Position,
    Row,
    View,
    ViewQuery,
)
from rstore.codec.change_meta import CommitRange, unpack_commits
from rstore.codec.changes import StoredChange, unpack_change
from rstore.codec.chunk_meta import Meta, unpack_meta
from rstore.codec.chunks import unpack_chunk
from rstore.codec.ciphers import HEADER_BYTES, PREFIX_BYTES
from rstore.codec.columns import Kind
from rstore.codec.envelope import MAGIC, Cell, Envelope, at_position, at_run, at_time
from rstore.codec.segments import MAX_ROWS, Segment, ascending, column_of_changes, merge, segment_of_rows
from rstore.codec.threads import spread
from rstore.errors import CorruptionError, KeyRequiredError, PlaintextError, StoreError, TamperedError
from rstore.namespace import ReadNamespace, reopens

_MAGIC: Final = bytes((MAGIC,))
_NOTHING: Final = View(now_ms=0, head=None)
"""The view of an empty range, which no backend is asked for."""
# In C, since every read compares all of its rows.
_TIME: Final = itemgetter(0)
_SEQ: Final = itemgetter(1)


class _LogKind(NamedTuple):
    """The differences between the logs of the two models."""

    row: Cell
    chunk: Cell
    opaque: bool
    position: Callable[[int, int], bytes]


_KINDS: Final = {
    Model.SERIES: _LogKind(Cell.POINT, Cell.POINTS, opaque=False, position=lambda t, _: at_time(t)),
    Model.EVENTS: _LogKind(Cell.CHANGE, Cell.CHANGES, opaque=True, position=at_position),
}


def mark_of(model: Model, head: Head | None) -> bytes:
    """Return the mark that is sealed with the rows of a log, so that they do not open in a later log of the same name.

    A series has its version, drawn when it begins and never changed. A sequence has the nonce of its facts, which are
    sealed when it begins and whenever it is pruned, together with all of its rows. So a removed part of a log cannot
    be put back: only all of it, as it was.
    """
    if head is None or not head.sealed:
        return b""
    return head.version if model is Model.SERIES else head.facts[PREFIX_BYTES:HEADER_BYTES]


class LogReader:
    """Reads the logs of one model in one namespace."""

    def __init__(self, namespace: ReadNamespace[ReadTransaction], model: Model) -> None:
        self._namespace = self.namespace = namespace
        self._model = model
        self._kind = _KINDS[model]

    @property
    def _backend(self) -> ReadTransaction:
        return self._namespace.backend

    @property
    def envelope(self) -> Envelope:
        """Seals and opens bytes."""
        return self._namespace.envelope

    @property
    def is_remote(self) -> bool:
        """Whether every call takes a round trip."""
        return self._backend.is_remote

    def clock_ms(self) -> int | None:
        """Return the backend's clock, POSIX milliseconds, if no call is needed for it."""
        return self._backend.clock_ms()

    def keys(self) -> list[str]:
        """Return the keys of all logs."""
        return self._backend.logs(self._model)

    def view(self, key: str, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
        """View a log at one moment, still sealed, as far as the query asks for it.

        Raises `CorruptionError`, or `TamperedError` with a key, if its chunks cannot be those of a log.
        """
        view = self._backend.view(Log(self._model, key), query)
        if view.chunks:
            self._check_chunks(key, view.chunks)
        return view

    def ids(self, key: str, query: ViewQuery) -> View:
        """View the log of ids beside a sequence."""
        return self._backend.view(Log(Model.IDS, key), query)

    def views(self, keys: Sequence[str], query: ViewQuery) -> list[View]:
        """Return the views of several logs, each of one moment, in one call."""
        if query.lo > query.hi:
            return [_NOTHING for _ in keys]
        views = self._backend.views([Log(self._model, key) for key in keys], query)
        for key, view in zip(keys, views, strict=True):
            self._check_chunks(key, view.chunks)
        return views

    @contextmanager
    def snapshot(self, key: str, lo: Position, hi: Position) -> Generator[LogSnapshot, None, None]:
        """Hold a log at one moment, from `lo` to `hi`, to be read bit by bit."""
        if lo > hi:
            yield HeldLogSnapshot(_NOTHING)
            return
        with self._backend.log_snapshot(Log(self._model, key), lo, hi) as snapshot:
            self._check_chunks(key, snapshot.view.chunks)
            yield snapshot

    def _check_chunks(self, key: str, chunks: Sequence[Chunk]) -> None:
        problem = self.problem_of_chunks(chunks)
        if problem is not None:
            raise self.unsound(key, problem)

    def problem_of_chunks(self, chunks: Iterable[Chunk]) -> str | None:
        """Return why these cannot be the chunks of a log, in this order: two of them overlap, or one is impossible.

        Sealing binds a chunk to its log and its range, and cannot tell whether it is the only one of that range. A
        chunk that was replaced long ago still opens, and its rows would count a second time.
        """
        end: Position | None = None
        series = self._model is Model.SERIES
        for first, last, n, _, _ in chunks:
            if not 0 < n <= MAX_ROWS or (first >= last if n > 1 else first != last):
                return f"a chunk cannot hold {n:,} rows from {first} to {last}"
            if series and (first[1] or last[1] or last[0] - first[0] < n - 1):
                return f"a chunk cannot hold {n:,} points from {first} to {last}"
            if end is not None and first <= end:
                return f"the chunk at {first[0]} overlaps the one before it, which ends at {end[0]}"
            end = last
        return None

    def unsound(self, key: str, problem: str) -> StoreError:
        """Return the error for a log whose parts contradict one another."""
        kind = TamperedError if self.envelope.keyed else CorruptionError
        return kind(
            f"{self._described(key)} is damaged, or was altered: {problem} "
            "(check() tells what else is; restore it from a backup)"
        )

    def check_kind(self, key: str, head: Head | None) -> None:
        """Refuse to write sealed rows into a plain log, and the other way round."""
        if head is not None and not self.envelope.admits(sealed=head.sealed):
            raise self._wrong_kind(key)

    def _wrong_kind(self, key: str) -> StoreError:
        if self.envelope.keyed:
            return PlaintextError(f"{self._described(key)} is not encrypted: a store with a key cannot write into it")
        return KeyRequiredError(f"{self._described(key)} is encrypted: a store without a key cannot write into it")

    def _described(self, key: str) -> str:
        what = "series" if self._model is Model.SERIES else "event sequence"
        return f"the {what} {self._namespace.place(key)}"

    def _named(self, key: str, error: CorruptionError) -> CorruptionError:
        return CorruptionError(f"{self._described(key)}: {error}")

    def read(self, key: str, query: ViewQuery) -> Iterator[Segment]:
        """View a log, and return its rows between the two positions of the query, as `segments` yields them."""
        view = self.view(key, query) if query.lo <= query.hi else _NOTHING
        return self.segments(key, view, query.lo, query.hi)

    def segments(self, key: str, view: View, lo: Position, hi: Position) -> Iterator[Segment]:
        """Yield the rows of a view between two positions, in order, a chunk at a time.

        A hot row wins over the row of a chunk at the same position.
        """
        opened = spread(partial(self.open_chunk, key, head=view.head), view.chunks)
        for chunk, rows in sections(view.chunks, self.open_rows(key, view.rows, view.head)):
            segments = [] if chunk is None else [next(opened).between(lo, hi)]
            segment = self.overlay(segments, rows)
            if len(segment):
                yield segment

    def overlay(self, segments: list[Segment], rows: Sequence[Row]) -> Segment:
        """Return the segments with the hot rows on top, which were opened."""
        if rows:
            segments = [*segments, self.segment(rows)]
        return segments[0] if len(segments) == 1 else merge(segments)

    def changes(self, key: str, view: View, lo: Position = FIRST, hi: Position = LAST) -> Iterator[StoredChange]:
        """Return the changes of a view of a sequence, from `lo` to `hi` in order."""
        if not view.chunks:
            return starmap(unpack_change, self.open_rows(key, view.rows, view.head))
        segments = self.segments(key, view, lo, hi)
        return chain.from_iterable(segment.column.data.changes(segment.t, segment.seq) for segment in segments)

    def open_row(self, key: str, row: Row, head: Head | None) -> bytes:
        """Return the body of a hot row."""
        return self.open_rows(key, [row], head)[0].body

    @reopens
    def open_meta(self, key: str, chunk: Chunk, head: Head | None) -> Meta:
        """Return the meta of a chunk of points."""
        try:
            return unpack_meta(self._open_meta(key, chunk, head), chunk.n, chunk.last[0] - chunk.first[0])
        except CorruptionError as error:
            raise self._named(key, error) from error.__cause__ or error

    @reopens
    def open_commits(self, key: str, chunk: Chunk, head: Head | None) -> CommitRange | None:
        """Return which commits are in a chunk of changes; None if it does not tell."""
        if not chunk.meta:
            return None
        try:
            return unpack_commits(self._open_meta(key, chunk, head), chunk.n)
        except CorruptionError as error:
            raise self._named(key, error) from error.__cause__ or error

    def _open_meta(self, key: str, chunk: Chunk, head: Head | None) -> bytes:
        where, place = self.envelope.where(Cell.META, key), at_run(chunk.first, chunk.last, chunk.n)
        return self.envelope.open_block(chunk.meta, where, place + mark_of(self._model, head))

    @reopens
    def open_rows(self, key: str, rows: Sequence[Row], head: Head | None) -> Sequence[Row]:
        """Return hot rows with their bodies opened, once they were seen to be in order."""
        if (problem := self.problem_of_rows(rows)) is not None:
            raise self.unsound(key, problem)
        if not (self.envelope.keyed or any(row.body[:1] == _MAGIC for row in rows)):
            return rows
        unseal, position = self.envelope.open, self._kind.position
        where = self.envelope.where(self._kind.row, key)
        if not self._kind.opaque:  # points are put without looking at the head
            return [Row(t, seq, unseal(body, where, position(t, seq))) for t, seq, body in rows]
        mark = mark_of(self._model, head)
        return [Row(t, seq, unseal(body, where, position(t, seq) + mark)) for t, seq, body in rows]

    def problem_of_rows(self, rows: Sequence[Row]) -> str | None:
        """Return why these cannot be the hot rows of a log: out of order, or in a series more than one at a time.

        A sealed point is bound to its timestamp. Under another sequence number it would still open, and count twice.
        """
        if self._model is Model.SERIES and any(map(_SEQ, rows)):
            t = next(row.t for row in rows if row.seq)
            return f"there is a row at t={t} with a sequence number, which points do not have"
        # Changes as they are: of two at one position, which no backend holds, the bodies would decide.
        ordered: Sequence[Any] = [*map(_TIME, rows)] if self._model is Model.SERIES else rows
        return None if all(map(lt, ordered, islice(ordered, 1, None))) else "its rows are out of order, or there twice"

    def segment(self, rows: Sequence[Row]) -> Segment:
        """Return the segment of hot rows that were opened."""
        return segment_of_rows(rows, changes=self._kind.opaque)

    @reopens
    def open_chunk(self, key: str, chunk: Chunk, head: Head | None) -> Segment:
        """Return the segment of a chunk."""
        where, place = self.envelope.where(self._kind.chunk, key), at_run(chunk.first, chunk.last, chunk.n)
        body = self.envelope.open_block(chunk.body, where, place + mark_of(self._model, head))
        try:
            segment = unpack_chunk(body, chunk.n)
            if self._kind.opaque and segment.column.kind is Kind.ENCODED:
                segment = Segment(segment.t, segment.seq, column_of_changes(segment.column.encoded()))
        except CorruptionError as error:
            raise self._named(key, error) from error.__cause__ or error
        if (segment.column.kind is Kind.CHANGES) is not self._kind.opaque:
            raise self.unsound(key, f"the chunk at {chunk.first[0]} is one of another model")
        if chunk.body[:1] != _MAGIC and (problem := self.problem_of_segment(chunk, segment)) is not None:
            raise self.unsound(key, problem)  # a sealed chunk is as it was written, and for this range
        return segment

    def problem_of_segment(self, chunk: Chunk, segment: Segment, *, order: bool = False) -> str | None:
        """Return why these cannot be the rows of a chunk; whether those between its ends are in `order` is for `check`.

        A checksum covers them, and to compare each with the next takes a twentieth of the time of unpacking them.
        """
        if segment.position(0) != chunk.first or segment.position(len(segment) - 1) != chunk.last:
            return f"the chunk at {chunk.first[0]} does not begin and end where it says"
        if segment.seq is not None and self._model is Model.SERIES:
            return f"the chunk at {chunk.first[0]} has sequence numbers, which points do not have"
        if order and not ascending(segment.t, segment.seq):
            return f"the rows of the chunk at {chunk.first[0]} are out of order"
        return None


class Section(NamedTuple):
    """A chunk with the hot rows between its first and last row, or hot rows between two chunks."""

    chunk: Chunk | None
    rows: Sequence[Row]


def sections(chunks: Sequence[Chunk], rows: Sequence[Row]) -> Iterator[Section]:
    """Divide the chunks and the hot rows of a log into sections, in order."""
    start = 0
    for chunk in chunks:
        before = bisect_left(rows, chunk.first, lo=start, key=position_of)
        within = bisect_right(rows, chunk.last, lo=before, key=position_of)
        if before > start:
            yield Section(None, rows[start:before])
        yield Section(chunk, rows[before:within])
        start = within
    if start < len(rows):
        yield Section(None, rows[start:])


def position_of(row: Row) -> Position:
    """Return where a row stands."""
    return row.t, row.seq
