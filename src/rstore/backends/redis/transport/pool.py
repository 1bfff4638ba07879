"""The connections to one server: taken, used by one thread at a time, and given back."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final

from redis import exceptions as driver

from rstore.backends.redis.transport.connection import (
    MIN_S,
    SHORTEST_TIMEOUT_S,
    Connection,
    Connector,
    connected,
    is_alive,
    pack_command,
    socket_of,
)
from rstore.backends.redis.transport.dsn import Address, Target
from rstore.backends.redis.transport.places import PoolPlaces
from rstore.backends.telemetry import Telemetry
from rstore.errors import StoreClosedError
from rstore.forks import renewed_in_child

_FRESH_S: Final = 0.0002
"""A connection that was in use so shortly before is not looked at: a look is a call of the system."""


class RedisPool:
    """The connections to one server. Threads share it: a list is popped and appended to by one of them at a time."""

    changing = False
    """Whether its server may be about to lose its role, or has lost it: see `is_settled`."""

    def __init__(
        self, make: Connector, target: Target, address: Address | None, timeout_s: float, telemetry: Telemetry
    ) -> None:
        self._new = partial(type(self), make, target, address, timeout_s, telemetry)
        self.address = address
        self.where = "{}:{}".format(*address) if address else str(target)
        self._make = make
        self._timeout_s = timeout_s
        self._places = PoolPlaces(target.max_connections, self.where, telemetry)
        self._aside: RedisPool | None = None
        self._idle: list[tuple[Connection, float]] = []  # with the time since when
        self.closed = False
        _pools.add(self)

    def idle(self, *, checked: bool, now: float) -> Connection | None:
        """Return an idle connection, if there is one; `checked` if the server must not have closed it.

        A closed one is found out by looking at its socket: to send something on it is to lose the reply.
        """
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not checked or now - since < _FRESH_S or is_alive(connection):
                return connection
            connection.disconnect()
        if self.closed:
            raise StoreClosedError("the store was closed meanwhile")
        return None

    def take(self, *, checked: bool, within_s: float | None = None) -> Connection:
        """Return a connection that no other thread has: an idle one, or a new one, which is waited for `within_s`.

        Raises `StoreBusyError` if all of them are in use until then.
        """
        now = monotonic()
        connection = self.idle(checked=checked, now=now)
        if connection is None:
            until = now + (self._timeout_s if within_s is None else within_s)
            connected_by = now + max(self._timeout_s, SHORTEST_TIMEOUT_S) if within_s is None else until

            def connect() -> Connection:
                return connected(self._make, self.address, connected_by - monotonic())

            connection = self._places.connect(connect, self._pop, until)
        return connection

    def _pop(self) -> Connection | None:
        try:
            return self._idle.pop()[0]
        except IndexError:
            return None

    def give(self, connection: Connection) -> None:
        """Take a connection back that has no reply outstanding."""
        self._idle.append((connection, monotonic()))
        if self.closed:
            self.close()
        elif self._places.line:
            self._places.hand_over(self._pop)

    def ask(self, *command: bytes, within_s: float) -> Any:
        """Return the reply to a command that only reads, on a connection that the server has not closed."""
        connection = self.take(checked=True, within_s=within_s)
        if within_s < connection.socket_timeout:
            connection.update_current_socket_timeout(max(within_s, MIN_S))
        try:
            connection.send_packed_command((pack_command(command),), check_health=False)
            reply = connection.read_response(disable_decoding=True)
        except driver.ResponseError as error:
            reply = error.with_traceback(None)
        connection.update_current_socket_timeout(-1)
        self.give(connection)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def aside(self) -> RedisPool:
        """Return the pool for callers that keep a connection while using others: in one pool they would deadlock."""
        if self._aside is None:
            self._aside = self._new()
            if self.closed:
                self._aside.close()
        return self._aside

    def is_settled(self, within_s: float) -> bool:
        return not self.changing

    def close(self) -> None:
        self.closed = True
        self.drop_idle()
        if self._aside is not None:
            self._aside.close()

    def cut(self) -> None:
        """Close all connections, also those that a thread waits on: it gets an error in place of its reply."""
        self.drop_idle()
        for connection in self._places.made():
            # Not `disconnect`, which takes the parser away from under the other thread; and not the `shutdown` of TLS,
            # which says goodbye to a server that may be gone.
            sock = socket_of(connection)
            if sock is not None:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def drop_idle(self) -> None:
        while (connection := self._pop()) is not None:
            connection.disconnect()

    def renew_in_child(self) -> None:
        """Let go of the parent's connections, and of places that its threads wait for.

        The parent goes on using the sockets: closing the child's descriptors is all that may happen to them.
        """
        self.drop_idle()
        self._places = self._places.renewed()


_pools: Final = renewed_in_child(RedisPool.renew_in_child)
