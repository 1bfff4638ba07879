"""Key/value records in Redis: a string each, and per bucket an index of the keys and one of those that expire."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from itertools import repeat
from os.path import commonprefix
from typing import Any, Final, TypeVar

from rstore.backends.common.pages import PAGE_BYTES
from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.records.batches import MAX_RECORDS, WRITE, is_large, writing
from rstore.backends.redis.records.ranges import RedisRanges, expires_ms_of, outcomes_of
from rstore.backends.redis.records.watcher import RedisWatcher
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.connection import connector
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import LostReplyError, Signal
from rstore.backends.types import (
    ANY,
    HEAD_BYTES,
    KEEP,
    LARGE_BYTES,
    ExpectedIncarnation,
    Found,
    Model,
    NamespaceGone,
    Write,
    Writes,
    too_large,
)
from rstore.errors import StoreError

T = TypeVar("T")
_MAX_BYTES: Final = 512 * 1024 * 1024
"""The largest string that a server takes unless its `proto-max-bulk-len` says otherwise."""
_WRITE_IF: Final = Script("write_if")
_DELETE: Final = Script("delete")
_FETCH: Final = Script("fetch")
_TOUCH: Final = Script("touch")


class RedisRecords(RedisRanges):
    """The records of a namespace."""

    def get(self, key: str) -> bytes | None:
        self._deadline.begin()
        return self._get(key.encode())

    def _get(self, name: bytes) -> bytes | None:
        retries: CallRetries | None = None
        while True:
            bucket = self.namespace.bucket_of(name)
            if bucket.batch:
                return self._find(name, there=False)  # type: ignore[no-any-return]
            call = Call(bucket.slot, (b"MGET", bucket.marker_key, bucket.records + name))
            marker, record = self._client.call(call)
            if marker != bucket.marker:
                self.namespace.adopt(bucket, marker)
            elif bucket.incarnation or not self.namespace.is_laid_out_anew():
                if record is not None:
                    self._client.shrink(bucket.slot, len(record))
                return record  # type: ignore[no-any-return]
            retries = self.namespace.again(retries)

    def has(self, key: str) -> bool:
        self._deadline.begin()
        return bool(self._find(key.encode(), there=True))

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        self._deadline.begin()
        return self.read_records(keys, heads=heads)

    def read_records(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        """Return the records that exist under these keys."""
        head_bytes = b"%d" % HEAD_BYTES if heads else b""

        def ask(bucket: Bucket, names: list[bytes]) -> Call:
            prefix = self.absorbed(bucket).records
            found = (bucket.marker_key, bucket.expiry_index, *(prefix + name for name in names[:MAX_RECORDS]))
            arguments = (bucket.mark, b"%d" % PAGE_BYTES, head_bytes)
            return _FETCH.on(bucket.slot, found, *arguments, write=False, again=True)

        def rest(names: list[bytes], reply: Any) -> list[bytes] | None:
            return None if isinstance(reply, Exception) else names[len(reply[0]) :] or None

        found: list[Found] = []
        for _, names, reply in self.namespace.rounds(lambda: self._grouped(map(str.encode, keys), bytes), ask, rest):
            if isinstance(reply, Exception):
                raise reply
            records, last = reply
            expiries = map(expires_ms_of, last) if last else repeat(None)
            found += (
                (name.decode(), record, expires_ms)
                for name, record, expires_ms in zip(names, records, expiries, strict=False)
                if record is not None
            )
        return found

    def _grouped(self, items: Iterable[T], name_of: Callable[[T], bytes]) -> list[tuple[Bucket, list[T]]]:
        """Return items by the buckets of their names."""
        groups: dict[int, tuple[Bucket, list[T]]] = {}
        for item in items:
            bucket = self.namespace.bucket_of(name_of(item))
            groups.setdefault(bucket.number, (bucket, []))[1].append(item)
        return list(groups.values())

    def is_one_place(self, keys: Iterable[str]) -> bool:
        if len(self.namespace.buckets) == 1:
            return True
        return len({self.namespace.bucket_of(key.encode()).number for key in keys}) <= 1

    def write(self, writes: Writes, incarnation: bytes) -> None:
        self._deadline.begin()
        if len(writes) == 1:
            # The common case, written out.
            key, record, ttl_ms = writes[0]
            name = key.encode()
            bucket = self.namespace.bucket_of(name)
            fits = ttl_ms is None and bucket.incarnation == incarnation and not bucket.batch
            if fits and record is not None and len(record) <= LARGE_BYTES:
                keys = (*bucket.indexes, bucket.records + name)
                call = WRITE.on(bucket.slot, keys, bucket.mark, b"1", b"0", record, write=True, again=False)
                try:
                    self._client.call(call)
                except Signal:
                    self._write_bucket(writes, incarnation)
                except LostReplyError as lost:
                    self._find_out_written(writes, lost)
                self.namespace.wrote()
                return
        self._check_sizes(writes)
        if len(writes) == 1 or len(self.namespace.buckets) == 1:
            self._write_bucket(writes, incarnation)
        else:
            self._write_buckets(writes, incarnation)

    def _write_buckets(self, writes: Writes, incarnation: bytes) -> None:
        def ask(bucket: Bucket, group: Writes) -> Call:
            return writing(self.absorbed(bucket), group)

        groups, outcomes = self._grouped(writes, lambda write: write[0].encode()), list[Any]()
        if any(is_large(group) for _, group in groups):
            outcomes += (self._outcome(partial(self._write_bucket, group, incarnation)) for _, group in groups)
        else:
            for group, reply in outcomes_of(self.namespace.rounds(lambda: groups, ask, if_incarnation=incarnation)):
                if group is not None and isinstance(reply, LostReplyError):
                    outcomes.append(self._outcome(partial(self._find_out_written, group, reply)))
                else:
                    outcomes.append(reply)
        self._total([outcome or 0 for outcome in outcomes], "written")
        if len(outcomes) < len(groups):
            raise NamespaceGone
        self.namespace.wrote()

    def _write_bucket(self, writes: Writes, incarnation: bytes) -> None:
        name = writes[0][0].encode()
        try:
            if is_large(writes):
                self._write_batch(name, writes, incarnation)
            else:
                self.namespace.write(name, incarnation, lambda bucket: writing(self.absorbed(bucket), writes))
        except LostReplyError as lost:
            self._find_out_written(writes, lost)

    def _find_out_written(self, writes: Writes, lost: LostReplyError) -> None:
        """Find out whether one of these records is there: then all were written, for each has a stamp of its own.

        Raises `OutcomeUnknownError`.
        """

        def is_written() -> bool:
            return any(record is not None and self._get(key.encode()) == record for key, record, _ in writes[:10])

        key = writes[0][0]
        if not self.namespace.found_out(self.namespace.bucket_of(key.encode()), is_written):
            what = f"{key!r} was written" if len(writes) == 1 else f"{len(writes)} records were written"
            raise self.namespace.unknown(what, lost) from lost.__cause__

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        self._deadline.begin()
        self._check_sizes([write])
        name, large = write.key.encode(), len(write.record or b"") > LARGE_BYTES
        arguments = (
            version or b"",
            b"0" if write.record is None else b"1",
            write.record or b"",
            b"" if write.ttl_ms is None else b"keep" if write.ttl_ms is KEEP else b"%d" % write.ttl_ms,
        )

        def ask(bucket: Bucket) -> Call:
            keys = (*self.absorbed(bucket).indexes, bucket.records + name)
            call = _WRITE_IF.on(bucket.slot, keys, bucket.mark, *arguments, write=True, again=False)
            return call._replace(large=large)

        try:
            return bool(self.namespace.write(name, incarnation, ask))
        except LostReplyError as lost:
            self._find_out_written([write], lost)
            return True

    def _check_sizes(self, writes: Writes) -> None:
        """Refuse a record that the server does not take: sent, it would make the server close the connection."""
        for key, record, _ in writes:
            if record is not None and (size := len(record)) > LARGE_BYTES:  # no limit is below that
                slot = self.namespace.bucket_of(key.encode()).slot
                try:
                    _, limit = self._client.call(Call(slot, (b"CONFIG", b"GET", b"proto-max-bulk-len")))
                except (StoreError, ValueError):  # not for this user, or of another name
                    limit = _MAX_BYTES
                if size > int(limit):
                    server = f"the Redis server {self.namespace.target} (proto-max-bulk-len)"
                    raise too_large(key, self.namespace.name, size, int(limit), server)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._deadline.begin()
        name = key.encode()
        lives = b"" if ttl_ms is None else b"%d" % ttl_ms

        def ask(bucket: Bucket) -> Call:
            keys = (bucket.marker_key, self.absorbed(bucket).expiry_index, bucket.records + name)
            return _TOUCH.on(bucket.slot, keys, bucket.mark, lives, write=True, again=False)

        try:
            return bool(self.namespace.read(name, ask, 0, if_incarnation=if_incarnation))
        except LostReplyError as lost:
            raise self.namespace.unknown(f"the expiry of {key!r} was changed", lost) from lost.__cause__

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        self._deadline.begin()

        def ask(bucket: Bucket, names: list[bytes]) -> Call:
            # Not more than that at once: deleting is promised for each key, not for all of them as one.
            found = (*self.absorbed(bucket).indexes, *(bucket.records + name for name in names[:MAX_RECORDS]))
            return _DELETE.on(bucket.slot, found, bucket.mark, write=True, again=False)

        def rest(names: list[bytes], _: int) -> list[bytes] | None:
            return names[MAX_RECORDS:] or None

        begin = partial(self._grouped, [key.encode() for key in dict.fromkeys(keys)], bytes)
        rounds = self.namespace.rounds(begin, ask, rest, if_incarnation=if_incarnation)
        return self._total([reply for _, reply in outcomes_of(rounds)], "deleted")

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[RedisWatcher]:
        self._deadline.begin()

        def watched() -> Collection[Bucket]:
            if prefix is not None or len(self.namespace.buckets) == 1:
                return self.namespace.buckets
            return [bucket for bucket, _ in self._grouped(keys, str.encode)]

        # One prefix for all, since each costs every writer: other keys that begin with it wake the watcher, too.
        stem = commonprefix([*keys, *([] if prefix is None else [prefix])]).encode()  # noqa: RUF071 - of no paths
        return self._listener(watched, lambda bucket: bucket.records + stem)

    def log_watcher(self, model: Model) -> AbstractContextManager[RedisWatcher]:
        self._deadline.begin()
        return self._listener(lambda: self.namespace.buckets, lambda bucket: bucket.heads(model))

    def _listener(
        self, buckets: Callable[[], Collection[Bucket]], watched: Callable[[Bucket], bytes]
    ) -> AbstractContextManager[RedisWatcher]:
        self.namespace.refresh()
        connect = connector(self.namespace.target, self.namespace.timeout_s, protocol=3)
        return closing(RedisWatcher(self._client, connect, buckets, watched))
