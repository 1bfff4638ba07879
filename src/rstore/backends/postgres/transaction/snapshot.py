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
"""A reader that does not go on for so long has lost its moment: the server could not clean up meanwhile."""


class MomentReader(StatementReader):
    """Reads from one moment. Threads share it, and take turns."""

    def __init__(self, sender: Sender, connection: PostgresConnection) -> None:
        self._sender = sender
        self._connection = connection
        self._lock = Lock()  # guards the connection

    def read(self, *calls: Call, patient: bool = False) -> Results:
        """Return the results of statements, all at the same moment.

        Raises `ConflictError` if the moment is lost.
        """
        del patient
        with self._lock:
            return self._read(calls)

    def _read(self, calls: tuple[Call, ...]) -> Results:
        sender, show = self._sender, self._sender.place.show
        if self._connection not in sender.pool:
            raise ConflictError("the process forked, or an earlier read failed, while it was being read: read again")
        try:
            return sender.run_on(self._connection, calls, sender.timeout_s)
        except Lost as lost:
            raise ConflictError(
                f"{show}: the connection was lost while it was being read: read again"
            ) from lost.__cause__
        except Failed as failure:
            if failure.sqlstate in {*RETRY, *ENDED}:  # a standby replays changes that the moment rules out
                raise ConflictError(f"{show}: it took too long to read: read again") from failure.error
            raise translated(failure.error, show) from failure.error


@contextmanager
def moment(sender: Sender, first: tuple[Call, ...]) -> Generator[tuple[StatementReader, Results] | None]:
    """Begin to read one moment, and end it, as of `StatementReader.moment`."""
    connection, found = sender.send([_BEGIN, _MAY_IDLE, *first], Deadline(sender.timeout_s))
    try:
        if sender.pool.keep(connection):
            yield MomentReader(sender, connection), found[2:]
            return
    finally:
        try:
            sender.roll_back(connection)
        finally:
            sender.pool.give_back(connection)
    yield None
