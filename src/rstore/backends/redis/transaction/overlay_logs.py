"""Logs as a transaction sees them: those that are stored, and over them what the transaction has changed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final

from rstore.backends.common.heads import admits
from rstore.backends.redis.logs.members import pack_chunk, unpack_chunk
from rstore.backends.redis.transaction.changes import LogChanges
from rstore.backends.redis.transaction.overlay import Overlay
from rstore.backends.redis.transport.calls import Call
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_ONLY,
    IDS_HEAD,
    LAST,
    Chunk,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    HeldLogSnapshot,
    Log,
    LogSnapshot,
    Model,
    Position,
    RolledBack,
    Row,
    View,
    ViewQuery,
    first_of,
    ids_of,
    overlapping,
    position_before,
)

_ANY_VIEW: Final = ViewQuery()


class OverlayLogs(Overlay):
    """The methods on logs."""

    def logs(self, model: Model) -> list[str]:
        self._begin_call()
        found: set[str] = set()
        if not self._nowhere:
            self._watch([self._bucket.logs(model)])
            found.update(self._stored.read_logs(model))
        for log, changes in self._changes.logs.items():
            if log.model == model:
                (found.discard if changes.head is None else found.add)(log.key)
        return sorted(found)

    def view(self, log: Log, query: ViewQuery = _ANY_VIEW) -> View:
        self._begin_call()
        if self._nowhere:
            return View(self._now_ms(), None)
        self._watch_log(log, b"c" + (b"r" if query.rows else b"") + (b"k" if query.from_checkpoint else b""))
        changes = self._changes.logs.get(log)
        if changes is None:
            return self._saw(log, self._stored.read_view(log, query))
        now_ms = self._now_ms()
        if changes.head is None or changes.head.version == query.unless_version:
            return View(now_ms, changes.head)
        checkpoint = None if query.from_checkpoint is None else self._checkpoint(log, changes, query.from_checkpoint)
        if checkpoint is not None:
            query = query._replace(lo=(checkpoint.t, checkpoint.seq + 1))
        hot = self._rows(log, changes, query) if query.rows else []
        index = self._index(log, changes)
        chunks = [unpack_chunk(index[first], b"") for first in sorted(index)]
        chunks = overlapping(chunks, query.lo, query.hi, neighbours=query.neighbours)
        if query.limit is not None:
            hot, chunks = first_of(hot, chunks, query.limit, reverse=query.reverse)
        if query.bodies:
            chunks = self._with_bodies(log, chunks, [index[chunk.first] for chunk in chunks])
        return View(now_ms, changes.head, hot, chunks, checkpoint)

    def views(self, logs: Sequence[Log], query: ViewQuery = _ANY_VIEW) -> list[View]:
        self._begin_call()
        stored = [] if self._nowhere else [log for log in logs if log not in self._changes.logs]
        self._watch(name for log in stored for name in self._bucket.parts(log, b"cr"))
        found = self._stored.read_views(stored, query)
        views = {log: self._saw(log, view) for log, view in zip(stored, found, strict=True)}
        return [views[log] if log in views else self.view(log, query) for log in logs]

    @contextmanager
    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[LogSnapshot, None, None]:
        if self._nowhere or log in self._changes.logs:
            yield HeldLogSnapshot(self.view(log, ViewQuery(lo, hi)))
            return
        self._begin_call()
        self._watch_log(log, b"cr")
        with self._stored.log_snapshot(log, lo, hi) as snapshot:
            self._saw(log, snapshot.view)
            yield snapshot

    def hot(self, log: Log) -> tuple[int, int]:
        # Packing is for the next writer: inside, it would make the transaction larger by the whole tail of the log, and
        # meet all others that write to it.
        return 0, 0

    def _rows(self, log: Log, changes: LogChanges, query: ViewQuery) -> list[Row]:
        stored: Sequence[Row] = ()
        if changes.based:
            # So many more than are asked for as may be gone inside.
            gone = len(changes.rows) + len(changes.dropped_rows)
            limit = None if query.limit is None else query.limit + gone
            rows = ViewQuery(query.lo, query.hi, limit, query.reverse, bodies=False)
            stored = self._saw(log, self._stored.read_view(log, rows)).rows
        return changes.rows_over(stored, query.lo, query.hi)

    def _checkpoint(self, log: Log, changes: LogChanges, until: Position | None) -> Row | None:
        """Return the newest checkpoint at or before a position."""
        ours = [Row(*position, body) for position, body in changes.checkpoints.items() if until and position <= until]
        start = changes.no_checkpoints_from
        if start is not None and until is not None and start <= until:
            until = position_before(start)
        if changes.based and until is not None:
            self._watch_log(log, b"k")
            view = self._saw(log, self._stored.read_view(log, HEAD_ONLY._replace(from_checkpoint=until)))
            if view.checkpoint is not None and (*view.checkpoint[:2],) not in changes.checkpoints:
                ours.append(view.checkpoint)
        return max(ours, default=None)

    def _index(self, log: Log, changes: LogChanges) -> dict[Position, bytes]:
        if changes.chunks is None:
            self._watch_log(log, b"c")
            ask = Call(self._bucket.slot, (b"ZRANGE", self._bucket.log(b"c", log), b"0", b"-1"))
            changes.chunks = _indexed(self._namespace.client.call(ask)) if changes.based else {}
        return changes.chunks

    def _with_bodies(self, log: Log, chunks: Sequence[Chunk], entries: Sequence[bytes]) -> list[Chunk]:
        bodies = self._stored.read_bodies(self._bucket, entries)
        if bodies is None:
            where = f"{log.key!r} in the namespace {self._namespace.name!r}"
            raise RolledBack(f"what was read of {where} was replaced long ago; nothing was applied")
        return [chunk._replace(body=body) for chunk, body in zip(chunks, bodies, strict=True)]

    def _saw(self, log: Log, view: View, *, changed: bool = False) -> View:
        """Return a view of the stored log, whose head must not change, at least since the log was changed inside."""
        if not (self._serializable or changed or log in self._heads):
            return view
        if log not in self._heads:
            self._grow(1)
        if self._heads.setdefault(log, view.head) != view.head:
            raise self._overtaken(f"{log.key!r}")
        return view

    def _watch_log(self, log: Log, kinds: bytes) -> None:
        self._watch(self._bucket.parts(log, kinds))

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        self._begin_put(incarnation)
        changes = self._changes_of(log)
        if changes.head is not None and changes.head.sealed != head.sealed:
            return False
        self._add(len(rows))
        changes.head = changes.head or head
        changes.put(rows)
        self._changes.logs[log] = changes
        return True

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        self._begin_put(incarnation)
        changes = self._changes_of(log)
        if not admits(changes.head, commit):
            return False
        if commit.drop_chunks or commit.put_chunks:
            index = self._index(log, changes)
            if not set(commit.drop_chunks) <= index.keys():
                return False  # a chunk that is to be dropped: a concurrent rewrite was faster
        beside = self._with_ids(ids_of(log), commit) if commit.put_ids else None
        if beside is not None and beside.head is None:
            return False
        lists = (commit.put_rows, commit.drop_rows, commit.put_chunks, commit.drop_chunks, commit.put_checkpoints)
        self._add(1 + sum(map(len, (*lists, commit.put_ids, commit.drop_ids))))
        entries = list(map(pack_chunk, commit.put_chunks))
        self._stored.stage(self._bucket, entries, commit.put_chunks)
        if commit.drop_if_empty:
            changes = changes.copy()  # what follows may fail
        changes.apply(commit, _indexed(entries))
        if commit.drop_if_empty and self._is_empty(log, changes):
            self._always_watch(self._bucket.parts(log, b"rc"))
            if self._is_empty(log, changes):
                changes = changes.dropped()
        self._changes.logs[log] = changes
        if beside is not None:
            self._changes.logs[ids_of(log)] = beside
        return True

    def _with_ids(self, log: Log, commit: Commit) -> LogChanges:
        """Return the changes of a log of ids with those of a commit; without a head if one is there already."""
        changes = self._changes_of(log).copy()
        self._always_watch(self._bucket.parts(log, b"r"))
        found = (row for t, seq, _ in commit.put_ids for row in self.view(log, ViewQuery((t, seq), (t, seq))).rows)
        if not all(row in commit.drop_ids for row in found):
            return LogChanges(None, None, based=False)
        changes.apply(Commit(create=IDS_HEAD, drop_rows=commit.drop_ids, put_rows=commit.put_ids), {})
        return changes

    def _is_empty(self, log: Log, changes: LogChanges) -> bool:
        self._watch_log(log, b"rc")
        return not (self._rows(log, changes, ViewQuery(limit=1)) or self._index(log, changes))

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._begin_removal(if_incarnation)
        if self._nowhere:
            return False
        changes = self._changes_of(log)
        if changes.head is None or if_version not in (ANY, changes.head.version):
            return False
        self._add(1)
        self._changes.logs[log] = changes.dropped()
        return True

    def _changes_of(self, log: Log) -> LogChanges:
        """Return the changes of a log, or the beginning of them."""
        if log in self._changes.logs:
            return self._changes.logs[log]
        head = self._saw(log, self._stored.read_view(log, HEAD_ONLY), changed=True).head
        return LogChanges(head, head, based=head is not None)

    def _add(self, n: int) -> None:
        self._grow(n)
        self._changes.n += n


def _indexed(entries: Iterable[bytes]) -> dict[Position, bytes]:
    """Return entries of an index by the positions of the first rows."""
    return {unpack_chunk(entry, b"").first: entry for entry in entries}
