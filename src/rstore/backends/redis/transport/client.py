"""The client: one object through which the rest of the backend sends its calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from redis import exceptions as driver

from rstore.backends.redis.transport.calls import Call, CallLost, CallUnsent, raised, read_outcome
from rstore.backends.redis.transport.connection import FAILURES, Command, pack_command, pack_pieces
from rstore.backends.redis.transport.deadline import CallDeadline, CallRetries
from rstore.backends.redis.transport.dsn import Target
from rstore.backends.redis.transport.errors import code_of, is_mute, is_refused, unreachable
from rstore.backends.redis.transport.nodes import Nodes
from rstore.backends.redis.transport.pool import RedisPool
from rstore.backends.redis.transport.rounds import NO_MASTER, Rounds
from rstore.backends.redis.transport.sentinel import SentinelNodes
from rstore.backends.redis.transport.tls import tls_on_one_side
from rstore.backends.telemetry import Telemetry
from rstore.errors import StoreError, StoreNotAvailableError

_HANDSHAKE_S: Final = 2.0
"""After so long without an answer a server is asked, once, whether it speaks TLS at all."""
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024


class Client:
    """Sends calls to the servers that they belong to. Threads share it."""

    def __init__(self, target: Target, timeout_s: float, telemetry: Telemetry) -> None:
        self._target = target
        self.where = str(target)
        self.deadline = CallDeadline(timeout_s)
        self._soon_s = self.deadline.soon_s
        self._waiting = target.wait_replicas > 0
        self._nodes = (Nodes if target.service is None else SentinelNodes)(target, self.deadline, telemetry)

    def open(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Connect; return where each server is and what it says of itself."""
        retries = CallRetries(self.deadline)
        within_s = _HANDSHAKE_S if self._target.tls else self.deadline.answer_s
        while True:
            try:
                self._nodes.discover()
                left_s = min(within_s, self.deadline.left_s)
                return [(pool.where, parse_info(pool.ask(b"INFO", within_s=left_s))) for pool in self._nodes.all()]
            except (StoreNotAvailableError, *FAILURES) as error:
                servers = self._target.addresses if is_mute(error) else ()
                if servers and (why := tls_on_one_side(servers[0], self.deadline.left_s, tls=self._target.tls)):
                    raise StoreNotAvailableError(f"the Redis server {self.where} cannot be talked to: {why}") from error
                if isinstance(error, StoreError):
                    raise
                if within_s < self.deadline.answer_s and retries.allows(waiting=False):
                    within_s = self.deadline.answer_s
                    continue
                # One of a cluster may be down that a replica is about to stand in for.
                passing = code_of(error) == "LOADING" or (self._target.fails_over and not is_refused(error))
                if not (passing and retries.wait()):
                    raise unreachable(error, self.where) from error

    def ask_all(self, *questions: Command) -> list[list[Any]]:
        """Return the answers of each server that serves slots to some questions; a refusal is an answer."""

        def answer(pool: RedisPool, question: Command) -> Any:
            try:
                return pool.ask(*question, within_s=self.deadline.left_s)
            except driver.ResponseError as error:
                return error

        try:
            return [[answer(pool, question) for question in questions] for pool in self._nodes.all()]
        except FAILURES as error:
            raise unreachable(error, self.where) from error

    def close(self) -> None:
        self._nodes.close()

    def server_of(self, slot: int) -> RedisPool | None:
        """Return where a slot is thought to be, if that is known."""
        return self._nodes.of(slot)

    def pool(self, slot: int) -> RedisPool:
        """Return the connections to the server of a slot, for a caller that stays on one of them."""
        pool = self._nodes.of(slot)
        if pool is None:
            raise StoreNotAvailableError(f"no server has the slot {slot} of the Redis Cluster {self._target}")
        return pool.aside()

    def look_again(self) -> None:
        """Ask the cluster where the slots are; where no server answers, the next call says so."""
        with suppress(StoreError):
            self._nodes.discover()

    def is_replaced(self, error: Exception) -> bool:
        """Return whether another server may stand in for one that failed, and ask which one."""
        if not self._target.fails_over or is_refused(error):
            return False
        self.look_again()
        return True

    def shrink(self, slot: int, carried: int) -> None:
        """Let go of idle connections after one has carried a reply of so many bytes: its buffer stays that large."""
        if carried > _MAX_KEPT_BYTES:
            self._nodes.reconnect(slot)

    def call(self, call: Call) -> Any:
        """Return the reply to a call.

        Raises `Signal` if a script says so, `LostReplyError` if the reply of a call that must not be sent twice was
        lost, or the `StoreError` that the server's refusal becomes.
        """
        outcome: Any = None
        nodes, now = self._nodes, time.monotonic()
        pool = nodes.only or nodes.of(call.slot)
        if (
            pool is None
            or self._waiting
            or nodes.outdated
            or now - self.deadline.began > self._soon_s
            or (connection := pool.idle(checked=call.write, now=now)) is None
        ):
            return raised(self.run([call])[0])
        # The common case, written out.
        try:
            packed = pack_pieces(call.command) if call.large else (pack_command(call.command),)
            connection.send_packed_command(packed, False)
        except FAILURES as error:
            outcome = CallUnsent(error, connected=True)
        else:
            outcome = read_outcome(connection)
            if not isinstance(outcome, Exception):
                pool.give(connection)
                if not (pool.changing and call.write) or pool.is_settled(self.deadline.left_s):
                    return outcome
                outcome = CallLost(NO_MASTER)
            elif not isinstance(outcome, CallLost):
                pool.give(connection)
        return raised(self.run([call], [outcome])[0])

    def run(self, calls: Sequence[Call], outcomes: Sequence[Any] | None = None) -> list[Any]:
        """Return the reply to each call, or the exception that `call` would raise.

        Each server gets its share in one go, and all work side by side. Calls on one slot run in their order as long
        as nothing goes wrong. `outcomes` are those of a first round.
        """
        return Rounds(self._nodes, calls).run(outcomes)


def parse_info(text: bytes) -> dict[bytes, bytes]:
    """Return the fields of INFO."""
    return dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
