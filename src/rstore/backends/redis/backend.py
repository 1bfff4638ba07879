"""The Redis backend: one server, or a cluster when one is not enough. Every write is one script on one slot."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

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


class _Redis(_RedisTransactions):
    """A namespace that a DSN names."""

    cluster = False
    sentinel = False
    tls = False

    def __init__(self, rest: str, namespace: str, options: Options) -> None:
        target = self._parse(rest, options).named(namespace)
        if target.read_from_replica and not options.frozen:
            raise InvalidValueError(
                "read_from=replica is for frozen stores: a replica is late, and a writer must see what was written"
            )
        life = RedisLife(target, namespace, options)
        super().__init__(life, RedisLeases(life), {})

    def _parse(self, rest: str, options: Options) -> Target:
        kind = {"cluster": self.cluster, "tls": self.tls, "sentinel": self.sentinel}
        return parse(rest, **kind, credentials=options.credentials)


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
