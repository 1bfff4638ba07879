"""Which server serves which slot: one server for all, or what a cluster says of itself."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from redis import exceptions as driver

from rstore.backends.redis_dsn import Address, Target
from rstore.backends.redis_errors import code_of, refusal, unreachable
from rstore.backends.redis_layout import SLOTS
from rstore.backends.redis_pool import Connection, Pool, pack_command
from rstore.errors import StoreClosedError, StoreError, StoreNotAvailableError

FAILURES: Final = (driver.RedisError, OSError)
"""Whatever goes wrong on a connection."""


class Nodes:
    """The pools of a target, by slot. Threads share it."""

    def __init__(self, target: Target, make: Callable[[Address | None], Connection]) -> None:
        self._target = target
        self._make = make
        self._lock = Lock()  # guards the pools by address, and that one thread at a time asks for the slots
        self._pools: dict[Address | None, Pool] = {}
        self._owners: list[Pool | None] = [None] * SLOTS
        self._asked = 0  # how often the slots were asked for
        self._closed = False
        self.only = None if target.cluster else self._pool(target.addresses[0] if target.addresses else None)
        """The one server, if it is no cluster."""

    def of(self, slot: int) -> Pool | None:
        """Return the pool for a slot; None if nobody is known to serve it."""
        return self.only or self._owners[slot]

    def at(self, address: Address) -> Pool:
        """Return the pool for an address."""
        with self._lock:
            return self._pool(address)

    def moved(self, slot: int, address: Address) -> None:
        """Note who serves a slot now."""
        self._owners[slot] = self.at(address)

    def all(self) -> list[Pool]:
        """Return a pool for every server that serves slots."""
        return [self.only] if self.only else list({id(pool): pool for pool in self._owners if pool}.values())

    def discover(self) -> None:
        """Ask any server of the cluster who serves which slot.

        Raises `StoreNotAvailableError` if none answers.
        """
        if self.only is not None:
            return
        asked = self._asked
        with self._lock:
            if asked != self._asked:
                return  # another thread did, while this one waited
            failure: StoreError = StoreNotAvailableError(f"no server of the Redis Cluster {self._target} answers")
            for address in dict.fromkeys((*self._pools, *self._target.addresses)):
                pool = self._pool(address)
                try:
                    slots = ask(pool, b"CLUSTER", b"SLOTS")
                except FAILURES as error:
                    failure = _no_cluster(error, pool.where)
                    continue
                self._take_over(pool, slots)
                self._asked += 1
                return
        raise failure

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            for pool in self._pools.values():
                pool.close()

    def _pool(self, address: Address | None) -> Pool:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")
        if address not in self._pools:
            where = f"{address[0]}:{address[1]}" if address else str(self._target)
            self._pools[address] = Pool(self._make, address, where)
        return self._pools[address]

    def _take_over(self, asked: Pool, slots: Any) -> None:
        owners: list[Pool | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in slots:
            # A server that does not know its own name leaves it out.
            named = host.decode() if host and host != b"?" else asked.address[0] if asked.address else ""
            owners[first : last + 1] = [self._pool((named, port))] * (last - first + 1)
        if any(owners):
            self._owners = owners


def ask(pool: Pool, *command: bytes) -> Any:
    """Return the reply to a command that only reads, on a connection that the server has not closed."""
    connection = pool.take(checked=True)
    try:
        connection.send_packed_command((pack_command(command),), check_health=False)
        reply = connection.read_response(disable_decoding=True)
    except driver.ResponseError:
        pool.give(connection)
        raise
    pool.give(connection)
    return reply


def _no_cluster(error: Exception, where: str) -> StoreError:
    if isinstance(error, driver.ResponseError) and code_of(error) == "ERR":
        return StoreNotAvailableError(f"the Redis server {where} is not part of a cluster: use redis://")
    return refusal(error, where) if isinstance(error, driver.ResponseError) else unreachable(error, where)
