"""The namespace outside of transactions, where every call is done at once."""

from __future__ import annotations

from rstore.backends.redis.maintenance import RedisMaintenance


class RedisAutocommit(RedisMaintenance):
    """Every call is a transaction of its own."""

    is_remote = True

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        self._deadline.begin()
        return self.namespace.facts()

    def create(self) -> bytes:
        self._deadline.begin()
        return self.namespace.create()

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        self._deadline.begin()
        return self.namespace.add_fact(name, fact, incarnation)

    def discard(self) -> None:
        self._deadline.begin()
        self.namespace.discard()

    def close(self) -> None:
        self._client.close()

    @property
    def transactional(self) -> bool:
        return len(self.namespace.buckets) == 1
