"""A transaction in Redis: it reads as others do, watches what it reads, and applies its changes in one step."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from rstore.backends.contract import WriteTransaction
from rstore.backends.redis.transaction.changes import stamps_of
from rstore.backends.redis.transaction.overlay_logs import OverlayLogs
from rstore.backends.redis.transaction.overlay_records import OverlayRecords
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.connection import Command
from rstore.backends.redis.transport.errors import LostReplyError, Signal
from rstore.backends.types import HEAD_ONLY, Log

_FINISH: Final = Script("finish")


class RedisTransaction(OverlayRecords, OverlayLogs):
    """A transaction from its beginning to its end."""

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        """Take back the changes inside if it raises; its reads still count."""
        self._begin_call()
        before = self._changes.copy()
        try:
            yield self
        except BaseException:
            self._changes = before
            raise

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        # There is no other client to keep away: the transaction that ends first wins.
        return nullcontext(self)

    def finish(self) -> None:
        """Apply all changes, or none.

        Raises `RolledBack` if something that was read has changed.
        """
        self._begin_call()
        changes = self._changes
        if self._nowhere or not (changes or self._seen or self._heads or len(self._watched)):
            return
        try:
            answer = self._watched.finish(self._ending(), self._namespace.target.wait_replicas if changes else 0)
        except LostReplyError as lost:
            if not changes:
                raise self._overtaken("something") from lost.__cause__
            if not self._namespace.found_out(self._bucket, self._is_done):
                raise self._namespace.unknown("a transaction was committed", lost) from lost.__cause__
            return
        if answer == b"LEASED":
            self._await_leases()
        if answer != b"DONE":
            raise self._overtaken("what was read")
        if changes.cleared or any(one.drops for one in changes.logs.values()):
            self._namespace.collect([self._bucket])

    def _is_done(self) -> bool:
        """Return whether one of the stamps that it leaves is found: random bytes that no other transaction has."""
        changes, stored = self._changes, self._stored
        puts = {key: held.record for key, held in changes.records.items() if held and held.record}
        if any(record == puts[key] for key, record, _ in stored.read_records(list(puts)[:10])):
            return True
        logs = [(log, one.stamps) for log, one in changes.logs.items() if one.stamps]
        return any(stamps & stamps_of(stored.read_view(log, HEAD_ONLY).head) for log, stamps in logs[:10])

    def _await_leases(self) -> None:
        """Wait until no other client has a lease on a log that it commits to."""
        logs = [log for log, one in self._changes.logs.items() if one.leased and log not in self._stored.held]
        leased = Call(self._bucket.slot, (b"EXISTS", *(self._bucket.log(b"t", log) for log in logs)))

        def look() -> None:
            if logs and self._namespace.client.call(leased):
                raise Signal("LEASED")

        self._stored.leases.unleased(", ".join(log.key for log in logs[:3]), look)

    def _ending(self) -> Command:
        """Return the one command that applies the changes if what the transaction has seen is still so."""
        changes, bucket, tokens = self._changes, self._bucket, self._stored.held
        leased = {bucket.log(b"t", log): tokens.get(log, b"") for log, one in changes.logs.items() if one.leased}
        staged = [bucket.body(entry) for one in changes.logs.values() for entry in one.put_chunks.values()]
        commands = changes.commands(bucket) if changes else []
        keys = [bucket.marker_key, bucket.expiry_index]
        keys += [bucket.records + key.encode() for key in self._seen]
        keys += [bucket.log(b"h", log) for log in self._heads]
        keys += [*leased, *staged]
        keys += [command[1] for command in commands]
        arguments = [bucket.mark, b"" if self._since_ms is None else b"%d" % self._since_ms]
        arguments += (b"%d" % len(some) for some in (self._seen, self._heads, leased, staged))
        for one in self._seen.values():
            version, expires_ms = one or (b"", None)
            arguments += (version, b"" if expires_ms is None else b"%d" % (expires_ms - 1))
        for head in self._heads.values():
            arguments += (b"", b"", b"") if head is None else (head.epoch, head.version, head.facts)
        arguments += leased.values()
        for verb, _, *rest in commands:
            arguments += (verb, b"%d" % len(rest), *rest)
        # By its source: a script that the server does not know would be found out too late, when nothing is watched.
        return (b"EVAL", _FINISH.source, b"%d" % len(keys), *keys, *arguments)

    def close(self) -> None:
        """Let go of the connection."""
        self._watched.close()
