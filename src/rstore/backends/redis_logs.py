"""Logs in Redis: a head, sorted sets of rows, chunks and checkpoints, and a string for the body of each chunk.

A row is one member of its set, position and body: to drop it only where its bytes are still the same is to remove that
member. Beside a hash of the bodies, which would have to be compared by hand, it takes half the memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Final, TypeVar

from rstore.backends.base import (
    ANY,
    FIRST,
    LAST,
    Chunk,
    Commit,
    Expected,
    Head,
    Log,
    Model,
    Options,
    Position,
    Row,
    View,
)
from rstore.backends.redis_client import Call, Script
from rstore.backends.redis_dsn import Target
from rstore.backends.redis_errors import LostReplyError, Signal
from rstore.backends.redis_layout import (
    BODY_ID_BYTES,
    Place,
    pack_chunk,
    pack_position,
    pack_rows,
    unpack_chunk,
    unpack_rows,
)
from rstore.backends.redis_namespace import RedisNamespace
from rstore.errors import StoreBusyError

T = TypeVar("T")

_APPEND: Final = Script("append")
_COMMIT: Final = Script("commit")
_DROP: Final = Script("drop")
_HOT: Final = Script("hot")
_LOGS: Final = Script("logs")
_RELEASE: Final = Script("release")
_VIEW: Final = Script("view")

STAGED_MS: Final = 600_000
"""How long the body of a chunk waits for the commit that keeps it."""
REPLACED_MS: Final = 60_000
"""How long the body of a replaced chunk stays, for readers that have read the index already."""
LEASE_MS: Final = 30_000
"""How long a lease lasts at most. Whoever holds it longer commits all the same, if nobody else has meanwhile."""
_STAGED_BYTES: Final = 16 * 1024 * 1024
_BODIES_A_CALL: Final = 64
_KEYS_A_CALL: Final = 20_000
_POLL_S: Final = 0.005


class RedisLogs(RedisNamespace):
    """The logs of a namespace."""

    def __init__(self, target: Target, namespace: str, options: Options) -> None:
        super().__init__(target, namespace, options)
        self._leases = local()  # the tokens of the leases that a thread holds, by log

    def logs(self, model: Model) -> list[str]:
        def call(place: Place, begin: bytes = b"-") -> Call:
            keys = (place.marker_key, place.logs(model))
            return _LOGS.on(place.slot, keys, place.marker, begin, _KEYS_A_CALL, write=False, again=True)

        found: list[bytes] = []
        for keys in self._read_all(call):
            found += keys
            while len(keys) == _KEYS_A_CALL:
                last = keys[-1]
                keys = self._read(partial(self._place_with, last, model), partial(call, begin=b"(" + last), [])  # noqa: PLW2901
                found += keys
        return [key.decode() for key in sorted(found)]

    def _place_with(self, key: bytes, model: Model) -> Place:
        return self._place_of(b"%d%b" % (model, key))

    # -- reading ------------------------------------------------------------------------------------------------------

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        arguments = (
            unless_version or b"",
            pack_position(lo),
            _behind(hi),
            b"" if limit is None else limit,
            int(reverse),
            int(rows),
            int(neighbours),
            b"" if from_checkpoint is None else _behind(from_checkpoint),
        )
        places: list[Place] = []

        def call(place: Place) -> Call:
            places.append(place)
            keys = (place.marker_key, *(place.log(kind, log) for kind in (b"h", b"r", b"c", b"k")))
            return _VIEW.on(place.slot, keys, place.marker, *arguments, write=False, again=True)

        while True:
            found = self._read(lambda: self._place_of_log(log), call, None)
            if found is None:
                return View(self._now_ms(log), None)
            now_ms, fields, *rest = found
            if fields is None:
                return View(now_ms, None)
            head = Head(fields[0], fields[1], fields[2] == b"1", fields[3])
            if not rest:
                return View(now_ms, head)
            members, entries, checkpoint = rest
            if reverse and limit is not None:
                members.reverse()
                entries.reverse()
            contents = self._bodies(places[-1], entries) if bodies else [b""] * len(entries)
            if contents is not None:
                chunks = [unpack_chunk(entry, body) for entry, body in zip(entries, contents, strict=True)]
                row = None if checkpoint is None else unpack_rows([checkpoint])[0]
                return View(now_ms, head, unpack_rows(members), chunks, row)

    def _bodies(self, place: Place, entries: Sequence[bytes]) -> list[bytes] | None:
        """Return the bodies of chunks; None if one of them is gone: replaced long ago, or dropped with its log."""
        names = [place.body(entry) for entry in entries]
        calls = [
            Call(place.slot, (b"MGET", *names[i : i + _BODIES_A_CALL])) for i in range(0, len(names), _BODIES_A_CALL)
        ]
        bodies = [body for reply in self._run(calls) for body in reply]
        return None if None in bodies else bodies

    def _now_ms(self, log: Log) -> int:
        seconds, micros = self._client.call(Call(self._place_of_log(log).slot, (b"TIME",)))
        return int(seconds) * 1000 + int(micros) // 1000

    def hot(self, log: Log) -> tuple[int, int]:
        def call(place: Place) -> Call:
            return _HOT.on(place.slot, (place.marker_key, place.log(b"r", log)), place.marker, write=False, again=True)

        n, size = self._read(lambda: self._place_of_log(log), call, (0, 0))
        return n, size

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], birth: bytes) -> bool:
        members = pack_rows(rows)
        first, last = (members[0], members[0]) if len(members) == 1 else (min(members), max(members))

        def call(place: Place) -> Call:
            keys = (place.marker_key, place.logs(log.model), place.log(b"h", log), place.log(b"r", log))
            return _APPEND.on(
                place.slot,
                keys,
                place.marker,
                log.key.encode(),
                *_fields(head),
                first[:12],
                last[:12],
                *members,
                write=True,
                again=False,
            )

        try:
            return bool(self._write(lambda: self._place_of_log(log), birth, call))
        except LostReplyError as lost:
            # All of them are there, or none. Those that somebody sealed meanwhile are not found.
            if self._found_out(lambda: set(members) <= set(pack_rows(self.view(log, *_span(rows), bodies=False).rows))):
                return True
            raise self._unknown(f"{len(rows)} rows of {log.key!r} were written", lost) from lost.__cause__

    def commit(self, log: Log, commit: Commit, birth: bytes) -> bool:
        def attempt() -> bool:
            return self._unleased(lambda: self._commit(log, commit, birth))

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
            return self._committing(place, log, commit, entries)

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
                self._run(calls)
                calls, size = [], 0
        self._run(calls)

    def _committing(self, place: Place, log: Log, commit: Commit, entries: Sequence[bytes]) -> Call:
        chunks = place.log(b"c", log)
        old = self._run(
            Call(place.slot, (b"ZRANGEBYLEX", chunks, b"[" + pack_position(first), b"(" + _behind(first)))
            for first in commit.drop_chunks
        )
        if not all(old):
            raise Signal("REPLACED")
        dropped = [found[0] for found in old]
        rows, checkpoints = pack_rows(commit.put_rows), pack_rows(commit.put_checkpoints)
        drop_rows = [pack_position((t, seq)) + body for t, seq, body in commit.drop_rows]
        create = commit.create
        start = commit.drop_checkpoints_from
        return _COMMIT.on(
            place.slot,
            (
                place.marker_key,
                place.logs(log.model),
                *(place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t")),
                *map(place.body, entries),
                *map(place.body, dropped),
            ),
            place.marker,
            log.key.encode(),
            self._token(log),
            _condition(commit.if_epoch),
            _condition(commit.if_version),
            int(create is not None),
            *((b"", b"", 0, b"") if create is None else _fields(create)),
            *(b"" if new is None else b"=" + new for new in (commit.epoch, commit.version, commit.facts)),
            int(commit.drop_if_empty),
            b"" if start is None else pack_position(start),
            REPLACED_MS,
            len(drop_rows),
            len(dropped),
            len(rows),
            len(entries),
            len(checkpoints),
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

    def drop(self, log: Log, *, if_version: Expected = ANY) -> bool:
        random = os.urandom(8)

        def call(place: Place) -> Call:
            parts = (place.log(kind, log) for kind in (b"h", b"r", b"c", b"k", b"t"))
            keys = (place.marker_key, place.logs(log.model), *parts, place.garbage, place.dropped(random))
            return _DROP.on(
                place.slot,
                keys,
                place.marker,
                log.key.encode(),
                self._token(log),
                _condition(if_version),
                write=True,
                again=False,
            )

        try:
            done = self._unleased(lambda: self._read(lambda: self._place_of_log(log), call, 0))
        except LostReplyError as lost:
            raise self._unknown(f"{log.key!r} was removed", lost) from lost.__cause__
        if done:
            self._collect([self._place_of_log(log)])
        return bool(done)

    # -- leases -------------------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, log: Log) -> Generator[None, None, None]:
        place = self._place_of_log(log)
        name, token = place.log(b"t", log), os.urandom(16)
        take = Call(place.slot, (b"SET", name, token, b"NX", b"PX", LEASE_MS), write=True)

        def attempt() -> None:
            # Where the reply was lost and the call sent again, the lease that is in the way is one's own.
            if self._client.call(take) is None and self._client.call(Call(place.slot, (b"GET", name))) != token:
                raise Signal("LEASED")

        self._unleased(attempt)
        held = self._held()
        held[log] = token
        try:
            yield
        finally:
            del held[log]
            self._client.call(_RELEASE.on(place.slot, (name,), token, write=True, again=True))

    def _held(self) -> dict[Log, bytes]:
        held: dict[Log, bytes] = self._leases.__dict__.setdefault("held", {})
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


def _behind(position: Position) -> bytes:
    """Return the position behind another."""
    return pack_position((position[0], position[1] + 1))


def _fields(head: Head) -> tuple[bytes, bytes, int, bytes]:
    return head.epoch, head.version, int(head.sealed), head.facts


def _span(rows: Sequence[Row]) -> tuple[Position, Position]:
    positions = [(t, seq) for t, seq, _ in rows]
    return min(positions), max(positions)


def _condition(expected: Expected) -> bytes:
    if expected is ANY:
        return b""
    return b"!" if expected is None else b"=" + expected


def _is_safe_twice(commit: Commit) -> bool:
    """Return whether a commit that was done would not be done again: it replaces a stamp that it expects."""
    return (commit.if_epoch is not ANY and commit.epoch is not None) or (
        commit.if_version is not ANY and commit.version is not None
    )
