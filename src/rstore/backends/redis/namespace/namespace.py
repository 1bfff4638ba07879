"""A namespace as its buckets know it: finding the bucket of a key, and asking one bucket or all of them.

Nouns: the *registry* (one hash a namespace: its incarnation, whether it is alive, its facts), a *spot* (the bytes that
choose a bucket) and a *signal* (a script's answer that nothing was done, mostly since the marker is another one).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any, Final, TypeVar
from zlib import crc32

from rstore.backends.redis.namespace.bucket import (
    NAMESPACES,
    Bucket,
    buckets_of,
    is_incarnation,
    make_bucket,
    make_buckets,
    registry_key,
)
from rstore.backends.redis.transport.calls import Call, raised, slot_of
from rstore.backends.redis.transport.client import Client
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.dsn import Target
from rstore.backends.redis.transport.errors import NOTHING, LostReplyError, Signal, TooFewReplicasError, reason_of
from rstore.backends.types import ANY, KEYS_BYTES, ExpectedIncarnation, Log, Model, NamespaceGone, Options
from rstore.errors import CorruptionError, OutcomeUnknownError, StoreBusyError, StoreError

S = TypeVar("S")
_FREE_REVIVALS: Final = 5
_REVIVAL_S: Final = 0.01
"""The pause before the next creation where those before were in vain."""


class _Revivals(local):
    """How often in a row a thread made the namespace anew, and did not get to write into it."""

    n = 0
    since = 0.0


class RedisNamespace:
    """One namespace on one target. Threads share it."""

    def __init__(self, target: Target, name: str, options: Options) -> None:
        self.target = target
        self.name = name
        self.encoded = name.encode()
        self.frozen = options.frozen
        self.timeout_s = options.timeout_s
        self.client = Client(target, options.timeout_s, options.telemetry)
        self.deadline = self.client.deadline
        self._registry = registry_key(self.encoded)
        self._registry_slot = slot_of(self._registry)
        self._seed = crc32(self.encoded)
        self._revivals = _Revivals()
        # Replaced as a whole or one by one, never changed: a thread that has taken a bucket finds out by its marker
        # that it is out of date.
        self.buckets = make_buckets(target.buckets, self.encoded)

    def look_up(self) -> tuple[bytes | None, bool]:
        """Return the incarnation in the registry, and whether all markers, and the index, are known to be raised to it.

        Lays the buckets out as it says. There is no incarnation if there is no namespace.
        """
        names = (b"birth", b"alive", b"keys", b"raised")
        (identity, alive, keys, raised), listed = self.run(
            (
                Call(self._registry_slot, (b"HMGET", self._registry, *names)),
                Call(slot_of(NAMESPACES), (b"HGET", NAMESPACES, self.encoded)),
            )
        )
        if identity is None or not self._is_alive(alive):
            return None, False
        incarnation = bytes(identity + (keys or bytes(KEYS_BYTES)))
        self._lay_out(incarnation)
        return incarnation, incarnation == raised and identity == listed

    def _lay_out(self, incarnation: bytes) -> None:
        self._check_incarnation(incarnation)
        n = buckets_of(incarnation)
        if len(self.buckets) != n:
            self.buckets = make_buckets(n, self.encoded)

    def _check_incarnation(self, incarnation: bytes) -> None:
        if not is_incarnation(incarnation):
            what = f"the incarnation in the hash {self._registry!r} is none"
            raise self._damaged(f"{what}; restore it, or delete the keys of the namespace")

    def _is_alive(self, alive: bytes | None) -> bool:
        """Read the registry; anything unexpected in it must not be taken for the end of the namespace."""
        if alive not in (b"0", b"1"):
            raise self._damaged(f"the field 'alive' of the hash {self._registry!r} is neither 0 nor 1; restore it")
        return alive == b"1"

    def _damaged(self, how: str) -> CorruptionError:
        return CorruptionError(
            f"the registry of the namespace {self.name!r} on the Redis server {self.target} is damaged: {how}"
        )

    def bucket_of(self, spot: bytes) -> Bucket:
        buckets = self.buckets
        return buckets[crc32(spot, self._seed) % len(buckets)]

    def bucket_of_log(self, log: Log) -> Bucket:
        return self.bucket_of(spot_of(log))

    def refresh(self, buckets: Iterable[Bucket] | None = None) -> list[Bucket]:
        """Return the same buckets, all of them by default, by the markers that are there now."""
        some = list(self.buckets if buckets is None else buckets)
        markers = self.run(Call(bucket.slot, (b"GET", bucket.marker_key)) for bucket in some)
        return [self.adopt(bucket, marker) for bucket, marker in zip(some, markers, strict=True)]

    def adopt(self, bucket: Bucket, marker: bytes | None) -> Bucket:
        """Return the same bucket by another marker, and go on with it."""
        fresh = self._with_marker(bucket, marker)
        buckets = self.buckets
        # Otherwise the namespace was laid out anew meanwhile, in another number of buckets.
        if bucket.number < len(buckets) and buckets[bucket.number].tag == bucket.tag:
            buckets[bucket.number] = fresh
        return fresh

    def _with_marker(self, bucket: Bucket, marker: bytes | None) -> Bucket:
        fresh = make_bucket(bucket.number, bucket.tag, self.encoded, marker)
        if fresh.incarnation and buckets_of(fresh.incarnation) != len(self.buckets):
            # Of a namespace in another number of buckets, which share their tags: a look at the registry lays it out.
            return fresh._replace(incarnation=b"", batch=b"")
        return fresh

    def is_laid_out_anew(self) -> bool:
        """Return whether the namespace, where no marker of it is found, was created again in other buckets."""
        buckets = self.buckets
        self.look_up()
        return self.buckets is not buckets

    def current(self, spot: bytes) -> Bucket:
        """Return the bucket of a key by its marker of now; one without an incarnation if there is no namespace."""
        retries: CallRetries | None = None
        while True:
            [bucket] = self.refresh([self.bucket_of(spot)])
            if bucket.incarnation or not self.is_laid_out_anew():
                return bucket
            retries = self.again(retries)

    def read(
        self, spot: bytes, ask: Callable[[Bucket], Call], nothing: Any, *, if_incarnation: ExpectedIncarnation = ANY
    ) -> Any:
        """Return the reply of a script on one bucket; `nothing` if there is no namespace.

        Raises `NamespaceGone` if it is not of the incarnation that was asked for; the other signals of the script.
        """
        bucket = self.bucket_of(spot)
        retries: CallRetries | None = None
        while True:
            if not _is_of(bucket, if_incarnation):
                bucket = self.current(spot)
                if not bucket.incarnation:
                    return nothing
                if not _is_of(bucket, if_incarnation):
                    raise NamespaceGone
            try:
                return self.client.call(ask(bucket))
            except Signal as signal:
                if signal.code != "STALE":
                    raise
            retries = self.again(retries)
            bucket = self.current(spot)

    def write(self, spot: bytes, incarnation: bytes, ask: Callable[[Bucket], Call]) -> Any:
        """Return the reply of a script that writes into one incarnation of the namespace.

        Raises `NamespaceGone` if it is gone, or of another one; the other signals of the script; `LostReplyError`.
        """
        reply = self.read(spot, ask, _GONE, if_incarnation=incarnation)
        if reply is _GONE:
            raise NamespaceGone
        self.wrote()
        return reply

    def rounds(
        self,
        begin: Callable[[], Iterable[tuple[Bucket, S]]],
        ask: Callable[[Bucket, S], Call | None],
        rest: Callable[[S, Any], S | None] = lambda *_: None,
        *,
        if_incarnation: ExpectedIncarnation = ANY,
    ) -> Iterator[tuple[Bucket, S, Any]]:
        """Ask several buckets at once, and again those that were out of date or have not done it all.

        `begin` says which buckets, and where in each. `ask` returns None where nothing is left to do, and may raise the
        signal that a bucket is out of date. `rest` says from a reply where to go on.

        Yields the bucket, the place in it, and the reply. An error is a reply, too; the round of a refusal is the last.
        Raises `NamespaceGone` as `read` does.
        """
        retries: CallRetries | None = None
        todo = list(begin())
        answered = stuck = begun = False
        while todo:
            asked: list[tuple[Bucket, S, Call]] = []
            stale: list[tuple[Bucket, S]] = []
            for bucket, at in todo:
                try:
                    if not _is_of(bucket, if_incarnation):
                        stale.append((bucket, at))
                    elif (call := ask(bucket, at)) is not None:
                        asked.append((bucket, at, call))
                except Signal:
                    stale.append((bucket, at))
            if stuck and (asked or stale):
                try:
                    retries = self.again(retries)
                except StoreBusyError as error:
                    yield *todo[0], error
                    return
            replies = self._replies([call for _, _, call in asked])
            todo, failed, stuck, begun = [], False, begun or bool(asked), True
            for (bucket, at, _), reply in zip(asked, replies, strict=True):
                if isinstance(reply, Signal):
                    stale.append((bucket, at))
                    continue
                failed, stuck, answered = failed or isinstance(reply, StoreError), False, True
                yield bucket, at, reply
                if not (failed or isinstance(reply, Exception)) and (left := rest(at, reply)) is not None:
                    todo.append((bucket, left))
            if failed or not (todo or stale):
                return
            if answered and not stuck:
                self.deadline.begin()  # also since the caller may have paused between the replies
                retries = None
            fresh = self.refresh(bucket for bucket, _ in stale)
            todo += [(bucket, at) for bucket, (_, at) in zip(fresh, stale, strict=True) if bucket.incarnation]
            if not all(_is_of(bucket, if_incarnation) for bucket, _ in todo):
                raise NamespaceGone
            if not todo and not answered and self.is_laid_out_anew():
                todo, stuck = list(begin()), True

    def _replies(self, calls: Sequence[Call]) -> list[Any]:
        """Return the reply to each call, or its error."""
        if len(calls) != 1:
            return self.client.run(calls) if calls else []
        try:
            return [self.client.call(calls[0])]  # the short way of a client
        except (Signal, LostReplyError, StoreError) as error:
            return [error]

    def replies(
        self, ask: Callable[[Bucket, S], Call], begin: S, rest: Callable[[S, Any], S | None] = lambda *_: None
    ) -> Iterator[Any]:
        """Yield the replies of a script from all buckets there are, as `rounds` does, and raise an error."""
        for _, _, reply in self.rounds(lambda: [(bucket, begin) for bucket in self.buckets], ask, rest):
            yield raised(reply)

    def run(self, calls: Iterable[Call]) -> list[Any]:
        """Return the replies to calls on several buckets, of which none may fail."""
        some = list(calls)
        return [raised(reply) for reply in self.client.run(some)] if some else []

    def now_ms(self, slot: int) -> int:
        seconds, micros = self.client.call(Call(slot, (b"TIME",)))
        return int(seconds) * 1000 + int(micros) // 1000

    def wrote(self) -> None:
        """Note that the thread got to write into the namespace."""
        self._revivals.n = 0

    def _count_revival(self) -> None:
        """Raise `StoreBusyError` where a thread does nothing but create the namespace until the time is up."""
        mine, now = self._revivals, time.monotonic()
        mine.n += 1
        if mine.n <= _FREE_REVIVALS:
            mine.since = now
        elif now - mine.since >= self.timeout_s:
            mine.n = 0
            raise self._outrun("discarded")
        else:
            time.sleep(_REVIVAL_S)

    def again(self, retries: CallRetries | None) -> CallRetries:
        """Pause, if need be, before the next try of a loop that goes by what others may change.

        Raises `StoreBusyError` if the time is up.
        """
        retries = retries or CallRetries(self.deadline)
        if not retries.allows(waiting=False):
            raise self._outrun("discarded, cleared or written to in bulk")
        retries.pause()
        return retries

    def _outrun(self, how: str) -> StoreBusyError:
        return StoreBusyError(f"the namespace {self.name!r} keeps being {how} concurrently; nothing was applied")

    @contextmanager
    def unseen(self) -> Generator[None, None, None]:
        """Say that nothing was applied where the outcome of a step is unknown that no reader sees."""
        try:
            yield
        except TooFewReplicasError as error:
            raise StoreBusyError(
                f"of the first of several steps on the Redis server {self.target}, {error.why}; nothing was stored"
            ) from error
        except OutcomeUnknownError as error:
            raise StoreBusyError(f"{reason_of(error)}{NOTHING}") from error

    def found_out(self, bucket: Bucket, question: Callable[[], bool]) -> bool:
        """Return whether the answer to a question about the outcome of a write is yes; no answer is no.

        The answer is no as well where the namespace is gone, or where too few replicas have the write.
        """
        self.deadline.extend()
        try:
            if not question():
                return False
            if self.target.wait_replicas:
                # A connection waits for what was written before its own last write, on any connection: it writes a key
                # that is never read.
                self.client.call(Call(bucket.slot, (b"SET", bucket.awaited, b"", b"PX", b"1"), write=True))
        except (StoreError, LostReplyError, NamespaceGone):
            return False
        return True

    def unknown(self, what: str, lost: LostReplyError) -> OutcomeUnknownError:
        """Return the error of a write whose reply was lost, and whose outcome could not be found out."""
        at = f"the connection to the Redis server {self.target} was lost"
        error = OutcomeUnknownError(f"{at}: whether {what} in the namespace {self.name!r} is unknown")
        error.__cause__ = lost.__cause__
        return error


_GONE: Final = object()


def _is_of(bucket: Bucket, incarnation: ExpectedIncarnation) -> bool:
    """Return whether a bucket is there, and of an incarnation, or of any."""
    return bucket.incarnation == incarnation or (incarnation is ANY and bool(bucket.incarnation))


def spot_of(log: Log) -> bytes:
    """Return the bytes that choose the bucket of a log."""
    model = Model.EVENTS if log.model is Model.IDS else log.model  # the ids of a sequence lie where it lies
    return b"%d%b" % (model, log.key.encode())
