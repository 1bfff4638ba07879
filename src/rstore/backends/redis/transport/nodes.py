"""The servers by the slots that they serve: one server for all, or what a cluster says of itself."""

from __future__ import annotations

from random import randrange
from threading import Lock, RLock
from typing import Any, Final
from weakref import WeakSet

from redis import exceptions as driver

from rstore.backends.redis.transport.calls import SLOTS
from rstore.backends.redis.transport.connection import FAILURES, connector
from rstore.backends.redis.transport.deadline import CallDeadline
from rstore.backends.redis.transport.dsn import Address, Target
from rstore.backends.redis.transport.errors import code_of, refusal, unreachable
from rstore.backends.redis.transport.pool import RedisPool
from rstore.backends.telemetry import Telemetry
from rstore.errors import StoreClosedError, StoreError, StoreNotAvailableError
from rstore.forks import renewed_in_child

_DISCOVERY_S: Final = 2.0
"""How long one server is waited for that is asked for the slots: there are others to ask."""


class Nodes:
    """The pools of a target, by slot. Threads share it."""

    def __init__(self, target: Target, deadline: CallDeadline, telemetry: Telemetry) -> None:
        self.target = target
        self.telemetry = telemetry
        self.deadline = deadline
        self._make = connector(target, deadline.timeout_s)
        self._make_asking = connector(target, min(deadline.timeout_s, _DISCOVERY_S))
        self._lock = Lock()  # guards the pools by address
        self._asking = RLock()  # held by the one thread that asks for the slots
        self._pools: dict[Address | None, RedisPool] = {}
        self._known: dict[Address, None] = {}  # the servers that the cluster named last, replicas too
        self._owners: list[RedisPool | None] = [None] * SLOTS
        self._serving: list[RedisPool] = []
        self._turn = 0  # the server that is asked first
        self._asked = 0  # how often the slots were asked for
        self.outdated = False  # whether they have to be asked for before anything else
        self._closed = False
        self._reading = randrange(1 << 20)  # noqa: S311 - chooses the replica that is read from, if that is wanted
        self.only: RedisPool | None = (
            None if target.fails_over else self._pool(target.addresses[0] if target.addresses else None)
        )
        """The one server, if it is no cluster."""
        _all.add(self)

    def of(self, slot: int) -> RedisPool | None:
        """Return the pool for a slot; None if no server is known to serve it."""
        return self.only or self._owners[slot]

    def at(self, address: Address) -> RedisPool:
        with self._lock:
            return self._pool(address)

    def moved(self, slot: int, address: Address) -> None:
        self._owners[slot] = self.at(address)

    def all(self) -> list[RedisPool]:
        return [self.only] if self.only else self._serving

    def reconnect(self, slot: int) -> None:
        """Let go of idle connections to the server of a slot: the name may lead elsewhere by now."""
        if (pool := self.of(slot)) is not None:
            pool.drop_idle()

    def forget_threads(self) -> None:
        """Renew the locks: the threads that held them did not come through the fork."""
        self._lock, self._asking = Lock(), RLock()

    def discover(self) -> None:
        """Ask which servers to send to, unless another thread has asked while this one waited for its turn.

        Raises `StoreNotAvailableError` if none answers.
        """
        if not self.target.fails_over:
            return
        asked = self._asked
        try:
            if not self._asking.acquire(timeout=max(0.0, self.deadline.left_s)):
                raise self._unanswered()
            if asked == self._asked:
                self._ask()
                self._asked += 1
            self.outdated = False
        finally:
            # Neither a function nor `suppress`: each call is a place for an interrupt, which would leave it locked.
            try:  # noqa: SIM105
                self._asking.release()
            except RuntimeError:  # it was not this thread's turn
                pass

    def _unanswered(self) -> StoreError:
        return StoreNotAvailableError(f"no server of the Redis Cluster {self.target} answers")

    def _ask(self) -> None:
        """Ask one server of the cluster after the other where each slot is."""
        failure = self._unanswered()
        addresses = list(dict.fromkeys((*self._known, *self.target.addresses)))
        # Another one each time: one that is cut off from the rest goes on telling how it was.
        self._turn = turn = (self._turn + 1) % len(addresses)
        for i, address in enumerate(addresses[turn:] + addresses[:turn]):
            left_s = self.deadline.left_s
            if left_s <= 0:
                break
            pool = RedisPool(self._make_asking, self.target, address, self.deadline.timeout_s, self.telemetry)
            try:
                slots = pool.ask(b"CLUSTER", b"SLOTS", within_s=left_s / (len(addresses) - i))
            except FAILURES as error:
                failure = _no_cluster(error, pool.where)
                failure.__cause__ = error
                continue
            finally:
                pool.close()
            # A server that was taken out of the cluster answers, too: it knows of no slots.
            if self._take_over(address, slots):
                return
        raise failure

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for pool in self._pools.values():
                pool.close()

    def _pool(self, address: Address | None) -> RedisPool:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")
        if address not in self._pools:
            self._pools[address] = RedisPool(self._make, self.target, address, self.deadline.timeout_s, self.telemetry)
        return self._pools[address]

    def _take_over(self, asked: Address | None, slots: Any) -> bool:
        """Send to the servers that an answer names from now on; return False if it names none."""

        def address_of(named: Any) -> Address:
            host, port, *_ = named
            # A server that does not know its own name leaves it out.
            return host.decode() if host and host != b"?" else asked[0] if asked else "", port

        owners: list[RedisPool | None] = [None] * SLOTS
        serving: dict[Address, RedisPool] = {}
        self._reading += 1
        for first, last, *named in slots:
            address = address_of(self._chosen(*named))
            serving[address] = self.at(address)
            owners[first : last + 1] = [serving[address]] * (last - first + 1)
        if serving:
            self._owners, self._serving = owners, list(serving.values())
            self._known = dict.fromkeys(address_of(one) for _, _, *named in slots for one in named)
            with self._lock:  # where each new server has another address, those that are gone would only add up
                for gone in self._pools.keys() - self._known:
                    self._pools.pop(gone).drop_idle()
        return bool(serving)

    def _chosen(self, master: Any, *replicas: Any) -> Any:
        """Return the server to ask for some slots: the master, or if that is wanted a replica, another one each time.

        It is asked for again where one was lost; then it is the turn of the master, too.
        """
        if not (self.target.read_from_replica and replicas):
            return master
        among = [*replicas, master] if self._serving else replicas
        return among[self._reading % len(among)]


def _no_cluster(error: Exception, where: str) -> StoreError:
    if isinstance(error, driver.ResponseError) and code_of(error) == "ERR":
        return StoreNotAvailableError(
            f"the Redis server {where} is not part of a cluster: use redis://, or if it is a Sentinel redis+sentinel://"
        )
    return refusal(error, where) if isinstance(error, driver.ResponseError) else unreachable(error, where)


_all: Final[WeakSet[Nodes]] = renewed_in_child(lambda nodes: nodes.forget_threads())
