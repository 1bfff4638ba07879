"""Connections: redis-py's, with its TLS and its parser; their login, their greeting, and commands as they are sent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol, TypeAlias, cast

import hiredis
import redis
from redis import exceptions as driver

from rstore.backends.common.interpreter import check_running
from rstore.backends.credentials import Credentials, ask_for_login
from rstore.backends.redis.transport.dsn import Address, Target
from rstore.errors import forgetful

Command: TypeAlias = tuple[bytes, ...]
"""Its name and its arguments."""

# Not the method of a connection: it tries other ways first. Bytes alone: an int is packed by its str(), which looks for
# signals, and where one is pending that raises, hiredis reads from a null pointer.
pack_command: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)
FAILURES: Final = (driver.RedisError, OSError)
"""All failures of a connection."""
SHORTEST_TIMEOUT_S: Final = 1.0
"""The least wait for an answer: a shorter time-out bounds only the waits for other clients."""
MIN_S: Final = 0.05
"""The wait for a reply that is most likely there already, though the time is up."""
_PIECE_BYTES: Final = 16 * 1024 * 1024
"""The time-out of a socket is one for each piece that is sent."""
_CONNECT_S: Final = 5.0
"""In a cluster, the wait for a machine that may be gone: a replica stands in for it meanwhile."""


def pack_pieces(command: Command) -> list[bytes | memoryview]:
    """Return a command in pieces, without a copy of its large parts."""
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
        return [pack_command(tuple(part if isinstance(part, bytes) else f"{part}".encode() for part in arguments))]


class Connection(Protocol):
    """The part of redis-py's connections that is used."""

    socket_timeout: float
    socket_connect_timeout: float

    # Connects, authenticates and selects the database.
    def connect(self) -> None: ...
    # In a child after a fork, it tells the server nothing.
    def disconnect(self) -> None: ...
    # An idle connection with something to read was closed.
    def can_read(self, timeout: float = 0) -> bool: ...
    def send_packed_command(self, command: Sequence[bytes | memoryview], check_health: bool = True) -> None: ...
    # -1 is the time-out that the connection has by itself.
    def update_current_socket_timeout(self, relaxed_timeout: float) -> None: ...
    # With `push_request`, it returns also what was not asked for.
    def read_response(self, disable_decoding: bool = False, *, push_request: bool = False) -> Any: ...


Connector: TypeAlias = "Callable[[Address | None], Connection]"
"""Makes a connection to an address, not connected yet."""


def connector(target: Target, timeout_s: float, *, protocol: int = 2) -> Connector:
    """Return the function that makes connections, not connected yet, to the servers of a target."""
    timeout_s = max(timeout_s, SHORTEST_TIMEOUT_S)  # 0 would be a socket that never waits
    options: dict[str, Any] = {
        **(target.credentials if target.ask is None else {"credential_provider": _AskedLogin(target.ask, target)}),
        "db": target.database,
        "command_packer": _Packer(),
        "protocol": protocol,
        "redis_connect_func": _greeter(target),
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


class _AskedLogin(redis.CredentialProvider):
    """Asks a function of the program for a login, whenever redis-py connects: tokens rotate."""

    def __init__(self, ask: Credentials, target: Target) -> None:
        self._ask = ask
        self._target = target

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        login = ask_for_login(self._ask, f"the Redis server {self._target}")
        user = login.user or self._target.credentials.get("username")
        return (login.password,) if user is None else (user, login.password)


def _greeter(target: Target) -> Callable[[Any], None]:
    """Return the function that redis-py calls for each new connection. Its greeting costs one round trip."""
    wanted: list[Command] = []
    if target.cluster and target.read_from_replica:
        wanted.append((b"READONLY",))
    if target.service is not None:
        wanted.append((b"INFO", b"replication"))  # not ROLE, which is for administrators
    hints: list[Command] = [] if target.client_name is None else [(b"CLIENT", b"SETNAME", target.client_name.encode())]
    hints += ((b"CLIENT", b"SETINFO", *said) for said in ((b"LIB-NAME", b"rstore"), (b"LIB-VER", _version)))
    packed = b"".join(map(pack_command, [*wanted, *hints]))

    def greet(connection: Any) -> None:
        connection.on_connect()  # authenticates, and selects the database
        connection.send_packed_command([packed], False)
        for command in wanted:
            reply = connection.read_response(True)
            if command[0] == b"INFO" and b"role:master" not in reply:
                if not target.read_from_replica:
                    raise driver.ConnectionError("the server is a replica by now")
                if b"master_link_status:up" not in reply:
                    raise driver.ConnectionError("the replica is cut off from its master")
        for _ in hints:
            try:
                connection.read_response(True)
            except driver.ResponseError:  # a server before 7.2 knows no SETINFO, and a user may not be allowed to
                continue

    return greet


try:
    _version = version("rlib-store").encode()
except PackageNotFoundError:  # the source, not installed
    _version = b"0"


@forgetful
def connected(make: Connector, address: Address | None, within_s: float) -> Connection:
    """Return a connection that is connected, within so many seconds if that is less than its own limit."""
    connection = make(address)
    usual_s = connection.socket_timeout
    if within_s < usual_s:
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
    except FAILURES:
        return False


def socket_of(connection: Connection) -> socket.socket | None:
    """Return the socket of a connection, None if it has none: redis-py 7 does not tell otherwise."""
    return getattr(connection, "_sock", None)
