"""Rounds: sending calls to their servers, each its share at once, until all are answered or have failed for good."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from redis import exceptions as driver

from rstore.backends.redis.transport.calls import Call, CallLate, CallLost, CallUnsent, read_outcome
from rstore.backends.redis.transport.connection import FAILURES, MIN_S, Connection, pack_command, pack_pieces
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import (
    PASSING,
    REDIRECTED,
    SIGNALS,
    LostReplyError,
    Signal,
    TooFewReplicasError,
    code_of,
    is_refused,
    reason_of,
    refusal,
    unreachable,
)
from rstore.backends.redis.transport.nodes import Nodes
from rstore.backends.redis.transport.pool import RedisPool
from rstore.backends.telemetry import Occurrence
from rstore.errors import OutcomeUnknownError, StoreBusyError, StoreError

_log: Final = logging.getLogger("rstore.redis")
NO_MASTER: Final = driver.ConnectionError("the server answered, and another one became the master meanwhile")


class Rounds:
    """The rounds of some calls, of one thread."""

    def __init__(self, nodes: Nodes, calls: Sequence[Call]) -> None:
        self._nodes = nodes
        self._target, self._deadline, self._telemetry = nodes.target, nodes.deadline, nodes.telemetry
        self._calls = calls
        self._replies: list[Any] = [None] * len(calls)
        self._retries: CallRetries | None = None  # until something goes wrong
        self._rediscovers = False
        self._asking: dict[int, RedisPool] = {}  # where a call is sent behind ASKING in the next round
        self._by_source: set[int] = set()
        self._doubtful: set[int] = set()  # writes of which a reply was lost: they may have been done
        self._failures: dict[int, Exception] = {}  # the last outcome of each call that failed

    def run(self, outcomes: Sequence[Any] | None = None) -> list[Any]:
        """Return the reply to each call, or the exception that it ends with; `outcomes` are those of a first round."""
        todo = list(range(len(self._calls)))
        if self._nodes.outdated:
            self._rediscover()
        if outcomes is None:
            outcomes = self._round(todo)
        while True:
            self._asking.clear()
            again: list[int] = []
            for i, outcome in zip(todo, outcomes, strict=True):
                if not isinstance(outcome, Exception):
                    self._replies[i] = outcome
                elif not self._settle(i, outcome):
                    again.append(i)
            if again and self._retries is not None:
                self._retries.pause()
            if self._rediscovers:
                # Also where this call has failed for good: the next one is to find the server of the slot.
                self._rediscover()
            if not again:
                if len(self._calls) > 1 and not any(isinstance(reply, Exception) for reply in self._replies):
                    self._deadline.begin()  # as many of them may take longer than the time-out
                return self._replies
            todo = again
            # Not in the last moment: whether it was done would not be known, and is now.
            outcomes = self._round(todo, least_s=2 * self._deadline.soon_s)

    @property
    def _where(self) -> str:
        return str(self._target)

    def _settle(self, i: int, outcome: Exception) -> bool:
        """Keep the exception that a call ends with; return False if it is to be sent again."""
        if isinstance(outcome, CallLate):
            outcome = self._failures.get(i, outcome)  # which says more
        self._failures[i] = outcome
        call = self._calls[i]
        final = self._judge(i, call, outcome)
        if call.write and isinstance(outcome, CallLost):
            self._doubtful.add(i)
            lost = "%s: the reply to %s was lost"
            self._telemetry.note(_log, Occurrence.LOST_REPLY, lost, self._target, call.name)
        if final is None:
            if code_of(outcome) != "NOSCRIPT":  # whose source goes along the first time
                why, retry = type(outcome).__name__.removeprefix("Call"), "%s: %s is sent again after %s"
                self._telemetry.note(_log, Occurrence.RETRY, retry, self._target, call.name, why)
            return False
        if i in self._doubtful and isinstance(final, StoreError) and not isinstance(final, OutcomeUnknownError):
            # A refusal of now says nothing of the time before.
            why = f"the reply to a write was lost, and it could not be sent again: {reason_of(final)}"
            final = _caused(OutcomeUnknownError(why), final)
        self._replies[i] = final
        return True

    def _judge(self, i: int, call: Call, outcome: Exception) -> Exception | None:
        """Return the exception that a call ends with, or None if it is to be sent again."""
        if isinstance(outcome, StoreError):
            return outcome
        if isinstance(outcome, CallLate):
            return StoreBusyError(
                f"the Redis server {self._where} did not answer within the time-out; nothing was applied"
            )
        if isinstance(outcome, CallLost):
            return self._judge_lost(call, outcome.error)
        if isinstance(outcome, CallUnsent):
            return self._judge_unsent(outcome)
        fails_over = self._target.fails_over
        code = code_of(outcome)
        if code in SIGNALS:
            return Signal(code)
        if code == "NOSCRIPT" and call.script is not None and i not in self._by_source:
            self._by_source.add(i)
            return None
        if code in REDIRECTED and self._target.cluster and isinstance(outcome, driver.AskError):
            # A server that does not know the name of another leaves it out: then it is its own.
            own = self._nodes.of(call.slot) if outcome.host in ("", "?") else None
            address = own.address[0] if own and own.address else outcome.host, int(outcome.port)
            if code == "ASK":
                self._asking[i] = self._nodes.at(address)
            else:
                self._nodes.moved(call.slot, address)
                self._rediscovers = True
            return self._unless_again(refusal(outcome, self._where, call.name), outcome, waiting=False)
        if code == "READONLY":
            self._nodes.reconnect(call.slot)
        if code in PASSING or (code == "READONLY" and fails_over):
            self._rediscovers |= fails_over and code != "TRYAGAIN"
            return self._unless_again(refusal(outcome, self._where, call.name), outcome, waiting=True)
        return _caused(refusal(outcome, self._where, call.name), outcome)

    def _judge_lost(self, call: Call, error: Exception) -> Exception | None:
        self._rediscovers = self._target.fails_over
        if not call.again:
            return _caused(LostReplyError(), error)
        if isinstance(error, driver.TimeoutError):
            # It may still do what it was sent.
            kind = OutcomeUnknownError if call.write else StoreBusyError
            return _caused(kind(f"the Redis server {self._where} did not answer within the time-out"), error)
        return self._unless_again(unreachable(error, self._where), error, waiting=self._target.fails_over)

    def _judge_unsent(self, outcome: CallUnsent) -> Exception | None:
        error, fails_over = outcome.error, self._target.fails_over
        if isinstance(error, StoreError):
            return error
        passing = isinstance(error, driver.BusyLoadingError)
        if is_refused(error) or not (outcome.connected or fails_over or passing):
            return _caused(unreachable(error, self._where), error)
        self._rediscovers = fails_over
        return self._unless_again(unreachable(error, self._where), error, waiting=fails_over or passing)

    def _unless_again(self, final: Exception, cause: Exception, *, waiting: bool) -> Exception | None:
        self._retries = self._retries or CallRetries(self._deadline)
        return None if self._retries.allows(waiting=waiting) else _caused(final, cause)

    def _rediscover(self) -> None:
        self._rediscovers = False
        self._telemetry.note(_log, Occurrence.RECONNECTION, "%s: asks again where the slots are", self._target)
        self._nodes.outdated = self._target.fails_over  # where there is no time left, the next call begins with this
        try:
            self._nodes.discover()
        except StoreError:
            # No server answers: the next round fails, too, and says so when the time is up.
            self._retries = self._retries or CallRetries(self._deadline)
            self._retries.allows(waiting=True)

    def _round(self, todo: Sequence[int], *, least_s: float = 0.0) -> list[Any]:
        """Send calls, if there is more time left than that for them, and return the outcome of each."""
        outcomes: dict[int, Any] = {}
        groups: dict[int, tuple[RedisPool, list[int]]] = {}
        for i in todo:
            pool = self._asking.get(i) or self._nodes.of(self._calls[i].slot)
            if pool is None:
                outcomes[i] = CallUnsent(driver.ClusterDownError("no server has this slot"), connected=True)
            else:
                groups.setdefault(id(pool), (pool, []))[1].append(i)
        sent: list[tuple[RedisPool, Connection, list[int]]] = []
        for pool, group in groups.values():
            connection = self._send(pool, group, outcomes, least_s)
            if connection is not None:
                sent.append((pool, connection, group))
        for pool, connection, group in sent:
            limited = self._limit(connection)
            read = self._read(connection, group)
            outcomes |= read
            if not isinstance(read[group[-1]], (CallLost, driver.ConnectionError)):  # a lost one takes the last with it
                if limited:
                    connection.update_current_socket_timeout(-1)
                pool.give(connection)
            if pool.changing and not pool.is_settled(self._deadline.left_s):
                outcomes |= dict.fromkeys(self._done(group, read), CallLost(NO_MASTER))
        return [outcomes[i] for i in todo]

    def _send(
        self, pool: RedisPool, group: Sequence[int], outcomes: dict[int, Any], least_s: float
    ) -> Connection | None:
        """Send the share of one server, and return the connection to read from; None if it was not sent."""
        within_s: float | None = None
        if time.monotonic() - self._deadline.began > self._deadline.soon_s:
            within_s = self._deadline.left_s
            if within_s <= least_s:
                outcomes |= dict.fromkeys(group, CallLate())
                return None
        try:
            connection = pool.take(checked=any(self._calls[i].write for i in group), within_s=within_s)
            self._limit(connection)
        except (*FAILURES, StoreError) as error:
            outcomes |= dict.fromkeys(group, CallUnsent(error, connected=False))
            return None
        try:
            connection.send_packed_command(self._pack(group), False)
        except FAILURES as error:
            # Of several calls some may have arrived whole, and one whose WAIT has not.
            several = len(group) > 1 or self._waits(group)
            outcomes |= dict.fromkeys(group, CallLost(error) if several else CallUnsent(error, connected=True))
            return None
        return connection

    def _limit(self, connection: Connection) -> bool:
        """Let a connection wait no longer than until the deadline; return whether that is sooner than by itself."""
        if time.monotonic() - self._deadline.began <= self._deadline.soon_s:
            return False
        connection.update_current_socket_timeout(max(self._deadline.left_s, MIN_S))
        return True

    def _pack(self, group: Sequence[int]) -> list[bytes | memoryview]:
        packed: list[bytes | memoryview] = []
        small: list[bytes] = []  # put together: each piece is a call of the system
        for i in group:
            call = self._calls[i]
            command = call.command
            if i in self._by_source and call.script is not None:
                command = (b"EVAL", call.script.source, *command[2:])
            if i in self._asking:
                small.append(pack_command((b"ASKING",)))
            if call.large:
                packed += (b"".join(small), *pack_pieces(command))
                small.clear()
            else:
                small.append(pack_command(command))
        if self._waits(group):
            wait = b"WAIT", b"%d" % self._target.wait_replicas, b"%d" % self._deadline.wait_ms
            small.append(pack_command(wait))
        return [*packed, b"".join(small)]

    def _read(self, connection: Connection, group: Sequence[int]) -> dict[int, Any]:
        outcomes: dict[int, Any] = {}
        for position, i in enumerate(group):
            for _ in range(2 if i in self._asking else 1):
                outcomes[i] = read_outcome(connection)
                if isinstance(outcomes[i], CallLost | driver.ConnectionError):
                    # redis-py closes the connection on some refusals, too; what follows them is not known.
                    rest = group[position + 1 :]
                    return outcomes | dict.fromkeys(rest, CallLost(driver.ConnectionError("the connection was closed")))
        if self._waits(group):
            reached = read_outcome(connection)
            if isinstance(reached, CallLost):
                return dict.fromkeys(group, reached)
            if isinstance(reached, Exception) or reached < self._target.wait_replicas:
                few = TooFewReplicasError("the write", self._target.wait_replicas, reached)
                # A script that answers 0 has found nothing to do: there is nothing to confirm.
                outcomes |= {i: few for i in self._done(group, outcomes) if outcomes[i] != 0}
        return outcomes

    def _done(self, group: Sequence[int], outcomes: dict[int, Any]) -> list[int]:
        """Return the writes of a group that were answered."""
        return [i for i in group if self._calls[i].write and not isinstance(outcomes[i], Exception)]

    def _waits(self, group: Sequence[int]) -> bool:
        return self._target.wait_replicas > 0 and any(self._calls[i].write for i in group)


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error
