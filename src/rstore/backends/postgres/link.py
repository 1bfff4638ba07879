"""One connection to PostgreSQL: statements go out together, in one round trip, and every wait has an end.

Nouns: a *statement* (SQL, and the name under which a connection keeps it prepared), a *call* (a statement and its
parameters, in PostgreSQL's binary format) and a *link* (one connection).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

import psycopg
from psycopg import capabilities, pq
from psycopg.errors import Diagnostic, error_from_result

from rstore.backends.postgres.errors import ENDED, is_refused_by_pooler
from rstore.backends.postgres.qualified import qualified

# Looked up once: three levels of names take a tenth of a microsecond each time.
_OK: Final = pq.ExecStatus.COMMAND_OK
_ERROR: Final = pq.ExecStatus.FATAL_ERROR
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_BAD: Final = pq.ConnStatus.BAD
_IDLE: Final = pq.TransactionStatus.IDLE

_READ: Final = 1
_WRITE: Final = 4
_GRACE_S: Final = 1.5
"""How long a server may take that is asked to give up, until it has said that it did."""
_WARNING: Final = "WARNING"
_TERMINATED: Final = "57P01"
_AWAITING_STANDBYS: Final = "SyncRepWaitForLSN"
_FLUSH_EVERY: Final = 16
"""After so many statements the server is to say how far it is: a long pipeline must not look like one that hangs."""


class Statement:
    """SQL with its name, which is made of the SQL: behind a pooler two programs may meet on one connection."""

    __slots__ = ("_as_written", "_written", "name", "sql")
    name: bytes
    sql: bytes

    def __init__(self, sql: str, *, as_written: bool = False) -> None:
        """Make one of SQL whose names are qualified here, or are already."""
        self._written = sql
        self._as_written = as_written

    def __getattr__(self, name: str) -> bytes:
        # Not before it is used: to qualify all that there are takes as long as to open the store.
        if name not in ("name", "sql"):
            raise AttributeError(name)
        self.sql = (self._written if self._as_written else qualified(self._written)).encode()
        self.name = b"rstore_" + sha256(self.sql).hexdigest()[:24].encode()
        return self.name if name == "name" else self.sql


Results: TypeAlias = "list[pq.abc.PGresult]"
Call: TypeAlias = tuple[Statement, Sequence[bytes | None]]


class Calls(Iterable[Call]):
    """Calls that are made while they are sent: the server is at work on the first ones then. Anew each time."""

    def __init__(self, make: Callable[[], Iterator[Call]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Call]:
        return self._make()


AtWork: TypeAlias = "Callable[[Link], bool | None]"
"""Returns whether the server is at work on what was sent on a connection, as another one tells; None if none does."""


class Lost(Exception):  # noqa: N818 - a signal between two files, which no user sees
    """The connection broke, chained from how. What was sent may have been done, or is being done right now."""


class Silent(Lost):
    """The server did not answer in time, nor when it was asked to give up."""


class Unconfirmed(Lost):
    """It is committed on this server, and no standby has confirmed it, as the server was to wait for."""


class Failed(Exception):  # noqa: N818 - the same
    """The server refused a statement, chained from the driver's error; nothing of the pipeline was done."""

    def __init__(self, error: psycopg.Error, *, asked: bool = False) -> None:
        super().__init__(error.sqlstate)
        self.asked = asked
        """Whether it was asked to give up."""
        self.sqlstate = error.sqlstate or ""
        self.error = error


class Link:
    """One connection, for one thread at a time.

    It stays in pipeline mode. Statements between two syncs are one transaction, which is committed at the sync, so
    several of them are atomic in one round trip without a BEGIN and a COMMIT. Nothing counts as done before the sync is
    answered: a statement says that it is complete before its transaction is committed.
    """

    def __init__(self, pgconn: pq.abc.PGconn, *, prepare: bool) -> None:
        # Not a psycopg.Connection: that complains where it is thrown away, as a link is that an interrupt has lost.
        self._pgconn = pgconn
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._wait = _waiter(self._pgconn.socket)
        self._warnings: list[_Warning] = []
        self._pgconn.notice_handler = _keeper(self._warnings)
        self._fd = self._pgconn.socket
        self._prepare = prepare
        self._prepared: set[bytes] = set()
        self._cancelled = False
        self.used_at = monotonic()
        self.mark = b""
        """The name of its receipts, once it has left one."""
        # What follows is its pool's.
        self.home: object = None
        self.seat: object = None
        self.kept = False
        """Whether somebody reads on it from one moment."""
        self.aside = False
        """Whether an answer is under way on it that can be asked for again."""

    def alive(self) -> bool:
        """Return whether nothing has arrived since the last answer; on an idle connection that is its end.

        A look at the socket costs a microsecond, a `SELECT 1` as much as the statement that follows.
        """
        return not self._wait(_READ, 0.0)

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
        """The number of the session, as its server told it; behind a pooler it is that of no session."""
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
        `asking`; or unless it is found to be `at_work`, for what may take long.

        Raises `Lost` or `Failed`.
        """
        return self.receive(self.send(calls), timeout_s, asking=asking, at_work=at_work)

    def send(self, calls: Iterable[Call]) -> dict[int, bytes]:
        """Send statements together; what it returns is for `receive`, before which nothing else is sent.

        Raises `Lost`.
        """
        try:
            return self._send(calls)
        except psycopg.Error as error:
            raise Lost from error

    def receive(
        self, prepared: dict[int, bytes], timeout_s: float, *, asking: bool = True, at_work: AtWork | None = None
    ) -> Results:
        """Return the results of what was sent; all of it was done or nothing.

        Raises `Lost` or `Failed`.
        """
        results: Results = []
        try:
            self._receive(results, timeout_s, asking=asking, at_work=at_work)
        except TimeoutError as error:
            raise Silent from error
        except psycopg.Error as error:
            self._check_confirmed()
            why = _last_words(results) or error
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
            # The words are in the server's language. Where it is built without the names of its functions, a warning
            # counts that came when it was asked to give up, or to end; else one that shuts down at once would, too.
            hinted = self._cancelled or warning.sqlstate == _TERMINATED
            if warning.function == _AWAITING_STANDBYS if warning.function else hinted:
                raise Unconfirmed from psycopg.OperationalError(warning.words)

    def hear(self, timeout_s: float) -> list[bytes]:
        """Return the payloads of what this session was notified of, waiting for the first one.

        Raises `Lost`.
        """
        try:
            heard = self._notified()
            if not heard and self._wait(_READ, timeout_s):
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
        """Take the answers to what was prepared out of the others, and keep in mind what succeeded."""
        self._prepared.update(name for i, name in prepared.items() if results[i].status == _OK)
        return [result for i, result in enumerate(results) if i not in prepared or result.status != _OK]

    def _receive(self, results: Results, timeout_s: float, *, asking: bool, at_work: AtWork | None) -> None:
        """Take in results, up to the end of the pipeline or of the connection."""
        pgconn, wait = self._pgconn, self._wait
        while pgconn.flush():  # the kernel takes no more: the server may be waiting for us to read
            ready = wait(_READ | _WRITE, timeout_s)
            if not ready:
                raise TimeoutError("the server does not take what is sent")
            if ready & _READ:
                pgconn.consume_input()
        give_up_at: float | None = None
        while True:
            while pgconn.is_busy():
                if wait(_READ, timeout_s if give_up_at is None else give_up_at - monotonic()):
                    pgconn.consume_input()
                elif give_up_at is None and at_work is not None and (found := at_work(self)) is not False:
                    if found is None:
                        raise TimeoutError("the server does not answer, nor on another connection")
                elif give_up_at is not None or not asking:
                    raise TimeoutError("the server does not answer")
                else:
                    give_up_at = monotonic() + _GRACE_S
                    self._cancel(give_up_at)  # whether it did give up is in its answer
            result = pgconn.get_result()
            if result is not None and result.status == _SYNC:
                return
            if result is not None:
                results.append(result)
            if pgconn.status == _BAD:
                raise psycopg.OperationalError("the connection is closed")

    def _cancel(self, deadline: float) -> None:
        self._cancelled = True
        if not capabilities.has_cancel_safe():
            self._pgconn.get_cancel().cancel()
            return
        cancelling = self._pgconn.cancel_conn()
        cancelling.start()
        poll_until(cancelling, cancelling.poll, deadline)
        cancelling.finish()


class _Warning(NamedTuple):
    sqlstate: str | None
    function: str | None
    words: str


def _keeper(warnings: list[_Warning]) -> Callable[[pq.abc.PGresult], None]:
    """Return what keeps a warning; when it returns, the driver forgets what the server said."""

    def keep(result: pq.abc.PGresult) -> None:
        notice = Diagnostic(result)
        if notice.severity_nonlocalized == _WARNING:
            warnings.append(_Warning(notice.sqlstate, notice.source_function, notice.message_primary or ""))

    return keep


def poll_until(
    making: pq.abc.PGconn | pq.abc.PGcancelConn, poll: Callable[[], int], deadline: float
) -> pq.PollingStatus:
    """Return how far a connection is that is being made: made, failed, or what it waited for still at the deadline."""
    while (state := pq.PollingStatus(poll())) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        what = _READ if state == pq.PollingStatus.READING else _WRITE
        if not _waiter(making.socket)(what, deadline - monotonic()):
            break
    return state


def _last_words(results: Results) -> psycopg.Error | None:
    """Return what the server said before it closed a connection, if it said why."""
    return next((error_from_result(result) for result in results if result.status == _ERROR), None)


# As many format codes as there are parameters, all binary: making such a list anew takes a tenth of a microsecond.
_BINARY: Final = [[1] * n for n in range(20)]


def _waiter(fd: int) -> Callable[[int, float | None], int]:
    """Return what waits until a socket can be read or written, and returns which; 0 when the time is up."""
    if not hasattr(select, "poll"):  # Windows
        return lambda what, timeout_s: _select(fd, what, timeout_s)
    reading, either = select.poll(), select.poll()
    reading.register(fd, select.POLLIN)
    either.register(fd, select.POLLIN | select.POLLOUT)
    poll = {_READ: reading.poll, _READ | _WRITE: either.poll, _WRITE: either.poll}

    def wait(what: int, timeout_s: float | None) -> int:
        events = poll[what](None if timeout_s is None else max(0.0, timeout_s * 1000))
        # Whatever is wrong with a socket is found by reading it.
        return (
            0 if not events else (events[0][1] & select.POLLOUT and _WRITE) | (events[0][1] & ~select.POLLOUT and _READ)
        )

    return wait


def _select(fd: int, what: int, timeout_s: float | None) -> int:
    readable, writable, broken = select.select(
        [fd] if what & _READ else [],
        [fd] if what & _WRITE else [],
        [fd],
        None if timeout_s is None else max(0.0, timeout_s),
    )
    return (_READ if readable or broken else 0) | (_WRITE if writable else 0)
