"""Being woken by the writers of a namespace: LISTEN and NOTIFY, for which they pay while there is a watcher."""

from __future__ import annotations

import time
from time import monotonic
from typing import Final

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.sql.records import WATCHED_S, RecordSql
from rstore.backends.postgres.transport.binary import number
from rstore.backends.postgres.transport.pool import ConnectionPool
from rstore.backends.postgres.transport.protocol import Failed, Lost, PostgresConnection
from rstore.backends.postgres.transport.statements import Call, Statement
from rstore.backends.telemetry import Telemetry
from rstore.backends.types import Watcher
from rstore.errors import StoreError

_RENEW_S: Final = WATCHED_S / 3
_LISTENING_S: Final = 1.0
"""A write that began before it was known that there is a watcher does not notify, however late it commits."""
_POLLING_S: Final = 0.1
_AGAIN_S: Final = 1.0
# A session that reads no more would keep the server from forgetting the notifications of the whole database.
_FORGET = Statement("""
SELECT set_config('idle_session_timeout', '60s', false) WHERE current_setting('server_version_num')::int >= 140000""")


class PostgresWatcher(Watcher):
    """A session that listens. Where that cannot be, as behind a pooler, on a standby or without rights, it polls."""

    def __init__(
        self, place: PostgresPlace, sql: RecordSql, name: bytes, timeout_s: float, *, logs: bool = False
    ) -> None:
        # Not of the store's pool: there a few watchers would leave no connection to other calls.
        self._pool = ConnectionPool(place._replace(pool=1), Telemetry())
        self._session, self._listen = sql.session, sql.listen_to_logs if logs else sql.listen
        self._name = name
        self._watch: Call = sql.follow if logs else sql.watch, (name,)
        self._timeout_s = timeout_s
        self._connection: PostgresConnection | None = None
        self._renew_at = 0.0
        self._begin_at: float | None = None
        """When to try next to listen; None: it was refused."""
        self._begin()

    def wait(self, timeout_s: float) -> bool:
        """Wait until a write is heard of."""
        deadline = Deadline(timeout_s)
        if self._connection is None and self._begin_at is not None and monotonic() >= self._begin_at and self._begin():
            return True
        if self._connection is None:
            time.sleep(deadline.left_s)
            return False
        try:
            return self._hear(self._connection, deadline)
        except (Lost, Failed):
            self._pool.drop(self._connection)
            self._poll(again_at=monotonic())
            return True

    def _hear(self, connection: PostgresConnection, deadline: Deadline) -> bool:
        if monotonic() >= self._renew_at:
            self._renew(connection)
        while True:
            is_over = deadline.is_over
            if self._name in connection.hear(deadline.left_s):
                self._renew(connection)  # the namespace may have been made anew
                return True
            if is_over:
                return False

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()
        connection = self._connection  # looked at once: the thread that waits may lose it right now
        if connection is not None:
            self._pool.drop(connection)

    def _begin(self) -> bool:
        """Return whether it listens from now on."""
        try:
            connection = self._pool.take(Deadline(0))  # which takes a second at most
        except StoreError:
            # The next read raises the error, or succeeds, for instance with one session less.
            self._poll(again_at=monotonic() + _AGAIN_S)
            return False
        again_at: float | None = None
        try:
            (pid,) = connection.run([(self._session, ())], self._timeout_s)
            # A pooler hands sessions around: one that listens would go on listening for another client.
            if number(pid) == connection.pid:
                connection.run([(_FORGET, ()), (self._listen, ()), self._watch], self._timeout_s)
                self._connection, self.every_s, self._renew_at = connection, _LISTENING_S, monotonic() + _RENEW_S
                if self._pool.closed:  # by another thread, before it could see this connection
                    self.close()
                return True
        except Failed:
            pass
        except Lost:
            again_at = monotonic() + _AGAIN_S
        self._pool.drop(connection)
        self._poll(again_at=again_at)
        return False

    def _renew(self, connection: PostgresConnection) -> None:
        connection.run([self._watch], self._timeout_s)
        self._renew_at = monotonic() + _RENEW_S

    def _poll(self, *, again_at: float | None) -> None:
        self._connection, self.every_s, self._begin_at = None, _POLLING_S, again_at
