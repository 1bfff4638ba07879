"""The places of a pool: how many connections there are to one server, and the line of threads that wait for one.

A connection takes a place as long as it is connected: redis-py closes what it has lost. A place is a reference, not a
count, so that an error or an interrupt costs none, wherever it comes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock
from time import monotonic
from typing import Final
from weakref import WeakSet

from rstore.backends.redis.transport.connection import Connection, socket_of
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError

_log: Final = logging.getLogger("rstore.redis")
_LOOK_S: Final = 0.05
"""How often a waiting thread looks whether a connection was lost, of which nothing tells it."""


class _Waiter(Event):
    """One thread in the line, and the connection that another one has handed to it."""

    connection: Connection | None = None


class _Connecting:
    """A thread that connects. It goes with the call, whatever becomes of the thread."""


class PoolPlaces:
    """The places of one pool. Threads share it."""

    def __init__(self, n: int, where: str, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._n = n
        self._where = where
        self._lock = Lock()  # guards the two below
        self._connecting: WeakSet[_Connecting] = WeakSet()
        self._made: WeakSet[Connection] = WeakSet()
        self.line: deque[_Waiter] = deque()  # the longest first

    def connect(
        self, make: Callable[[], Connection], idle: Callable[[], Connection | None], until: float
    ) -> Connection:
        """Return a new connection, or one that became idle while the thread waited for a place.

        Raises `StoreBusyError` if there was neither until that time.
        """
        place = _Connecting()
        try:
            if not self._enter(place) and (handed := self._stand_in_line(place, idle, until)) is not None:
                return handed
            connection = make()
            with self._lock:
                self._made.add(connection)
        finally:
            self._connecting.discard(place)  # the traceback of an error may hold it for long
        return connection

    def renewed(self) -> PoolPlaces:
        """Return as many places of which none is taken."""
        return PoolPlaces(self._n, self._where, self._telemetry)

    def hand_over(self, idle: Callable[[], Connection | None]) -> None:
        """Give an idle connection to the thread that waits longest."""
        with self._lock:
            if self.line and (connection := idle()) is not None:
                waiter = self.line.popleft()
                waiter.connection = connection
                waiter.set()

    def made(self) -> list[Connection]:
        with self._lock:
            return list(self._made)

    def _enter(self, place: _Connecting) -> bool:
        with self._lock:
            for connection in [one for one in self._made if socket_of(one) is None]:
                self._made.discard(connection)
            if len(self._connecting) + len(self._made) >= self._n:
                return False
            self._connecting.add(place)
            return True

    def _is_first(self, waiter: _Waiter) -> bool:
        with self._lock:
            return bool(self.line) and self.line[0] is waiter

    def _stand_in_line(
        self, place: _Connecting, idle: Callable[[], Connection | None], until: float
    ) -> Connection | None:
        """Wait for a connection; None if a place became free instead, and is taken."""
        waiter = _Waiter()
        wait = "a call waits for one of %d connections to %s"
        self._telemetry.note(_log, Occurrence.WAIT, wait, self._n, self._where)
        entered = False
        try:
            # In this order: a thread that gives a connection back looks at the line afterwards.
            self.line.append(waiter)
            self.hand_over(idle)
            while not entered and (left_s := until - monotonic()) > 0 and not waiter.wait(min(left_s, _LOOK_S)):
                entered = self._is_first(waiter) and self._enter(place)
        finally:
            with self._lock, suppress(ValueError):  # it is not in the line if its turn has come
                self.line.remove(waiter)
        if waiter.connection is None and not entered:
            raise StoreBusyError(
                f"all {self._n} connections to the Redis server {self._where} were in use until the time-out: "
                "raise max_connections in the DSN; nothing was applied"
            )
        return waiter.connection
