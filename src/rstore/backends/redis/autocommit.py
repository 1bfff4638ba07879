"""The namespace outside of transactions, where every call is done at once, and what a transaction asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rstore.backends.redis.logs.members import unpack_chunk
from rstore.backends.redis.maintenance import RedisMaintenance
from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.namespace.namespace import NamespaceRetries
from rstore.backends.redis.transaction.changes import TransactionChanges
from rstore.backends.redis.transaction.log_changes import stamps_of
from rstore.backends.redis.transaction.watched import WatchedKeys
from rstore.backends.redis.transport.calls import Call
from rstore.backends.redis.transport.errors import LostReplyError, Signal
from rstore.backends.types import HEAD_ONLY, Chunk, Log, Position, RolledBack
from rstore.errors import NotSupportedError, OutcomeUnknownError


class RedisAutocommit(RedisMaintenance):
    """Every call is a transaction of its own."""

    is_remote = True

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        self._deadline.begin()
        return self._namespace.facts()

    def create(self) -> bytes:
        self._deadline.begin()
        return self._namespace.create()

    def add_fact(self, name: str, fact: bytes) -> bytes:
        self._deadline.begin()
        return self._namespace.add_fact(name, fact)

    def discard(self) -> None:
        self._deadline.begin()
        self._namespace.discard()

    def close(self) -> None:
        self._client.close()

    @property
    def transactional(self) -> bool:
        return len(self._namespace.buckets) == 1

    # -- for a transaction --------------------------------------------------------------------------------------------

    def begin_call(self) -> None:
        """Begin a call of a transaction, with one deadline for all of its steps."""
        self._deadline.begin()

    def begin(self, *, create: bool) -> Bucket:
        """Return the one bucket of a transaction; without an incarnation, if there is no namespace and none is made."""
        self._deadline.begin()
        namespace = self._namespace
        retries = NamespaceRetries(namespace)
        while True:
            if not self.transactional:
                raise NotSupportedError(
                    f"the namespace {namespace.name!r} lies in {len(namespace.buckets)} buckets, and a transaction in "
                    "one: create it with ?buckets=1 in the DSN, or on a single server"
                )
            bucket = namespace.current(b"")
            if not bucket.incarnation and create and not namespace.frozen:
                namespace.create()
                bucket = namespace.current(b"")
            try:
                return self.folded(bucket)
            except Signal:
                retries.again()

    def watch(self, bucket: Bucket) -> WatchedKeys:
        """Return a connection that watches nothing yet."""
        return WatchedKeys(self._client, bucket.slot)

    def now_ms(self, bucket: Bucket) -> int:
        """Return the server's clock."""
        return self._namespace.now_ms(bucket.slot)

    def index(self, bucket: Bucket, log: Log) -> dict[Position, bytes]:
        """Return the index of the chunks of a log."""
        return indexed(self._client.call(Call(bucket.slot, (b"ZRANGE", bucket.log(b"c", log), b"0", b"-1"))))

    def with_bodies(self, bucket: Bucket, log: Log, entries: Sequence[bytes]) -> list[Chunk]:
        """Return chunks with their bodies."""
        bodies = self.read_bodies(bucket, entries)
        if bodies is None:
            raise RolledBack(
                f"what was read of {log.key!r} in the namespace {self._namespace.name!r} was replaced long ago"
            )
        return [unpack_chunk(entry, body) for entry, body in zip(entries, bodies, strict=True)]

    def finish(self, watched: WatchedKeys, command: tuple[bytes, ...], *, writes: bool) -> bytes:
        """Run the command that ends a transaction, and return its answer."""
        replicas = self._namespace.target.wait_replicas if writes else 0
        return bytes(watched.finish(command, replicas=replicas, wait_ms=self._deadline.wait_ms))

    def found_done(self, bucket: Bucket, changes: TransactionChanges) -> bool:
        """Return whether one of the stamps that a transaction leaves is found: random bytes that no other one has."""
        return self._namespace.found_out(bucket, lambda: self._is_done(changes))

    def _is_done(self, changes: TransactionChanges) -> bool:
        puts = {key: held.record for key, held in changes.records.items() if held and held.record}
        some = list(puts)[:10]
        if any(record == puts[key] for key, record, _ in self.read_records(some)):
            return True
        logs = [(log, one) for log, one in changes.logs.items() if one.stamps]
        return any(one.stamps & stamps_of(self.read_view(log, HEAD_ONLY).head) for log, one in logs[:10])

    def await_leases(self, bucket: Bucket, changes: TransactionChanges) -> None:
        """Wait until no other client has a lease on a log that a transaction commits to."""
        logs = [log for log, one in changes.logs.items() if one.leased and log not in self.held]
        leased = [bucket.log(b"t", log) for log in logs]

        def look() -> None:
            if leased and self._client.call(Call(bucket.slot, (b"EXISTS", *leased))):
                raise Signal("LEASED")

        self._leases.unleased(", ".join(log.key for log in logs[:3]), look)

    def collect(self, bucket: Bucket) -> None:
        """Delete what no reader sees any more."""
        self._namespace.collect([bucket])

    def unknown(self, lost: LostReplyError) -> OutcomeUnknownError:
        """Return the error of a transaction whose reply was lost, and whose outcome could not be found out."""
        return self._namespace.unknown("a transaction was committed", lost)


def indexed(entries: Iterable[bytes]) -> dict[Position, bytes]:
    """Return entries of an index by the positions of the first rows."""
    return {unpack_chunk(entry, b"").first: entry for entry in entries}
