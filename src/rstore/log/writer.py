"""Writing a log: rows and chunks are sealed, appended and committed, one atomic step at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final, Self

from rstore.backends.contract import WriteTransaction
from rstore.backends.types import ANY, Chunk, Commit, Expected, Head, Log, Model, NamespaceGone, Row
from rstore.codec.change_meta import pack_commits
from rstore.codec.chunk_meta import pack_meta
from rstore.codec.chunks import pack_chunk
from rstore.codec.envelope import Cell, at_run
from rstore.codec.segments import MIN_CHANGES, MIN_ROWS, Segment, split
from rstore.codec.threads import spread
from rstore.errors import StoreIntegrityError
from rstore.log.reader import LogReader, mark_of
from rstore.namespace import Namespace, revives

STAMP_BYTES: Final = 16


def new_stamp() -> bytes:
    """Return a new epoch or version.

    Random, not counted: a counter that comes back after a removal or a failover would let a stale commit through.
    """
    return os.urandom(STAMP_BYTES)


class LogWriter(LogReader):
    """Writes the logs of one model in one namespace. Threads may share it."""

    def __init__(self, namespace: Namespace, model: Model, written: Counter[str] | None = None) -> None:
        """`written` counts the rows of each log that a transaction writes, for its owner to pack behind its end."""
        super().__init__(namespace, model)
        self._writable = namespace
        self.written = written

    @property
    def _backend(self) -> WriteTransaction:
        return self._writable.backend

    @property
    def incarnation(self) -> bytes:
        """The incarnation of the namespace: to be taken before anything is sealed that is written with it."""
        return self._writable.incarnation

    @property
    def max_rows(self) -> int:
        """How many hot rows one step writes without holding up all other clients for long."""
        return self._backend.max_rows

    @property
    def _min_rows(self) -> int:
        """How many rows a chunk has at least."""
        return MIN_ROWS if self._model is Model.SERIES else MIN_CHANGES

    def within(self, tx: WriteTransaction) -> Self:
        """Return these logs as a transaction sees them."""
        return type(self)(self._writable.within(tx), self._model, Counter())

    # -- sealing ------------------------------------------------------------------------------------------------------

    def seal_rows(self, key: str, rows: Sequence[tuple[int, int, bytes]], head: Head | None = None) -> list[Row]:
        """Return hot rows with their bodies sealed; `head` is that of the log, which changes need."""
        if not self.envelope.keyed:
            return [*map(Row._make, rows)]
        seal, position = self.envelope.seal, self._kind.position
        where = self.envelope.where(self._kind.row, key)
        mark = mark_of(self._model, head) if self._kind.opaque else b""  # points are put without looking at the head
        return [Row(t, seq, seal(body, where, position(t, seq) + mark)) for t, seq, body in rows]

    def seal_chunks(self, key: str, rows: Segment, head: Head) -> list[Chunk]:
        """Return rows as sealed chunks of a log with this head."""
        pieces = list(split(rows, self._min_rows))
        # Here, and not where the chunks are packed: threads that do many small things wait for one another at each.
        metas = [*map(pack_meta if self._model is Model.SERIES else pack_commits, pieces)]
        return list(spread(partial(self._seal_chunk, key, head), list(zip(pieces, metas, strict=True))))

    def _seal_chunk(self, key: str, head: Head, piece: tuple[Segment, bytes]) -> Chunk:
        segment, meta = piece
        first, last, n = segment.position(0), segment.position(len(segment) - 1), len(segment)
        place, seal = at_run(first, last, n) + mark_of(self._model, head), self.envelope.seal_block
        body = seal(pack_chunk(segment), self.envelope.where(self._kind.chunk, key), place)
        return Chunk(first, last, n, seal(meta, self.envelope.where(Cell.META, key), place), body)

    def new_head(self, facts: bytes = b"") -> Head:
        """Return the head of a log that is about to begin: sealed if there is an encryption key, for good."""
        return Head(new_stamp(), new_stamp(), self.envelope.keyed, facts)

    # -- writing ------------------------------------------------------------------------------------------------------

    @revives
    def append(self, key: str, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Put a few rows, replacing those at their positions, without reading anything."""
        incarnation = self.incarnation
        sealed = self.seal_rows(key, rows)
        if not self._backend.append(Log(self._model, key), self.new_head(), sealed, incarnation):
            raise self._wrong_kind(key)

    def commit(self, key: str, commit: Commit, incarnation: bytes) -> bool:
        """Do all of a commit, or return False if a condition does not hold."""
        try:
            return self._backend.commit(Log(self._model, key), commit, incarnation)
        except NamespaceGone:
            self._writable.revive()
            return False

    @revives
    def drop(self, key: str, *, if_version: Expected = ANY) -> bool:
        """Delete a log with everything it holds, if its version is still that one; return whether it was done."""
        return self._backend.drop(Log(self._model, key), if_version=if_version, if_incarnation=self.incarnation)

    @revives
    def drop_ids(self, key: str) -> bool:
        """Delete all ids of a sequence; return whether there were any."""
        return self._backend.drop(Log(Model.IDS, key), if_incarnation=self.incarnation)

    def taken(self, key: str, t: int) -> StoreIntegrityError:
        """Return the error for a point at a timestamp that has one."""
        return StoreIntegrityError(f"the timestamp {t} of {self._namespace.place(key)} is taken; nothing was stored")
