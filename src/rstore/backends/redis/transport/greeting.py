"""The greeting of a new connection: its name and library, for CLIENT LIST. It costs one round trip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast
from urllib.parse import quote

import hiredis
from redis import exceptions as driver

from rstore.backends.redis.transport.dsn import Target

_MAX_BYTES: Final = 200
_pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)


def named(target: Target, namespace: str) -> Target:
    """Return the target with the name that its connections bear: that of the DSN, or one made of the namespace."""
    name = target.client_name or f"rstore:{quote(namespace, safe='')}"[:_MAX_BYTES]
    return replace(target, client_name=name)


def greeter(target: Target) -> Callable[[Any], None]:
    """Return the function that redis-py calls for each new connection."""
    wanted: list[tuple[Any, ...]] = []
    if target.cluster and target.read_from_replica:
        wanted.append((b"READONLY",))
    if target.service is not None:
        wanted.append((b"INFO", b"replication"))  # not ROLE, which is for administrators
    hints: list[tuple[Any, ...]] = []
    if target.client_name is not None:
        hints.append((b"CLIENT", b"SETNAME", target.client_name.encode()))
    hints += [(b"CLIENT", b"SETINFO", b"LIB-NAME", b"rstore"), (b"CLIENT", b"SETINFO", b"LIB-VER", _VERSION)]
    packed = b"".join(map(_pack, [*wanted, *hints]))

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


def _version() -> bytes:
    try:
        return version("rlib-store").encode()
    except PackageNotFoundError:  # the source, not installed
        return b"0"


_VERSION: Final = _version()
