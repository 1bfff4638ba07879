"""The rewrite: the one way from rows to chunks, and from chunks to other chunks."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final, Literal, TypeAlias

import numpy as np

from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Chunk, Commit, Model, Position, View, ViewQuery
from rstore.codec.segments import MAX_BYTES, Segment, merge
from rstore.errors import StoreFullError
from rstore.log.races import RacingLogs
from rstore.log.reader import position_of
from rstore.log.writer import new_stamp

_logger: Final = logging.getLogger("rstore.log")

Keep: TypeAlias = Literal["last", "first", "error"]
"""Which of two rows at one position stays."""


class RewritingLogs(RacingLogs):
    """Logs whose rows become chunks."""

    def rewrite(
        self,
        key: str,
        lo: Position,
        hi: Position,
        *,
        add: Segment | None = None,
        remove: bool = False,
        keep: Keep = "last",
        view: View | None = None,
    ) -> bool:
        """Turn everything from `lo` to `hi`, with the rows of `add` on top, into chunks; `remove` leaves the rest out.

        The rows of `add` come in any order. With `keep` "first", rows that are there stay what they are; with "error",
        one at a position of `add` raises `StoreIntegrityError`. A caller that has viewed the range with its neighbours,
        with bodies or without, gives the `view`. Returns whether there was a log.

        It reads and encodes without holding a lock, and commits only if no concurrent rewrite was faster; else it
        starts again. Rows that were replaced meanwhile survive the commit and overlay the new chunks.
        """
        # A removal opens the chunks at its ends only.
        query = ViewQuery(lo, hi, bodies=not remove, neighbours=not remove)
        views = [self.view(key, query) if view is None else view]
        if len(views[0].rows) > self.max_rows:
            self._pack_ahead(key, lo, hi, self.max_rows)
            views = []

        def attempt(logs: RewritingLogs) -> bool | None:
            incarnation = logs.incarnation
            view = views.pop() if views else logs.view(key, query)
            if view.head is None and add is None:
                return False
            logs.check_kind(key, view.head)
            if (chunks := logs._replaced(key, view, lo, hi, remove=remove)) is None:
                return None
            kept: list[Segment] = []
            for segment in [logs.open_chunk(key, chunk, view.head) for chunk in chunks if chunk.body]:
                if remove:
                    kept.append(segment.slice(0, segment.index(lo)))
                    kept.append(segment.slice(segment.index(hi, after=True), len(segment)))
                else:
                    kept.append(segment)
            if not remove:
                kept.append(logs.segment(logs.open_rows(key, view.rows, view.head)))
            create = logs.new_head()
            commit = Commit(
                create=create,
                if_epoch=None if view.head is None else view.head.epoch,
                epoch=new_stamp(),
                drop_rows=view.rows,
                drop_chunks=[chunk.first for chunk in chunks],
                put_chunks=logs.seal_chunks(key, logs._merged(key, kept, add, keep), view.head or create),
                drop_if_empty=logs._model is Model.SERIES,
            )
            return logs.commit(key, commit, incarnation) or None

        done = self.retry_conflicts(key, attempt)
        if done:
            self._writable.note(_logger, Occurrence.PACK, "%s is packed into chunks", self._writable.place(key))
        return done

    def _pack_ahead(self, key: str, lo: Position, hi: Position, share: int) -> None:
        """Put hot rows into chunks, unseen by readers, until the backend can drop the `share` that is left at once."""
        most = self.max_rows
        with suppress(StoreFullError):  # a removal makes room: then all of it goes in one step
            while len(rows := self.view(key, ViewQuery(lo, hi, limit=most + 1, bodies=False)).rows) > share:
                self.rewrite(key, position_of(rows[0]), position_of(rows[:most][-1]))

    def _replaced(self, key: str, view: View, lo: Position, hi: Position, *, remove: bool) -> list[Chunk] | None:
        """Return the chunks that a rewrite replaces, with the bodies of those that it has to open.

        Returns None if a concurrent rewrite was faster.
        """
        if remove:
            overlap = [chunk for chunk in view.chunks if _overlaps(chunk, lo, hi)]
            whole = [chunk for chunk in overlap if lo <= chunk.first and chunk.last <= hi]
            ends = [(chunk.first, chunk.first) for chunk in overlap if chunk.first < lo or chunk.last > hi]
        else:  # with undersized neighbours, so that no trail of small chunks is left
            whole = [chunk for chunk in view.chunks if chunk.n < self._min_rows or _overlaps(chunk, lo, hi)]
            ends = []
            if not all(chunk.body for chunk in whole):
                whole, ends = [], [(whole[0].first, whole[-1].last)]
        for first, last in ends:
            again = self.view(key, ViewQuery(first, last, rows=False))
            if again.head is None or view.head is None or again.head.epoch != view.head.epoch:
                return None
            whole += again.chunks
        return [chunk for chunk in whole if _overlaps(chunk, lo, hi) or len(chunk.body) < MAX_BYTES // 4]

    def _merged(self, key: str, kept: list[Segment], add: Segment | None, keep: Keep) -> Segment:
        if add is None:
            return merge(kept)
        if keep == "error":
            for segment in kept:
                taken = np.isin(add.t, segment.t)
                if taken.any():
                    raise self.taken(key, int(add.t[taken.argmax()]))
        return merge([*kept, add] if keep == "last" else [add, *kept])


def _overlaps(chunk: Chunk, lo: Position, hi: Position) -> bool:
    return chunk.last >= lo and chunk.first <= hi
