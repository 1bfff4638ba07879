"""The changes of one log inside a transaction, which lie over the log that is stored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rstore.backends.common.heads import changed
from rstore.backends.redis.logs.logs import fields
from rstore.backends.redis.logs.members import REPLACED_MS, pack_position, pack_rows
from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.transaction.commands import adding, emptying, many
from rstore.backends.redis.transport.connection import Command
from rstore.backends.types import LAST, Commit, Head, Log, Position, Row


@dataclass(slots=True)
class LogChanges:
    """One log as it is inside: what is stored, with these changes."""

    stored: Head | None
    head: Head | None
    based: bool
    """Whether anything that is stored counts: not after the log was dropped."""
    leased: bool = False
    """Whether another client's lease on the log is in the way."""
    rows: dict[Position, bytes | None] = field(default_factory=dict)
    """The rows at these positions instead of those that are stored; `None`: no row."""
    dropped_rows: set[Row] = field(default_factory=set)
    """Gone if they are what is stored."""
    chunks: dict[Position, bytes] | None = None
    """The whole index of chunks, by the first position; `None`: as it is stored."""
    put_chunks: dict[Position, bytes] = field(default_factory=dict)
    dropped_chunks: list[bytes] = field(default_factory=list)
    checkpoints: dict[Position, bytes] = field(default_factory=dict)
    no_checkpoints_from: Position | None = None
    """From here on, those that are stored do not count."""

    def copy(self) -> LogChanges:
        """Return another one that holds the same."""
        return replace(
            self,
            rows=self.rows.copy(),
            dropped_rows=self.dropped_rows.copy(),
            chunks=None if self.chunks is None else self.chunks.copy(),
            put_chunks=self.put_chunks.copy(),
            dropped_chunks=self.dropped_chunks.copy(),
            checkpoints=self.checkpoints.copy(),
        )

    def dropped(self) -> LogChanges:
        """Return the changes that leave nothing of the log."""
        return LogChanges(self.stored, None, based=False, leased=True, chunks={})

    @property
    def stamps(self) -> set[bytes]:
        """The random bytes that its head has when this is done, and had not before."""
        return stamps_of(self.head) - stamps_of(self.stored)

    @property
    def puts(self) -> bool:
        """Whether something of it is put, and not only taken away."""
        rows = any(body is not None for body in self.rows.values())
        return self.head is not None and (not self.based or rows or bool(self.put_chunks or self.checkpoints))

    def put(self, rows: Iterable[Row]) -> None:
        """Put rows, replacing those at the same positions."""
        self.rows.update(((t, seq), body) for t, seq, body in rows)

    def apply(self, commit: Commit, chunks: dict[Position, bytes]) -> None:
        """Do a commit whose conditions hold, and whose chunks have these entries."""
        self.leased = True
        for row in commit.drop_rows:
            position = row.t, row.seq
            if position not in self.rows:
                self.dropped_rows.add(row)
            elif self.rows[position] == row.body:
                self.rows[position] = None
        if self.chunks is not None:
            for first in commit.drop_chunks:
                entry = self.chunks.pop(first)
                if self.put_chunks.pop(first, None) is None:
                    self.dropped_chunks.append(entry)
            self.chunks.update(chunks)
        self.put_chunks.update(chunks)
        if (start := commit.drop_checkpoints_from) is not None:
            self.checkpoints = {position: body for position, body in self.checkpoints.items() if position < start}
            self.no_checkpoints_from = min(start, self.no_checkpoints_from or LAST)
        self.put(commit.put_rows)
        self.checkpoints.update(((t, seq), body) for t, seq, body in commit.put_checkpoints)
        head = self.head or commit.create
        self.head = None if head is None else changed(head, commit)

    def rows_over(self, stored: Iterable[Row], lo: Position, hi: Position) -> list[Row]:
        """Return the rows from `lo` to `hi`, given those of them that are stored."""
        found: dict[Position, bytes | None] = {
            (row.t, row.seq): row.body for row in stored if row not in self.dropped_rows
        }
        found.update((position, body) for position, body in self.rows.items() if lo <= position <= hi)
        return [Row(*position, body) for position, body in sorted(found.items()) if body is not None]

    def commands(self, bucket: Bucket, log: Log) -> Iterator[Command]:
        """Yield the commands that apply these changes to the stored log."""
        head, rows, chunks, checkpoints = bucket.parts(log, b"hrck")
        if self.stored is not None and not self.based:
            dropped = bucket.dropped(os.urandom(8))
            yield from ((b"UNLINK", name) for name in (head, rows, checkpoints))
            yield b"ZREM", bucket.logs(log.model), log.key.encode()
            # Its chunks become garbage at once.
            yield b"RENAME", chunks, dropped
            yield b"SADD", bucket.garbage, dropped[len(bucket.prefix) :]
        if self.head is None:
            return
        if not self.based or self.head != self.stored:
            epoch, version, sealed, facts = fields(self.head)
            yield b"HSET", head, b"e", epoch, b"v", version, b"s", sealed, b"f", facts
            yield b"ZADD", bucket.logs(log.model), b"0", log.key.encode()
        yield from many(b"ZREM", rows, pack_rows(self.dropped_rows))
        if self.based:
            yield from (emptying(rows, position) for position in self.rows)
        yield from adding(rows, [pack_position(at) + body for at, body in self.rows.items() if body is not None])
        yield from many(b"ZREM", chunks, self.dropped_chunks)
        yield from ((b"PEXPIRE", bucket.body(entry), b"%d" % REPLACED_MS) for entry in self.dropped_chunks)
        yield from adding(chunks, self.put_chunks.values())
        yield from ((b"PERSIST", bucket.body(entry)) for entry in self.put_chunks.values())
        if self.no_checkpoints_from is not None:
            yield b"ZREMRANGEBYLEX", checkpoints, b"[" + pack_position(self.no_checkpoints_from), b"+"
        yield from (emptying(checkpoints, position) for position in self.checkpoints)
        yield from adding(checkpoints, [pack_position(at) + body for at, body in self.checkpoints.items()])


def stamps_of(head: Head | None) -> set[bytes]:
    """Return the random bytes of a head."""
    return set() if head is None else {head.epoch, head.version}
