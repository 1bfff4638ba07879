"""Logs in Redis: a head, sorted sets of rows, chunks and checkpoints, and a string for the body of each chunk.

A row is one member of its set, position and body: removing that member drops the row only where its bytes are still the
same. A hash of the bodies beside the positions would take more memory, and a comparison by hand.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, ClassVar, Final

from rstore.backends.redis.logs.members import behind, check_order, pack_position, pack_rows, unpack_chunk, unpack_rows
from rstore.backends.redis.namespace.bucket import Bucket, names_of
from rstore.backends.redis.namespace.namespace import spot_of
from rstore.backends.redis.namespace.part import RedisPart
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import LostReplyError, Signal
from rstore.backends.types import (
    FIRST,
    LAST,
    Chunk,
    Head,
    Log,
    LogSnapshot,
    Model,
    Position,
    Row,
    View,
    ViewQuery,
)
from rstore.errors import ConflictError, CorruptionError, StoreClosedError

_APPEND: Final = Script("append")
_HOT: Final = Script("hot")
_LOGS: Final = Script("logs")
_VIEW: Final = Script("view")

_BODIES_A_CALL: Final = 64
_KEYS_A_CALL: Final = 20_000
_ANY_VIEW: Final = ViewQuery()


class RedisLogs(RedisPart):
    """The logs of a namespace."""

    max_rows: ClassVar = 2000

    def logs(self, model: Model) -> list[str]:
        self._deadline.begin()
        return self.read_logs(model)

    def read_logs(self, model: Model) -> list[str]:
        """Return the keys of all logs of a model, in order."""
        what = f"a log in namespace {self.namespace.name!r}"
        return names_of(self._names_of_logs(model), what, around_damage=self.around_damage)

    def _names_of_logs(self, model: Model) -> list[bytes]:
        def ask(bucket: Bucket, begin: bytes) -> Call:
            keys = (bucket.marker_key, bucket.logs(model))
            return _LOGS.on(bucket.slot, keys, bucket.mark, begin, b"%d" % _KEYS_A_CALL, write=False, again=True)

        def rest(_: bytes, keys: Any) -> bytes | None:
            return b"(" + keys[-1] if len(keys) == _KEYS_A_CALL else None

        return sorted(key for keys in self.namespace.replies(ask, b"-", rest) for key in keys)

    def view(self, log: Log, query: ViewQuery = _ANY_VIEW) -> View:
        self._deadline.begin()
        return self.read_view(log, query)

    def read_view(self, log: Log, query: ViewQuery) -> View:
        """Return the view of a log."""
        epoch = None
        retries: CallRetries | None = None
        while True:
            looked = self._look(log, query)
            [view] = self._whole([looked], query)
            if view is not None:
                return view
            # The body of a chunk is gone. It was replaced, and then the epoch is another; or the server evicted it.
            before, epoch = epoch, looked[1][1][0]
            if epoch == before:
                raise CorruptionError(f"a chunk of {log.key!r} in the namespace {self.namespace.name!r} is missing")
            retries = self.namespace.again(retries)

    @contextmanager
    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[LogSnapshot, None, None]:
        self._deadline.begin()
        bucket, found = self._look(log, ViewQuery(lo, hi))
        yield _IndexSnapshot(_view(found, (), backwards=False), _entries(found), self, bucket)

    def _look(self, log: Log, query: ViewQuery) -> tuple[Bucket, Any]:
        """Return the bucket of a log, and the answer of the script."""
        arguments = _arguments(query)
        try:
            found = self.namespace.read(spot_of(log), lambda bucket: _asking(bucket, log, arguments), None)
        except Signal as signal:
            self._check_head(log, signal)
            raise
        bucket = self.namespace.bucket_of_log(log)
        return bucket, [self.namespace.now_ms(bucket.slot), None] if found is None else found

    def views(self, logs: Sequence[Log], query: ViewQuery = _ANY_VIEW) -> list[View]:
        self._deadline.begin()
        return self.read_views(logs, query)

    def read_views(self, logs: Sequence[Log], query: ViewQuery) -> list[View]:
        """Return the views of several logs, each of one moment."""
        buckets = [self.namespace.bucket_of_log(log) for log in logs]
        if not all(bucket.incarnation for bucket in buckets):
            return [self.read_view(log, query) for log in logs]
        arguments = _arguments(query)
        replies = self._client.run([_asking(bucket, log, arguments) for bucket, log in zip(buckets, logs, strict=True)])
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, Signal):
                raise reply
        views = self._whole(list(zip(buckets, replies, strict=True)), query)
        return [view or self.read_view(log, query) for log, view in zip(logs, views, strict=True)]

    def _whole(self, found: Sequence[tuple[Bucket, Any]], query: ViewQuery) -> list[View | None]:
        """Return the answers of the script as views, with the bodies of their chunks.

        None where the script did nothing, or a body is gone: it was replaced long ago, or its log was dropped.
        """
        wanted = [(bucket, _entries(reply) if query.bodies else []) for bucket, reply in found]
        backwards = query.reverse and query.limit is not None
        return [
            None if bodies is None or isinstance(reply, Signal) else _view(reply, bodies, backwards=backwards)
            for (_, reply), bodies in zip(found, self._bodies(wanted), strict=True)
        ]

    def _bodies(self, wanted: Sequence[tuple[Bucket, Sequence[bytes]]]) -> list[list[bytes] | None]:
        """Return the bodies of chunks of several logs; None for a log of which one is gone."""
        fetched = chain.from_iterable(
            self.namespace.run(
                Call(bucket.slot, (b"MGET", *map(bucket.body, entries[i : i + _BODIES_A_CALL])))
                for bucket, entries in wanted
                for i in range(0, len(entries), _BODIES_A_CALL)
            )
        )
        bodies = [list(islice(fetched, len(entries))) for _, entries in wanted]
        return [None if None in some else some for some in bodies]

    def read_bodies(self, bucket: Bucket, entries: Sequence[bytes]) -> list[bytes] | None:
        """Return the bodies of chunks of one log; None if one of them is gone."""
        return self._bodies([(bucket, entries)])[0]

    def _check_head(self, log: Log, signal: Signal) -> None:
        """Raise `CorruptionError` where a script has found that the head of a log lacks a part."""
        if signal.code == "DAMAGED":
            raise CorruptionError(
                f"a part of the head of {log.key!r} in the namespace {self.namespace.name!r} is missing: another "
                "program has changed it; remove it, or restore the server's data"
            ) from signal

    def hot(self, log: Log) -> tuple[int, int]:
        self._deadline.begin()

        def ask(bucket: Bucket) -> Call:
            keys = (bucket.marker_key, bucket.log(b"r", log))
            return _HOT.on(bucket.slot, keys, bucket.mark, write=False, again=True)

        n, size = self.namespace.read(spot_of(log), ask, (0, 0))
        return n, size

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        self._deadline.begin()
        members = pack_rows(rows)
        arguments = (log.key.encode(), *fields(head), min(members)[:12], max(members)[:12], *members)

        def ask(bucket: Bucket) -> Call:
            keys = (bucket.marker_key, bucket.logs(log.model), bucket.log(b"h", log), bucket.log(b"r", log))
            return _APPEND.on(bucket.slot, keys, bucket.mark, *arguments, write=True, again=False)

        try:
            return bool(self.namespace.write(spot_of(log), incarnation, ask))
        except Signal as signal:
            self._check_head(log, signal)
            raise
        except LostReplyError as lost:

            def is_there() -> bool:
                # All of them are there, or none. Those that were packed meanwhile are not found.
                query = ViewQuery(min(rows)[:2], max(rows)[:2], bodies=False)
                return set(members) <= set(pack_rows(self.read_view(log, query).rows))

            if self.namespace.found_out(self.namespace.bucket_of_log(log), is_there):
                return True
            what = f"{len(rows)} rows of {log.key!r} were written"
            raise self.namespace.unknown(what, lost) from lost.__cause__


class _IndexSnapshot(LogSnapshot):
    """The index of a log at one moment; the bodies that it names stay for a while after they were replaced."""

    def __init__(self, view: View, entries: Sequence[bytes], logs: RedisLogs, bucket: Bucket) -> None:
        self.view = view
        self._entries = {chunk.first: entry for chunk, entry in zip(view.chunks, entries, strict=True)}
        self._logs = logs
        self._bucket = bucket

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        self._logs.namespace.deadline.begin()
        try:
            bodies = self._logs.read_bodies(self._bucket, [self._entries[chunk.first] for chunk in chunks])
        except StoreClosedError as error:
            raise ConflictError("the store was closed while it was being read: read again") from error
        if bodies is None:
            raise ConflictError("what is being read was replaced some time ago, or discarded: read again")
        return [chunk._replace(body=body) for chunk, body in zip(chunks, bodies, strict=True)]


def fields(head: Head) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a head as the scripts take it."""
    return head.epoch, head.version, b"%d" % head.sealed, head.facts


def _arguments(query: ViewQuery) -> tuple[bytes, ...]:
    """Return a query as the script takes it."""
    return (
        query.unless_version or b"",
        pack_position(query.lo),
        behind(query.hi),
        b"" if query.limit is None else b"%d" % query.limit,
        b"%d" % query.reverse,
        b"%d" % query.rows,
        b"%d" % query.neighbours,
        b"" if query.from_checkpoint is None else behind(query.from_checkpoint),
    )


def _asking(bucket: Bucket, log: Log, arguments: tuple[bytes, ...]) -> Call:
    keys = (bucket.marker_key, *bucket.parts(log, b"hrck"))
    return _VIEW.on(bucket.slot, keys, bucket.mark, *arguments, write=False, again=True)


def _entries(reply: Any) -> Sequence[bytes]:
    """Return the index entries in an answer of the script; there are none where it tells of no more than the head."""
    return [] if isinstance(reply, Signal) or len(reply) <= 3 else reply[3]


def _view(reply: Any, bodies: Sequence[bytes], *, backwards: bool) -> View:
    """Return the answer of the script as a view; `bodies` are those of its chunks, or none."""
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
