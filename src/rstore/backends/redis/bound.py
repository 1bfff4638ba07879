"""How many connections there are to one server at most, and the line of threads that wait for one.

A place is taken by a connection as long as it is connected: redis-py closes what it has lost. It is referred to, not
counted, so that an error or an interrupt costs no place, wherever it comes.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError

if TYPE_CHECKING:
    from rstore.backends.redis.pool import Connection


_log: Final = logging.getLogger("rstore.redis")
_LOOK_S: Final = 0.05
"""How often a waiting thread looks whether a connection was lost: nobody tells it."""


def socket_of(connection: Connection) -> socket.socket | None:
    """Return the socket of a connection, None if it has none: redis-py 7 does not tell otherwise."""
    found: socket.socket | None = getattr(connection, "_sock", None)
    return found


class _Turn(Event):
    """One thread in the line, and the connection that another one has handed to it."""

    connection: Connection | None = None


class _Place:
    """The state of a thread that connects. It goes with the call, whatever becomes of the thread."""


class Bound:
    """The places of one pool. Threads share it."""

    def __init__(self, most: int, where: str, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._most = most
        self._where = where
        self._lock = Lock()  # guards the two below
        self._connecting: WeakSet[_Place] = WeakSet()
        self._made: WeakSet[Connection] = WeakSet()
        self.line: deque[_Turn] = deque()  # of threads that wait, the longest first

    def connect(
        self, make: Callable[[], Connection], idle: Callable[[], Connection | None], until: float
    ) -> Connection:
        """Return a new connection, or one that became idle while the thread waited for a place.

        Raises `StoreBusyError` if there was neither until some time.
        """
        place = _Place()
        try:
            if not self._enter(place) and (handed := self._stand_in_line(place, idle, until)) is not None:
                return handed
            connection = make()
            with self._lock:
                self._made.add(connection)
        finally:
            self._connecting.discard(place)  # the traceback of an error may hold it for long
        return connection

    def hand_over(self, idle: Callable[[], Connection | None]) -> None:
        """Give what is idle to the thread that waits longest."""
        with self._lock:
            if self.line and (connection := idle()) is not None:
                turn = self.line.popleft()
                turn.connection = connection
                turn.set()

    def made(self) -> list[Connection]:
        """Return the connections there are."""
        with self._lock:
            return list(self._made)

    def _enter(self, place: _Place) -> bool:
        with self._lock:
            for connection in [one for one in self._made if socket_of(one) is None]:
                self._made.discard(connection)
            if len(self._connecting) + len(self._made) >= self._most:
                return False
            self._connecting.add(place)
            return True

    def _is_first(self, turn: _Turn) -> bool:
        with self._lock:
            return bool(self.line) and self.line[0] is turn

    def _stand_in_line(self, place: _Place, idle: Callable[[], Connection | None], until: float) -> Connection | None:
        """Wait for a connection; None if a place became free instead, and is taken."""
        turn = _Turn()
        wait = "a call waits for one of %d connections to %s"
        self._telemetry.note(_log, Occurrence.WAIT, wait, self._most, self._where)
        entered = False
        try:
            # In this order: who gives one back looks at the line afterwards.
            self.line.append(turn)
            self.hand_over(idle)
            while not entered and (left_s := until - monotonic()) > 0 and not turn.wait(min(left_s, _LOOK_S)):
                entered = self._is_first(turn) and self._enter(place)
        finally:
            with self._lock, suppress(ValueError):  # it is not in the line if its turn has come
                self.line.remove(turn)
        if turn.connection is None and not entered:
            raise StoreBusyError(
                f"all {self._most} connections to the Redis server {self._where} were in use until the time-out: "
                "raise max_connections in the DSN; nothing was applied"
            )
        return turn.connection
