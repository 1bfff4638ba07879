"""The Redis backend: one server, or a cluster when one is not enough. Every write is one script on one slot."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import local
from time import monotonic
from typing import Self

from rstore.backends.contract import Backend
from rstore.backends.maintenance import Durability, Finding, Stats
from rstore.backends.redis.dsn import Target, parse, parse_socket
from rstore.backends.redis.greeting import named
from rstore.backends.redis.namespace import EvictionWarning
from rstore.backends.redis.plain import Plain
from rstore.backends.redis.transaction import Transaction
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    Log,
    Model,
    Options,
    Page,
    Position,
    Row,
    Snapshot,
    View,
    Watcher,
    Write,
    Writes,
)
from rstore.errors import InvalidValueError, NotSupportedError, StoreNotAvailableError

__all__ = [
    "EvictionWarning",
    "RedisBackend",
    "RedisClusterBackend",
    "RedisSentinelBackend",
    "RedisSocketBackend",
    "TlsRedisBackend",
    "TlsRedisClusterBackend",
    "TlsRedisSentinelBackend",
]


class _Thread(local):
    """What each thread has of its own."""

    transaction: Transaction | None = None
    pid = 0


class _Redis(Backend):
    """Does each method at once, or as a part of the transaction that its thread is inside of."""

    cluster = False
    sentinel = False
    tls = False
    is_remote = True
    max_rows = Plain.max_rows

    def __init__(self, rest: str, namespace: str, options: Options) -> None:
        target = named(self._parse(rest, options), namespace)
        if target.read_from_replica and not options.frozen:
            raise InvalidValueError(
                "read_from=replica is for frozen stores: a replica is late, and who writes must see what was written"
            )
        self._plain = Plain(target, namespace, options)
        self._deadline = self._plain.deadline
        self._thread = _Thread()

    def _parse(self, rest: str, options: Options) -> Target:
        kind = {"cluster": self.cluster, "tls": self.tls, "sentinel": self.sentinel}
        return parse(rest, **kind, credentials=options.credentials)

    @property
    def _calls(self) -> Plain:
        """Begin a call, which has one deadline for all that it sends."""
        self._deadline.begin()
        return self._plain

    @property
    def _verbs(self) -> Plain | Transaction:
        """Begin a call, of the transaction that its thread is inside of if there is one."""
        self._deadline.began = monotonic()  # `begin`, written out
        transaction = self._thread.transaction
        return self._plain if transaction is None else self._checked(transaction)

    def _checked(self, transaction: Transaction) -> Transaction:
        if self._thread.pid != os.getpid():
            raise StoreNotAvailableError("a transaction does not outlive a fork: it is its parent's")
        return transaction

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._calls.open()

    def create(self) -> bytes:
        return self._verbs.create()

    def close(self) -> None:
        self._plain.close()

    def discard(self) -> None:
        if self._thread.transaction is not None:
            raise NotSupportedError("a namespace on Redis cannot be discarded inside a transaction: leave it first")
        self._calls.discard()

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        return self._calls.facts()

    def add_fact(self, name: str, fact: bytes) -> bytes:
        return self._calls.add_fact(name, fact)

    # -- key/value ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        return self._verbs.get(key)

    def has(self, key: str) -> bool:
        return self._verbs.has(key)

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        return self._verbs.fetch(keys, heads=heads)

    def count(self, start: str = "", stop: str | None = None) -> int:
        return self._verbs.count(start, stop)

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return self._verbs.is_one_place(keys)

    def write(self, writes: Writes, incarnation: bytes) -> None:
        self._verbs.write(writes, incarnation)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        return self._verbs.write_if(write, version, incarnation)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        return self._verbs.touch(key, ttl_ms, if_incarnation=if_incarnation)

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._verbs.delete(keys, if_incarnation=if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._verbs.delete_range(start, stop, if_incarnation=if_incarnation)

    def sweep(self, limit: int) -> int:
        return self._verbs.sweep(limit)

    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> Page:
        return self._verbs.scan(
            start=start, after=after, stop=stop, limit=limit, reverse=reverse, keys_only=keys_only, heads=heads
        )

    def clear(self) -> None:
        self._verbs.clear()

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[Watcher]:
        return self._calls.watcher(keys, prefix)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self, model: Model) -> list[str]:
        return self._verbs.logs(model)

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        return self._verbs.view(
            log,
            lo,
            hi,
            limit=limit,
            reverse=reverse,
            rows=rows,
            bodies=bodies,
            neighbours=neighbours,
            from_checkpoint=from_checkpoint,
            unless_version=unless_version,
        )

    def views(
        self,
        logs: Sequence[Log],
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        bodies: bool = True,
    ) -> list[View]:
        return self._verbs.views(logs, lo, hi, limit=limit, reverse=reverse, bodies=bodies)

    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> AbstractContextManager[Snapshot]:
        return self._verbs.snapshot(log, lo, hi)

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        return self._verbs.append(log, head, rows, incarnation)

    def hot(self, log: Log) -> tuple[int, int]:
        return self._verbs.hot(log)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        return self._verbs.commit(log, commit, incarnation)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        return self._verbs.drop(log, if_version=if_version, if_incarnation=if_incarnation)

    def reading_around_damage(self) -> Self:
        other = super().reading_around_damage()
        plain = object.__new__(Plain)  # as above
        vars(plain).update(vars(self._plain), around_damage=True)
        other._plain = plain  # noqa: SLF001 - of its own class
        return other

    # -- care, which takes no part in transactions --------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        return self._calls.namespaces()

    def ping(self) -> None:
        self._calls.ping()

    def stats(self) -> Stats:
        return self._calls.stats()

    def findings(self) -> Iterator[Finding]:
        return self._calls.findings()

    def durability(self) -> Durability:
        return self._calls.durability()

    def save(self, path: str) -> bool:
        return self._plain.save(path)

    def reclaim(self) -> None:
        self._calls.reclaim()

    # -- several at once ----------------------------------------------------------------------------------------------

    @property
    def transactional(self) -> bool:
        return self._plain.transactional

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[None, None, None]:
        if self._thread.transaction is not None:
            with self._checked(self._thread.transaction).nested():
                yield
            return
        place = self._calls.begin(create=create)
        transaction = Transaction(self._plain, place, serializable=serializable)
        mine = vars(self._thread)  # of this thread, wherever it ends
        mine |= {"transaction": transaction, "pid": os.getpid()}
        try:
            try:
                yield
            finally:
                mine["transaction"] = None
            self._deadline.begin()
            self._checked(transaction).finish()
        finally:
            transaction.close()

    def exclusive(self, log: Log) -> AbstractContextManager[None]:
        # Inside there is nobody to keep away: whoever comes first wins.
        return self._calls.exclusive(log) if self._thread.transaction is None else nullcontext()


class RedisBackend(_Redis):
    """One namespace of one server: `redis://`."""


class TlsRedisBackend(_Redis):
    """The same through TLS: `rediss://`."""

    tls = True


class RedisClusterBackend(_Redis):
    """One namespace of a Redis Cluster: `redis+cluster://`."""

    cluster = True


class TlsRedisClusterBackend(_Redis):
    """The same through TLS: `rediss+cluster://`."""

    cluster = True
    tls = True


class RedisSentinelBackend(_Redis):
    """One namespace of the server that Sentinel says is the master: `redis+sentinel://`."""

    sentinel = True


class TlsRedisSentinelBackend(_Redis):
    """The same through TLS, also to the sentinels: `rediss+sentinel://`."""

    sentinel = True
    tls = True


class RedisSocketBackend(_Redis):
    """One namespace of one server on this machine: `unix://`."""

    def _parse(self, rest: str, options: Options) -> Target:
        return parse_socket(rest, options.credentials)
