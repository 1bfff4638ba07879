"""Packing: new rows stay hot, and become chunks when enough of them have come together."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from random import SystemRandom
from typing import Final, Self, TypeVar

from rstore.backends.common.after_commit import behind_commit
from rstore.backends.types import (
    FIRST,
    LAST,
    MAX_SEQ,
    Chunk,
    Head,
    Log,
    Model,
    Position,
    Row,
    View,
    ViewQuery,
    overlapping,
)
from rstore.codec.segments import Segment, merge
from rstore.errors import CorruptionError
from rstore.log.reader import position_of
from rstore.log.rewrite import RewritingLogs
from rstore.namespace import Namespace

T = TypeVar("T")

DIRECT_ROWS: Final = 1024
"""A batch of this many rows is packed at once: passing through hot rows would take longer, and more bytes."""

THIN: Final = 32
"""… unless it falls into chunks with this many times its rows: then putting hot rows is less work than rewriting."""

_MAX_THIN: Final = 1000

HOT_ROWS: Final = 16384
HOT_CHANGES: Final = 4096
HOT_BYTES: Final = 8 * 1024 * 1024
"""A log with more hot points or changes, or more bytes in them, is due for packing."""

MAX_HOT_ROWS: Final = 4 * HOT_ROWS
"""With more of them, even a thin batch is worth a rewrite: it merges all hot rows that lie in its range."""

CHECK_EVERY: Final = 256
"""How many rows are written, on average, between two looks at whether a log is due.

Chosen at random, not counted: a counter in the head would make all writers of a log wait for one row, and a counter
in the process never gets anywhere in programs that write one point and end.
"""

MERGE_CHUNKS: Final = 8
"""How many chunks one merging of late rows rewrites at most; it bounds the work of the write that it happens in."""

_random = SystemRandom()  # the generator of the module belongs to the program, which may have seeded it


class Logs(RewritingLogs):
    """All logs of one model in one namespace, packed as they grow."""

    def __init__(self, namespace: Namespace, model: Model, written: Counter[str] | None = None) -> None:
        super().__init__(namespace, model, written)
        self._thin: set[str] = set()
        """The series whose last batch fell thinly into many chunks."""
        self._until_check = _random.randrange(2 * CHECK_EVERY)

    def catch_up(self, inside: Self) -> None:
        """Pack what was written inside a transaction that has ended, as far as it is due."""
        for key, rows in (inside.written or {}).items():
            self.maybe_pack(key, rows)

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, key: str, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Put a few rows, replacing those at their positions, without reading anything."""
        super().append(key, rows)
        self.maybe_pack(key, len(rows))

    def put(self, key: str, points: Segment) -> None:
        """Put points, in any order, into a series, replacing those at their timestamps.

        As hot rows if they are few, or fall thinly into many chunks; as chunks otherwise.
        """
        lo, hi = (int(points.t.min()), 0), (int(points.t.max()), 0)
        if len(points) >= DIRECT_ROWS:
            # With the hot rows, which a rewrite needs, unless the batch before it was thin as well: these can be many.
            rows = key not in self._thin
            view = self.view(key, ViewQuery(lo, hi, rows=rows, bodies=False, neighbours=True))
            if not self._is_thin(key, len(points), view, lo, hi):
                self._thin.discard(key)
                self.rewrite(key, lo, hi, add=points, view=view if rows else None)
                return
            if len(self._thin) < _MAX_THIN:
                self._thin.add(key)
        batch = merge([points])
        self.append(key, [(t, 0, body) for t, body in zip(batch.t.tolist(), batch.column.encoded(), strict=True)])

    def _is_thin(self, key: str, n: int, view: View, lo: Position, hi: Position) -> bool:
        touched = sum(chunk.n for chunk in overlapping(list(view.chunks), lo, hi, neighbours=False))
        if touched <= THIN * n or n > self.max_rows:
            return False
        hot, _ = self._backend.hot(Log(self._model, key))
        return hot + n <= min(MAX_HOT_ROWS, 8 * self.max_rows)

    def atomically(
        self,
        keys: Collection[str],
        work: Callable[[Self], T],
        *,
        create: bool = False,
        within: tuple[Position, Position] | None = (FIRST, LAST),
        steps: int = 1,
    ) -> T:
        """Return the result of `work` on several logs, all or nothing where the backend can; it may run repeatedly.

        It works through the logs that it is given. `create`: it puts rows, too; `within`: where it drops hot rows;
        `steps`: how many calls it makes for each log.
        """
        if len(keys) * steps < 2 or not self._backend.transactional:
            return work(self)
        if within is not None and self.max_rows != MAX_SEQ:
            share = max(1, self.max_rows // len(keys))
            for key in keys:  # ahead, so that all hot rows together are not too many for the one step at the end
                if self._backend.hot(Log(self._model, key))[0] > share:
                    self._pack_ahead(key, *within, share)
        done, inside = self._in_transaction(keys, lambda inside: (work(inside), inside), create=create)
        self.catch_up(inside)  # not before the end: concurrent writers must not wait for a compression
        return done

    def lay_out(self, key: str, rows: Sequence[tuple[int, int, bytes]], head: Head) -> tuple[list[Row], list[Chunk]]:
        """Return a whole sequence, which then has this head, as hot rows if it is short, else as chunks."""
        if len(rows) < DIRECT_ROWS:
            return self.seal_rows(key, rows, head), []
        return [], self.seal_chunks(key, self.segment([Row(*row) for row in rows]), head)

    # -- packing ------------------------------------------------------------------------------------------------------

    def maybe_pack(self, key: str, rows: int) -> None:
        """Count rows that were written, and now and then pack a log that is due; in a transaction, defer it."""
        if self.written is not None:
            self.written[key] += rows
            return
        self._until_check -= rows
        if self._until_check >= 0:
            return
        self._until_check = CHECK_EVERY  # where it fails the rows stay hot, and the next look is soon
        with behind_commit(f"the packing of {self._writable.place(key)}"):
            n, size = self._backend.hot(Log(self._model, key))
            most = min(HOT_ROWS, 4 * self.max_rows) if self._model is Model.SERIES else HOT_CHANGES
            if n >= most or (size >= HOT_BYTES and n > 1):
                self.pack(key, self.view(key, ViewQuery(bodies=False)))
            self._until_check = _random.randrange(2 * CHECK_EVERY)

    def pack(self, key: str, view: View) -> None:
        """Pack the tail of a log, or merge the late rows into the chunks where most of them fall.

        One call rewrites the tail or at most `MERGE_CHUNKS` chunks. `view` is that of the whole log, without bodies.
        """
        rows, chunks = view.rows, view.chunks
        late = bisect_right(rows, chunks[-1].last, key=position_of) if chunks else 0
        if not rows:
            return
        start, stop = late, len(rows)
        if late * 2 > len(rows):
            firsts = [chunk.first for chunk in chunks]
            chunk_of = [max(0, bisect_right(firsts, position_of(row)) - 1) for row in rows[:late]]
            start = max(range(late), key=lambda i: bisect_right(chunk_of, chunk_of[i] + MERGE_CHUNKS - 1) - i)
            stop = bisect_right(chunk_of, chunk_of[start] + MERGE_CHUNKS - 1)
        lo, hi = position_of(rows[start]), position_of(rows[stop - 1])
        near = overlapping(list(chunks), lo, hi, neighbours=True)
        self.rewrite(key, lo, hi, view=view._replace(rows=rows[start:stop], chunks=near))

    def compact(self, key: str) -> tuple[int, int, int]:
        """Pack all hot rows, and join chunks that are too small; return (hot rows, chunks before, chunks after)."""
        bare = ViewQuery(bodies=False)
        view = before = self.view(key, bare)
        while view.rows:
            self.pack(key, view)
            view, packed = self.view(key, bare), view
            if view.rows == packed.rows:
                raise CorruptionError(f"the rows of {self._writable.place(key)} are damaged: check() says more")
        small: list[Chunk] = []
        for chunk in [*view.chunks, None]:
            if chunk is not None and chunk.n < self._min_rows:
                small.append(chunk)
            else:
                if len(small) > 1:
                    self.rewrite(key, small[0].first, small[-1].last)
                small = []
        return len(before.rows), len(before.chunks), len(self.view(key, ViewQuery(rows=False, bodies=False)).chunks)
