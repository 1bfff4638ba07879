"""The connection of one transaction: the keys that it watches, and the one step at its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis import exceptions as driver

from rstore.backends.redis.transport.calls import CallLost, read_outcome
from rstore.backends.redis.transport.client import Client
from rstore.backends.redis.transport.connection import FAILURES, MIN_S, Command, Connection, is_alive, pack_command
from rstore.backends.redis.transport.errors import (
    REDIRECTED,
    LostReplyError,
    TooFewReplicasError,
    code_of,
    refusal,
    unreachable,
)
from rstore.backends.types import RolledBack
from rstore.errors import StoreBusyError, StoreClosedError

_KEYS_A_COMMAND: Final = 50
"""The server looks through all that a connection watches for each key that is added."""


class WatchedKeys:
    """Keys that no other client may change before the end. One thread uses it, the one of the transaction."""

    def __init__(self, client: Client, slot: int) -> None:
        self._client = client
        self._pool = client.pool(slot)
        self._connection: Connection | None = None
        self._pid = os.getpid()
        self._keys: set[bytes] = set()
        self._broken = False

    def __len__(self) -> int:
        return len(self._keys)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those of the keys that are not watched yet."""
        return [key for key in dict.fromkeys(keys) if key not in self._keys]

    def add(self, keys: Sequence[bytes]) -> None:
        """Watch some more keys, before they are read."""
        pieces = [keys[i : i + _KEYS_A_COMMAND] for i in range(0, len(keys), _KEYS_A_COMMAND)]
        try:
            connection = self._send([(b"WATCH", *piece) for piece in pieces])
            replies = self._receive(connection, len(pieces))
        except driver.TimeoutError as error:
            raise StoreBusyError(
                f"the Redis server {self._client.where} did not answer within the time-out; nothing was applied"
            ) from error
        except FAILURES as error:
            raise self._overtaken() from error
        for reply in replies:
            self._check(reply)
        self._keys.update(keys)

    def finish(self, command: Command, replicas: int) -> Any:
        """Run one command if no watched key has changed, wait until so many replicas have it, and return its reply.

        Raises `RolledBack` if a key has changed; `LostReplyError` if the outcome is not known.
        """
        # Where nothing is watched without MULTI: a server whose memory is full refuses it, whatever it holds.
        commands = [(b"MULTI",), command, (b"EXEC",)] if self._keys else [command]
        if replicas:
            commands.append((b"WAIT", b"%d" % replicas, b"%d" % self._client.deadline.wait_ms))
        try:
            connection = self._send(commands)
        except FAILURES as error:
            if replicas:
                raise LostReplyError from error  # all but WAIT may have arrived
            raise self._overtaken() from error  # without EXEC, its end, nothing is done
        try:
            replies = self._receive(connection, len(commands))
        except FAILURES as error:
            raise LostReplyError from error
        if self._pool.changing and not self._pool.is_settled(self._left_s()):
            raise LostReplyError from driver.ConnectionError("another server became the master meanwhile")
        reached = replies.pop() if replicas else 0
        for reply in replies:
            self._check(reply)  # the first one says why, EXEC only that
        done = replies[-1]
        if self._keys:
            self._keys.clear()
            if done is None:
                raise self._overtaken()
            [done] = done
            self._check(done)
        if done == b"DONE" and (isinstance(reached, Exception) or reached < replicas):
            raise TooFewReplicasError("the transaction", replicas, reached)
        return done

    def close(self) -> None:
        """Give the connection back, watching nothing."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._broken or self._keys or self._pid != os.getpid():  # in a child it is the parent's
            # UNWATCH would cost a round trip, and a transaction that comes here was overtaken or raised an error.
            connection.disconnect()
        else:
            connection.update_current_socket_timeout(-1)
            self._pool.give(connection)

    def _send(self, commands: Sequence[Command]) -> Connection:
        if self._pool.closed:
            raise StoreClosedError("the store was closed meanwhile")
        connection = self._connection
        if connection is None:
            try:
                connection = self._connection = self._pool.take(checked=True, within_s=self._left_s())
            except FAILURES as error:
                if self._client.is_replaced(error):
                    raise self._overtaken() from error  # all of it can be done again where that one is
                raise unreachable(error, self._client.where) from error
        elif self._broken or not is_alive(connection):
            # Not to be sent by redis-py, which would connect anew, watching nothing.
            self._broken = True
            raise self._overtaken()
        # Until the deadline of the call, and not as long as one that had none.
        connection.update_current_socket_timeout(min(self._left_s(), connection.socket_timeout))
        self._broken = True  # until all replies are there, whatever comes between
        connection.send_packed_command([b"".join(map(pack_command, commands))], False)
        return connection

    def _left_s(self) -> float:
        return max(MIN_S, self._client.deadline.left_s)

    def _receive(self, connection: Connection, n: int) -> list[Any]:
        replies: list[Any] = []
        for _ in range(n):
            reply = read_outcome(connection)
            if isinstance(reply, CallLost):
                raise reply.error
            replies.append(reply)
        # redis-py closes the connection on some refusals.
        self._broken = any(isinstance(reply, driver.ConnectionError) for reply in replies)
        return replies

    def _check(self, reply: Any) -> None:
        if not isinstance(reply, Exception):
            return
        if code_of(reply) in REDIRECTED:
            self._client.look_again()
            raise self._overtaken() from reply
        raise refusal(reply, self._client.where) from reply

    def _overtaken(self) -> RolledBack:
        return RolledBack(
            "another client changed what a transaction read, or the connection was lost; nothing was applied"
        )
