"""One connection to PostgreSQL: statements go out together, in one round trip, and every wait has an end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

import psycopg
from psycopg import capabilities, pq
from psycopg.errors import Diagnostic, error_from_result

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.errors import ENDED, is_refused_by_pooler
from rstore.backends.postgres.transport.sockets import READ, WRITE, poll_until, waiter
from rstore.backends.postgres.transport.statements import Call, Results

# Looked up once: each use would go through three levels of names.
_OK: Final = pq.ExecStatus.COMMAND_OK
_ERROR: Final = pq.ExecStatus.FATAL_ERROR
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_BAD: Final = pq.ConnStatus.BAD
_IDLE: Final = pq.TransactionStatus.IDLE
_BINARY: Final = [[1] * n for n in range(20)]
"""Format codes for each number of parameters, all binary."""

_GRACE_S: Final = 1.5
"""A server that is asked to give up is given so long to say that it did."""
_WARNING: Final = "WARNING"
_TERMINATED: Final = "57P01"
_AWAITING_STANDBYS: Final = "SyncRepWaitForLSN"
_FLUSH_EVERY: Final = 16
"""After so many statements the server is to say how far it is: a long pipeline must not look like one that hangs."""

AtWork: TypeAlias = "Callable[[PostgresConnection], bool | None]"
"""Returns whether the server is at work on a connection, as another one tells; None if no other one answers."""


class Lost(Exception):  # noqa: N818 - a signal between two files, which no user sees
    """The connection broke, chained from the cause. The statements may have been done, or are being done right now."""


class Silent(Lost):
    """The server did not answer in time, nor when it was asked to give up."""


class Unconfirmed(Lost):
    """The write is committed on this server, and no standby has confirmed it, for which the server was to wait."""


class Failed(Exception):  # noqa: N818 - the same
    """The server refused a statement, chained from the driver's error; nothing of the pipeline was done."""

    def __init__(self, error: psycopg.Error, *, asked: bool = False) -> None:
        super().__init__(error.sqlstate)
        self.asked = asked
        """Whether it was asked to give up."""
        self.sqlstate = error.sqlstate or ""
        self.error = error


class PostgresConnection:
    """One connection, for one thread at a time.

    It stays in pipeline mode. The statements between two syncs are one transaction, in one round trip without BEGIN and
    COMMIT. Nothing counts as done before the sync is answered: a statement is complete before its commit.
    """

    def __init__(self, pgconn: pq.abc.PGconn, *, prepare: bool) -> None:
        # Not a psycopg.Connection: that warns when it is collected, as after an interrupt.
        self._pgconn = pgconn
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._wait = waiter(self._pgconn.socket)
        self._warnings: list[_ServerWarning] = []
        self._pgconn.notice_handler = _keeper(self._warnings)
        self._fd = self._pgconn.socket
        self._prepare = prepare
        self._prepared: set[bytes] = set()
        self._cancelled = False
        self.used_at = monotonic()
        self.mark = b""
        """The name of its receipts, once it has left one."""
        # The rest belongs to its pool.
        self.home: object = None
        self.seat: object = None
        self.kept = False
        """Whether a snapshot is read on it."""

    def alive(self) -> bool:
        """Return whether nothing has arrived since the last answer: on an idle connection only its end does."""
        return not self._wait(READ, 0.0)

    @property
    def idle(self) -> bool:
        """Whether it is outside of any transaction."""
        return self._pgconn.transaction_status == _IDLE

    @property
    def reusable(self) -> bool:
        """Whether the next call may have it: outside of any transaction, and with no cancellation on its way to it."""
        return self.idle and not self._cancelled

    @property
    def pid(self) -> int:
        """The server's number of the session; behind a pooler it is that of no session."""
        return self._pgconn.backend_pid

    @property
    def encoding(self) -> str:
        """The encoding of the database."""
        return (self._pgconn.parameter_status(b"server_encoding") or b"").decode()

    def close(self) -> None:
        """End the session."""
        self._pgconn.finish()

    def abandon(self) -> None:
        """Let go of the socket of another process, without a word to its server."""
        os.close(self._fd)

    def run(
        self, calls: Iterable[Call], timeout_s: float, *, asking: bool = True, at_work: AtWork | None = None
    ) -> Results:
        """Return the results of statements that are sent together; all of them are done or none.

        `timeout_s` bounds how long the server may be silent. Then it is asked to give up, unless there is no time for
        `asking`, or unless it is found to be `at_work`, for statements that may take long.

        Raises `Lost` or `Failed`.
        """
        results: Results = []
        try:
            prepared = self._send(calls)
        except psycopg.Error as error:
            raise Lost from error
        try:
            self._receive(results, timeout_s, asking=asking, at_work=at_work)
        except TimeoutError as error:
            raise Silent from error
        except psycopg.Error as error:
            self._check_confirmed()
            # The reason that the server gave before it closed the connection, if it gave one.
            why = next((error_from_result(result) for result in results if result.status == _ERROR), error)
            if is_refused_by_pooler(why) or why.sqlstate in ENDED:
                raise Failed(why) from None
            raise Lost from why
        if prepared:
            results = self._learn(prepared, results)
        for result in results:
            if result.status == _ERROR:
                raise Failed(error_from_result(result), asked=self._cancelled)
        if self._warnings:
            self._check_confirmed()
        return results

    def _check_confirmed(self) -> None:
        """Raise `Unconfirmed` if the server has warned that it waits no longer for its standbys."""
        for warning in self._warnings:
            # Its words are in the server's language. A server that is built without the names of its functions sends
            # the warning when it was asked to give up, or to end; one that shuts down at once warns of other things.
            hinted = self._cancelled or warning.sqlstate == _TERMINATED
            if warning.function == _AWAITING_STANDBYS if warning.function else hinted:
                raise Unconfirmed from psycopg.OperationalError(warning.words)

    def hear(self, timeout_s: float) -> list[bytes]:
        """Return the payloads of the notifications for this session, waiting for the first one.

        Raises `Lost`.
        """
        try:
            heard = self._notified()
            if not heard and self._wait(READ, timeout_s):
                self._pgconn.consume_input()
                heard = self._notified()
        except psycopg.Error as error:
            raise Lost from error
        return heard

    def _notified(self) -> list[bytes]:
        return [notify.extra for notify in iter(self._pgconn.notifies, None)]

    def _send(self, calls: Iterable[Call]) -> dict[int, bytes]:
        """Send statements; return the names of those that are prepared on the way, by the place of their answers."""
        self._warnings.clear()
        pgconn, known = self._pgconn, self._prepared
        new: dict[int, bytes] = {}
        for i, (statement, parameters) in enumerate(calls, 1):
            formats = _BINARY[len(parameters)]
            if not self._prepare:
                pgconn.send_query_params(statement.sql, parameters, None, formats, 1)
            else:
                if statement.name not in known and statement.name not in new.values():
                    pgconn.send_prepare(statement.name, statement.sql)
                    new[i - 1 + len(new)] = statement.name
                pgconn.send_query_prepared(statement.name, parameters, formats, 1)
            if i % _FLUSH_EVERY == 0:
                pgconn.send_flush_request()
        pgconn.pipeline_sync()
        return new

    def _learn(self, prepared: dict[int, bytes], results: Results) -> Results:
        """Remember the statements whose preparation succeeded; return the other results."""
        self._prepared.update(name for i, name in prepared.items() if results[i].status == _OK)
        return [result for i, result in enumerate(results) if i not in prepared or result.status != _OK]

    def _receive(self, results: Results, timeout_s: float, *, asking: bool, at_work: AtWork | None) -> None:
        """Take in results, up to the end of the pipeline or of the connection."""
        pgconn, wait = self._pgconn, self._wait
        while pgconn.flush():  # the kernel takes no more: the server may be waiting for us to read
            ready = wait(READ | WRITE, timeout_s)
            if not ready:
                raise TimeoutError("the server does not take what is sent")
            if ready & READ:
                pgconn.consume_input()
        grace: Deadline | None = None
        while True:
            while pgconn.is_busy():
                if wait(READ, timeout_s if grace is None else grace.left_s):
                    pgconn.consume_input()
                elif grace is None and at_work is not None and (found := at_work(self)) is not False:
                    if found is None:
                        raise TimeoutError("the server does not answer, nor on another connection")
                elif grace is not None or not asking:
                    raise TimeoutError("the server does not answer")
                else:
                    grace = Deadline(_GRACE_S)
                    self._cancel(grace)  # whether it did give up is in its answer
            result = pgconn.get_result()
            if result is not None and result.status == _SYNC:
                return
            if result is not None:
                results.append(result)
            if pgconn.status == _BAD:
                raise psycopg.OperationalError("the connection is closed")

    def _cancel(self, deadline: Deadline) -> None:
        self._cancelled = True
        if not capabilities.has_cancel_safe():
            self._pgconn.get_cancel().cancel()
            return
        cancelling = self._pgconn.cancel_conn()
        cancelling.start()
        poll_until(cancelling, cancelling.poll, deadline)
        cancelling.finish()


class _ServerWarning(NamedTuple):
    sqlstate: str | None
    function: str | None
    words: str


def _keeper(warnings: list[_ServerWarning]) -> Callable[[pq.abc.PGresult], None]:
    """Return the handler that keeps a warning; when it returns, the driver forgets the server's words."""

    def keep(result: pq.abc.PGresult) -> None:
        notice = Diagnostic(result)
        if notice.severity_nonlocalized == _WARNING:
            warnings.append(_ServerWarning(notice.sqlstate, notice.source_function, notice.message_primary or ""))

    return keep
