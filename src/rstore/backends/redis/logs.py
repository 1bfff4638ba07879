"""Logs in Redis: a head, sorted sets of rows, chunks and checkpoints, and a string for the body of each chunk.

A row is one member of its set, position and body: to drop it only where its bytes are still the same is to remove that
member. Beside a hash of the bodies, which would have to be compared by hand, it takes half the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final

from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import LostReplyError, Signal
from rstore.backends.redis.layout import (
    Place,
    check_order,
    names_of,
    pack_position,
    pack_rows,
    unpack_chunk,
    unpack_rows,
)
from rstore.backends.redis.namespace import RedisNamespace
from rstore.backends.redis.patience import Patience
from rstore.backends.types import FIRST, LAST, Chunk, Head, HeldSnapshot, Log, Model, Position, Row, Snapshot, View
from rstore.errors import ConflictError, CorruptionError, StoreClosedError

_APPEND: Final = Script("append")
_HOT: Final = Script("hot")
_LOGS: Final = Script("logs")
_VIEW: Final = Script("view")

_BODIES_A_CALL: Final = 64
_KEYS_A_CALL: Final = 20_000


class RedisLogs(RedisNamespace):
    """The logs of a namespace."""

    max_rows: ClassVar = 2000  # 2 ms of the server's only thread

    def logs(self, model: Model) -> list[str]:
        what = f"a log in namespace {self._name!r}"
        return names_of(self._names_of_logs(model), what, around_damage=self.around_damage)

    def _names_of_logs(self, model: Model) -> list[bytes]:
        def call(place: Place, begin: bytes = b"-") -> Call:
            keys = (place.marker_key, place.logs(model))
            return _LOGS.on(place.slot, keys, place.mark, begin, b"%d" % _KEYS_A_CALL, write=False, again=True)

        found: list[bytes] = []
        for keys in self._read_all(call):
            found += keys
            while len(keys) == _KEYS_A_CALL:
                last = keys[-1]
                keys = self._read(partial(self._place_with, last, model), partial(call, begin=b"(" + last), [])  # noqa: PLW2901
                found += keys
                self._client.deadline.begin()
        return sorted(found)

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
        ask = _asking(
            lo,
            hi,
            limit=limit,
            reverse=reverse,
            rows=rows,
            neighbours=neighbours,
            from_checkpoint=from_checkpoint,
            unless_version=unless_version,
        )
        epoch = None
        patience: Patience | None = None
        while True:
            looked = self._look(log, ask)
            if looked is None:
                return View(self._now_ms(log), None)
            [view] = self._whole([looked], backwards=reverse and limit is not None, bodies=bodies)
            if view is not None:
                return view
            # The body of a chunk is gone. It was replaced, and then the epoch is another; or the server evicted it.
            stamps = looked[1][1]
            if stamps[0] == epoch:
                raise CorruptionError(f"a chunk of {log.key!r} in the namespace {self._name!r} is missing")
            epoch = stamps[0]
            patience = self._again(patience)

    @contextmanager
    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[Snapshot, None, None]:
        looked = self._look(log, _asking(lo, hi))
        if looked is None:
            yield HeldSnapshot(View(self._now_ms(log), None))
        else:
            place, found = looked
            entries = found[3] if len(found) > 3 else []
            yield _Snapshot(_view(found, (), backwards=False), entries, partial(self._bodies_later, place))

    def _look(self, log: Log, ask: Callable[[Place, Log], Call]) -> tuple[Place, Any] | None:
        """Return what the script said of a log, and where that was; None if there is no namespace."""
        places: list[Place] = []

        def call(place: Place) -> Call:
            places.append(place)
            return ask(place, log)

        try:
            found = self._read(lambda: self._place_of_log(log), call, None)
        except Signal as signal:
            self._check_head(log, signal)
            raise
        return None if found is None else (places[-1], found)

    def views(
        self,
        logs: Sequence[Log],
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        bodies: bool = True,
    ) -> list[View]:
        ask = _asking(lo, hi, limit=limit, reverse=reverse)
        places = [self._place_of_log(log) for log in logs]
        if not all(place.incarnation for place in places):
            return [self.view(log, lo, hi, limit=limit, reverse=reverse, bodies=bodies) for log in logs]
        replies = self._client.run([ask(place, log) for place, log in zip(places, logs, strict=True)])
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, Signal):
                raise reply
        there = [(place, reply) for place, reply in zip(places, replies, strict=True) if not isinstance(reply, Signal)]
        whole = iter(self._whole(there, backwards=reverse and limit is not None, bodies=bodies))
        views = [None if isinstance(reply, Signal) else next(whole) for reply in replies]
        return [
            self.view(log, lo, hi, limit=limit, reverse=reverse, bodies=bodies) if view is None else view
            for log, view in zip(logs, views, strict=True)
        ]

    def _whole(self, found: Sequence[tuple[Place, Any]], *, backwards: bool, bodies: bool) -> list[View | None]:
        """Return what the script said of each log as a view, with the bodies of its chunks.

        None where one of them is gone: it was replaced long ago, or its log was dropped.
        """
        names = [
            [place.body(entry) for entry in reply[3]] if bodies and len(reply) > 3 else [] for place, reply in found
        ]
        fetched = iter(
            self._run(
                Call(place.slot, (b"MGET", *some[i : i + _BODIES_A_CALL]))
                for (place, _), some in zip(found, names, strict=True)
                for i in range(0, len(some), _BODIES_A_CALL)
            )
        )
        views: list[View | None] = []
        for (_, reply), some in zip(found, names, strict=True):
            contents = [body for _ in range(0, len(some), _BODIES_A_CALL) for body in next(fetched)]
            views.append(None if None in contents else _view(reply, contents, backwards=backwards))
        return views

    def _bodies(self, place: Place, entries: Sequence[bytes]) -> list[bytes] | None:
        """Return the bodies of chunks; None if one of them is gone: replaced long ago, or dropped with its log."""
        names = [place.body(entry) for entry in entries]
        calls = [
            Call(place.slot, (b"MGET", *names[i : i + _BODIES_A_CALL])) for i in range(0, len(names), _BODIES_A_CALL)
        ]
        bodies = [body for reply in self._run(calls) for body in reply]
        return None if None in bodies else bodies

    def _bodies_later(self, place: Place, entries: Sequence[bytes]) -> list[bytes] | None:
        self._client.deadline.begin()  # of a call of its own, which is not one of the backend's methods
        return self._bodies(place, entries)

    def _check_head(self, log: Log, signal: Signal) -> None:
        """Raise `CorruptionError` where a script has found that the head of a log lacks a part."""
        if signal.code == "DAMAGED":
            raise CorruptionError(
                f"a part of the head of {log.key!r} in the namespace {self._name!r} is missing: a program of somebody "
                "else has changed it; remove it, or restore the server's data"
            ) from signal

    def _now_ms(self, log: Log) -> int:
        seconds, micros = self._client.call(Call(self._place_of_log(log).slot, (b"TIME",)))
        return int(seconds) * 1000 + int(micros) // 1000

    def hot(self, log: Log) -> tuple[int, int]:
        def call(place: Place) -> Call:
            return _HOT.on(place.slot, (place.marker_key, place.log(b"r", log)), place.mark, write=False, again=True)

        n, size = self._read(lambda: self._place_of_log(log), call, (0, 0))
        return n, size

    # -- writing ------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        members = pack_rows(rows)
        first, last = (members[0], members[0]) if len(members) == 1 else (min(members), max(members))

        def call(place: Place) -> Call:
            keys = (place.marker_key, place.logs(log.model), place.log(b"h", log), place.log(b"r", log))
            return _APPEND.on(
                place.slot,
                keys,
                place.mark,
                log.key.encode(),
                *fields(head),
                first[:12],
                last[:12],
                *members,
                write=True,
                again=False,
            )

        try:
            return bool(self._write(lambda: self._place_of_log(log), incarnation, call))
        except Signal as signal:
            self._check_head(log, signal)
            raise
        except LostReplyError as lost:

            def is_there() -> bool:
                # All of them are there, or none. Those that somebody sealed meanwhile are not found.
                return set(members) <= set(pack_rows(self.view(log, *_span(rows), bodies=False).rows))

            if self._found_out(self._place_of_log(log), is_there):
                return True
            raise self._unknown(f"{len(rows)} rows of {log.key!r} were written", lost) from lost.__cause__


class _Snapshot(Snapshot):
    """The index of a log at one moment; the bodies that it names stay for a while after they were replaced."""

    def __init__(
        self, view: View, entries: Sequence[bytes], fetch: Callable[[Sequence[bytes]], list[bytes] | None]
    ) -> None:
        self.view = view
        self._entries = {chunk.first: entry for chunk, entry in zip(view.chunks, entries, strict=True)}
        self._fetch = fetch

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        try:
            bodies = self._fetch([self._entries[chunk.first] for chunk in chunks])
        except StoreClosedError as error:
            raise ConflictError("the store was closed while it was being read: read again") from error
        if bodies is None:
            raise ConflictError("what is being read was replaced some time ago, or discarded: read again")
        return [chunk._replace(body=body) for chunk, body in zip(chunks, bodies, strict=True)]


def behind(position: Position) -> bytes:
    """Return the position behind another."""
    return pack_position((position[0], position[1] + 1))


def fields(head: Head) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a head as the scripts take it."""
    return head.epoch, head.version, b"%d" % head.sealed, head.facts


def _span(rows: Sequence[Row]) -> tuple[Position, Position]:
    positions = [(t, seq) for t, seq, _ in rows]
    return min(positions), max(positions)


def _asking(
    lo: Position,
    hi: Position,
    *,
    limit: int | None = None,
    reverse: bool = False,
    rows: bool = True,
    neighbours: bool = False,
    from_checkpoint: Position | None = None,
    unless_version: bytes | None = None,
) -> Callable[[Place, Log], Call]:
    """Return what asks the script for a view of a log."""
    arguments = (
        unless_version or b"",
        pack_position(lo),
        behind(hi),
        b"" if limit is None else b"%d" % limit,
        b"%d" % reverse,
        b"%d" % rows,
        b"%d" % neighbours,
        b"" if from_checkpoint is None else behind(from_checkpoint),
    )

    def ask(place: Place, log: Log) -> Call:
        keys = (place.marker_key, *(place.log(kind, log) for kind in (b"h", b"r", b"c", b"k")))
        return _VIEW.on(place.slot, keys, place.mark, *arguments, write=False, again=True)

    return ask


def _view(reply: Any, bodies: Sequence[bytes], *, backwards: bool) -> View:
    """Return what the script answered as a view; `bodies` are those of its chunks, or none."""
    now_ms, stamps, *rest = reply
    if stamps is None:
        return View(now_ms, None)
    if None in stamps:
        raise CorruptionError("the head of a log on the Redis server is damaged")
    head = Head(stamps[0], stamps[1], stamps[2] == b"1", stamps[3])
    if not rest:
        return View(now_ms, head)
    members, entries, checkpoint = rest
    check_order(members[::-1] if backwards else members)
    check_order(entries[::-1] if backwards else entries)
    rows = unpack_rows(members)
    chunks = [unpack_chunk(entry, body) for entry, body in zip(entries, bodies or [b""] * len(entries), strict=True)]
    if backwards:
        rows.reverse()
        chunks.reverse()
    return View(now_ms, head, rows, chunks, None if checkpoint is None else unpack_rows([checkpoint])[0])
