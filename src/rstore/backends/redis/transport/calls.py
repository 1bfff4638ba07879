"""Calls to servers, and their outcomes.

Nouns: a *call* (one command, and whether it may be sent twice), a *script* (Lua that the servers know by its hash) and
an *outcome* (the reply to a call, or the exception that stands for what went wrong).
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis import exceptions as driver

from rstore.backends.redis.transport.connection import FAILURES, Command, Connection

SLOTS: Final = 16384
"""Of a cluster."""


def slot_of(name: bytes) -> int:
    """Return the slot that a name falls on."""
    start = name.find(b"{")
    if start >= 0 and (end := name.find(b"}", start)) > start + 1:
        name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


class Script:
    """A Lua script, known to the servers by its hash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = files("rstore.backends.redis").joinpath("scripts", f"{name}.lua").read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def on(self, slot: int, keys: Sequence[bytes], *arguments: bytes, write: bool, again: bool) -> Call:
        return Call(slot, (b"EVALSHA", self.sha, b"%d" % len(keys), *keys, *arguments), write, again, self)


class Call(NamedTuple):
    """One command. The slot decides which server of a cluster gets it."""

    slot: int
    command: Command
    write: bool = False
    again: bool = True
    """Whether it does no harm when it is done twice."""
    script: Script | None = None
    large: bool = False
    """Whether a copy of it would count."""

    @property
    def name(self) -> str:
        verb = self.command[0].decode()
        return verb if self.script is None else f"{verb} of the script {self.script.name!r}"


class CallUnsent(Exception):  # noqa: N818 - an outcome
    """Nothing was sent, or not all of it: the server has not run it."""

    def __init__(self, error: Exception, *, connected: bool) -> None:
        super().__init__(error)
        self.error = error
        self.connected = connected


class CallLost(Exception):  # noqa: N818 - an outcome
    """All was sent, and the reply did not come."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class CallLate(Exception):  # noqa: N818 - an outcome
    """The time was up before it was sent."""


def read_outcome(connection: Connection) -> Any:
    """Return the next reply on a connection, or the exception that stands for its failure."""
    try:
        return connection.read_response(True)
    except (driver.ResponseError, driver.AuthenticationError, driver.BusyLoadingError) as error:
        # Its traceback and the frames in it hold each other, and what the caller has thrown away would still be there.
        return error.with_traceback(None)
    except FAILURES as error:
        return CallLost(error)


def raised(outcome: Any) -> Any:
    """Return an outcome, or raise the exception that it is."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
