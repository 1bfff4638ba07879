"""Sentinel: who is the master now, from what several sentinels say, and being told at once when that changes.

Nouns: a *sighting* (what one sentinel says of the service) and a *listener* (a thread that is subscribed to one
sentinel). Sentinels that disagree are judged by the epoch of their configuration: each failover has a higher one.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace
from random import choice
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final, NamedTuple
from weakref import ReferenceType, ref

from redis import exceptions as driver

from rstore.backends.redis.dsn import Address, Target
from rstore.backends.redis.errors import code_of, refusal
from rstore.backends.redis.masters import MasterPool, Tenure
from rstore.backends.redis.nodes import FAILURES, Nodes
from rstore.backends.redis.patience import Deadline
from rstore.backends.redis.pool import MIN_S, Connection, Pool, connector, pack_command
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreClosedError, StoreError, StoreNotAvailableError

_log: Final = logging.getLogger("rstore.redis")
_ASKING_S: Final = 1.0
"""So long one sentinel is waited for: there are others to ask."""
_ENOUGH_S: Final = 0.1
"""After so long the answers of most of them are enough."""
_LOOK_S: Final = 0.5
"""How often each sentinel is asked although it has said nothing: a subscription may be dead without a sign of it."""
_WATCHFUL_S: Final = 0.05
"""The same while a failover is under way."""
_IDLE_S: Final = 0.2
"""So long after its store was closed or forgotten a thread may go on listening."""
_AGAIN_S: Final = 0.1
"""How long after a sentinel was lost it is tried again."""
_LONGEST_FAILOVER_S: Final = 30.0
"""A failover of which nothing is heard for so long was given up by a sentinel that is gone."""
_OUTDATED_S: Final = 10.0
"""So long the sentinels have to tell one another of a failover."""
_FRESH_S: Final = 3.0
"""The time for which an answer of a sentinel counts."""
# The slave, replica or primary in some of these names differs between Redis and Valkey, and what leads to it does not.
_CHANNELS: Final = (
    b"+switch-*", b"+failover-state-select-*", b"+failover-state-send-*", b"+promoted-*", b"+failover-end*",
    b"-failover-abort-*",
)  # fmt: skip
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

    def __init__(self, target: Target, timeout_s: float, deadline: Deadline, telemetry: Telemetry) -> None:
        super().__init__(target, timeout_s, deadline, telemetry)
        asking = replace(
            target, service=None, credentials=target.sentinel_credentials, ask=None, database=0, max_connections=4
        )
        self._master: MasterPool | None = None  # the same as `only`
        make = connector(asking, min(timeout_s, _ASKING_S))
        self._sentinels = {
            address: Pool(make, address, "{}:{}".format(*address), asking.max_connections, _ASKING_S, telemetry)
            for address in target.addresses
        }
        self._deciding = Lock()  # guards what follows; apart, since who asks sentinels may wait for one that is gone
        self._sighted: dict[Address, Sighting] = {}
        self._leaders: dict[Address, float] = {}  # who leads a failover, and since when
        self._avoided: dict[Address, float] = {}  # replicas that were lost, and since when
        self._epoch = -1
        self._epoch_at = 0.0
        self._listeners: list[Listener] = []
        self._listening_pid = 0

    # -- who is the master --------------------------------------------------------------------------------------------

    def all(self) -> list[Pool]:
        """Return the pool of the master."""
        if self._master is None:
            self.discover()
        return super().all()

    def discover(self) -> None:
        """Ask all sentinels who the master is; whether it is one each new connection to it asks itself.

        Raises `StoreNotAvailableError` if that was never known.
        """
        asked = self._asked
        failures: list[Exception] = []
        try:
            if not self._asking.acquire(timeout=max(0.0, self._deadline.left_s())):
                return  # another thread is about to know; this one has no time left
            if asked != self._asked:
                return  # another thread did, while this one waited
            self._check_open()
            self._listen()
            failures = self._ask_all()
            with self._deciding:
                self._decide(lost=self._master)
            self._asked += 1
        finally:
            # Neither a function nor `suppress`: each call is a place for an interrupt, which would leave it locked.
            try:  # noqa: SIM105
                self._asking.release()
            except RuntimeError:  # it was not this thread's turn
                pass
        if self._master is None:
            raise self._nobody(failures)
        self.outdated = False

    def look(self, sentinel: Address) -> float:
        """Ask one sentinel, and follow where it leads; return after how long to look again."""
        self._sighted[sentinel] = self._sight(sentinel)
        with self._deciding:
            if not self._closed:
                self._decide()
        return _WATCHFUL_S if self._leaders else _LOOK_S

    def hear(self, sentinel: Address, channel: bytes, message: bytes) -> None:
        """Take notice of what a sentinel has said of one of its services."""
        if str(self._target.service).encode() not in message.split(b" "):
            return
        with self._deciding:
            if channel.startswith(_BEGINS):
                self._begin(sentinel)
            elif channel.startswith((b"-failover-abort", b"+failover-end")):
                self._leaders.pop(sentinel, None)

    def _begin(self, leader: Address) -> None:
        """Hold what is sent, unless it is read from a replica, which is late anyway."""
        if not self._target.read_from_replica:
            self._leaders.setdefault(leader, monotonic())
            if self._master is not None:
                self._master.tenure.hold()

    def lost(self, sentinel: Address) -> None:
        """Forget what a sentinel has said that does not answer any more."""
        self._sighted.pop(sentinel, None)

    def _ask_all(self) -> list[Exception]:
        """Ask all sentinels side by side; return what went wrong with those that did not answer."""
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
        until = monotonic() + min(_ASKING_S, max(MIN_S, self._deadline.left_s()))
        while (left := [thread for thread in threads if thread.is_alive()]) and monotonic() < until:
            # One that is gone may have gone with the master: the others say who has taken over.
            if 2 * len(left) < len(threads) and monotonic() > enough_at:
                break
            left[0].join(_ENOUGH_S / 10)
        return failures

    def _sight(self, sentinel: Address) -> Sighting:
        """Ask a sentinel. Both questions go together, so that it answers them at one moment."""
        service, pool, at = str(self._target.service).encode(), self._sentinels[sentinel], monotonic()
        connection = pool.take(checked=True)
        questions = [(b"SENTINEL", b"MASTER", service), (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service)]
        if self._target.read_from_replica:
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
        """Follow those who know of the latest failover, and hold what is sent while one is under way.

        A replica that was `lost` is left for another one.
        """
        now = monotonic()
        said = {one: sighting for one, sighting in list(self._sighted.items()) if now - sighting.at < _FRESH_S}
        for leader, sighting in said.items():
            if sighting.failing_over:  # if its words were not heard
                self._begin(leader)
        for leader, since in list(self._leaders.items()):
            answer = said.get(leader)
            done = answer is not None and answer.at > since and not answer.failing_over
            if done or now - since > _LONGEST_FAILOVER_S:
                del self._leaders[leader]
        best = max((sighting.epoch for sighting in said.values()), default=-1)
        # A lower epoch is how it was, told by those who have not heard of the failover; or, where most of them go on
        # telling so, their count has begun anew.
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
        """Return who is sent to: the master, or if that is wanted the same replica as long as it is one."""
        if not self._target.read_from_replica:
            return master
        now = monotonic()
        if lost is not None and lost.address is not None:
            self._avoided[lost.address] = now
        # The sentinels notice within ten seconds that a replica has lost its master.
        good = [one for one in replicas if now - self._avoided.get(one, -_OUTDATED_S) >= _OUTDATED_S]
        current = None if self._master is None else self._master.address
        return current if current in good else choice(good) if good else master  # noqa: S311

    def _follow(self, master: Address) -> None:
        old = self._master
        if old is not None and old.address == master and not old.tenure.over:
            return
        where, most = "{}:{}".format(*master), self._target.max_connections
        pool = MasterPool(self._make, master, where, most, self._timeout_s, self._telemetry)
        pool.tenure = Tenure()
        self.only = self._master = pool
        self._leaders.clear()  # it is no replica any more that is about to be promoted
        if old is not None:
            self._telemetry.note(_log, Occurrence.FAILOVER, "%s takes the place of %s", pool.where, old.where)
            old.retire()

    def _nobody(self, failures: list[Exception]) -> StoreError:
        """Return the error where nobody is known to be the master."""
        for error in failures:
            if isinstance(error, StoreError):
                return error
            if code_of(error) in ("NOAUTH", "WRONGPASS", "NOPERM"):
                return refusal(error, f"sentinel {self._target}")
            if isinstance(error, driver.ResponseError) and "No such master" in str(error):
                return StoreNotAvailableError(
                    f"no sentinel knows the service {self._target.service!r}: it is named by `sentinel monitor`"
                )
        return StoreNotAvailableError(f"no sentinel answers for the service {self._target}: are they running?")

    # -- being told ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Have a thread for each sentinel; in a child after a fork there are none."""
        if self._listening_pid != os.getpid():
            self._listening_pid = os.getpid()
            self._listeners = [Listener(self, sentinel, self._target) for sentinel in self._sentinels]
            with suppress(RuntimeError):  # as above
                for listener in self._listeners:
                    listener.start()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")

    def close(self) -> None:
        """Close all connections, and end the threads."""
        super().close()
        if self._master is not None:
            self._master.close()
        if self._listening_pid == os.getpid():
            for listener in self._listeners:
                listener.end()
        for pool in self._sentinels.values():
            pool.close()

    def forget_threads(self) -> None:
        """Begin anew in a child after a fork, which nobody tells of a failover until it has asked."""
        super().forget_threads()
        self._deciding = Lock()
        self._leaders.clear()
        self._sighted.clear()
        self.only = self._master = None


def _facts(reply: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(*[iter(reply)] * 2, strict=True))


def _address(host: bytes, port: bytes) -> Address:
    return host.decode(), int(port)


class Listener:
    """A thread that is subscribed to one sentinel, as long as its store is open and in use."""

    def __init__(self, nodes: SentinelNodes, sentinel: Address, target: Target) -> None:
        self._nodes: ReferenceType[SentinelNodes] = ref(nodes)  # a store that nobody closes is to be collected
        self._sentinel = sentinel
        listening = replace(target, service=None, credentials=target.sentinel_credentials, ask=None, database=0)
        self._make = connector(listening, _ASKING_S)
        self._ended = Event()

    def start(self) -> None:
        """Begin."""
        Thread(target=self._run, name="rstore sentinel", daemon=True).start()

    def end(self) -> None:
        """End it, within a moment."""
        self._ended.set()

    def _run(self) -> None:
        while self._lives():
            connection = self._make(self._sentinel)
            try:
                connection.connect()
                connection.send_packed_command([pack_command((b"PSUBSCRIBE", *_CHANNELS))], False)
                self._follow(connection)
            except (*FAILURES, StoreError):
                # Nothing is lost with it but time: whoever asks the sentinels is told what is wrong.
                if (nodes := self._nodes()) is not None:
                    nodes.lost(self._sentinel)
                    del nodes
            finally:
                connection.disconnect()
            self._ended.wait(_AGAIN_S)

    def _lives(self) -> bool:
        return self._nodes() is not None and not self._ended.is_set()

    def _follow(self, connection: Connection) -> None:
        look_at, answered_at = 0.0, monotonic()
        while self._lives():
            left_s = max(0.0, min(look_at - monotonic(), _IDLE_S))
            if connection.can_read(left_s):
                kind, *said = connection.read_response(True)
                if kind == b"pmessage" and (nodes := self._nodes()) is not None:
                    nodes.hear(self._sentinel, *said[1:])
                    del nodes
                    look_at = 0.0
            elif monotonic() >= look_at and (nodes := self._nodes()) is not None:
                try:
                    look_at, answered_at = monotonic() + nodes.look(self._sentinel), monotonic()
                except FAILURES:
                    # One that is slow is listened to all the same: it may be about to say the one thing that matters.
                    look_at = monotonic() + _AGAIN_S
                    if monotonic() - answered_at > _FRESH_S:
                        raise
                finally:
                    del nodes
