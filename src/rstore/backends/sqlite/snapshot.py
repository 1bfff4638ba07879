"""A log of a SQLite file as it was at one moment, read bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apsw

from rstore.backends.sqlite import logs
from rstore.backends.sqlite.pinned import Pinned
from rstore.backends.sqlite.records import now_ms
from rstore.backends.types import Chunk, Head, Log, Position, Snapshot, View


class SqliteSnapshot(Snapshot):
    """A log in a transaction that only reads."""

    def __init__(
        self,
        pinned: Pinned,
        find: Callable[[apsw.Connection, Log], tuple[int, Head] | None],
        log: Log,
        lo: Position,
        hi: Position,
    ) -> None:
        self._pinned = pinned
        self._number = 0

        def work(connection: apsw.Connection) -> View:
            found = find(connection, log)
            if found is None:
                return View(now_ms(), None)
            self._number, head = found
            hot = logs.rows(connection, self._number, lo, hi, None, reverse=False)
            chunks = logs.chunks(connection, self._number, lo, hi, None, reverse=False, bodies=False, neighbours=False)
            return View(now_ms(), head, hot, chunks)

        self.view = pinned.read(work)

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return self._pinned.read(
            lambda connection: [logs.with_body(connection, self._number, chunk) for chunk in chunks]
        )
