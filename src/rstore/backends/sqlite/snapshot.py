"""A namespace, or one log of it, as it was at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import Any

import apsw

from rstore.backends.sqlite.cells import bytes_of
from rstore.backends.sqlite.logs import LogReads
from rstore.backends.sqlite.records.reading import RecordReads
from rstore.backends.sqlite.transport.snapshot import SnapshotConnection
from rstore.backends.types import FIRST, LAST, Chunk, Log, LogSnapshot, Position, ViewQuery


class SqliteSnapshot(RecordReads, LogReads):
    """Reads one namespace as it was at one moment."""

    def __init__(self, connection: SnapshotConnection, namespace: str) -> None:
        super().__init__(connection, namespace)
        self._connection = connection

    def peek(self, key: Any) -> bytes | None:
        statements = self._connection.slot.statements
        return statements.get(key) if statements is not None and self._connection.owner == get_ident() else None

    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> AbstractContextManager[LogSnapshot]:
        return nullcontext(SqliteLogSnapshot(self, log, lo, hi))

    def bodies(self, log: Log, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return chunks of a log with their bodies."""

        def work(connection: apsw.Connection) -> list[Chunk]:
            number, _ = self._find(connection, log) or (0, None)
            sql = "SELECT body FROM chunks WHERE log = ? AND first_t = ? AND first_seq = ?"
            bodies = [connection.execute(sql, (number, *chunk.first)).get for chunk in chunks]
            return [
                chunk._replace(body=bytes_of(body, f"the chunk at {chunk.first[0]}"))
                for chunk, body in zip(chunks, bodies, strict=True)
            ]

        return self._reader.read(work)


class SqliteLogSnapshot(LogSnapshot):
    """A log in a snapshot; bodies are read when they are asked for."""

    def __init__(self, snapshot: SqliteSnapshot, log: Log, lo: Position, hi: Position) -> None:
        self._snapshot = snapshot
        self._log = log
        self.view = snapshot.view(log, ViewQuery(lo, hi, bodies=False))

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return self._snapshot.bodies(self._log, chunks)
