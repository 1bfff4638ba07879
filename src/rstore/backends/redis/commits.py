"""Commits and deletions of logs in Redis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import LostReplyError, Signal
from rstore.backends.redis.layout import BODY_ID_BYTES, REPLACED_MS, Place, pack_chunk, pack_position, pack_rows
from rstore.backends.redis.leases import RedisLeases
from rstore.backends.redis.logs import behind, fields
from rstore.backends.redis.patience import Patience
from rstore.backends.types import ANY, LAST, Chunk, Commit, Expected, ExpectedIncarnation, Log

_COMMIT: Final = Script("commit")
_DROP: Final = Script("drop")

STAGED_MS: Final = 600_000
"""How long the body of a chunk waits for the commit that keeps it."""
_STAGED_BYTES: Final = 16 * 1024 * 1024


class RedisCommits(RedisLeases):
    """What changes whole logs of a namespace."""

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        def attempt() -> bool:
            return self._unleased(log.key, lambda: self._commit(log, commit, incarnation))

        try:
            return attempt()
        except LostReplyError as lost:
            found_out = partial(self._found_out, self._place_of_log(log))
            if found_out(lambda: self._is_committed(log, commit)):
                return True
            if _is_safe_twice(commit) and (found_out(attempt) or found_out(lambda: self._is_committed(log, commit))):
                return True
            raise self._unknown(f"a change of {log.key!r} was committed", lost) from lost.__cause__

    def _commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        entries = [pack_chunk(chunk, os.urandom(BODY_ID_BYTES)) for chunk in commit.put_chunks]

        def call(place: Place) -> Call:
            return self._committing(place, log, commit, entries)

        patience: Patience | None = None
        while True:
            place = self._place_of_log(log)
            if entries and place.incarnation == incarnation:
                self._stage(place, entries, commit.put_chunks)
            try:
                return bool(self._write(lambda: self._place_of_log(log), incarnation, call))
            except Signal as signal:
                self._check_head(log, signal)
                if signal.code == "REPLACED":  # a chunk that is to be dropped: somebody else was faster
                    return False
                # UNSTAGED: the bodies expired, or went to a place that was out of date. CHANGED: a chunk was replaced
                # between its look-up and the commit.
                if signal.code not in ("UNSTAGED", "CHANGED"):
                    raise
                patience = self._again(patience)

    def _stage(self, place: Place, entries: Sequence[bytes], chunks: Sequence[Chunk]) -> None:
        """Put the bodies of chunks where only a commit that knows their names finds them.

        Never over one that is there: what was on the way when a connection broke may arrive after the commit that keeps
        it for good, and would let it expire.
        """
        calls: list[Call] = []
        size = 0
        for entry, chunk in zip(entries, chunks, strict=True):
            calls.append(
                Call(place.slot, (b"SET", place.body(entry), chunk.body, b"PX", b"%d" % STAGED_MS, b"NX"), write=True)
            )
            size += len(chunk.body)
            if size > _STAGED_BYTES:
                with self._unseen():
                    self._run(calls)
                calls, size = [], 0
        with self._unseen():
            self._run(calls)

    def _committing(self, place: Place, log: Log, commit: Commit, entries: Sequence[bytes]) -> Call:
        chunks = place.log(b"c", log)
        old = self._run(
            Call(place.slot, (b"ZRANGEBYLEX", chunks, b"[" + pack_position(first), b"(" + behind(first)))
            for first in commit.drop_chunks
        )
        if not all(old):
            raise Signal("REPLACED")
        dropped = [found[0] for found in old]
        rows, checkpoints = pack_rows(commit.put_rows), pack_rows(commit.put_checkpoints)
        drop_rows = [pack_position((t, seq)) + body for t, seq, body in commit.drop_rows]
        create, start = commit.create, commit.drop_checkpoints_from
        return _COMMIT.on(
            place.slot,
            (
                place.marker_key,
                place.logs(log.model),
                *(place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t")),
                *map(place.body, entries),
                *map(place.body, dropped),
            ),
            place.mark,
            log.key.encode(),
            self._token(log),
            _condition(commit.if_epoch),
            _condition(commit.if_version),
            b"%d" % (create is not None),
            *((b"", b"", b"0", b"") if create is None else fields(create)),
            *(b"" if new is None else b"=" + new for new in (commit.epoch, commit.version, commit.facts)),
            b"%d" % commit.drop_if_empty,
            b"" if start is None else pack_position(start),
            b"%d" % REPLACED_MS,
            *(b"%d" % len(some) for some in (drop_rows, dropped, rows, entries, checkpoints)),
            *drop_rows,
            *dropped,
            *rows,
            *entries,
            *checkpoints,
            write=True,
            again=False,
        )

    def _is_committed(self, log: Log, commit: Commit) -> bool:
        """Return whether the head has the stamps of a commit: random bytes that nobody else has."""
        head = self.view(log, LAST, LAST, rows=False, bodies=False).head
        return head is not None and (
            head.epoch == commit.epoch
            or head.version == commit.version
            or (commit.create is not None and head.epoch == commit.create.epoch)
        )

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        def call(place: Place) -> Call:
            parts = (place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t"))
            keys = (place.marker_key, place.logs(log.model), *parts, place.garbage, place.dropped(os.urandom(8)))
            arguments = (place.mark, log.key.encode(), self._token(log), _condition(if_version))
            return _DROP.on(place.slot, keys, *arguments, write=True, again=False)

        try:
            place_now = partial(self._place_of_log, log)
            done = self._unleased(log.key, lambda: self._read(place_now, call, 0, if_incarnation=if_incarnation))
        except LostReplyError as lost:
            raise self._unknown(f"{log.key!r} was removed", lost) from lost.__cause__
        if done:
            self._collect([self._place_of_log(log)])
        return bool(done)


def _condition(expected: Expected) -> bytes:
    if expected is ANY:
        return b""
    return b"!" if expected is None else b"=" + expected


def _is_safe_twice(commit: Commit) -> bool:
    """Return whether a commit that was done would not be done again: it replaces a stamp that it expects.

    Not one that expects nothing: somebody may have seen what it made, and removed it.
    """
    return (isinstance(commit.if_epoch, bytes) and commit.epoch is not None) or (
        isinstance(commit.if_version, bytes) and commit.version is not None
    )
