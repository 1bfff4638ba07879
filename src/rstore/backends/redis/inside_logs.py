"""Logs as a transaction sees them: what is stored, and over it what the transaction has changed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rstore.backends.redis.changes import LogChanges
from rstore.backends.redis.inside import Inside
from rstore.backends.redis.layout import unpack_chunk
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    MAX_SEQ,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    HeldSnapshot,
    Log,
    Model,
    Position,
    Row,
    Snapshot,
    View,
    first_of,
    overlapping,
)


class InsideLogs(Inside):
    """The methods on logs."""

    def logs(self, model: Model) -> list[str]:
        found: set[str] = set()
        if not self._nowhere:
            self._watching([self._place.logs(model)])
            found.update(self._plain.logs(model))
        for log, changes in self._changes.logs.items():
            if log.model == model:
                (found.discard if changes.head is None else found.add)(log.key)
        return sorted(found)

    # -- reading ------------------------------------------------------------------------------------------------------

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        if self._nowhere:
            return View(self._plain.now_ms(self._place), None)
        self._watch_log(log, b"c" + (b"r" if rows else b"") + (b"k" if from_checkpoint else b""))
        changes = self._changes.logs.get(log)
        if changes is None:
            return self._saw(
                log,
                self._plain.view(
                    log,
                    lo,
                    hi,
                    limit=limit,
                    reverse=reverse,
                    rows=rows,
                    bodies=bodies,
                    neighbours=neighbours,
                    from_checkpoint=from_checkpoint,
                    unless_version=unless_version,
                ),
            )
        now_ms = self._plain.now_ms(self._place)
        if changes.head is None or changes.head.version == unless_version:
            return View(now_ms, changes.head)
        checkpoint = None if from_checkpoint is None else self._checkpoint(log, changes, from_checkpoint)
        if checkpoint is not None:
            lo = (checkpoint.t, checkpoint.seq + 1)
        hot = self._rows(log, changes, lo, hi, limit=limit, reverse=reverse) if rows else []
        index = self._index(log, changes)
        chunks = overlapping(
            [unpack_chunk(index[first], b"") for first in sorted(index)], lo, hi, neighbours=neighbours
        )
        if limit is not None:
            hot, chunks = first_of(hot, chunks, limit, reverse=reverse)
        if bodies:
            chunks = self._plain.with_bodies(self._place, log, [index[chunk.first] for chunk in chunks])
        return View(now_ms, changes.head, hot, chunks, checkpoint)

    def views(
        self,
        logs: Sequence[Log],
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        bodies: bool = True,
    ) -> list[View]:
        stored = [] if self._nowhere else [log for log in logs if log not in self._changes.logs]
        self._watching(self._place.log(b"%c" % kind, log) for log in stored for kind in b"cr")
        found = self._plain.views(stored, lo, hi, limit=limit, reverse=reverse, bodies=bodies)
        views = {log: self._saw(log, view) for log, view in zip(stored, found, strict=True)}
        return [
            views[log] if log in views else self.view(log, lo, hi, limit=limit, reverse=reverse, bodies=bodies)
            for log in logs
        ]

    @contextmanager
    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[Snapshot, None, None]:
        if self._nowhere or log in self._changes.logs:
            yield HeldSnapshot(self.view(log, lo, hi))
            return
        self._watch_log(log, b"cr")
        with self._plain.snapshot(log, lo, hi) as snapshot:
            self._saw(log, snapshot.view)
            yield snapshot

    def hot(self, log: Log) -> tuple[int, int]:
        # Sealing is for whoever writes next: inside, it would make the transaction larger by the whole tail of the log,
        # and meet everybody else who writes to it.
        return 0, 0

    def _rows(
        self, log: Log, changes: LogChanges, lo: Position, hi: Position, *, limit: int | None, reverse: bool
    ) -> list[Row]:
        stored: Sequence[Row] = ()
        if changes.based:
            # So many more than are asked for as may be gone inside.
            enough = None if limit is None else limit + len(changes.rows) + len(changes.dropped_rows)
            stored = self._saw(log, self._plain.view(log, lo, hi, limit=enough, reverse=reverse, bodies=False)).rows
        return changes.rows_over(stored, lo, hi)

    def _checkpoint(self, log: Log, changes: LogChanges, until: Position) -> Row | None:
        """Return the newest checkpoint at or before a position."""
        ours = [Row(*position, body) for position, body in changes.checkpoints.items() if position <= until]
        start = changes.no_checkpoints_from
        if start is not None and start <= until:
            t, seq = start
            until = (t, seq - 1) if seq else (t - 1, MAX_SEQ)
        if changes.based and until >= FIRST:
            self._watch_log(log, b"k")
            view = self._saw(log, self._plain.view(log, LAST, LAST, rows=False, bodies=False, from_checkpoint=until))
            if view.checkpoint is not None and (*view.checkpoint[:2],) not in changes.checkpoints:
                ours.append(view.checkpoint)
        return max(ours, default=None)

    def _index(self, log: Log, changes: LogChanges) -> dict[Position, bytes]:
        if changes.chunks is None:
            self._watch_log(log, b"c")
            changes.chunks = self._plain.index(self._place, log) if changes.based else {}
        return changes.chunks

    def _saw(self, log: Log, view: View, *, changed: bool = False) -> View:
        """Return a view of what is stored, whose head must stay what it is, at least since the log was changed."""
        if not (self._serializable or changed or log in self._heads):
            return view
        if log not in self._heads:
            self._grow(1)
        if self._heads.setdefault(log, view.head) != view.head:
            raise self._overtaken(f"{log.key!r}")
        return view

    def _watch_log(self, log: Log, kinds: bytes) -> None:
        self._watching(self._place.log(b"%c" % kind, log) for kind in kinds)

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        self._expect(incarnation)
        changes = self._changes_of(log)
        if changes.head is not None and changes.head.sealed != head.sealed:
            return False
        self._add(len(rows))
        changes.head = changes.head or head
        changes.put(rows)
        self._changes.logs[log] = changes
        return True

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        self._expect(incarnation)
        changes = self._changes_of(log)
        epoch, version = (None, None) if changes.head is None else (changes.head.epoch, changes.head.version)
        if (
            (changes.head is None and commit.create is None)
            or commit.if_epoch not in (ANY, epoch)
            or commit.if_version not in (ANY, version)
        ):
            return False
        if (commit.drop_chunks or commit.put_chunks) and not set(commit.drop_chunks) <= self._index(
            log, changes
        ).keys():
            return False  # a chunk that is to be dropped: somebody else was faster
        lists = (commit.put_rows, commit.drop_rows, commit.put_chunks, commit.drop_chunks, commit.put_checkpoints)
        self._add(1 + sum(map(len, lists)))
        changes.apply(commit, self._plain.indexed(self._plain.stage(self._place, commit.put_chunks)))
        self._changes.logs[log] = changes
        if commit.drop_if_empty and self._is_empty(log):
            self._always_watching(self._place.log(kind, log) for kind in (b"r", b"c"))
            if self._is_empty(log):
                self._changes.logs[log] = changes.dropped()
        return True

    def _is_empty(self, log: Log) -> bool:
        left = self.view(log, limit=1, bodies=False)
        return not (left.rows or left.chunks)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._check_incarnation(if_incarnation)
        if self._nowhere:
            return False
        changes = self._changes_of(log)
        if changes.head is None or if_version not in (ANY, changes.head.version):
            return False
        self._add(1)
        self._changes.logs[log] = changes.dropped()
        return True

    def _changes_of(self, log: Log) -> LogChanges:
        """Return what was changed of a log, or the beginning of it."""
        if log in self._changes.logs:
            return self._changes.logs[log]
        head = self._saw(log, self._plain.view(log, LAST, LAST, rows=False, bodies=False), changed=True).head
        return LogChanges(head, head, based=head is not None)

    def _add(self, n: int) -> None:
        self._grow(n)
        self._changes.n += n
