"""Whether somebody wrote to a SQLite file: its data version, asked for again and again."""

from __future__ import annotations

import time
from typing import Final

from rstore.backends.sqlite.file import SqliteFile
from rstore.backends.types import Watcher

_POLL_S: Final = 0.02
"""A look takes some 10 µs. Not the operating system's notices of changed files: a commit changes memory that processes
share, and the log is written to before it."""


class SqliteWatcher(Watcher):
    """A connection of its own that is never in a transaction: it sees all other commits, of this process too."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._link = file.new_link()
        self._seen = file.version(self._link)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the file was written to, or replaced."""
        deadline = time.monotonic() + timeout_s
        while (version := self._file.version(self._link)) == self._seen:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(left_s, _POLL_S))
        self._seen = version
        return True

    def close(self) -> None:
        """Close the connection."""
        with self._link.lock:
            self._link.close()
