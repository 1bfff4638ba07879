"""Garbage: records, chunks and whole namespaces that no reader sees any more, deleted a bounded part at a time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.namespace.namespace import RedisNamespace
from rstore.backends.redis.transport.calls import Script
from rstore.errors import StoreError

_COLLECT: Final = Script("collect")
GARBAGE_A_STEP: Final = 250
"""How many keys one script deletes: it holds up all other clients meanwhile."""


class RedisGarbage(RedisNamespace):
    """The garbage of a namespace, and of others in the same buckets."""

    def collect(self, buckets: Iterable[Bucket], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete garbage. A failure leaves it to the next call that collects: this one has done its own work."""
        with suppress(StoreError):
            self.delete_garbage(buckets, steps, given_up=given_up)

    def delete_garbage(self, buckets: Iterable[Bucket], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete the garbage of buckets, a bounded part at a time.

        `steps` bounds how many parts; `given_up` is a batch of records that is not staged any more.
        """
        todo = list(buckets)
        while todo and steps != 0:
            call = (b"%d" % GARBAGE_A_STEP, given_up)
            left = self.run(
                _COLLECT.on(bucket.slot, (bucket.garbage, bucket.staged), *call, write=True, again=True)
                for bucket in todo
            )
            given_up = b""
            self.deadline.begin()
            todo = [bucket for bucket, entries in zip(todo, left, strict=True) if entries]
            steps = None if steps is None else steps - 1
