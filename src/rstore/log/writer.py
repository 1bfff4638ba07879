"""The log: hot rows + sealed chunks, shared by series and events.

Nouns: *rows* (one point or change each, written blindly), *chunks* (thousands of rows, columnar and compressed) and
the *rewrite* (the one way from rows to chunks, and from chunks to other chunks).
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from random import Random
from typing import Final, Literal, TypeAlias, TypedDict, TypeVar

import numpy as np

from rstore.backends.common.after_commit import behind_commit
from rstore.backends.contract import WriteTransaction
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    MAX_SEQ,
    Chunk,
    Commit,
    Expected,
    Head,
    Log,
    Model,
    NamespaceGone,
    Position,
    RolledBack,
    Row,
    View,
    close_scope,
)
from rstore.codec.chunk_meta import pack_meta
from rstore.codec.chunks import pack_chunk
from rstore.codec.envelope import Cell, at_run
from rstore.codec.segments import MAX_BYTES, MIN_CHANGES, MIN_ROWS, Segment, merge, split
from rstore.codec.threads import spread
from rstore.errors import (
    CorruptionError,
    KeyRequiredError,
    PlaintextError,
    StoreError,
    StoreFullError,
    StoreIntegrityError,
)
from rstore.log.reader import LogReader, Namespace, mark_of, position_of

T = TypeVar("T")
_log: Final = logging.getLogger("rstore.log")
Keep: TypeAlias = Literal["last", "first", "error"]
"""Which of two rows at one position stays."""

STAMP_BYTES: Final = 16

DIRECT_ROWS: Final = 1024
"""A batch of this many rows is sealed at once: passing through hot rows would take longer, and more bytes."""

THIN: Final = 32
"""… unless it falls into chunks with this many times its rows: then putting hot rows is less work than rewriting."""

HOT_ROWS: Final = 16384
HOT_CHANGES: Final = 4096
HOT_BYTES: Final = 8 * 1024 * 1024
"""A log with more hot points or changes, or more bytes in them, is due for sealing."""

MAX_HOT_ROWS: Final = 4 * HOT_ROWS
"""With more of them, even a thin batch is worth a rewrite: it folds all hot rows that lie in its range."""

CHECK_EVERY: Final = 256
"""How many rows are written, on average, between two looks at whether a log is due.

Chosen at random, not counted: a counter in the head would make all writers of a log wait for one row, and a counter
in the process never gets anywhere in programs that write one point and end.
"""

FOLD_CHUNKS: Final = 8
"""How many chunks one folding of late rows rewrites at most; it bounds the work of the write that it happens in."""

RACES: Final = 3
"""After so many lost races a rewrite holds the lock while it works."""

MAX_RACES: Final = 10
"""After so many, whoever was undone although it held the lock gives up."""


def new_stamp() -> bytes:
    """Return a new epoch or version.

    Random, not counted: a counter that comes back after a removal or a failover would let a stale commit through.
    """
    return os.urandom(STAMP_BYTES)


class Laid(TypedDict, total=False):
    """The part of a commit that says where rows go."""

    put_rows: list[Row]
    put_chunks: list[Chunk]


class _Written(Counter[str]):
    """How many rows were written into which logs."""

    def add(self, key: str, rows: int) -> None:
        """Count some more."""
        self[key] += rows


class Logs(LogReader):
    """All logs of one model in one namespace. Threads may share it."""

    def __init__(self, session: Namespace, model: Model) -> None:
        super().__init__(session, model)
        self.put_off: Callable[[str, int], None] | None = None
        """What remembers rows that were written, where sealing has to wait: until a transaction has ended."""
        self._random = Random(os.urandom(8))  # noqa: S311 - spreads work, keeps no secret
        self._until_check = self._random.randrange(2 * CHECK_EVERY)

    @property
    def incarnation(self) -> bytes:
        """The incarnation of the namespace: to be taken before anything is sealed that is written with it."""
        return self._namespace.incarnation

    @property
    def max_rows(self) -> int:
        """How many hot rows one step writes without holding everybody else up for long."""
        return self._backend.max_rows

    @property
    def _least(self) -> int:
        """How many rows a chunk has at least."""
        return MIN_ROWS if self._model is Model.SERIES else MIN_CHANGES

    # -- writing ------------------------------------------------------------------------------------------------------

    def seal_rows(self, key: str, rows: Sequence[tuple[int, int, bytes]], head: Head | None = None) -> list[Row]:
        """Return hot rows with their bodies sealed; changes for the log that has this head."""
        if not self._envelope.keyed:
            return [*map(Row._make, rows)]
        seal, position = self._envelope.seal, self._kind.position
        where = self._envelope.where(self._kind.row, key)
        if not self._kind.opaque:
            return [Row(t, seq, seal(body, where, position(t, seq))) for t, seq, body in rows]
        mark = mark_of(self._model, head)
        return [Row(t, seq, seal(body, where, position(t, seq) + mark)) for t, seq, body in rows]

    def append(self, key: str, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Put a few rows, whatever stood at their positions, without reading anything."""
        patience = None
        while True:
            incarnation = self.incarnation
            sealed = self.seal_rows(key, rows)
            try:
                done = self._backend.append(Log(self._model, key), self.new_head(), sealed, incarnation)
            except NamespaceGone:
                patience = self._namespace.revive(patience)
                continue
            if not done:
                raise self._wrong_kind(key)
            return self.wrote(key, len(rows))

    def put(self, key: str, batch: Segment) -> None:
        """Put the rows of a series, whatever stood at their positions.

        As hot rows if they are few, or fall thinly into many chunks; as chunks otherwise.
        """
        lo, hi = batch.position(0), batch.position(len(batch) - 1)
        if len(batch) < DIRECT_ROWS or self._is_thin(key, batch, lo, hi):
            self.append(key, [(t, 0, body) for t, body in zip(batch.t.tolist(), batch.column.encoded(), strict=True)])
        else:
            self.rewrite(key, lo, hi, add=batch)

    def _is_thin(self, key: str, batch: Segment, lo: Position, hi: Position) -> bool:
        touched = sum(chunk.n for chunk in self.view(key, lo, hi, rows=False, bodies=False).chunks)
        if touched <= THIN * len(batch) or len(batch) > self._backend.max_rows:
            return False
        hot, _ = self._backend.hot(Log(self._model, key))
        return hot + len(batch) <= min(MAX_HOT_ROWS, 8 * self._backend.max_rows)

    def commit(self, key: str, commit: Commit, incarnation: bytes) -> bool:
        """Do all of a commit, or return False if a condition does not hold."""
        try:
            return self._backend.commit(Log(self._model, key), commit, incarnation)
        except NamespaceGone:
            self._namespace.revive()
            return False

    def drop(self, key: str, *, if_version: Expected = ANY) -> bool:
        """Delete a log with everything it holds, if its version is still that one; return whether it was done."""
        patience = None
        while True:
            incarnation = self.incarnation
            try:
                return self._backend.drop(Log(self._model, key), if_version=if_version, if_incarnation=incarnation)
            except NamespaceGone:
                patience = self._namespace.revive(patience)

    def new_head(self, facts: bytes = b"") -> Head:
        """Return the head of a log that is about to begin: sealed if there is a key, for good."""
        return Head(new_stamp(), new_stamp(), self._envelope.keyed, facts)

    def check_kind(self, key: str, head: Head | None) -> None:
        """Refuse to write sealed rows into a plain log, and the other way round."""
        if head is not None and not self._envelope.admits(sealed=head.sealed):
            raise self._wrong_kind(key)

    def _wrong_kind(self, key: str) -> StoreError:
        what = self._described(key)
        if self._envelope.keyed:
            return PlaintextError(f"{what} is not encrypted: a store with a key cannot write into it")
        return KeyRequiredError(f"{what} is encrypted: a store without a key cannot write into it")

    def together(
        self,
        keys: Collection[str],
        work: Callable[[Logs], T],
        *,
        create: bool = False,
        within: tuple[Position, Position] | None = (FIRST, LAST),
    ) -> T:
        """Return what `work` does to several logs as to one, where the backend can, if need be more than once.

        `create`: it puts rows, too, through the logs that it is given; `within`: where it drops hot rows.
        """
        if len(keys) < 2 or not self._backend.transactional:
            return work(self)
        if within is not None:  # what is hot goes into chunks before, so that all of them together are not too many
            for key in keys:
                self._fold_ahead(key, *within, among=len(keys))
        races = 0
        while True:
            written = _Written()
            locked = sorted(keys) if races >= RACES else ()
            scopes: list[AbstractContextManager[WriteTransaction]] = []
            try:
                with ExitStack() as stack:
                    backend = self._backend
                    for key in locked:
                        scopes.append(backend.exclusive(Log(self._model, key)))
                        backend = stack.enter_context(scopes[-1])
                    scopes.append(backend.transaction(create=create, serializable=False))
                    done = work(self._within(stack.enter_context(scopes[-1]), written.add))
                break
            except RolledBack:
                races += 1
                if races == MAX_RACES:
                    raise
            finally:
                for scope in reversed(scopes):
                    close_scope(scope)
        for key, rows in written.items():
            self.wrote(key, rows)  # not before the end: others must not wait for a compression
        return done

    def _within(self, backend: WriteTransaction, put_off: Callable[[str, int], None] | None) -> Logs:
        """Return these logs as a transaction sees them."""
        inside = Logs(self._namespace.within(backend), self._model)
        inside.put_off = put_off
        return inside

    def until_won(self, key: str, attempt: Callable[[Logs], T | None], *, rows: int = 0) -> T:
        """Return what an attempt returns that was not overtaken by somebody else; None says that it was.

        After some lost races it holds the lock while it tries. `rows` is how many it writes.

        Raises `StoreBusyError` if it lost every race until the time-out, also those in which it held the lock.
        """
        races, patience = 0, None
        while True:
            won = attempt(self) if races < RACES else self._alone(key, attempt, last=races >= MAX_RACES)
            if won is not None:
                self.wrote(key, rows)  # not before the lock is released: others must not wait for a compression
                return won
            races += 1
            if races > RACES:  # who holds the lock is not overtaken, unless what is stored contradicts itself
                where = self._namespace.place(key)
                patience = self._namespace.again(patience, f"others were faster in changing {where}")

    def _alone(self, key: str, attempt: Callable[[Logs], T | None], *, last: bool) -> T | None:
        scope = self._backend.exclusive(Log(self._model, key))
        try:
            with scope as backend:
                return attempt(self._within(backend, self.put_off))
        except RolledBack:
            if last:
                raise
            return None
        finally:
            close_scope(scope)

    # -- rewriting ----------------------------------------------------------------------------------------------------

    def rewrite(
        self,
        key: str,
        lo: Position,
        hi: Position,
        *,
        add: Segment | None = None,
        remove: bool = False,
        keep: Keep = "last",
    ) -> bool:
        """Turn everything from `lo` to `hi`, with the rows of `add` on top, into chunks; `remove` leaves the rest out.

        Reads from one snapshot, encodes without holding a lock, and commits only if nobody else rewrote the log
        meanwhile; otherwise it starts again. Rows that were replaced meanwhile survive the commit and overlay the new
        chunks. With `keep` "first", rows that are there stay what they are; with "error", one at a position of `add`
        raises `StoreIntegrityError`. Returns whether there was a log.
        """
        self._fold_ahead(key, lo, hi)

        def attempt(logs: Logs) -> bool | None:
            incarnation = logs.incarnation
            view = logs.view(key, lo, hi, bodies=not remove, neighbours=not remove)
            if view.head is None and add is None:
                return False
            self.check_kind(key, view.head)
            kept: list[Segment] | None
            if remove:
                kept = logs._remainders(key, view, lo, hi)
                chunks = view.chunks
            else:
                chunks = self._worth_rewriting(view.chunks, lo, hi)
                kept = [self.open_chunk(key, chunk, view.head) for chunk in chunks]
                kept.append(self.segment(self.open_rows(key, view.rows, view.head)))
            if kept is None:
                return None
            commit = self._rewriting(key, view, chunks, self._added(key, kept, add, keep))
            return logs.commit(key, commit, incarnation) or None

        done = self.until_won(key, attempt)
        if done:
            self._namespace.telemetry.note(
                _log, Occurrence.SEAL, "%s is packed into chunks", self._namespace.place(key)
            )
        return done

    def _fold_ahead(self, key: str, lo: Position, hi: Position, *, among: int = 1) -> None:
        """Put hot rows into chunks, which nobody sees, until the backend can drop those that are left in one step.

        `among`: so many logs share that step.
        """
        most = self._backend.max_rows
        share = max(1, most // among)
        if most == MAX_SEQ or self._backend.hot(Log(self._model, key))[0] <= share:
            return
        with suppress(StoreFullError):  # what is to be removed makes room: then all of it goes in one step
            while len(rows := self.view(key, lo, hi, limit=most + 1, bodies=False).rows) > share:
                self.rewrite(key, position_of(rows[0]), position_of(rows[:most][-1]))

    def _worth_rewriting(self, chunks: Sequence[Chunk], lo: Position, hi: Position) -> list[Chunk]:
        """Return the chunks that overlap, and their neighbours if undersized: so no trail of small chunks is left."""
        return [
            chunk
            for chunk in chunks
            if (chunk.last >= lo and chunk.first <= hi) or (chunk.n < self._least and len(chunk.body) < MAX_BYTES // 4)
        ]

    def _remainders(self, key: str, view: View, lo: Position, hi: Position) -> list[Segment] | None:
        """Return what chunks hold outside of a range, fetching only those; None if they were rewritten meanwhile."""
        kept: list[Segment] = []
        for chunk in view.chunks:
            if lo <= chunk.first and chunk.last <= hi:
                continue  # goes as a whole: no need to fetch it
            again = self.view(key, chunk.first, chunk.first, rows=False)
            if again.head is None or view.head is None or again.head.epoch != view.head.epoch:
                return None
            segment = self.open_chunk(key, again.chunks[0], again.head)
            kept.append(segment.slice(0, segment.index(lo)))
            kept.append(segment.slice(segment.index(hi, after=True), len(segment)))
        return kept

    def _added(self, key: str, kept: list[Segment], add: Segment | None, keep: Keep) -> Segment:
        if add is None:
            return merge(kept)
        if keep == "last":
            return merge([*kept, add])
        known = merge(kept)
        if keep == "error":
            taken = np.isin(add.t, known.t, assume_unique=True)
            if taken.any():
                raise self.taken(key, int(add.t[taken.argmax()]))
        return merge([add, known])

    def taken(self, key: str, t: int) -> StoreIntegrityError:
        """Return the error for a point at a timestamp that has one."""
        return StoreIntegrityError(f"the timestamp {t} of {self._namespace.place(key)} is taken; nothing was stored")

    def _rewriting(self, key: str, view: View, chunks: Sequence[Chunk], rows: Segment) -> Commit:
        create = self.new_head()
        return Commit(
            create=create,
            if_epoch=None if view.head is None else view.head.epoch,
            epoch=new_stamp(),
            drop_rows=view.rows,
            drop_chunks=[chunk.first for chunk in chunks],
            put_chunks=self._seal_chunks(key, rows, view.head or create),
            drop_if_empty=self._model is Model.SERIES,
        )

    def compact(self, key: str) -> tuple[int, int, int]:
        """Seal all hot rows, and join chunks that are too small; return (hot rows, chunks before, chunks after)."""
        view = before = self.view(key, bodies=False)
        while view.rows:
            self.seal(key, view)
            view, sealed = self.view(key, bodies=False), view
            if view.rows == sealed.rows:
                raise CorruptionError(f"the rows of {self._namespace.place(key)} are damaged: check() says more")
        small: list[Chunk] = []
        for chunk in [*view.chunks, None]:
            if chunk is not None and chunk.n < self._least:
                small.append(chunk)
            elif len(small) > 1:
                self.rewrite(key, small[0].first, small[-1].last)
                small = []
            else:
                small = []
        return len(before.rows), len(before.chunks), len(self.view(key, rows=False, bodies=False).chunks)

    def _seal_chunks(self, key: str, rows: Segment, head: Head) -> list[Chunk]:
        pieces = list(split(rows, self._least))
        # Here, and not where the chunks are packed: threads that do many small things wait for one another at each.
        metas = [pack_meta(piece) if self._model is Model.SERIES else b"" for piece in pieces]
        return list(spread(partial(self._seal_chunk, key, head), list(zip(pieces, metas, strict=True))))

    def _seal_chunk(self, key: str, head: Head, piece: tuple[Segment, bytes]) -> Chunk:
        segment, meta = piece
        first, last, n = segment.position(0), segment.position(len(segment) - 1), len(segment)
        place, seal = at_run(first, last, n) + mark_of(self._model, head), self._envelope.seal_block
        body = seal(pack_chunk(segment), self._envelope.where(self._kind.chunk, key), place)
        if meta:
            meta = seal(meta, self._envelope.where(Cell.META, key), place)
        return Chunk(first, last, n, meta, body)

    def lay_out(self, key: str, rows: Sequence[tuple[int, int, bytes]], head: Head) -> Laid:
        """Return where opaque rows go that replace a whole log, which then has this head: hot if few, else chunks."""
        if len(rows) < DIRECT_ROWS:
            return {"put_rows": self.seal_rows(key, rows, head)}
        segment = self.segment([Row(*row) for row in rows])
        return {"put_chunks": self._seal_chunks(key, segment, head)}

    def wrote(self, key: str, rows: int) -> None:
        """Count rows that were written, and now and then seal what is due."""
        if self.put_off is not None:
            return self.put_off(key, rows)
        self._until_check -= rows
        if self._until_check >= 0:
            return None
        self._until_check = CHECK_EVERY  # where it fails the rows stay hot, and the next look is soon
        with behind_commit(f"the sealing of {self._namespace.place(key)}"):
            n, size = self._backend.hot(Log(self._model, key))
            most = min(HOT_ROWS, 4 * self._backend.max_rows) if self._model is Model.SERIES else HOT_CHANGES
            if n >= most or (size >= HOT_BYTES and n > 1):
                self.seal(key, self.view(key, bodies=False))
            self._until_check = self._random.randrange(2 * CHECK_EVERY)
        return None

    def seal(self, key: str, view: View) -> None:
        """Seal the tail of a log, or fold the late rows into the chunks where most of them fall.

        One call rewrites the tail or at most `FOLD_CHUNKS` chunks.
        """
        rows, chunks = view.rows, view.chunks
        late = bisect_right(rows, chunks[-1].last, key=position_of) if chunks else 0
        if not rows:
            return
        if late * 2 <= len(rows):
            self.rewrite(key, position_of(rows[late]), position_of(rows[-1]))
            return
        firsts = [chunk.first for chunk in chunks]
        chunk_of = [max(0, bisect_right(firsts, position_of(row)) - 1) for row in rows[:late]]
        best = max(range(late), key=lambda i: bisect_right(chunk_of, chunk_of[i] + FOLD_CHUNKS - 1) - i)
        end = bisect_right(chunk_of, chunk_of[best] + FOLD_CHUNKS - 1)
        self.rewrite(key, position_of(rows[best]), position_of(rows[end - 1]))
