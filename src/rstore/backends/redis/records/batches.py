"""Writing records to one bucket: some by one script, many as a batch that is staged, made visible, and absorbed.

One script that wrote many records would hold up all other clients. A batch lies beside the single records, under names
of its own, until the marker names it; from then on every writer absorbs some of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final

from rstore.backends.redis.namespace.bucket import GENERATION_BYTES, Bucket
from rstore.backends.redis.namespace.part import RedisPart
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import Signal
from rstore.backends.types import LARGE_BYTES, NamespaceGone, Writes
from rstore.errors import StoreBusyError, StoreError, StoreFullError

_FIND: Final = Script("find")
_ABSORB: Final = Script("absorb")
_PUBLISH: Final = Script("publish")
_STAGE: Final = Script("stage")
WRITE: Final = Script("write")

MAX_RECORDS: Final = 2000
"""How many records one script writes or moves: it holds up all other clients meanwhile."""
_MAX_BYTES: Final = 8 * 1024 * 1024
_STAGED_S: Final = 3600
"""The time after which a batch that was not made visible is given up, and becomes garbage."""


class RedisBatches(RedisPart):
    """Batches of records: written, absorbed, and looked into."""

    def _write_batch(self, spot: bytes, writes: Writes, incarnation: bytes) -> None:
        """Write many records of one bucket, all or nothing."""
        bucket = self.namespace.current(spot)
        if bucket.incarnation != incarnation:
            raise NamespaceGone
        batch = os.urandom(GENERATION_BYTES)
        publish = _PUBLISH.on(
            bucket.slot, (bucket.marker_key, bucket.staged), incarnation, batch, write=True, again=False
        )
        try:
            self._stage_batch(bucket, batch, writes)
            self._deadline.begin()
            retries: CallRetries | None = None
            while not self._client.call(publish):
                retries = self.namespace.again(retries)
                self._absorb_anew(bucket)
        except (Signal, StoreFullError, StoreBusyError) as error:
            # The staged batch costs nothing but memory.
            self.namespace.collect([bucket], given_up=batch)
            if isinstance(error, StoreError):
                raise
            raise NamespaceGone from error
        self.namespace.wrote()
        # The batch is visible: if it cannot be absorbed now, the next writer does it.
        with suppress(StoreError):
            self._absorb_anew(bucket)

    def _stage_batch(self, bucket: Bucket, batch: bytes, writes: Writes) -> None:
        now_ms = self.namespace.now_ms(bucket.slot)
        writes = [
            (key, record, now_ms + ttl_ms if isinstance(ttl_ms, int) else ttl_ms) for key, record, ttl_ms in writes
        ]
        until_s = b"%d" % (now_ms // 1000 + _STAGED_S)
        entry = _STAGE.on(bucket.slot, (bucket.marker_key, bucket.staged), batch, until_s, write=True, again=True)
        beside = bucket.of_records(batch)._replace(marker=bucket.incarnation)
        with self.namespace.unseen():
            self._client.call(entry)  # before there is anything that might be left behind
            self.namespace.run(writing(beside, some)._replace(again=True) for some in _pieces(writes))

    def _absorb_anew(self, bucket: Bucket) -> None:
        """Absorb the batch that a bucket has now."""
        [fresh] = self.namespace.refresh([bucket])
        with suppress(Signal):
            self.absorbed(fresh)

    def absorbed(self, bucket: Bucket) -> Bucket:
        """Return a bucket without a batch; absorb one first, and raise the signal that the bucket is out of date."""
        if bucket.batch:
            self._absorb(bucket)
        return bucket

    def _absorb(self, bucket: Bucket) -> None:
        """Absorb a batch, and raise the signal that the bucket is out of date. A frozen store waits for writers."""
        retries = CallRetries(self._deadline)
        while self.namespace.frozen:
            [fresh] = self.namespace.refresh([bucket])
            if fresh.marker != bucket.marker:
                raise Signal("STALE")
            if not retries.wait():
                raise StoreBusyError(
                    f"a large write to the namespace {self.namespace.name!r} is not finished; the next writer "
                    "finishes it"
                )
        beside = bucket.of_records(bucket.batch)
        keys = (bucket.marker_key, beside.key_index, beside.expiry_index, bucket.key_index, bucket.expiry_index)
        call = _ABSORB.on(bucket.slot, keys, bucket.mark, b"%d" % MAX_RECORDS, write=True, again=True)
        with self.namespace.unseen():
            while self._client.call(call):
                self._deadline.begin()
        raise Signal("STALE")

    def _find(self, name: bytes, *, there: bool) -> Any:
        """Return a record, or whether it is there; a batch may be visible."""

        def ask(bucket: Bucket) -> Call:
            beside = bucket.of_records(bucket.batch)
            keys = (bucket.marker_key, beside.key_index, beside.records + name, bucket.records + name)
            return _FIND.on(bucket.slot, keys, bucket.mark, name, b"%d" % there, write=False, again=True)

        return self.namespace.read(name, ask, None)


def is_large(writes: Writes) -> bool:
    """Return whether one script would take too long to write these."""
    # Deletions have no place in a batch: many of them together come through `delete` and `delete_range`.
    return (
        len(writes) > 1
        and (len(writes) > MAX_RECORDS or sum(len(record or b"") for _, record, _ in writes) > _MAX_BYTES)
        and all(record is not None for _, record, _ in writes)
    )


def _pieces(writes: Writes) -> Iterator[Writes]:
    start = size = 0
    for i, (_, record, _) in enumerate(writes):
        if i > start and (i - start == MAX_RECORDS or size + len(record or b"") > _MAX_BYTES):
            yield writes[start:i]
            start, size = i, 0
        size += len(record or b"")
    yield writes[start:]


def writing(bucket: Bucket, writes: Writes) -> Call:
    """Return the call that writes records of one bucket."""
    prefix = bucket.records
    stay = [(key, record) for key, record, ttl_ms in writes if record is not None and ttl_ms is None]
    expire = [(key, record, ttl_ms) for key, record, ttl_ms in writes if record is not None and isinstance(ttl_ms, int)]
    keys = [*bucket.indexes, *(prefix + key.encode() for key, _ in stay)]
    arguments: list[Any] = [bucket.mark, b"%d" % len(stay), b"%d" % len(expire)]
    arguments += map(itemgetter(1), stay)
    if len(stay) != len(writes):
        keys += [prefix + key.encode() for key, _, _ in expire]
        for _, record, ttl_ms in expire:
            arguments += (record, b"%d" % ttl_ms)
        keys += [prefix + key.encode() for key, record, _ in writes if record is None]
    call = WRITE.on(bucket.slot, keys, *arguments, write=True, again=False)
    large = any(len(record or b"") > LARGE_BYTES for _, record, _ in writes)
    return call._replace(large=True) if large else call
