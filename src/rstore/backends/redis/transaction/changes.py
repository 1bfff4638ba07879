"""All changes of a transaction, which no other client sees yet, and the commands that apply them in the end.

Nouns: a key *holds* the record that was put there inside; the *changes* of a log lie over the one that is stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rstore.backends.redis.namespace.bucket import GENERATION_BYTES, Bucket
from rstore.backends.redis.transaction.commands import adding, many
from rstore.backends.redis.transaction.log_changes import LogChanges
from rstore.backends.redis.transport.connection import Command
from rstore.backends.types import Log


class Held(NamedTuple):
    """A record that was put inside."""

    version: bytes
    expires_ms: int | None
    record: bytes | None
    """`None`: the one that is stored, with another expiry."""


@dataclass(slots=True)
class TransactionChanges:
    """All that a transaction has changed."""

    records: dict[str, Held | None] = field(default_factory=dict)
    """The records that keys hold instead of those that are stored; `None`: no record."""
    cleared: bool = False
    """Whether no record that is stored counts."""
    logs: dict[Log, LogChanges] = field(default_factory=dict)
    n: int = 0
    """About how many rows and chunks it moves."""

    def __bool__(self) -> bool:
        return bool(self.records or self.cleared or self.logs)

    def copy(self) -> TransactionChanges:
        """Return another one that holds the same."""
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
        # Either the first one is refused since the server's memory is full, or none is: changes that put begin with a
        # SET, changes that only take away with a PERSIST.
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
        expire: list[tuple[bytes, bytes]] = []
        for key, held in self.records.items():
            name = key.encode()
            if held is None:
                gone.append(name)
                yield b"UNLINK", bucket.records + name
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
                yield b"SET", bucket.records + name, held.record, *lives
            elif last_ms is None:
                yield b"PERSIST", bucket.records + name
            else:
                yield b"PEXPIREAT", bucket.records + name, b"%d" % last_ms
        yield from adding(bucket.key_index, put)
        yield from many(b"ZREM", bucket.key_index, gone)
        # In this order: while the slot moves, an index that is empty in between is looked for elsewhere, and the rest
        # refused.
        yield from many(b"ZADD", bucket.expiry_index, expire)
        yield from many(b"ZREM", bucket.expiry_index, [*gone, *stay])
