"""A part of the backend: the base of records and of logs."""

from __future__ import annotations

from rstore.backends.redis.namespace.life import RedisLife


class RedisPart:
    """A part of the backend over one namespace.

    Methods of the contract begin a call, which has one deadline for all that it sends. Methods whose names begin with
    `read_` are steps of a call that another method began.
    """

    around_damage = False
    """As of a backend."""

    def __init__(self, namespace: RedisLife) -> None:
        self.namespace = namespace
        self._client = namespace.client
        self._deadline = namespace.deadline
