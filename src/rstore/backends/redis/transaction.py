"""A transaction in Redis: it reads as others do, watches what it reads, and does what it changes in one step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rstore.backends.redis.errors import LostReplyError
from rstore.backends.redis.inside_logs import InsideLogs
from rstore.backends.redis.inside_records import InsideRecords


class Transaction(InsideRecords, InsideLogs):
    """From its beginning to its end."""

    @contextmanager
    def nested(self) -> Generator[None, None, None]:
        """Take back what is changed inside if it raises; what was read inside has been read."""
        before = self._changes.copy()
        try:
            yield
        except BaseException:
            self._changes = before
            raise

    def finish(self) -> None:
        """Do all of it, or nothing.

        Raises `RolledBack` if what was read is not so any more.
        """
        changes = self._changes
        if self._nowhere or not (changes or self._seen or self._heads or len(self._watch)):
            return
        command = self._plain.finishing(self._place, changes, self._seen, self._heads, self._since_ms)
        try:
            answer = self._plain.finish(self._watch, command, writes=bool(changes))
        except LostReplyError as lost:
            if not changes:
                raise self._overtaken("something") from lost.__cause__
            if not self._plain.found_done(self._place, changes):
                raise self._plain.unknown(lost) from lost.__cause__
            return
        if answer == b"LEASED":
            self._plain.await_leases(self._place, changes)
        if answer != b"DONE":
            raise self._overtaken("what was read")
        if changes.cleared or any(not one.based for one in changes.logs.values()):
            self._plain.collect(self._place)

    def close(self) -> None:
        """Let go of the connection."""
        self._watch.close()
