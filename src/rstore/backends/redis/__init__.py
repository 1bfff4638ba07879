"""A Redis server or a Redis Cluster: `backend` is where to begin."""

from rstore.backends.redis.namespace.life import EvictionWarning

__all__ = ["EvictionWarning"]
