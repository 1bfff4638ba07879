"""Sending commands to the servers that they belong to, and what is done where that does not go smoothly.

Nouns: a *call* (one command, and whether it may be sent twice), a *round* (all calls that are sent at once, each server
its share) and an *outcome* (the reply to a call, or what went wrong).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis import exceptions as driver

from rstore.backends.redis.dsn import Target
from rstore.backends.redis.errors import (
    PASSING,
    REDIRECTED,
    SIGNALS,
    LostReplyError,
    Signal,
    TooFewReplicasError,
    code_of,
    reason_of,
    refusal,
    unreachable,
)
from rstore.backends.redis.nodes import FAILURES, Nodes, ask
from rstore.backends.redis.patience import Deadline, Patience
from rstore.backends.redis.pool import MIN_S, Connection, Pool, pack_command, pack_pieces
from rstore.backends.redis.probing import tls_on_one_side
from rstore.backends.redis.sentinel import SentinelNodes
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import OutcomeUnknownError, StoreBusyError, StoreError, StoreNotAvailableError

_log: Final = logging.getLogger("rstore.redis")
_HANDSHAKE_S: Final = 2.0
"""After so long without an answer a server is asked, once, whether it speaks TLS at all."""
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024


_NO_MASTER: Final = driver.ConnectionError("the server answered, and another one became the master meanwhile")


class Script:
    """A Lua script, known to the servers by its hash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = files("rstore.backends.redis").joinpath("scripts", f"{name}.lua").read_bytes()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest().encode()

    def on(self, slot: int, keys: Sequence[bytes], *arguments: bytes, write: bool, again: bool) -> Call:
        """Return the call of this script; `again` if it does no harm when it runs twice."""
        return Call(slot, (b"EVALSHA", self.sha, b"%d" % len(keys), *keys, *arguments), write, again, self)


class Call(NamedTuple):
    """One command. The slot decides which server of a cluster gets it."""

    slot: int
    command: tuple[bytes, ...]
    write: bool = False
    again: bool = True
    script: Script | None = None
    large: bool = False
    """Whether a copy of it would count."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        verb = self.command[0].decode()
        return verb if self.script is None else f"{verb} of the script {self.script.name!r}"


class _Unsent(Exception):  # noqa: N818 - an outcome
    """Nothing was sent, or not all of it: the server has not run it."""

    def __init__(self, error: Exception, *, connected: bool) -> None:
        super().__init__(error)
        self.error = error
        self.connected = connected


class _Lost(Exception):  # noqa: N818 - an outcome
    """All was sent, and the reply did not come."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Late(Exception):  # noqa: N818 - an outcome
    """The time was up before it was sent."""


class Client:
    """What the rest of the backend sends its calls through. Threads share it."""

    def __init__(self, target: Target, timeout_s: float, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._target = target
        self.deadline = Deadline(timeout_s)
        self._soon_s = self.deadline.soon_s
        self._waiting = target.wait_replicas > 0
        kind = Nodes if target.service is None else SentinelNodes
        self._nodes = kind(target, timeout_s, self.deadline, telemetry)

    def open(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Connect; return where each server is and what it says of itself.

        Raises `StoreNotAvailableError`.
        """
        patience = Patience(self.deadline)
        within_s = _HANDSHAKE_S if self._target.tls else self.deadline.answer_s
        while True:
            try:
                self._nodes.discover()
                left_s = min(within_s, self.deadline.left_s())
                return [(pool.where, _info(pool, left_s)) for pool in self._nodes.all()]
            except (StoreNotAvailableError, *FAILURES) as error:
                wrong = tls_on_one_side(self._target, self.deadline.left_s()) if _is_mute(error) else None
                if wrong is not None:
                    raise StoreNotAvailableError(
                        f"the Redis server {self._target} cannot be talked to: {wrong}"
                    ) from error
                if isinstance(error, StoreError):
                    raise
                if within_s < self.deadline.answer_s and patience.retry(waiting=False):
                    within_s = self.deadline.answer_s
                    continue
                # One of a cluster may be down that a replica is about to stand in for.
                passing = code_of(error) == "LOADING" or (self._target.fails_over and not _is_refused(error))
                if not (passing and patience.wait()):
                    raise unreachable(error, str(self._target)) from error

    def ask_all(self, *questions: tuple[bytes, ...]) -> list[list[Any]]:
        """Return what each server that serves slots answers to some questions; a refusal is an answer."""
        try:
            return [
                [_answer(pool, question, self.deadline.left_s()) for question in questions]
                for pool in self._nodes.all()
            ]
        except FAILURES as error:
            raise unreachable(error, str(self._target)) from error

    def server_of(self, slot: int) -> Pool | None:
        """Return where a slot is thought to be, if that is known."""
        return self._nodes.of(slot)

    def close(self) -> None:
        """Let go of every connection."""
        self._nodes.close()

    @property
    def where(self) -> str:
        """What servers these are."""
        return str(self._target)

    def pool(self, slot: int) -> Pool:
        """Return the connections to whoever serves a slot, for a caller that stays on one of them."""
        pool = self._nodes.of(slot)
        if pool is None:
            raise StoreNotAvailableError(f"nobody serves the slot {slot} of the Redis Cluster {self._target}")
        return pool.aside()

    def look_again(self) -> None:
        """Ask the cluster who serves which slot; where nobody answers, the next call says so."""
        with suppress(StoreError):
            self._nodes.discover()

    def is_replaced(self, error: Exception) -> bool:
        """Return whether another server may stand in for one that failed, and ask which one."""
        if not self._target.fails_over or _is_refused(error):
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
            return _raised(self.run([call])[0])
        # The common case, written out: the general one takes a third longer.
        try:
            packed = pack_pieces(call.command) if call.large else (pack_command(call.command),)
            connection.send_packed_command(packed, False)
        except FAILURES as error:
            outcome = _Unsent(error, connected=True)
        else:
            outcome = _read(connection)
            if not isinstance(outcome, Exception):
                pool.give(connection)
                if not (pool.changing and call.write) or pool.is_settled(self.deadline.left_s()):
                    return outcome
                outcome = _Lost(_NO_MASTER)
            elif not isinstance(outcome, _Lost):
                pool.give(connection)
        return _raised(self.run([call], [outcome])[0])

    def run(self, calls: Sequence[Call], outcomes: Sequence[Any] | None = None) -> list[Any]:
        """Return the reply to each call, or the exception that `call` would raise.

        Each server gets its share in one go, and all work side by side. Calls on one slot run in their order as long
        as nothing goes wrong. `outcomes` are those of a first round.
        """
        replies: list[Any] = [None] * len(calls)
        todo = list(range(len(calls)))
        asking: dict[int, Pool] = {}
        by_source: set[int] = set()
        doubtful: set[int] = set()  # writes of which a reply was lost: they may have been done
        before: dict[int, Exception] = {}  # what went wrong with each the last time
        patience: Patience | None = None  # until something goes wrong
        if self._nodes.outdated:
            self._rediscover(Patience(self.deadline))
        if outcomes is None:
            outcomes = self._round(calls, todo, asking, by_source)
        while True:
            again: list[int] = []
            asking.clear()
            for i, outcome in zip(todo, outcomes, strict=True):
                if not isinstance(outcome, Exception):
                    replies[i] = outcome
                    continue
                if isinstance(outcome, _Late):
                    outcome = before.get(i, outcome)  # noqa: PLW2901 - which says more
                before[i] = outcome
                patience = patience or Patience(self.deadline)
                final = self._judge(i, calls[i], outcome, asking, by_source, patience)
                if calls[i].write and isinstance(outcome, _Lost):
                    doubtful.add(i)
                    lost = "%s: the reply to %s was lost"
                    self._telemetry.note(_log, Occurrence.LOST_REPLY, lost, self._target, calls[i].name)
                if final is None:
                    again.append(i)
                    if code_of(outcome) != "NOSCRIPT":  # whose source goes along the first time
                        why, retry = type(outcome).__name__.lstrip("_"), "%s: %s is sent again after %s"
                        self._telemetry.note(_log, Occurrence.RETRY, retry, self._target, calls[i].name, why)
                elif i in doubtful and isinstance(final, StoreError):
                    # What refuses it now says nothing of the time before.
                    unknown = isinstance(final, OutcomeUnknownError)
                    replies[i] = final if unknown else _caused(_doubted(final), final)
                else:
                    replies[i] = final
            if again and patience is not None and patience.pause():
                time.sleep(patience.next_pause())
            if patience is not None and patience.rediscover:
                # Also where this call has failed for good: the next one is to find whoever serves the slot by now.
                self._rediscover(patience)
            if not again:
                if len(calls) > 1 and not any(isinstance(reply, Exception) for reply in replies):
                    self.deadline.begin()  # as many of them may take longer than the time-out
                return replies
            todo = again
            # Not in the last moment: whether it was done would not be known, and is now.
            outcomes = self._round(calls, todo, asking, by_source, least_s=2 * self.deadline.soon_s)

    def _rediscover(self, patience: Patience) -> None:
        patience.rediscover = False
        self._telemetry.note(_log, Occurrence.RECONNECTION, "%s: looks again at who serves what", self._target)
        self._nodes.outdated = self._target.fails_over  # where there is no time left, the next call begins with this
        try:
            self._nodes.discover()
        except StoreError:
            # Nobody answers: the next round fails, too, and says so when the time is up.
            patience.must_wait = True

    def _judge(
        self, i: int, call: Call, outcome: Exception, asking: dict[int, Pool], by_source: set[int], patience: Patience
    ) -> Exception | None:
        """Return the exception that a call ends with, or None if it is to be sent again."""
        where, cluster = str(self._target), self._target.fails_over
        if isinstance(outcome, StoreError):
            return outcome
        if isinstance(outcome, _Late):
            return StoreBusyError(f"the Redis server {where} did not answer within the time-out; nothing was applied")
        if isinstance(outcome, _Lost):
            patience.rediscover = cluster
            if not call.again:
                return _caused(LostReplyError(), outcome.error)
            if isinstance(outcome.error, driver.TimeoutError):
                # It may still do what it was sent.
                kind = OutcomeUnknownError if call.write else StoreBusyError
                return _caused(kind(f"the Redis server {where} did not answer within the time-out"), outcome.error)
            return (
                None if patience.retry(waiting=cluster) else _caused(unreachable(outcome.error, where), outcome.error)
            )
        if isinstance(outcome, _Unsent):
            error = outcome.error
            if isinstance(error, StoreError):
                return error
            passing = isinstance(error, driver.BusyLoadingError)
            if _is_refused(error) or not (outcome.connected or cluster or passing):
                return _caused(unreachable(error, where), error)
            patience.rediscover = cluster
            again = patience.retry(waiting=cluster or passing)
            return None if again else _caused(unreachable(error, where), error)
        code = code_of(outcome)
        if code in SIGNALS:
            return Signal(code)
        if code == "NOSCRIPT" and call.script is not None and i not in by_source:
            by_source.add(i)
            return None
        if code in REDIRECTED and self._target.cluster and isinstance(outcome, driver.AskError):
            # A server that does not know the name of another leaves it out: then it is its own.
            unnamed = outcome.host in ("", "?")
            address = self._nodes.host_of(call.slot) if unnamed else outcome.host, int(outcome.port)
            if code == "ASK":
                asking[i] = self._nodes.at(address)
            else:
                self._nodes.moved(call.slot, address)
                patience.rediscover = True
            return None if patience.retry(waiting=False) else _caused(refusal(outcome, where, call.name), outcome)
        if code == "READONLY":
            self._nodes.reconnect(call.slot)
        if code in PASSING or (code == "READONLY" and cluster):
            patience.rediscover = cluster and code != "TRYAGAIN"
            return None if patience.retry(waiting=True) else _caused(refusal(outcome, where, call.name), outcome)
        return _caused(refusal(outcome, where, call.name), outcome)

    def _round(
        self,
        calls: Sequence[Call],
        todo: Sequence[int],
        asking: dict[int, Pool],
        by_source: set[int],
        *,
        least_s: float = 0.0,
    ) -> list[Any]:
        """Send calls, if there is more time left than that for them, and return the outcome of each."""
        outcomes: dict[int, Any] = {}
        groups: dict[int, tuple[Pool, list[int]]] = {}
        for i in todo:
            pool = asking.get(i) or self._nodes.of(calls[i].slot)
            if pool is None:
                outcomes[i] = _Unsent(driver.ClusterDownError("nobody serves this slot"), connected=True)
            else:
                groups.setdefault(id(pool), (pool, []))[1].append(i)
        sent: list[tuple[Pool, Connection, list[int]]] = []
        for pool, group in groups.values():
            within_s: float | None = None
            if time.monotonic() - self.deadline.began > self._soon_s:
                within_s = self.deadline.left_s()
                if within_s <= least_s:
                    outcomes |= dict.fromkeys(group, _Late())
                    continue
            try:
                connection = pool.take(checked=any(calls[i].write for i in group), within_s=within_s)
                self._limit(connection)
            except (*FAILURES, StoreError) as error:
                outcomes |= dict.fromkeys(group, _Unsent(error, connected=False))
                continue
            try:
                connection.send_packed_command(self._pack(calls, group, asking, by_source), False)
            except FAILURES as error:
                # Of several calls some may have arrived whole, and one whose WAIT has not.
                several = len(group) > 1 or self._waits(calls, group)
                outcomes |= dict.fromkeys(group, _Lost(error) if several else _Unsent(error, connected=True))
                continue
            sent.append((pool, connection, group))
        for pool, connection, group in sent:
            limited = self._limit(connection)
            read = self._read_all(connection, calls, group, asking)
            outcomes |= read
            if not isinstance(read[group[-1]], (_Lost, driver.ConnectionError)):  # where one is lost, the last one is
                if limited:
                    connection.update_current_socket_timeout(-1)
                pool.give(connection)
            if pool.changing and not pool.is_settled(self.deadline.left_s()):
                done = [i for i in group if calls[i].write and not isinstance(read[i], Exception)]
                outcomes |= dict.fromkeys(done, _Lost(_NO_MASTER))
        return [outcomes[i] for i in todo]

    def _limit(self, connection: Connection) -> bool:
        """Let a connection wait no longer than until the deadline; return whether that is sooner than by itself."""
        if time.monotonic() - self.deadline.began <= self._soon_s:
            return False
        connection.update_current_socket_timeout(max(self.deadline.left_s(), MIN_S))
        return True

    def _pack(
        self,
        calls: Sequence[Call],
        group: Sequence[int],
        asking: dict[int, Pool],
        by_source: set[int],
    ) -> list[bytes | memoryview]:
        packed: list[bytes | memoryview] = []
        small: list[bytes] = []  # put together: each piece is a call of the system
        for i in group:
            command, script = calls[i].command, calls[i].script
            if i in by_source and script is not None:
                command = (b"EVAL", script.source, *command[2:])
            if i in asking:
                small.append(pack_command((b"ASKING",)))
            if calls[i].large:
                packed += (b"".join(small), *pack_pieces(command))
                small.clear()
            else:
                small.append(pack_command(command))
        if self._waits(calls, group):
            wait_ms = self.wait_ms()
            small.append(pack_command((b"WAIT", b"%d" % self._target.wait_replicas, b"%d" % wait_ms)))
        return [*packed, b"".join(small)]

    def _read_all(
        self,
        connection: Connection,
        calls: Sequence[Call],
        group: Sequence[int],
        asking: dict[int, Pool],
    ) -> dict[int, Any]:
        outcomes: dict[int, Any] = {}
        for position, i in enumerate(group):
            for _ in range(2 if i in asking else 1):
                outcomes[i] = _read(connection)
                if isinstance(outcomes[i], _Lost | driver.ConnectionError):
                    # redis-py closes the connection on some refusals, too; what follows them is not known.
                    rest = group[position + 1 :]
                    return outcomes | dict.fromkeys(rest, _Lost(driver.ConnectionError("the connection was closed")))
        if self._waits(calls, group):
            reached = _read(connection)
            if isinstance(reached, _Lost):
                return dict.fromkeys(group, reached)
            if isinstance(reached, Exception) or reached < self._target.wait_replicas:
                few = TooFewReplicasError("the write", self._target.wait_replicas, reached)
                done = [i for i in group if calls[i].write and not isinstance(outcomes[i], Exception)]
                # A script that answers 0 has found nothing to do: there is nothing to confirm.
                outcomes |= {i: few for i in done if outcomes[i] != 0}
        return outcomes

    def wait_ms(self) -> int:
        """Return how long replicas may take to confirm a write: half of what is left."""
        return max(1, int(self.deadline.left_s() * 500))

    def _waits(self, calls: Sequence[Call], group: Sequence[int]) -> bool:
        return self._target.wait_replicas > 0 and any(calls[i].write for i in group)


def _read(connection: Connection) -> Any:
    """Return a reply, or what went wrong."""
    try:
        return connection.read_response(True)
    except (driver.ResponseError, driver.AuthenticationError, driver.BusyLoadingError) as error:
        # Its traceback and the frames in it hold each other, and what the caller has thrown away would still be there.
        return error.with_traceback(None)
    except FAILURES as error:
        return _Lost(error)


def _is_mute(error: Exception) -> bool:
    """Return whether a server was reached, and said nothing that could be read."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(cause, driver.ResponseError | driver.AuthenticationError | driver.BusyLoadingError | None):
        return False
    return not isinstance(cause.__cause__ or cause.__context__, ConnectionRefusedError)


def _is_refused(error: Exception) -> bool:
    """Return whether a server answered that it does not want to be talked to, which no waiting changes."""
    refused = isinstance(error, driver.AuthenticationError | driver.ResponseError)
    return refused and not isinstance(error, driver.ClusterDownError | driver.BusyLoadingError)


def _raised(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _doubted(error: StoreError) -> OutcomeUnknownError:
    return OutcomeUnknownError(f"the reply to a write was lost, and it could not be sent again: {reason_of(error)}")


def _answer(pool: Pool, question: tuple[bytes, ...], within_s: float) -> Any:
    try:
        return ask(pool, *question, within_s=within_s)
    except driver.ResponseError as error:
        return error


def _info(pool: Pool, within_s: float) -> dict[bytes, bytes]:
    return parse_info(ask(pool, b"INFO", within_s=within_s))


def parse_info(text: bytes) -> dict[bytes, bytes]:
    """Return what INFO says."""
    return dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
