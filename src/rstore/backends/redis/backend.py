"""The Redis backend: one server, or a cluster when one is not enough. Every write is one script on one slot."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from rstore.backends.contract import Backend, WriteTransaction
from rstore.backends.redis.autocommit import RedisAutocommit
from rstore.backends.redis.logs.leases import RedisLeases
from rstore.backends.redis.namespace.life import RedisLife
from rstore.backends.redis.transaction.transaction import RedisTransaction
from rstore.backends.redis.transport.dsn import Target, parse, parse_socket
from rstore.backends.types import Log, Options
from rstore.errors import InvalidValueError


class _RedisTransactions(RedisAutocommit, Backend):
    """Begins transactions, and does all other calls at once; commits are under the leases that are held."""

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        transaction = RedisTransaction(self, create=create, serializable=serializable)
        try:
            yield transaction
            transaction.finish()
        finally:
            transaction.close()

    @contextmanager
    def exclusive(self, log: Log) -> Generator[WriteTransaction, None, None]:
        if log in self.held:
            yield self
            return
        self._deadline.begin()
        with self.leases.hold(log) as token:
            yield _RedisTransactions(self.namespace, self.leases, {**self.held, log: token})


class RedisBackend(_RedisTransactions):
    """One namespace that a DSN names: `redis://`."""

    def __init__(
        self, rest: str, namespace: str, options: Options, parse: Callable[..., Target] = parse, **kind: bool
    ) -> None:
        target = parse(rest, **kind, credentials=options.credentials).named(namespace)
        if target.read_from_replica and not options.frozen:
            raise InvalidValueError(
                "read_from=replica is for frozen stores: a replica is late, and a writer must see what was written"
            )
        life = RedisLife(target, namespace, options)
        super().__init__(life, RedisLeases(life), {})


TlsRedisBackend = partial(RedisBackend, tls=True)
RedisClusterBackend = partial(RedisBackend, cluster=True)
TlsRedisClusterBackend = partial(RedisBackend, cluster=True, tls=True)
RedisSentinelBackend = partial(RedisBackend, sentinel=True)
TlsRedisSentinelBackend = partial(RedisBackend, sentinel=True, tls=True)
RedisSocketBackend = partial(RedisBackend, parse=parse_socket)
