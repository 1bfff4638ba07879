"""A namespace in memory, and the bytes that it becomes in a file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TypeVar

import msgpack

from rstore import CorruptionError
from rstore.backends.common.heads import changed
from rstore.backends.types import KEEP, Chunk, Commit, Head, Log, Position, Write

T = TypeVar("T")


def now_ms() -> int:
    """Return the time, in POSIX milliseconds."""
    return time.time_ns() // 1_000_000


def between(numbered: dict[Position, T], lo: Position, hi: Position) -> list[tuple[Position, T]]:
    """Return what lies from `lo` to `hi`, both included, in order."""
    return [(at, numbered[at]) for at in sorted(numbered) if lo <= at <= hi]


@dataclass
class LogContent:
    """All that one log holds."""

    head: Head
    rows: dict[Position, bytes] = field(default_factory=dict[Position, bytes])
    chunks: dict[Position, Chunk] = field(default_factory=dict[Position, Chunk])
    checkpoints: dict[Position, bytes] = field(default_factory=dict[Position, bytes])

    def apply(self, commit: Commit) -> None:
        """Do a commit whose conditions hold. Dropping comes before putting."""
        for t, seq, body in commit.drop_rows:
            if self.rows.get((t, seq)) == body:
                del self.rows[t, seq]
        for first in commit.drop_chunks:
            del self.chunks[first]
        if (start := commit.drop_checkpoints_from) is not None:
            self.checkpoints = {at: body for at, body in self.checkpoints.items() if at < start}
        self.rows |= {(t, seq): body for t, seq, body in commit.put_rows}
        self.chunks |= {chunk.first: chunk for chunk in commit.put_chunks}
        self.checkpoints |= {(t, seq): body for t, seq, body in commit.put_checkpoints}
        self.head = changed(self.head, commit)


@dataclass
class Namespace:
    """One namespace."""

    name: str
    incarnation: bytes | None = None
    """None if there is no such namespace."""
    facts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    records: dict[str, tuple[bytes, int | None]] = field(default_factory=dict[str, tuple[bytes, int | None]])
    """Each with the time at which it expires, in POSIX milliseconds."""
    logs: dict[Log, LogContent] = field(default_factory=dict[Log, LogContent])

    def live(self) -> dict[str, tuple[bytes, int | None]]:
        """Return the records that have not expired."""
        now = now_ms()
        return {key: one for key, one in self.records.items() if one[1] is None or one[1] > now}

    def keys(self, start: str, stop: str | None) -> list[str]:
        """Return the keys of the live records in a range. The order of code points is that of UTF-8."""
        return sorted(key for key in self.live() if start <= key and (stop is None or key < stop))

    def put(self, write: Write, now_ms: int) -> None:
        """Put or delete a record."""
        if write.record is None:
            self.records.pop(write.key, None)
        elif write.ttl_ms is KEEP:
            self.records[write.key] = write.record, self.records[write.key][1]
        else:
            self.records[write.key] = write.record, None if write.ttl_ms is None else now_ms + write.ttl_ms

    def pack(self) -> bytes:
        """Return the bytes of the namespace. Not a pickle: whoever can write to the file would run code here."""
        logs = [(log, one.head, one.rows, [*one.chunks.values()], one.checkpoints) for log, one in self.logs.items()]
        return msgpack.packb((self.name, self.incarnation, self.facts, self.records, logs))

    @classmethod
    def unpack(cls, data: bytes) -> Namespace:
        """Return the namespace that was packed.

        Raises `CorruptionError` if the bytes are not those of one.
        """
        try:
            *plain, logs = msgpack.unpackb(data, use_list=False, strict_map_key=False)
            namespace = cls(*plain)
            for log, head, rows, chunks, checkpoints in logs:
                numbered = {first: Chunk(first, *rest) for first, *rest in chunks}
                namespace.logs[Log(*log)] = LogContent(Head(*head), rows, numbered, checkpoints)
        except (TypeError, ValueError) as error:
            raise CorruptionError("the file holds no namespace of rstore-folder") from error
        return namespace
