"""Connections to one server: taken, used by one thread at a time, and given back.

Nouns: a *connection* (redis-py's, with its TLS, its authentication and its parser) and a *pool*.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol, cast
from weakref import WeakSet

import hiredis
import redis
from redis import exceptions as driver

from rstore.backends.common.interpreter import check_running
from rstore.backends.redis.bound import Bound, socket_of
from rstore.backends.redis.dsn import Address, Target
from rstore.backends.redis.greeting import greeter
from rstore.backends.redis.logins import AskedLogin
from rstore.backends.telemetry import Telemetry
from rstore.errors import StoreClosedError, forgetful

# Not the method of a connection: it tries other ways first. Bytes alone: an int is packed by its str(), which looks for
# signals, and where one is pending that raises, hiredis reads from a null pointer.
pack_command: Final = cast("Callable[[tuple[bytes, ...]], bytes]", hiredis.pack_command)
_PIECE_BYTES: Final = 16 * 1024 * 1024
"""So much is sent at once: the time-out is one for each piece."""
_SHORTEST_TIMEOUT_S: Final = 1.0
_CONNECT_S: Final = 5.0
"""In a cluster, so long a machine is waited for that may be gone: a replica stands in for it meanwhile."""
MIN_S: Final = 0.05
"""So long is waited for what is most likely there already, though the time is up."""
_FRESH_S: Final = 0.0002
"""A connection that was in use so shortly before is not looked at: in a loop that writes, it would take a tenth."""


def pack_pieces(command: tuple[bytes, ...]) -> list[bytes | memoryview]:
    """Return a command in pieces, without a copy of what is large in it."""
    pieces: list[bytes | memoryview] = [b"*%d\r\n" % len(command)]
    for raw in command:
        whole = memoryview(raw)
        pieces.append(b"$%d\r\n" % len(raw))
        pieces += (whole[begin : begin + _PIECE_BYTES] for begin in range(0, len(raw), _PIECE_BYTES))
        pieces.append(b"\r\n")
    return pieces


class _Packer:
    """Packs the commands of redis-py's own, which begin a connection, without an int in them."""

    @staticmethod
    def pack(*arguments: str | bytes | int) -> list[bytes]:
        """Return a command as it is sent."""
        return [pack_command(tuple(part if isinstance(part, bytes) else f"{part}".encode() for part in arguments))]


class Connection(Protocol):
    """What is used of redis-py's connections."""

    def connect(self) -> None:
        """Connect, authenticate, select the database."""

    def disconnect(self) -> None:
        """Close the socket; in a child after a fork without telling the server."""

    def can_read(self, timeout: float = 0) -> bool:
        """Return whether there is something to read: of an idle connection, that it was closed."""
        ...

    def send_packed_command(self, command: Sequence[bytes | memoryview], check_health: bool = True) -> None:
        """Send a command."""

    def update_current_socket_timeout(self, relaxed_timeout: float) -> None:
        """Wait so long for the socket from now on; -1: as long as the connection does by itself."""

    socket_timeout: float
    socket_connect_timeout: float

    def read_response(self, disable_decoding: bool = False, *, push_request: bool = False) -> Any:
        """Return a reply, or raise the error that it is; with `push_request` also what was not asked for."""
        ...


def connector(target: Target, timeout_s: float, *, protocol: int = 2) -> Callable[[Address | None], Connection]:
    """Return what makes connections, not connected yet, to the servers of a target."""
    timeout_s = max(timeout_s, _SHORTEST_TIMEOUT_S)  # 0 would be a socket that never waits
    options: dict[str, Any] = {
        **(target.credentials if target.ask is None else {"credential_provider": _asked(target)}),
        "db": target.database,
        "command_packer": _Packer(),
        "protocol": protocol,
        "redis_connect_func": greeter(target),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, _CONNECT_S) if target.fails_over else timeout_s,
        "driver_info": None,  # the greeting says it in one round trip instead of two
    }

    def make(address: Address | None) -> Connection:
        kind: Any = redis.UnixDomainSocketConnection  # the constructors are not typed
        if address is None:
            return cast("Connection", kind(path=target.path, **options))
        kind = redis.SSLConnection if target.tls else redis.Connection
        return cast("Connection", kind(host=address[0], port=address[1], **target.ssl, **options))

    return make


def _asked(target: Target) -> AskedLogin | None:
    return None if target.ask is None else AskedLogin(target.ask, target.credentials.get("username"), str(target))


class Pool:
    """The connections to one server. Threads share it: a list is popped and appended to by one of them at a time."""

    changing = False
    """Whether its server may be about to lose its role, or has lost it: see `is_settled`."""

    def __init__(
        self,
        make: Callable[[Address | None], Connection],
        address: Address | None,
        where: str,
        most: int,
        timeout_s: float,
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self.address = address
        self.where = where
        self._make = make
        self._most = most
        self._timeout_s = timeout_s
        self._bound = Bound(most, where, self._telemetry)
        self._aside: Pool | None = None
        self._idle: list[tuple[Connection, float]] = []  # with the time since when
        self._closed = False
        _pools.add(self)

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._closed

    def idle(self, *, checked: bool, now: float) -> Connection | None:
        """Return a connection that nobody uses, if there is one; `checked` if the server must not have closed it.

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
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")
        return None

    def take(self, *, checked: bool, within_s: float | None = None) -> Connection:
        """Return a connection that nobody else has: an idle one, or a new one, which is waited for `within_s`.

        Raises `StoreBusyError` if there are too many until then.
        """
        now = monotonic()
        connection = self.idle(checked=checked, now=now)
        if connection is None:
            until = now + (self._timeout_s if within_s is None else within_s)
            # A time-out of less than that is one for what others hold up, not for what a server answers.
            connected_by = now + max(self._timeout_s, _SHORTEST_TIMEOUT_S) if within_s is None else until
            connection = self._bound.connect(lambda: self._connected(connected_by), self._pop, until)
        return connection

    def _connected(self, until: float) -> Connection:
        return connected(self._make, self.address, until - monotonic())

    def _pop(self) -> Connection | None:
        try:
            return self._idle.pop()[0]
        except IndexError:
            return None

    def give(self, connection: Connection) -> None:
        """Take a connection back that has no reply outstanding."""
        self._idle.append((connection, monotonic()))
        if self._closed:
            self.close()
        elif self._bound.line:
            self._bound.hand_over(self._pop)

    def aside(self) -> Pool:
        """Return the pool for who keeps a connection while using others: in one pool they wait for each other."""
        if self._aside is None:
            self._aside = type(self)(self._make, self.address, self.where, self._most, self._timeout_s, self._telemetry)
            if self._closed:
                self._aside.close()
        return self._aside

    def is_settled(self, within_s: float) -> bool:
        """Return whether what the server has answered will last, waiting for the end of a failover."""
        return not self.changing

    def close(self) -> None:
        """Close all connections; those that are in use when they are given back."""
        self._closed = True
        self.drop_idle()
        if self._aside is not None:
            self._aside.close()

    def cut(self) -> None:
        """Close all connections, also those that a thread waits on: it gets an error in place of its reply."""
        self.drop_idle()
        for connection in self._bound.made():
            # Not `disconnect`, which takes the parser away from under the other thread; and not the `shutdown` of TLS,
            # which says goodbye to a server that may be gone.
            sock = socket_of(connection)
            if sock is not None:
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def after_fork(self) -> None:
        """Let go, in a child, of what is its parent's: connections, and places that other threads wait for."""
        self.drop_idle()
        self._bound = Bound(self._most, self.where, self._telemetry)

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            try:
                self._idle.pop()[0].disconnect()
            except IndexError:
                return


@forgetful
def connected(
    make: Callable[[Address | None], Connection], address: Address | None, within_s: float | None = None
) -> Connection:
    """Return a connection that is connected, within so many seconds if that is less than its own limit."""
    connection = make(address)
    usual_s = connection.socket_timeout
    if within_s is not None and within_s < usual_s:
        connection.socket_timeout = max(within_s, MIN_S)
        connection.socket_connect_timeout = min(connection.socket_timeout, connection.socket_connect_timeout)
    check_running("the server cannot be connected to")
    try:
        connection.connect()
    except driver.ConnectionError as error:
        if not _is_cut(error):
            raise
        connection.connect()  # as a call whose connection breaks is sent again; once, since a server may do so to all
    if connection.socket_timeout != usual_s:
        connection.socket_timeout = usual_s
        connection.update_current_socket_timeout(-1)
    return connection


def _is_cut(error: driver.ConnectionError) -> bool:
    """Return whether a connection was made, and broke before the server had answered what begins it."""
    cause = error.__cause__ or error.__context__
    broke = not isinstance(cause, OSError) or isinstance(cause, ConnectionResetError | BrokenPipeError)
    return type(error) is driver.ConnectionError and broke


def is_alive(connection: Connection) -> bool:
    """Return whether the server has not closed a connection without a reply outstanding: nothing else comes unasked."""
    try:
        return not connection.can_read(0)
    except (redis.RedisError, OSError):
        return False


_pools: WeakSet[Pool] = WeakSet()


def _after_fork() -> None:
    # The parent goes on using these sockets: closing the descriptors of the child is all that may happen to them.
    for pool in list(_pools):
        pool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
