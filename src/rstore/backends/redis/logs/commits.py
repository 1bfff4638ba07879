"""Commits and deletions of logs in Redis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from rstore.backends.redis.logs.leases import RedisLeases
from rstore.backends.redis.logs.logs import RedisLogs, fields
from rstore.backends.redis.logs.members import REPLACED_MS, behind, pack_chunk, pack_position, pack_rows
from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.namespace.life import RedisLife
from rstore.backends.redis.namespace.namespace import spot_of
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import LostReplyError, Signal
from rstore.backends.types import ANY, HEAD_ONLY, Chunk, Commit, Expected, ExpectedIncarnation, Log, ids_of

_COMMIT: Final = Script("commit")
_DROP: Final = Script("drop")

STAGED_MS: Final = 600_000
"""How long the body of a chunk waits for the commit that keeps it."""
_STAGED_BYTES: Final = 16 * 1024 * 1024


class RedisCommits(RedisLogs):
    """Changes of whole logs of a namespace."""

    def __init__(self, namespace: RedisLife, leases: RedisLeases, held: Mapping[Log, bytes]) -> None:
        super().__init__(namespace)
        self.leases = leases
        self.held = held
        """The tokens of the leases under which it commits."""

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        self._deadline.begin()

        def attempt() -> bool:
            return self.leases.unleased(log.key, lambda: self._commit(log, commit, incarnation))

        try:
            return attempt()
        except LostReplyError as lost:
            found_out = partial(self.namespace.found_out, self.namespace.bucket_of_log(log))
            if found_out(lambda: self._is_committed(log, commit)):
                return True
            if _is_safe_twice(commit) and (found_out(attempt) or found_out(lambda: self._is_committed(log, commit))):
                return True
            raise self.namespace.unknown(f"a change of {log.key!r} was committed", lost) from lost.__cause__

    def _commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        entries = list(map(pack_chunk, commit.put_chunks))
        retries: CallRetries | None = None

        def ask(bucket: Bucket) -> Call:
            return self._committing(bucket, log, commit, entries)

        while True:
            if entries and (bucket := self.namespace.bucket_of_log(log)).incarnation == incarnation:
                self.stage(bucket, entries, commit.put_chunks)
            try:
                return bool(self.namespace.write(spot_of(log), incarnation, ask))
            except Signal as signal:
                self._check_head(log, signal)
                if signal.code == "REPLACED":  # a chunk that is to be dropped: a concurrent rewrite was faster
                    return False
                # UNSTAGED: the bodies expired, or went to a bucket that was out of date. CHANGED: a chunk was replaced
                # between its look-up and the commit.
                if signal.code not in ("UNSTAGED", "CHANGED"):
                    raise
            retries = self.namespace.again(retries)

    def stage(self, bucket: Bucket, entries: Sequence[bytes], chunks: Sequence[Chunk]) -> None:
        """Put the bodies of chunks where only a commit that knows their names finds them.

        Never over a body that is there: a command that was on the way when its connection broke may arrive after the
        commit that keeps the body, and would let it expire.
        """
        expires = (b"PX", b"%d" % STAGED_MS, b"NX")
        calls: list[Call] = []
        size = 0
        with self.namespace.unseen():
            for entry, chunk in zip(entries, chunks, strict=True):
                calls.append(Call(bucket.slot, (b"SET", bucket.body(entry), chunk.body, *expires), write=True))
                size += len(chunk.body)
                if size > _STAGED_BYTES:
                    self.namespace.run(calls)
                    calls, size = [], 0
            self.namespace.run(calls)

    def _committing(self, bucket: Bucket, log: Log, commit: Commit, entries: Sequence[bytes]) -> Call:
        chunks = bucket.log(b"c", log)
        old = self.namespace.run(
            Call(bucket.slot, (b"ZRANGEBYLEX", chunks, b"[" + pack_position(first), b"(" + behind(first)))
            for first in commit.drop_chunks
        )
        if not all(old):
            raise Signal("REPLACED")
        dropped = [found[0] for found in old]
        rows, checkpoints, ids = map(pack_rows, (commit.put_rows, commit.put_checkpoints, commit.put_ids))
        drop_rows, drop_ids = (
            [pack_position((t, seq)) + body for t, seq, body in dropped_rows]
            for dropped_rows in (commit.drop_rows, commit.drop_ids)
        )
        beside = ids_of(log)
        create, start = commit.create, commit.drop_checkpoints_from
        return _COMMIT.on(
            bucket.slot,
            (
                bucket.marker_key,
                bucket.logs(log.model),
                *bucket.parts(log, b"hrckt"),
                *((bucket.logs(beside.model), *bucket.parts(beside, b"hr")) if ids else ()),
                *map(bucket.body, entries),
                *map(bucket.body, dropped),
            ),
            bucket.mark,
            log.key.encode(),
            self.held.get(log, b""),
            _condition(commit.if_epoch),
            _condition(commit.if_version),
            b"%d" % (create is not None),
            *((b"", b"", b"0", b"") if create is None else fields(create)),
            *(b"" if new is None else b"=" + new for new in (commit.epoch, commit.version, commit.facts)),
            b"%d" % commit.drop_if_empty,
            b"" if start is None else pack_position(start),
            b"%d" % REPLACED_MS,
            *(b"%d" % len(some) for some in (drop_rows, dropped, rows, entries, checkpoints, drop_ids, ids)),
            *drop_rows,
            *dropped,
            *rows,
            *entries,
            *checkpoints,
            *drop_ids,
            *ids,
            write=True,
            again=False,
        )

    def _is_committed(self, log: Log, commit: Commit) -> bool:
        """Return whether the head has the stamps of a commit: random bytes that no other commit has."""
        head = self.read_view(log, HEAD_ONLY).head
        return head is not None and (
            head.epoch == commit.epoch
            or head.version == commit.version
            or (commit.create is not None and head.epoch == commit.create.epoch)
        )

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._deadline.begin()

        def ask(bucket: Bucket) -> Call:
            parts, new_name = bucket.parts(log, b"hrckt"), bucket.dropped(os.urandom(8))
            keys = (bucket.marker_key, bucket.logs(log.model), *parts, bucket.garbage, new_name)
            arguments = (bucket.mark, log.key.encode(), self.held.get(log, b""), _condition(if_version))
            return _DROP.on(bucket.slot, keys, *arguments, write=True, again=False)

        try:
            read = partial(self.namespace.read, spot_of(log), ask, 0, if_incarnation=if_incarnation)
            done = self.leases.unleased(log.key, read)
        except LostReplyError as lost:
            raise self.namespace.unknown(f"{log.key!r} was removed", lost) from lost.__cause__
        if done:
            self.namespace.collect([self.namespace.bucket_of_log(log)])
        return bool(done)


def _condition(expected: Expected) -> bytes:
    if expected is ANY:
        return b""
    return b"!" if expected is None else b"=" + expected


def _is_safe_twice(commit: Commit) -> bool:
    """Return whether a commit that was done would not be done again: it replaces a stamp that it expects.

    A commit that expects nothing is not: another client may have removed what it made.
    """
    return (isinstance(commit.if_epoch, bytes) and commit.epoch is not None) or (
        isinstance(commit.if_version, bytes) and commit.version is not None
    )
