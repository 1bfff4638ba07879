"""A namespace as dicts in memory."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from rstore.backends.common.heads import changed
from rstore.backends.types import KEEP, KEYS_BYTES, LAST, Chunk, Commit, Head, Log, Position, Write

T = TypeVar("T")


class Ordered(dict[Position, T]):
    """A dict that also knows its keys in order: sorting a log for every view made long tests quadratic."""

    def __init__(self, items: Iterable[tuple[Position, T]] = ()) -> None:
        super().__init__(items)
        self._positions = sorted(self)

    def __setitem__(self, position: Position, value: T) -> None:
        if position not in self:
            insort(self._positions, position)
        super().__setitem__(position, value)

    def __delitem__(self, position: Position) -> None:
        super().__delitem__(position)
        del self._positions[bisect_left(self._positions, position)]

    def copy(self) -> Ordered[T]:
        """Return another one with the same values."""
        other = Ordered[T]()
        dict.update(other, self)
        other._positions = self._positions[:]  # in order already
        return other

    def between(self, lo: Position, hi: Position) -> list[Position]:
        """Return the positions from `lo` to `hi`, both included."""
        return self._positions[bisect_left(self._positions, lo) : bisect_right(self._positions, hi)]


@dataclass(slots=True)
class LogDicts:
    """One log."""

    head: Head
    rows: Ordered[bytes] = field(default_factory=Ordered)
    chunks: Ordered[Chunk] = field(default_factory=Ordered)
    checkpoints: Ordered[bytes] = field(default_factory=Ordered)

    def copy(self) -> LogDicts:
        """Return another one that holds the same."""
        return LogDicts(self.head, self.rows.copy(), self.chunks.copy(), self.checkpoints.copy())

    def totals(self) -> tuple[int, int, int]:
        """Return that it is one, how many rows it holds, and how many bytes."""
        n = len(self.rows) + sum(chunk.n for chunk in self.chunks.values())
        size = sum(map(len, [*self.rows.values(), *self.checkpoints.values()]))
        return 1, n, size + sum(len(chunk.meta) + len(chunk.body) for chunk in self.chunks.values())

    def apply(self, commit: Commit) -> None:
        """Apply a commit whose conditions hold."""
        for t, seq, body in commit.drop_rows:
            if self.rows.get((t, seq)) == body:
                del self.rows[t, seq]
        for first in commit.drop_chunks:
            del self.chunks[first]
        if commit.drop_checkpoints_from is not None:
            for position in self.checkpoints.between(commit.drop_checkpoints_from, LAST):
                del self.checkpoints[position]
        for t, seq, body in commit.put_rows:
            self.rows[t, seq] = body
        for chunk in commit.put_chunks:
            self.chunks[chunk.first] = chunk
        for t, seq, body in commit.put_checkpoints:
            self.checkpoints[t, seq] = body
        self.head = changed(self.head, commit)


@dataclass(slots=True, eq=False)
class MemoryNamespace:
    """One namespace, without its name."""

    incarnation: bytes = field(default_factory=lambda: os.urandom(16 + KEYS_BYTES))
    facts: dict[str, bytes] = field(default_factory=dict)
    records: dict[str, tuple[bytes, int | None]] = field(default_factory=dict)
    logs: dict[Log, LogDicts] = field(default_factory=dict)

    def copy(self) -> MemoryNamespace:
        """Return another one that holds the same."""
        logs = {log: one.copy() for log, one in self.logs.items()}
        return MemoryNamespace(self.incarnation, self.facts.copy(), self.records.copy(), logs)

    def put(self, write: Write, now_ms: int) -> None:
        """Put or delete a record."""
        if write.record is None:
            self.records.pop(write.key, None)
        elif write.ttl_ms is KEEP:
            self.records[write.key] = write.record, self.records[write.key][1]
        else:
            self.records[write.key] = write.record, None if write.ttl_ms is None else now_ms + write.ttl_ms


def copy_of(namespace: MemoryNamespace | None) -> MemoryNamespace | None:
    """Return another namespace that holds the same, None of none."""
    return None if namespace is None else namespace.copy()
