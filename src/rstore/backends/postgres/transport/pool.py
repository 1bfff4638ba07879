"""The connections of one open store: handed out to threads, replaced when they break, left alone after a fork.

Not psycopg_pool: its threads do not survive a fork, it finds dead connections by a statement before each use, and
handing one out takes as long as a lookup on it.

An interrupt may come between any two steps, also between taking a connection and the `try` that would give it back. So
nothing counts the connections in use: such a connection is referenced by its user alone, and where that was
interrupted, the connection and its *seat* in the pool go with the last reference. For the same reason there is no
`Condition`: its own code can be interrupted between taking its lock and the `with` that would let go of it.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock, RLock
from time import monotonic
from typing import Final
from weakref import finalize, ref

import psycopg

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.errors import is_temporary, unreachable
from rstore.backends.postgres.transport.connect import connect
from rstore.backends.postgres.transport.protocol import PostgresConnection
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError, StoreClosedError
from rstore.forks import renewed_in_child

_log: Final = logging.getLogger("rstore.postgres")
_IDLE_S: Final = 300.0
_MIN_S: Final = 1.0
"""A server is given so long to take a connection, however short the time-out is: a distant one needs some of that."""
_FIRST_KNOCK_S: Final = 0.01
_LONGEST_KNOCK_S: Final = 0.5
_LOOK_S: Final = 0.1
"""A waiting thread looks for a seat this often: a seat that is lost to an interrupt wakes no thread."""
_COLLECT_S: Final = 0.5
"""After this wait a thread collects garbage: a cycle of tracebacks of an interrupt may hold a seat."""
_COLLECT_SHARE: Final = 20
"""The pause between two collections, in lengths of one: a collection stops all threads of the program."""
_PATIENT_S: Final = 0.1
"""After this wait a thread is handed the next connection. Before, the first thread that comes takes it: changing the
thread with every call would cost more than the call."""


class Seat:
    """The right to one connection, for as long as it is referenced."""

    __slots__ = ("__weakref__",)


class _WaitingThread:
    """A thread that waits for a connection."""

    def __init__(self) -> None:
        self.since = monotonic()
        self.connection: PostgresConnection | None = None
        self.queued = False
        self.bell = Lock()
        self.bell.acquire()


class ConnectionPool:
    """The connections of one open store. Threads share it; each takes one for a call, a transaction or a snapshot."""

    def __init__(self, place: PostgresPlace, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._place = place
        self.prepare = place.prepare
        """Whether connections opened from now on keep statements prepared."""
        self.closed = False
        self._begin_anew()
        _pools.add(self)

    def _begin_anew(self) -> None:
        self._lock = RLock()  # guards the seats and the kept ones; taking and giving back an idle one needs none
        self._home = object()  # marks the connections of this process that are not dropped
        self._idle: deque[PostgresConnection] = deque()  # the one used last is taken first
        # Not a WeakSet: an interrupt in its own code would leave a dead seat in it for good.
        self._connections: list[ref[PostgresConnection]] = []  # all that were opened, and some that are gone
        self._seats: list[ref[Seat]] = []
        self._waiters: deque[_WaitingThread] = deque()  # the one that waits the longest is called first
        self._given_back_at = self._collects_at = 0.0
        # A store that was not closed ends its sessions when it is thrown away, and at the end of the process.
        self._farewell = finalize(self, _close_all, self._connections)

    def __contains__(self, connection: PostgresConnection) -> bool:
        """Return whether a connection is still this process's own, and not dropped."""
        return connection.home is self._home

    @property
    def connections(self) -> list[PostgresConnection]:
        """All connections that are open."""
        return [connection for connection in _alive(self._connections) if connection in self]

    def close(self) -> None:
        """Close the connections, each as soon as its thread is not using it."""
        self.closed = True
        self.drop_idle()
        for waiter in [*self._waiters]:
            _ring(waiter)

    def forget(self) -> None:
        """Let go, in the child of a fork, of the connections of its parent."""
        connections = self.connections
        for connection in connections:
            connection.abandon()
        # Kept for good: nothing may ever be sent on them, not even farewell.
        self._farewell.detach()
        _abandoned.extend(connections)
        self._begin_anew()

    def take(self, deadline: Deadline) -> PostgresConnection:
        """Return a connection for one call or one transaction, to be given back.

        Raises `StoreBusyError` if there is none by then.
        """
        return self._pop() or self._wait(deadline)

    def _pop(self) -> PostgresConnection | None:
        """Return a connection that is idle and has not broken."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if self.closed:
                self.drop(connection)
                raise StoreClosedError("the store was closed meanwhile")
            if connection.alive():
                return connection
            lost = "%s: an idle connection was lost"
            self._telemetry.note(_log, Occurrence.RECONNECTION, lost, self._place.show)
            self.drop(connection)

    def _wait(self, deadline: Deadline) -> PostgresConnection:
        """Return a connection that another thread gives back, or a new one: the first that can be had."""
        waiter = _WaitingThread()
        connection: PostgresConnection | None = None
        try:
            connection = self._wait_as(waiter, deadline)
            return connection
        finally:
            self._leave_queue(waiter, connection)

    def _wait_as(self, waiter: _WaitingThread, deadline: Deadline) -> PostgresConnection:
        knock_at = waiter.since
        pauses = Backoff(deadline, first_s=_FIRST_KNOCK_S, longest_s=_LONGEST_KNOCK_S)
        refused: psycopg.Error | None = None
        waits = False
        while True:
            is_over = deadline.is_over  # before the last look: a thread that wakes late looks once more
            if self.closed:
                raise StoreClosedError("the store was closed meanwhile")
            if monotonic() >= knock_at and (seat := self._seat()) is not None:
                made = self._connect(seat, deadline)
                if isinstance(made, PostgresConnection):
                    return made
                refused = made
                del seat
                if not is_temporary(refused):
                    raise unreachable(refused, self._place.show) from refused
                knock_at = monotonic() + pauses.draw_s()
            if not waits:
                waits = True
                wait = "%s: a call waits for one of %d connections"
                self._telemetry.note(_log, Occurrence.WAIT, wait, self._place.show, self._place.pool)
                self._waiters.append(waiter)
                waiter.queued = True
            knock_s = knock_at - monotonic()
            wait_s = min(deadline.left_s, _LOOK_S, knock_s if knock_s > 0 else _LOOK_S)
            if (connection := self._given(waiter, wait_s)) is not None or (connection := self._pop()) is not None:
                return connection
            if is_over:
                break
            if monotonic() >= waiter.since + _COLLECT_S or deadline.left_s <= _LOOK_S:
                self._collect(waiter.since)
        if refused is not None:
            raise unreachable(refused, self._place.show) from refused
        raise StoreBusyError(
            f"{self._place.show}: all {self._place.pool} connections of the store stayed in use until the "
            "time-out; ?pool= allows more"
        )

    def _given(self, waiter: _WaitingThread, timeout_s: float) -> PostgresConnection | None:
        """Wait until a connection may be idle; return one that is handed over.

        A thread that looks in vain keeps its place in the queue: if each look joined the queue anew, some threads would
        wait several times as long.
        """
        # A connection may have been given back before this thread stood in the queue.
        if self._idle or not waiter.bell.acquire(timeout=timeout_s):
            return waiter.connection
        waiter.queued = False
        connection = waiter.connection or self._pop()
        if connection is None:
            self._waiters.appendleft(waiter)
            waiter.queued = True
        return connection

    def _leave_queue(self, waiter: _WaitingThread, connection: PostgresConnection | None) -> None:
        """End a wait that led to a connection or to an error; give back another one that was handed over meanwhile."""
        if waiter.queued:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                waiter.bell.acquire(timeout=_LOOK_S)  # it was called, and is being handed a connection, or nothing
        if waiter.connection is not None and waiter.connection is not connection:
            self.give_back(waiter.connection)

    def _collect(self, since: float) -> None:
        """Collect garbage if no connection was given back since then, and not too often."""
        now = monotonic()
        if self._given_back_at < since and now >= self._collects_at:
            gc.collect()
            end = monotonic()
            self._collects_at = max(self._collects_at, end + _COLLECT_SHARE * (end - now))

    def _seat(self) -> Seat | None:
        """Return the right to open one more connection, if there is one left."""
        with self._lock:
            self._seats[:] = [one for one in self._seats if one() is not None]
            if len(self._seats) >= self._place.pool:
                return None
            seat = Seat()
            self._seats.append(ref(seat))
            return seat

    def _connect(self, seat: Seat, deadline: Deadline) -> PostgresConnection | psycopg.Error:
        pgconn = connect(self._place.login(), Deadline(max(deadline.left_s, _MIN_S)))
        if isinstance(pgconn, psycopg.Error):
            return pgconn
        connection = PostgresConnection(pgconn, prepare=self.prepare)
        connection.seat, connection.home = seat, self._home
        with self._lock:
            self._connections[:] = [one for one in self._connections if one() is not None]
            self._connections.append(ref(connection))
        return connection

    def give_back(self, connection: PostgresConnection) -> None:
        """Take a connection back, unless it was dropped or has something left to do."""
        connection.kept = False
        if connection.home is not self._home:
            return
        if not connection.reusable:
            self.drop(connection)
            return
        now = connection.used_at = self._given_back_at = monotonic()
        if self._waiters and not self.closed and self._hand_over(connection, now):
            return
        self._idle.append(connection)
        if self._waiters:  # a thread that came just now may not have seen this one
            self._call()
        try:
            while self._idle[0].used_at < now - _IDLE_S:
                self.drop(self._idle.popleft())
        except IndexError:  # another thread has taken them
            pass
        if self.closed:
            self.drop_idle()

    def _hand_over(self, connection: PostgresConnection, now: float) -> bool:
        """Wake a waiting thread; return whether it was handed the connection, which it is after a long wait."""
        try:
            waiter = self._waiters.popleft()
        except IndexError:
            return False
        handed = waiter.since < now - _PATIENT_S
        if handed:
            waiter.connection = connection
        else:
            self._idle.append(connection)
        _ring(waiter)
        return True

    def drop(self, connection: PostgresConnection) -> None:
        """End a session."""
        if connection.home is not self._home:
            return
        connection.home, connection.seat = None, None
        connection.close()
        self._call()

    def _call(self) -> None:
        """Wake the thread that has waited the longest, if there is one."""
        with suppress(IndexError):
            _ring(self._waiters.popleft())

    def drop_idle(self) -> None:
        """End the sessions that are not in use."""
        with suppress(IndexError):
            while True:
                self.drop(self._idle.pop())

    def keep(self, connection: PostgresConnection) -> bool:
        """Return whether a connection may be kept for a snapshot: half of them, so that some are left for calls."""
        with self._lock:
            if sum(one.kept for one in self.connections) >= self._place.pool // 2:
                return False
            connection.kept = True
            return True


def _ring(waiter: _WaitingThread) -> None:
    with suppress(RuntimeError):  # it was rung already
        waiter.bell.release()


def _alive(connections: Iterable[ref[PostgresConnection]]) -> list[PostgresConnection]:
    return [connection for one in [*connections] if (connection := one()) is not None]


def _close_all(connections: list[ref[PostgresConnection]]) -> None:
    for connection in _alive(connections):
        connection.close()


# A child has its parent's sockets: the server would take anything sent on one, even farewell, for its parent's word.
_pools = renewed_in_child(ConnectionPool.forget)
_abandoned: list[PostgresConnection] = []
