"""Sentinel: the master as several sentinels know it, and word of a change at once.

Nouns: a *sighting* (the answer of one sentinel about the service). Sentinels that disagree are judged by the epoch of
their configuration: each failover has a higher one.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from random import choice
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final, NamedTuple

from redis import exceptions as driver

from rstore.backends.redis.transport.connection import FAILURES, MIN_S, connector, pack_command
from rstore.backends.redis.transport.deadline import CallDeadline
from rstore.backends.redis.transport.dsn import Address, Target
from rstore.backends.redis.transport.errors import code_of, refusal
from rstore.backends.redis.transport.listener import ASKING_S, FRESH_S, Listener
from rstore.backends.redis.transport.masters import MasterPool, Tenure
from rstore.backends.redis.transport.nodes import Nodes
from rstore.backends.redis.transport.pool import RedisPool
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreClosedError, StoreError, StoreNotAvailableError

_log: Final = logging.getLogger("rstore.redis")
_ENOUGH_S: Final = 0.1
"""How long all of them are waited for; then the answers of most are enough."""
_LOOK_S: Final = 0.5
"""How often each sentinel is asked although it has said nothing: a subscription may be dead without a sign of it."""
_WATCHFUL_S: Final = 0.05
"""The same while a failover is under way."""
_LONGEST_FAILOVER_S: Final = 30.0
"""A failover that is silent for longer was given up by a sentinel that is gone."""
_OUTDATED_S: Final = 10.0
"""How long the sentinels take to tell one another of a failover."""
_BEGINS: Final = b"+failover-state-se"
"""Said by the sentinel that leads a failover, a tenth of a second or two before it makes a replica a master."""


class Sighting(NamedTuple):
    """The answer of one sentinel about a service, and the time at which it was asked."""

    epoch: int
    master: Address
    failing_over: bool
    """Whether a replica is about to be made the master; not whether the others are told of it."""
    at: float
    replicas: tuple[Address, ...] = ()
    """Those that are up, and connected to the master; only where they are read from."""


class SentinelNodes(Nodes):
    """The one server that is the master. Threads share it."""

    def __init__(self, target: Target, deadline: CallDeadline, telemetry: Telemetry) -> None:
        super().__init__(target, deadline, telemetry)
        asking = target.of_sentinels()
        self._master: MasterPool | None = None  # the same as `only`
        make = connector(asking, min(deadline.timeout_s, ASKING_S))
        self._sentinels = {one: RedisPool(make, asking, one, ASKING_S, telemetry) for one in target.addresses}
        self._sighted: dict[Address, Sighting] = {}  # each thread that asks sets or pops one in one step
        # Guards the fields below. A lock of its own: the thread whose turn it is to ask may wait for long.
        self._deciding = Lock()
        self._leaders: dict[Address, float] = {}  # of a failover, and since when they lead it
        self._avoided: dict[Address, float] = {}  # replicas that were lost, and since when
        self._epoch = -1
        self._epoch_at = 0.0
        self._listeners: list[Listener] = []
        self._listening_pid = 0

    def all(self) -> list[RedisPool]:
        if self._master is None:
            self.discover()
        return super().all()

    def _ask(self) -> None:
        """Ask all sentinels for the master; whether it is one each new connection to it asks itself."""
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")
        self._listen()
        failures = self._ask_all()
        with self._deciding:
            self._decide(lost=self._master)
        if self._master is None:
            raise self._no_master(failures)

    def look(self, sentinel: Address) -> float:
        """Ask one sentinel, and follow where it leads; return after how long to look again."""
        self._sighted[sentinel] = self._sight(sentinel)
        with self._deciding:
            if not self._closed:
                self._decide()
        return _WATCHFUL_S if self._leaders else _LOOK_S

    def hear(self, sentinel: Address, channel: bytes, message: bytes) -> None:
        """Take notice of a message of a sentinel about one of its services."""
        if str(self.target.service).encode() not in message.split(b" "):
            return
        with self._deciding:
            if channel.startswith(_BEGINS):
                self._begin(sentinel)
            elif channel.startswith((b"-failover-abort", b"+failover-end")):
                self._leaders.pop(sentinel, None)

    def _begin(self, leader: Address) -> None:
        """Hold all calls, unless they read from a replica, which is late anyway."""
        if not self.target.read_from_replica:
            self._leaders.setdefault(leader, monotonic())
            if self._master is not None:
                self._master.tenure.hold()

    def lost(self, sentinel: Address) -> None:
        self._sighted.pop(sentinel, None)

    def _ask_all(self) -> list[Exception]:
        """Ask all sentinels side by side; return the failures of those that did not answer."""
        failures: list[Exception] = []

        def look(sentinel: Address) -> None:
            try:
                self._sighted[sentinel] = self._sight(sentinel)
            except (*FAILURES, StoreError) as error:
                self.lost(sentinel)
                failures.append(error)

        threads = [Thread(target=look, args=(one,), name="rstore asks", daemon=True) for one in self._sentinels]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:  # the interpreter is about to exit, and begins no thread
            for sentinel in self._sentinels:
                look(sentinel)
            return failures
        enough_at = monotonic() + _ENOUGH_S
        until = monotonic() + min(ASKING_S, max(MIN_S, self.deadline.left_s))
        while (left := [thread for thread in threads if thread.is_alive()]) and monotonic() < until:
            # One that is gone may have gone with the master: the others know the new one.
            if 2 * len(left) < len(threads) and monotonic() > enough_at:
                break
            left[0].join(_ENOUGH_S / 10)
        return failures

    def _sight(self, sentinel: Address) -> Sighting:
        """Ask a sentinel. Both questions go together, so that it answers them at one moment."""
        service, pool, at = str(self.target.service).encode(), self._sentinels[sentinel], monotonic()
        connection = pool.take(checked=True)
        questions = [(b"SENTINEL", b"MASTER", service), (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service)]
        if self.target.read_from_replica:
            questions.append((b"SENTINEL", b"REPLICAS", service))
        connection.send_packed_command([b"".join(map(pack_command, questions))], False)
        replies: list[Any] = []
        for _ in questions:
            try:
                replies.append(connection.read_response(True))
            except driver.ResponseError as error:
                replies.append(error.with_traceback(None))
        pool.give(connection)
        state, address, *replicas = replies
        if isinstance(state, Exception):
            raise state  # it does not know the service, or may not be asked
        if not isinstance(address, list):
            raise driver.ResponseError(f"ERR {address}")
        facts = _facts(state)
        flags = facts[b"flags"].split(b",")
        up = [one for reply in replicas for one in map(_facts, reply) if one[b"flags"] == b"slave"]
        linked = (_address(one[b"ip"], one[b"port"]) for one in up if one[b"master-link-status"] == b"ok")
        # The second answer names the replica that was made a master while the first one still names the old one.
        master = _address(*address)
        failing_over = b"failover_in_progress" in flags and _address(facts[b"ip"], facts[b"port"]) == master
        return Sighting(int(facts[b"config-epoch"]), master, failing_over, at, tuple(sorted(linked)))

    def _decide(self, lost: MasterPool | None = None) -> None:
        """Follow the sentinels that know of the latest failover, and hold all calls while one is under way.

        A replica that was `lost` is left for another one.
        """
        now = monotonic()
        said = {one: sighting for one, sighting in list(self._sighted.items()) if now - sighting.at < FRESH_S}
        for leader, sighting in said.items():
            if sighting.failing_over:  # if its words were not heard
                self._begin(leader)
        for leader, since in list(self._leaders.items()):
            answer = said.get(leader)
            done = answer is not None and answer.at > since and not answer.failing_over
            if done or now - since > _LONGEST_FAILOVER_S:
                del self._leaders[leader]
        best = max((sighting.epoch for sighting in said.values()), default=-1)
        # A lower epoch is an older state, of sentinels that have not heard of the failover; or, where most of them keep
        # to it, their count has begun anew.
        most = 2 * len(said) > len(self._sentinels)
        if said and (best >= self._epoch or (most and now - self._epoch_at > _OUTDATED_S)):
            latest = [sighting for sighting in said.values() if sighting.epoch == best]
            votes = [sighting.master for sighting in latest]
            self._epoch, self._epoch_at = best, now
            master = max(votes, key=votes.count)
            replicas = {one for sighting in latest for one in sighting.replicas} - {master}
            self._follow(self._server_of(master, sorted(replicas), lost))
        if self._master is not None and not self._leaders:
            self._master.tenure.release()

    def _server_of(self, master: Address, replicas: list[Address], lost: MasterPool | None) -> Address:
        """Return the server to send to: the master, or if that is wanted the same replica as long as it is one."""
        if not self.target.read_from_replica:
            return master
        now = monotonic()
        # The sentinels notice within ten seconds that a replica has lost its master.
        self._avoided = {one: since for one, since in self._avoided.items() if now - since < _OUTDATED_S}
        if lost is not None and lost.address is not None:
            self._avoided[lost.address] = now
        good = [one for one in replicas if one not in self._avoided]
        current = None if self._master is None else self._master.address
        return current if current in good else choice(good) if good else master  # noqa: S311

    def _follow(self, master: Address) -> None:
        old = self._master
        if old is not None and old.address == master and not old.tenure.over:
            return
        pool = MasterPool(self._make, self.target, master, self.deadline.timeout_s, self.telemetry)
        pool.tenure = Tenure()
        self.only = self._master = pool
        self._leaders.clear()  # it is no replica any more that is about to be promoted
        if old is not None:
            self.telemetry.note(_log, Occurrence.FAILOVER, "%s takes the place of %s", pool.where, old.where)
            old.retire()

    def _no_master(self, failures: list[Exception]) -> StoreError:
        """Return the error where no server is known to be the master."""
        for error in failures:
            if isinstance(error, StoreError):
                return error
            if code_of(error) in ("NOAUTH", "WRONGPASS", "NOPERM"):
                return refusal(error, f"sentinel {self.target}")
            if isinstance(error, driver.ResponseError) and "No such master" in str(error):
                return StoreNotAvailableError(
                    f"no sentinel knows the service {self.target.service!r}: it is named by `sentinel monitor`"
                )
        return self._unanswered()

    def _unanswered(self) -> StoreError:
        return StoreNotAvailableError(f"no sentinel answers for the service {self.target}: are they running?")

    def _listen(self) -> None:
        """Have a thread for each sentinel; in a child after a fork there are none."""
        if self._listening_pid != os.getpid():
            self._listening_pid = os.getpid()
            self._listeners = [Listener(self, sentinel, self.target) for sentinel in self._sentinels]
            with suppress(RuntimeError):  # as above
                for listener in self._listeners:
                    listener.start()

    def close(self) -> None:
        super().close()
        if self._master is not None:
            self._master.close()
        if self._listening_pid == os.getpid():
            for listener in self._listeners:
                listener.end()
        for pool in self._sentinels.values():
            pool.close()

    def forget_threads(self) -> None:
        """Begin anew in a child after a fork, which hears of no failover until it has asked."""
        super().forget_threads()
        self._deciding = Lock()
        self._leaders.clear()
        self._sighted.clear()
        self.only = self._master = None


def _facts(reply: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(*[iter(reply)] * 2, strict=True))


def _address(host: bytes, port: bytes) -> Address:
    return host.decode(), int(port)
