"""All changes of a transaction, which no other client sees yet, and the commands that apply them in the end.

Nouns: a key *holds* the record that was put there inside; the *changes* of a log lie over the stored one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from rstore.backends.common.heads import changed
from rstore.backends.redis.logs.logs import fields
from rstore.backends.redis.logs.members import REPLACED_MS, behind, pack_position, pack_rows
from rstore.backends.redis.namespace.bucket import GENERATION_BYTES, Bucket
from rstore.backends.redis.transport.connection import Command
from rstore.backends.types import LAST, Commit, Head, Log, Position, Row

_ARGUMENTS_A_COMMAND: Final = 800
"""How many a script can hand over to one command; an even number keeps each score with its member."""


class Held(NamedTuple):
    """A record that was put inside."""

    version: bytes
    expires_ms: int | None
    record: bytes | None
    """`None`: the stored one, with another expiry."""


@dataclass(slots=True)
class LogChanges:
    """The changes of one log, which lie over the stored log."""

    stored: Head | None
    head: Head | None
    based: bool
    """Whether anything that is stored counts: not after the log was dropped."""
    leased: bool = False
    """Whether another client's lease on the log is in the way."""
    rows: dict[Position, bytes | None] = field(default_factory=dict)
    """The rows at these positions instead of the stored ones; `None`: no row."""
    dropped_rows: set[Row] = field(default_factory=set)
    """Gone if they are what is stored."""
    chunks: dict[Position, bytes] | None = None
    """The whole index of chunks, by the first position; `None`: as it is stored."""
    put_chunks: dict[Position, bytes] = field(default_factory=dict)
    dropped_chunks: list[bytes] = field(default_factory=list)
    checkpoints: dict[Position, bytes] = field(default_factory=dict)
    no_checkpoints_from: Position | None = None
    """From here on, stored checkpoints do not count."""

    def copy(self) -> LogChanges:
        """Return a copy that holds the same."""
        return replace(self, **{one.name: copy(getattr(self, one.name)) for one in dataclasses.fields(self)})

    def dropped(self) -> LogChanges:
        """Return the changes that leave nothing of the log."""
        return LogChanges(self.stored, None, based=False, leased=True, chunks={})

    @property
    def drops(self) -> bool:
        """Whether the stored log is dropped, whatever is put in its place."""
        return self.stored is not None and not self.based

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
        """Return the rows from `lo` to `hi`, given the stored ones among them."""
        found: dict[Position, bytes | None] = {
            (row.t, row.seq): row.body for row in stored if row not in self.dropped_rows
        }
        found.update((position, body) for position, body in self.rows.items() if lo <= position <= hi)
        return [Row(*position, body) for position, body in sorted(found.items()) if body is not None]

    def commands(self, bucket: Bucket, log: Log) -> Iterator[Command]:
        """Yield the commands that apply these changes to the stored log."""
        head, rows, chunks, checkpoints = bucket.parts(log, b"hrck")
        if self.drops:
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
        yield from _many(b"ZREM", rows, pack_rows(self.dropped_rows))
        if self.based:
            yield from _emptying(rows, self.rows)
        yield from _adding(rows, [pack_position(at) + body for at, body in self.rows.items() if body is not None])
        yield from _many(b"ZREM", chunks, self.dropped_chunks)
        yield from ((b"PEXPIRE", bucket.body(entry), b"%d" % REPLACED_MS) for entry in self.dropped_chunks)
        yield from _adding(chunks, self.put_chunks.values())
        yield from ((b"PERSIST", bucket.body(entry)) for entry in self.put_chunks.values())
        if self.no_checkpoints_from is not None:
            yield b"ZREMRANGEBYLEX", checkpoints, b"[" + pack_position(self.no_checkpoints_from), b"+"
        yield from _emptying(checkpoints, self.checkpoints)
        yield from _adding(checkpoints, [pack_position(at) + body for at, body in self.checkpoints.items()])


@dataclass(slots=True)
class TransactionChanges:
    """All that a transaction has changed."""

    records: dict[str, Held | None] = field(default_factory=dict)
    """The records that keys hold instead of the stored ones; `None`: no record."""
    cleared: bool = False
    """Whether no stored record counts."""
    logs: dict[Log, LogChanges] = field(default_factory=dict)
    n: int = 0
    """About how many rows and chunks it moves."""

    def __bool__(self) -> bool:
        return bool(self.records or self.cleared or self.logs)

    def copy(self) -> TransactionChanges:
        """Return a copy that holds the same."""
        logs = {log: one.copy() for log, one in self.logs.items()}
        return replace(self, records=self.records.copy(), logs=logs)

    def commands(self, bucket: Bucket) -> list[Command]:
        """Return the commands that apply all of them."""
        found: list[Command] = []
        now = bucket
        if self.cleared:
            generation = os.urandom(GENERATION_BYTES)
            now = bucket.of_records(generation)._replace(marker=bucket.incarnation + generation)
            found.append((b"SADD", bucket.garbage, b"r" + bucket.records[-GENERATION_BYTES:]))
        found += self._records(now)
        for log, changes in self.logs.items():
            found += changes.commands(bucket, log)
        # Either the first command is refused since the server's memory is full, or none is: changes that put begin with
        # a SET, changes that only take away with a PERSIST.
        puts = any(self.records.values()) or any(one.puts for one in self.logs.values())
        if self.cleared or puts:
            found.insert(0, (b"SET", bucket.marker_key, now.mark))
        if not puts:
            found.insert(0, (b"PERSIST", bucket.marker_key))
        return found

    def _records(self, bucket: Bucket) -> Iterator[Command]:
        gone: list[bytes] = []
        put: list[bytes] = []
        stay: list[bytes] = []
        expire: list[bytes] = []
        for key, held in self.records.items():
            name = key.encode()
            if held is None:
                gone.append(name)
                yield b"UNLINK", bucket.records + name
                continue
            lives: Command = ()
            if held.expires_ms is None:
                stay.append(name)
            else:
                # The last millisecond that it is there: Redis expires what is later than its expiry.
                last_ms = b"%d" % (held.expires_ms - 1)
                expire += (last_ms, name)
                lives = (b"PXAT", last_ms)
            if held.record is not None:
                put.append(name)
                yield b"SET", bucket.records + name, held.record, *lives
            elif lives:
                yield b"PEXPIREAT", bucket.records + name, lives[1]
            else:
                yield b"PERSIST", bucket.records + name
        yield from _adding(bucket.key_index, put)
        yield from _many(b"ZREM", bucket.key_index, gone)
        # In this order: while the slot moves, an index that is empty in between is looked for elsewhere, and the rest
        # refused.
        yield from _many(b"ZADD", bucket.expiry_index, expire)
        yield from _many(b"ZREM", bucket.expiry_index, [*gone, *stay])


def stamps_of(head: Head | None) -> set[bytes]:
    """Return the random bytes of a head."""
    return set() if head is None else {head.epoch, head.version}


def _many(verb: bytes, name: bytes, arguments: Sequence[bytes]) -> Iterator[Command]:
    """Yield the commands that hand over any number of arguments."""
    for i in range(0, len(arguments), _ARGUMENTS_A_COMMAND):
        yield verb, name, *arguments[i : i + _ARGUMENTS_A_COMMAND]


def _adding(name: bytes, members: Iterable[bytes]) -> Iterator[Command]:
    """Yield the commands that add members to a sorted set that is in their own order."""
    return _many(b"ZADD", name, [part for member in members for part in (b"0", member)])


def _emptying(name: bytes, positions: Iterable[Position]) -> Iterator[Command]:
    """Yield the commands that remove the members at positions."""
    for position in positions:
        yield b"ZREMRANGEBYLEX", name, b"[" + pack_position(position), b"(" + behind(position)
