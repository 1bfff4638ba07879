"""The life of a namespace: it is opened, created, given facts, and discarded.

Nouns: *garbage* (records, chunks and whole namespaces that no reader sees any more).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from random import Random
from typing import Any, Final

from rstore.backends.redis.namespace.bucket import (
    GENERATION_BYTES,
    IDENTITY_BYTES,
    INCARNATION_BYTES,
    NAMESPACES,
    Bucket,
    is_of,
    make_bucket,
    names_of,
    tells_of_end,
)
from rstore.backends.redis.namespace.namespace import RedisNamespace
from rstore.backends.redis.transport.calls import Call, Script, slot_of
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.dsn import Target
from rstore.backends.redis.transport.errors import Signal, reason_of
from rstore.backends.redis.transport.tls import check_files
from rstore.backends.types import KEYS_BYTES, NamespaceGone, Options, identity_of
from rstore.errors import OutcomeUnknownError, StoreError, StoreNotAvailableError

_CREATE: Final = Script("create")
_KEEP_FACT: Final = Script("keep_fact")
_END: Final = Script("end")
_RAISE: Final = Script("raise")
_RAISED: Final = Script("raised")
_BURY: Final = Script("bury")
_ENLIST: Final = Script("enlist")
_STRIKE: Final = Script("strike")
_CATCH_UP: Final = Script("catch_up")
_COLLECT: Final = Script("collect")

_FACT: Final = b"fact:"
TOMBSTONE_MS: Final = 3_600_000
"""How long a tombstone stays: longer than any call can be on the way that saw the namespace alive."""
_BUCKETS_LOOKED_INTO: Final = 16
"""In so many buckets an opening looks for garbage: to look into all would take most of its time."""
GARBAGE_A_STEP: Final = 250
"""How many keys one script deletes: it holds up all other clients meanwhile."""
_OLDEST_SERVER: Final = (6, 2)


class EvictionWarning(RuntimeWarning):
    """The server may evict keys when its memory is full: data that was stored would vanish."""


class RedisLife(RedisNamespace):
    """A namespace from its creation to its end."""

    def __init__(self, target: Target, name: str, options: Options) -> None:
        super().__init__(target, name, options)
        self._random = Random(os.urandom(8))  # noqa: S311 - spreads work, keeps no secret
        self._created = b""  # the incarnation that `create` returned last

    def open(self) -> bool:
        """Connect, check the servers, and return whether the namespace exists."""
        if self.target.tls:
            check_files(self.target.ssl)
        for where, info in self.client.open():
            self._check_server(where, info)
        return self.look_up()[0] is not None

    def _check_server(self, where: str, info: dict[bytes, bytes]) -> None:
        mode = info.get(b"redis_mode", info.get(b"server_mode"))  # the second is Valkey's name for it
        if mode == b"sentinel":
            raise StoreNotAvailableError(f"the server {where} is a Sentinel: use redis+sentinel://host:port/service")
        version = info.get(b"redis_version", b"0").decode()
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_SERVER:
            raise StoreNotAvailableError(f"the Redis server {where} is of version {version}, and 6.2 is the least")
        if mode == b"cluster" and not self.target.cluster:
            raise StoreNotAvailableError(f"the Redis server {where} is part of a cluster: use redis+cluster://")
        policy = info.get(b"maxmemory_policy", b"noeviction").decode()
        if policy != "noeviction":
            warnings.warn(
                f"the Redis server {where} evicts keys when its memory is full (maxmemory-policy {policy}): "
                "what is stored there may vanish, see the documentation",
                EvictionWarning,
                stacklevel=2,
            )

    def create(self) -> bytes:
        self._count_revival()
        with self.unseen():
            incarnation = self._create()
        # A second call for the same incarnation has found a bucket without its marker: a failover lost it.
        self._created = incarnation
        return incarnation

    def _create(self) -> bytes:
        retries: CallRetries | None = None
        while True:
            incarnation, raised = self.look_up()
            if incarnation is None:
                incarnation, raised = self._register(), False
            if not raised or incarnation == self._created:
                found = self._raise_markers(incarnation)
            else:
                found = incarnation if self._look_into_some(incarnation) else None
            if found is not None:
                return found
            # Either the namespace was discarded since it was looked up, or a failover lost that it had been: then the
            # registry would say for ever that this one is alive. A bucket knows that it has ended, so that nothing is
            # ended here that is not.
            self.collect(self._end(incarnation), steps=1)
            retries = self.again(retries)

    def _register(self) -> bytes:
        """Return the incarnation in the registry, entering one if there is none."""
        # A failover can lose what was registered last. The markers then still tell of it, and so does every bucket's
        # data: what they say is taken up again, unless the registry knows of one as late.
        first = self.buckets[0]
        marker = self.client.call(Call(first.slot, (b"GET", first.marker_key)))
        lost = make_bucket(0, 0, self.encoded, marker).incarnation  # whatever the number of its buckets
        drawn = os.urandom(7) + bytes((self.target.buckets.bit_length() - 1,))
        incarnation = b"".join(self._tell_registry(_CREATE, drawn, lost))
        self._lay_out(incarnation)
        return incarnation

    def _raise_markers(self, incarnation: bytes) -> bytes | None:
        """Bring the markers of all buckets to an incarnation, and return it; None if one of them tells of its end.

        It is a later one where a failover lost that a fact was added.
        """
        buckets = self.buckets
        generation = os.urandom(GENERATION_BYTES)
        markers = self.run(
            _RAISE.on(bucket.slot, (bucket.marker_key, bucket.garbage), incarnation, generation, write=True, again=True)
            for bucket in buckets
        )
        self.buckets = [self._with_marker(bucket, marker) for bucket, marker in zip(buckets, markers, strict=True)]
        latest = max(marker[:INCARNATION_BYTES] for marker in markers)
        if identity_of(latest) == identity_of(incarnation) and latest > incarnation:
            # With the fact, it was lost that others are out of date: they still are.
            self._tell_registry(_CATCH_UP, identity_of(incarnation), latest[-KEYS_BYTES:])
            return self._raise_markers(latest)
        if not all(is_of(marker, incarnation) for marker in markers):
            return None
        # Behind the registration: until then, the end of an earlier incarnation may strike out the name. Before the
        # first write: where a creator dies here, the next one finds that this is left to do.
        self._list(_ENLIST, incarnation)
        with suppress(StoreError):  # it only saves the next one this work
            self._tell_registry(_RAISED, identity_of(incarnation), incarnation)
        return incarnation

    def _tell_registry(self, script: Script, *arguments: bytes) -> Any:
        return self.client.call(script.on(self._registry_slot, (self._registry,), *arguments, write=True, again=True))

    def _list(self, script: Script, incarnation: bytes) -> None:
        listed = self.encoded, incarnation[:IDENTITY_BYTES]
        self.client.call(script.on(slot_of(NAMESPACES), (NAMESPACES,), *listed, write=True, again=True))

    def _look_into_some(self, incarnation: bytes) -> bool:
        """Delete a little garbage; return False if a bucket is found that has seen the incarnation end."""
        buckets = self.buckets
        buckets = self._random.sample(buckets, min(len(buckets), _BUCKETS_LOOKED_INTO))
        replies = self.run(
            Call(bucket.slot, command)
            for bucket in buckets
            for command in ((b"EXISTS", bucket.garbage, bucket.staged), (b"GET", bucket.marker_key))
        )
        dirty, markers = replies[::2], replies[1::2]
        self.collect((bucket for bucket, one in zip(buckets, dirty, strict=True) if one), steps=1)
        return not any(tells_of_end(marker, incarnation) for marker in markers)

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        fields = self.client.call(Call(self._registry_slot, (b"HGETALL", self._registry)))
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"birth" not in known or not self._is_alive(known.get(b"alive")):
            return None, {}
        incarnation = bytes(known[b"birth"] + known.get(b"keys", bytes(KEYS_BYTES)))
        self._check_incarnation(incarnation)
        named = {name[len(_FACT) :]: bytes(fact) for name, fact in known.items() if name[: len(_FACT)] == _FACT}
        names = names_of(named, f"a fact about the namespace {self.name!r}")
        return incarnation, dict(zip(names, named.values(), strict=True))

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        identity = identity_of(incarnation)
        try:
            kept = bytes(self._tell_registry(_KEEP_FACT, identity, _FACT + name.encode(), fact))
        except Signal as signal:
            raise NamespaceGone from signal
        self.wrote()
        # It returns when no writer is left that does not know of it.
        latest, raised = self.look_up()
        if latest is None or identity_of(latest) != identity or not (raised or self._raise_markers(latest)):
            raise NamespaceGone
        return kept

    def discard(self) -> None:
        incarnation = self.client.call(Call(self._registry_slot, (b"HGET", self._registry, b"birth")))
        if incarnation is not None:
            self._check_incarnation(incarnation)
            self.collect(self._end(bytes(incarnation)))

    def _end(self, incarnation: bytes) -> list[Bucket]:
        """End one incarnation of the namespace, or what is left of it; return the buckets that have garbage then.

        A later one is left alone, so that each step may be done again, by any client.
        """
        identity = incarnation[:IDENTITY_BYTES]
        stays_ms = b"%d" % TOMBSTONE_MS
        self._tell_registry(_END, identity, b"")
        self._lay_out(identity)
        buckets = self.buckets
        try:
            left = self.run(
                _BURY.on(bucket.slot, (bucket.marker_key, bucket.garbage), identity, stays_ms, write=True, again=True)
                for bucket in buckets
            )
            # Not before the markers are buried: the next client has to find the trace of a discarder that died.
            self._tell_registry(_END, identity, stays_ms)
        except StoreError as error:
            raise OutcomeUnknownError(
                f"the namespace {self.name!r} is discarded in part: discard it again ({reason_of(error)})"
            ) from error
        with suppress(StoreError):  # a name of what is gone does no harm
            self._list(_STRIKE, identity)
        return [bucket for bucket, entries in zip(buckets, left, strict=True) if entries]

    def collect(self, buckets: Iterable[Bucket], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete garbage. A failure leaves it to the next call that collects: this one has done its own work."""
        with suppress(StoreError):
            self.delete_garbage(buckets, steps, given_up=given_up)

    def delete_garbage(self, buckets: Iterable[Bucket], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete the garbage of buckets, a bounded part at a time.

        `steps` bounds how many parts; `given_up` is a batch of records that is not staged any more.
        """
        todo = list(buckets)
        while todo and steps != 0:
            call = (b"%d" % GARBAGE_A_STEP, given_up)
            left = self.run(
                _COLLECT.on(bucket.slot, (bucket.garbage, bucket.staged), *call, write=True, again=True)
                for bucket in todo
            )
            given_up = b""
            self.deadline.begin()
            todo = [bucket for bucket, entries in zip(todo, left, strict=True) if entries]
            steps = None if steps is None else steps - 1
