"""The Redis backend: one server, or a cluster when one is not enough. Every write is one script on one slot."""

from __future__ import annotations

from rstore.backends.nouns import Options
from rstore.backends.redis.care import RedisCare
from rstore.backends.redis.dsn import parse
from rstore.backends.redis.namespace import EvictionWarning

__all__ = ["EvictionWarning", "RedisBackend", "RedisClusterBackend", "TlsRedisBackend", "TlsRedisClusterBackend"]


class _Redis(RedisCare):
    cluster = False
    tls = False

    def __init__(self, rest: str, namespace: str, options: Options) -> None:
        super().__init__(parse(rest, cluster=self.cluster, tls=self.tls), namespace, options)


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
