"""What a transaction has changed and nobody else sees yet, and the commands that do it in the end.

Nouns: a key *holds* what was put there inside; the *changes* of a log lie over the one that is stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeAlias

from rstore.backends.redis.layout import GENERATION_BYTES, REPLACED_MS, Place, make_place, pack_position, pack_rows
from rstore.backends.types import LAST, Commit, Head, Log, Position, Row

Command: TypeAlias = tuple[bytes, ...]
"""Its name, its key, its arguments."""

_MEMBERS_A_COMMAND: Final = 400


class Held(NamedTuple):
    """A record that was put inside."""

    version: bytes
    expires_ms: int | None
    record: bytes | None
    """`None`: the one that is stored, with another expiry."""


@dataclass(slots=True)
class LogChanges:
    """One log as it is inside: what is stored, with these changes."""

    stored: Head | None
    head: Head | None
    based: bool
    """Whether anything that is stored counts: not after the log was dropped."""
    leased: bool = False
    """Whether somebody's lease on the log is in the way."""
    rows: dict[Position, bytes | None] = field(default_factory=dict)
    """What is at a position instead of what is stored; `None`: nothing."""
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
        if head is not None:
            new = {"epoch": commit.epoch, "version": commit.version, "facts": commit.facts}
            self.head = head._replace(**{name: value for name, value in new.items() if value is not None})  # type: ignore[arg-type]

    def rows_over(self, stored: Iterable[Row], lo: Position, hi: Position) -> list[Row]:
        """Return the rows from `lo` to `hi`, given those of them that are stored."""
        found: dict[Position, bytes | None] = {
            (row.t, row.seq): row.body for row in stored if row not in self.dropped_rows
        }
        found.update((position, body) for position, body in self.rows.items() if lo <= position <= hi)
        return [Row(*position, body) for position, body in sorted(found.items()) if body is not None]

    def commands(self, place: Place, log: Log) -> Iterator[Command]:
        """Return what makes the log that is stored what it is inside."""
        head, rows, chunks, checkpoints = (place.log(kind, log) for kind in (b"h", b"r", b"c", b"k"))
        if self.stored is not None and not self.based:
            dropped = place.dropped(os.urandom(8))
            yield from ((b"UNLINK", name) for name in (head, rows, checkpoints))
            yield b"ZREM", place.logs(log.model), log.key.encode()
            # Its chunks become garbage at once.
            yield b"RENAME", chunks, dropped
            yield b"SADD", place.garbage, dropped[len(place.prefix) :]
        if self.head is None:
            return
        if not self.based or self.head != self.stored:
            epoch, version, sealed, facts = self.head
            yield b"HSET", head, b"e", epoch, b"v", version, b"s", b"%d" % sealed, b"f", facts
            yield b"ZADD", place.logs(log.model), b"0", log.key.encode()
        yield from many(b"ZREM", rows, pack_rows(self.dropped_rows))
        if self.based:
            yield from (_nothing_at(rows, position) for position in self.rows)
        yield from adding(rows, [pack_position(at) + body for at, body in self.rows.items() if body is not None])
        yield from many(b"ZREM", chunks, self.dropped_chunks)
        yield from ((b"PEXPIRE", place.body(entry), b"%d" % REPLACED_MS) for entry in self.dropped_chunks)
        yield from adding(chunks, list(self.put_chunks.values()))
        yield from ((b"PERSIST", place.body(entry)) for entry in self.put_chunks.values())
        if self.no_checkpoints_from is not None:
            yield b"ZREMRANGEBYLEX", checkpoints, b"[" + pack_position(self.no_checkpoints_from), b"+"
        yield from (_nothing_at(checkpoints, position) for position in self.checkpoints)
        yield from adding(checkpoints, [pack_position(at) + body for at, body in self.checkpoints.items()])


@dataclass(slots=True)
class Changes:
    """All that a transaction has changed."""

    records: dict[str, Held | None] = field(default_factory=dict)
    """What keys hold instead of what is stored; `None`: nothing."""
    cleared: bool = False
    """Whether no record that is stored counts."""
    logs: dict[Log, LogChanges] = field(default_factory=dict)
    n: int = 0
    """About how many rows and chunks it moves."""

    def __bool__(self) -> bool:
        return bool(self.records or self.cleared or self.logs)

    def copy(self) -> Changes:
        """Return another one that holds the same."""
        logs = {log: one.copy() for log, one in self.logs.items()}
        return replace(self, records=self.records.copy(), logs=logs)

    def commands(self, place: Place, namespace: bytes) -> list[Command]:
        """Return what does all of them."""
        found: list[Command] = []
        now = place
        if self.cleared:
            marker = place.incarnation + os.urandom(GENERATION_BYTES)
            now = make_place(place.bucket, place.tag, namespace, marker)
            found.append((b"SADD", place.garbage, b"r" + place.records[-GENERATION_BYTES:]))
        found += self._records(now)
        for log, changes in self.logs.items():
            found += changes.commands(place, log)
        # The first one is refused if the server's memory is full, or it is not, and then nothing is: whatever puts
        # something begins with a SET, and what only takes away with a PERSIST.
        puts = any(self.records.values()) or any(one.puts for one in self.logs.values())
        if self.cleared or puts:
            found.insert(0, (b"SET", place.marker_key, now.mark))
        if not puts:
            found.insert(0, (b"PERSIST", place.marker_key))
        return found

    def _records(self, place: Place) -> Iterator[Command]:
        gone: list[bytes] = []
        put: list[bytes] = []
        stay: list[bytes] = []
        expire: list[tuple[bytes, bytes]] = []
        for key, held in self.records.items():
            name = key.encode()
            if held is None:
                gone.append(name)
                yield b"UNLINK", place.records + name
                continue
            # The last millisecond that it is there: Redis expires what is later than its expiry.
            last_ms = None if held.expires_ms is None else held.expires_ms - 1
            if last_ms is None:
                stay.append(name)
            else:
                expire.append((b"%d" % last_ms, name))
            if held.record is not None:
                put.append(name)
                lives = () if last_ms is None else (b"PXAT", b"%d" % last_ms)
                yield b"SET", place.records + name, held.record, *lives
            elif last_ms is None:
                yield b"PERSIST", place.records + name
            else:
                yield b"PEXPIREAT", place.records + name, b"%d" % last_ms
        yield from adding(place.key_index, put)
        yield from many(b"ZREM", place.key_index, gone)
        # In this order: while the slot moves, an index that is empty in between is looked for elsewhere, and the rest
        # refused.
        yield from many(b"ZADD", place.expiry_index, expire)
        yield from many(b"ZREM", place.expiry_index, [*gone, *stay])


def stamps_of(head: Head | None) -> set[bytes]:
    """Return the random bytes of a head."""
    return set() if head is None else {head.epoch, head.version}


def _nothing_at(name: bytes, position: Position) -> Command:
    t, seq = position
    return b"ZREMRANGEBYLEX", name, b"[" + pack_position(position), b"(" + pack_position((t, seq + 1))


def adding(name: bytes, members: Sequence[bytes]) -> Iterator[Command]:
    """Return what adds members to a sorted set that is in their own order."""
    return many(b"ZADD", name, [(b"0", member) for member in members])


def many(verb: bytes, name: bytes, members: Sequence[bytes | tuple[bytes, bytes]]) -> Iterator[Command]:
    """Return what does something with any number of members of a set: so many a command as a script can hand over."""
    for i in range(0, len(members), _MEMBERS_A_COMMAND):
        piece = members[i : i + _MEMBERS_A_COMMAND]
        yield verb, name, *(part for one in piece for part in (one if isinstance(one, tuple) else (one,)))
