"""Snapshots: transactions that read from one moment, each on a connection of its own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.errors import ENDED, RETRY, translated
from rstore.backends.postgres.transaction.executor import StatementReader
from rstore.backends.postgres.transaction.sender import Sender
from rstore.backends.postgres.transport.protocol import Failed, Lost, PostgresConnection
from rstore.backends.postgres.transport.statements import Call, Results, Statement, set_local
from rstore.errors import ConflictError

_BEGIN: Final[Call] = (Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), ())
_MAY_IDLE: Final = set_local("idle_in_transaction_session_timeout", "600000")
"""A snapshot that is not read for so long is lost: it keeps the server from cleaning up."""


class SnapshotReader(StatementReader):
    """Reads a snapshot. Threads share it, and take turns."""

    def __init__(self, sender: Sender, connection: PostgresConnection) -> None:
        self._sender = sender
        self._connection = connection
        self._lock = Lock()  # guards the connection

    def read(self, *calls: Call) -> Results:
        """Return the results of statements. Raises `ConflictError` if the snapshot is lost."""
        sender, show = self._sender, self._sender.place.show
        try:
            with self._lock:
                if self._connection not in sender.pool:
                    raise ConflictError(
                        "the process forked, or an earlier read failed, while it was being read: read again"
                    )
                return sender.run_on(self._connection, calls, sender.timeout_s)
        except Lost as lost:
            raise ConflictError(
                f"{show}: the connection was lost while it was being read: read again"
            ) from lost.__cause__
        except Failed as failure:
            if failure.sqlstate in {*RETRY, *ENDED}:  # a standby replays changes that rule the snapshot out
                raise ConflictError(f"{show}: it took too long to read: read again") from failure.error
            raise translated(failure.error, show) from failure.error


@contextmanager
def snapshot(sender: Sender, first: tuple[Call, ...]) -> Generator[tuple[StatementReader, Results] | None]:
    """Begin a snapshot and end it, as of `StatementReader.snapshot`."""
    held: list[PostgresConnection] = []
    found = sender.send([_BEGIN, _MAY_IDLE, *first], Deadline(sender.timeout_s), hold=held)
    (connection,) = held
    try:
        if sender.pool.keep(connection):
            yield SnapshotReader(sender, connection), found[2:]
            return
    finally:
        try:
            sender.roll_back(connection)
        finally:
            sender.pool.give_back(connection)
    yield None
