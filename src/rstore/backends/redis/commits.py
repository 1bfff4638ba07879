"""Commits and deletions of logs in Redis, the leases that keep others from them, and several of them as one.

Nouns: a *step* (a commit or a deletion, as the script takes it), a *lease* (a key with a random token, that runs out)
and *pending* steps (those of a transaction, done when it ends).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import local
from typing import Any, Final, NamedTuple, TypeVar

from rstore.backends.nouns import ANY, LAST, Chunk, Commit, Expected, Log, Model, NamespaceGone, Options
from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.dsn import Target
from rstore.backends.redis.errors import LostReplyError, Signal
from rstore.backends.redis.layout import BODY_ID_BYTES, Place, pack_chunk, pack_position, pack_rows
from rstore.backends.redis.logs import RedisLogs, behind, fields
from rstore.errors import NotSupportedError, StoreBusyError, StoreError

T = TypeVar("T")

_COMMIT: Final = Script("commit")
_LEASE: Final = Script("lease")
_RELEASE: Final = Script("release")

STAGED_MS: Final = 600_000
"""How long the body of a chunk waits for the commit that keeps it."""
REPLACED_MS: Final = 600_000
"""How long the body of a replaced chunk stays, for readers that have read the index already."""
LEASE_MS: Final = 30_000
"""How long a lease lasts at most. Whoever holds it longer commits all the same, if nobody else has meanwhile."""
_STAGED_BYTES: Final = 16 * 1024 * 1024
_POLL_S: Final = 0.005
_SEVERAL: Final = Log(Model.SERIES, "")
"""No log has an empty key: whoever has the lease on this one changes several."""


class Step(NamedTuple):
    """A commit or a deletion of one log, as the script takes it."""

    kind: bytes
    keys: tuple[bytes, ...]
    arguments: tuple[Any, ...]


@dataclass
class _Pending:
    """The steps of a transaction, and the leases that keep their conditions true until it ends."""

    place: Place
    leases: ExitStack
    steps: dict[Log, Step] = field(default_factory=dict)


class RedisCommits(RedisLogs):
    """What changes whole logs of a namespace."""

    def __init__(self, target: Target, namespace: str, options: Options) -> None:
        super().__init__(target, namespace, options)
        self._mine = local()  # of each thread: the tokens of its leases, and its transaction

    def commit(self, log: Log, commit: Commit, birth: bytes) -> bool:
        def attempt() -> bool:
            return self._unleased(lambda: self._commit(log, commit, birth))

        if (pending := self._pending()) is not None:
            return self._postpone(pending, log, commit, birth)
        try:
            return attempt()
        except LostReplyError as lost:
            if self._found_out(lambda: self._is_committed(log, commit)):
                return True
            if _is_safe_twice(commit) and (
                self._found_out(attempt) or self._found_out(lambda: self._is_committed(log, commit))
            ):
                return True
            raise self._unknown(f"a change of {log.key!r} was committed", lost) from lost.__cause__

    def _commit(self, log: Log, commit: Commit, birth: bytes) -> bool:
        entries = [pack_chunk(chunk, os.urandom(BODY_ID_BYTES)) for chunk in commit.put_chunks]

        def call(place: Place) -> Call:
            return _committing(place, [self._step(place, log, commit, entries)])

        while True:
            place = self._place_of_log(log)
            if entries and place.birth == birth:
                self._stage(place, entries, commit.put_chunks)
            try:
                return bool(self._write(lambda: self._place_of_log(log), birth, call))
            except Signal as signal:
                if signal.code == "REPLACED":  # a chunk that is to be dropped: somebody else was faster
                    return False
                # UNSTAGED: the bodies expired, or went to a place that was out of date. CHANGED: a chunk was replaced
                # between its look-up and the commit.
                if signal.code not in ("UNSTAGED", "CHANGED"):
                    raise

    def _stage(self, place: Place, entries: Sequence[bytes], chunks: Sequence[Chunk]) -> None:
        """Put the bodies of chunks where only a commit that knows their names finds them."""
        calls: list[Call] = []
        size = 0
        for entry, chunk in zip(entries, chunks, strict=True):
            calls.append(Call(place.slot, (b"SET", place.body(entry), chunk.body, b"PX", STAGED_MS), write=True))
            size += len(chunk.body)
            if size > _STAGED_BYTES:
                with self._unseen():
                    self._run(calls)
                calls, size = [], 0
        with self._unseen():
            self._run(calls)

    def _step(self, place: Place, log: Log, commit: Commit, entries: Sequence[bytes]) -> Step:
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
        return Step(
            b"c",
            (
                place.marker_key,
                place.logs(log.model),
                *(place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t")),
                *map(place.body, entries),
                *map(place.body, dropped),
            ),
            (
                place.marker,
                log.key.encode(),
                self._token(log),
                _condition(commit.if_epoch),
                _condition(commit.if_version),
                int(create is not None),
                *((b"", b"", 0, b"") if create is None else fields(create)),
                *(b"" if new is None else b"=" + new for new in (commit.epoch, commit.version, commit.facts)),
                int(commit.drop_if_empty),
                b"" if start is None else pack_position(start),
                REPLACED_MS,
                *map(len, (drop_rows, dropped, rows, entries, checkpoints)),
                *drop_rows,
                *dropped,
                *rows,
                *entries,
                *checkpoints,
            ),
        )

    def _is_committed(self, log: Log, commit: Commit) -> bool:
        """Return whether the head has the stamps of a commit: random bytes that nobody else has."""
        head = self.view(log, LAST, LAST, rows=False, bodies=False).head
        return head is not None and (
            head.epoch == commit.epoch
            or head.version == commit.version
            or (commit.create is not None and head.epoch == commit.create.epoch)
        )

    def drop(self, log: Log, *, if_version: Expected = ANY) -> bool:
        def call(place: Place) -> Call:
            return _committing(place, [self._dropping(place, log, if_version)])

        if (pending := self._pending()) is not None:
            self._hold(pending, log)
            head = self.view(log, LAST, LAST, rows=False, bodies=False).head
            if head is None or if_version not in (ANY, head.version):
                return False
            pending.steps[log] = self._dropping(pending.place, log, if_version)
            return True
        try:
            done = self._unleased(lambda: self._read(lambda: self._place_of_log(log), call, 0))
        except LostReplyError as lost:
            raise self._unknown(f"{log.key!r} was removed", lost) from lost.__cause__
        if done:
            self._collect([self._place_of_log(log)])
        return bool(done)

    def _dropping(self, place: Place, log: Log, if_version: Expected) -> Step:
        parts = (place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t"))
        keys = (place.marker_key, place.logs(log.model), *parts, place.garbage, place.dropped(os.urandom(8)))
        return Step(b"d", keys, (place.marker, log.key.encode(), self._token(log), _condition(if_version)))

    # -- leases -------------------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, log: Log) -> Generator[None, None, None]:
        if log in self._held():
            yield
            return
        place = self._place_of_log(log)
        name, token = place.log(b"t", log), os.urandom(16)
        take = _LEASE.on(place.slot, (name,), token, LEASE_MS, write=True, again=True)

        def attempt() -> None:
            if not self._client.call(take):
                raise Signal("LEASED")

        with self._unseen():
            self._unleased(attempt)
        held = self._held()
        held[log] = token
        try:
            yield
        finally:
            del held[log]
            # What was done under the lease is done: that the lease has to run out by itself is no reason to say
            # otherwise.
            with suppress(StoreError):
                self._client.call(_RELEASE.on(place.slot, (name,), token, write=True, again=True))

    def _held(self) -> dict[Log, bytes]:
        held: dict[Log, bytes] = self._mine.__dict__.setdefault("held", {})
        return held

    def _token(self, log: Log) -> bytes:
        return self._held().get(log, b"")

    def _unleased(self, attempt: Callable[[], T]) -> T:
        """Return what an attempt returns as soon as nobody else has a lease on the log.

        Raises `StoreBusyError` if the time-out passes first.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return attempt()
            except Signal as signal:
                if signal.code != "LEASED":
                    raise
                if time.monotonic() >= deadline:
                    raise StoreBusyError(
                        f"another writer holds a log of the namespace {self._name!r}; nothing was applied"
                    ) from signal
            time.sleep(_POLL_S)

    # -- several logs at once -----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[None, None, None]:
        if serializable:
            raise NotSupportedError("a transaction needs a namespace in one bucket, and there is none yet")
        if len(self._places) > 1 or self._pending() is not None:
            yield  # in several buckets, one after the other; inside another one, with it
            return
        place = self._current(lambda: self._places[0])
        if not place.birth:
            yield
            return
        # One transaction at a time: two that hold leases on logs would wait for each other.
        with self.exclusive(_SEVERAL), ExitStack() as leases:
            pending = self._mine.pending = _Pending(place, leases)
            try:
                yield
                del self._mine.pending
                self._finish(pending)
            finally:
                self._mine.__dict__.pop("pending", None)

    def _pending(self) -> _Pending | None:
        pending: _Pending | None = self._mine.__dict__.get("pending")
        return pending

    def _hold(self, pending: _Pending, log: Log) -> None:
        """Keep others from changing a log until the transaction ends, so that what is read of it stays true."""
        if log in pending.steps:
            raise NotSupportedError(f"{log.key!r} is changed twice in one transaction")
        pending.leases.enter_context(self.exclusive(log))

    def _begin_reading(self, log: Log) -> None:
        if (pending := self._pending()) is not None:
            self._hold(pending, log)

    def _postpone(self, pending: _Pending, log: Log, commit: Commit, birth: bytes) -> bool:
        self._hold(pending, log)
        if pending.place.birth != birth:
            raise NamespaceGone
        entries = [pack_chunk(chunk, os.urandom(BODY_ID_BYTES)) for chunk in commit.put_chunks]
        self._stage(pending.place, entries, commit.put_chunks)
        try:
            pending.steps[log] = self._step(pending.place, log, commit, entries)
        except Signal:
            return False
        return True

    def _finish(self, pending: _Pending) -> None:
        if not pending.steps:
            return
        what = "several logs were changed"
        try:
            done = self._client.call(_committing(pending.place, list(pending.steps.values())))
        except Signal as signal:
            if signal.code == "STALE":
                return  # the namespace was discarded meanwhile, and what was to be taken away with it
            done = 0
        except LostReplyError as lost:
            raise self._unknown(what, lost) from lost.__cause__
        if not done:
            raise StoreBusyError(
                f"several logs of the namespace {self._name!r} were held too long; nothing was applied"
            )
        self._collect([pending.place])


def _committing(place: Place, steps: Sequence[Step]) -> Call:
    """Return the call that does all steps, or none."""
    keys = [key for step in steps for key in step.keys]
    arguments = [
        argument for step in steps for argument in (step.kind, len(step.keys), len(step.arguments), *step.arguments)
    ]
    return _COMMIT.on(place.slot, keys, len(steps), *arguments, write=True, again=False)


def _condition(expected: Expected) -> bytes:
    if expected is ANY:
        return b""
    return b"!" if expected is None else b"=" + expected


def _is_safe_twice(commit: Commit) -> bool:
    """Return whether a commit that was done would not be done again: it replaces a stamp that it expects."""
    return (commit.if_epoch is not ANY and commit.epoch is not None) or (
        commit.if_version is not ANY and commit.version is not None
    )
