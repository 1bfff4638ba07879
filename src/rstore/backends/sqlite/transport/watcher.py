"""Watching a SQLite file: its data version, asked for again and again."""

from __future__ import annotations

import time
from typing import Final

import apsw

from rstore.backends.common.backoff import Deadline
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.types import Watcher

_POLL_S: Final = 0.02
"""Not the operating system's notices of changed files: a commit changes memory that processes share, and the
write-ahead log is written to before it."""


class SqliteWatcher(Watcher):
    """A connection of its own that is never in a transaction: it sees all other commits, of this process too."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._slot = file.new_slot()
        self._seen = self._data_version()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the file was written to, or replaced."""
        deadline = Deadline(timeout_s)
        while (version := self._data_version()) == self._seen:
            if deadline.is_over:
                return False
            time.sleep(min(deadline.left_s, _POLL_S))
        self._seen = version
        return True

    def _data_version(self) -> tuple[apsw.Connection, int]:
        """Return the connection and a number that every commit of others changes; another file, another connection."""
        self._slot.check_at = 0.0  # at each look: another file may bear the name
        return self._file.read(lambda connection: (connection, int(connection.pragma("data_version"))), self._slot)

    def close(self) -> None:
        """Close the connection."""
        self._slot.close()
