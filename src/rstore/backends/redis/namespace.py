"""A namespace in Redis: how it is found, created and discarded, and what every method on it begins with.

Nouns: the *registry* (one hash a namespace: its incarnation, whether it is alive, its facts), the *places* (what is known of
each bucket) and *garbage* (what nobody can see any more, deleted a bounded part at a time).
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, Final
from zlib import crc32

from rstore.backends.redis.client import Call, Client, Script
from rstore.backends.redis.dsn import Target
from rstore.backends.redis.errors import NOTHING, LostReplyError, Signal, TooFewReplicasError, reason_of
from rstore.backends.redis.layout import (
    GENERATION_BYTES,
    IDENTITY_BYTES,
    INCARNATION_BYTES,
    NAMESPACES,
    Place,
    buckets_of,
    is_incarnation,
    is_of,
    make_place,
    make_places,
    names_of,
    registry_key,
    slot_of,
    tells_of_end,
)
from rstore.backends.redis.patience import Patience, Revivals
from rstore.backends.redis.tls import check_files
from rstore.backends.types import ANY, KEYS_BYTES, ExpectedIncarnation, Log, NamespaceGone, Options, identity_of
from rstore.errors import CorruptionError, OutcomeUnknownError, StoreBusyError, StoreError, StoreNotAvailableError

_CREATE: Final = Script("create")
_KEEP_FACT: Final = Script("keep_fact")
_END: Final = Script("end")
_RAISE: Final = Script("raise")
_RAISED: Final = Script("raised")
_BURY: Final = Script("bury")
_ENLIST: Final = Script("enlist")
_STRIKE: Final = Script("strike")
_COLLECT: Final = Script("collect")
_CATCH_UP: Final = Script("catch_up")

_FACT: Final = b"fact:"

TOMBSTONE_MS: Final = 3_600_000
"""How long a tombstone stays: longer than anybody can be on the way who saw the namespace alive."""
GARBAGE_A_STEP: Final = 250
"""How many keys one script deletes: about 2 ms of the server's time."""
_BUCKETS_LOOKED_INTO: Final = 16
"""In so many buckets an opening looks for garbage: to look into all would take most of its time."""
_FREE_REVIVALS: Final = 5
_REVIVAL_S: Final = 0.01
"""So long the next creation waits where those before were in vain."""
_OLDEST_SERVER: Final = (6, 2)


class EvictionWarning(RuntimeWarning):
    """The server may evict keys when its memory is full: data that was stored would vanish."""


class RedisNamespace:
    """What records and logs have in common: the client, the places of the buckets, and the life of the namespace."""

    around_damage = False
    """As of a backend's."""

    def __init__(self, target: Target, namespace: str, options: Options) -> None:
        self._target = target
        self._name = namespace
        self._namespace = namespace.encode()
        self._frozen = options.frozen
        self._timeout_s = options.timeout_s
        self._registry = registry_key(self._namespace)
        self._registry_slot = slot_of(self._registry)
        self._client = Client(target, options.timeout_s, options.telemetry)
        self._seed = crc32(self._namespace)
        self._random = Random(os.urandom(8))  # noqa: S311 - spreads work, keeps no secret
        self._revivals = Revivals()
        self._created = b""  # the incarnation that `create` returned last
        # Replaced as a whole or one by one, never changed: a thread that has taken a place finds out by its marker
        # that it is out of date.
        self._places = make_places(target.buckets, self._namespace)

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        if self._target.tls:
            check_files(self._target.ssl)
        for where, info in self._client.open():
            self._check_server(where, info)
        incarnation, _ = self._look_up()
        if incarnation is None and self._frozen:
            raise self._no_namespace(f"on the Redis server {self._target}")

    def _no_namespace(self, where: str) -> StoreError:
        return StoreNotAvailableError(f"there is no namespace {self._name!r} {where}")

    def _check_server(self, where: str, info: dict[bytes, bytes]) -> None:
        mode = info.get(b"redis_mode", info.get(b"server_mode"))  # the second is Valkey's name for it
        if mode == b"sentinel":
            raise StoreNotAvailableError(f"the server {where} is a Sentinel: use redis+sentinel://host:port/service")
        version = info.get(b"redis_version", b"0").decode()
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_SERVER:
            raise StoreNotAvailableError(f"the Redis server {where} is of version {version}, and 6.2 is the least")
        if mode == b"cluster" and not self._target.cluster:
            raise StoreNotAvailableError(f"the Redis server {where} is part of a cluster: use redis+cluster://")
        policy = info.get(b"maxmemory_policy", b"noeviction").decode()
        if policy != "noeviction":
            warnings.warn(
                f"the Redis server {where} evicts keys when its memory is full (maxmemory-policy {policy}): "
                "what is stored there may vanish, see the documentation",
                EvictionWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        self._client.close()

    def create(self) -> bytes:
        self._count_revival()
        with self._unseen():
            incarnation = self._create()
        # Whoever comes again for the same incarnation has found a bucket without its marker: a failover lost it.
        self._created = incarnation
        return incarnation

    def _count_revival(self) -> None:
        """Raise `StoreBusyError` where a thread does nothing but create the namespace until the time is up."""
        mine, now = self._revivals, time.monotonic()
        mine.n += 1
        if mine.n <= _FREE_REVIVALS:
            mine.since = now
        elif now - mine.since >= self._timeout_s:
            mine.n = 0
            raise self._outrun()
        else:
            time.sleep(_REVIVAL_S)

    def _outrun(self) -> StoreBusyError:
        return StoreBusyError(f"the namespace {self._name!r} keeps being discarded concurrently; nothing was applied")

    def _again(self, patience: Patience | None) -> Patience:
        """Return the patience of a loop that is about to try again, because others changed what it goes by.

        Raises `StoreBusyError` if the time is up.
        """
        patience = patience or Patience(self._client.deadline)
        if not patience.retry(waiting=False):
            raise self._outrun()
        if patience.pause():
            time.sleep(patience.next_pause())
        return patience

    def _create(self) -> bytes:
        patience: Patience | None = None
        while True:
            incarnation, raised = self._look_up()
            if incarnation is None:
                incarnation, raised = self._register(), False
            known = raised and incarnation != self._created
            found = (
                (incarnation if self._look_into_some(incarnation) else None)
                if known
                else self._raise_markers(incarnation)
            )
            if found is not None:
                return found
            # Either the namespace was discarded since it was looked up, or a failover lost that it had been: then the
            # registry would say for ever that this one is alive. A bucket knows that it has ended, so that nothing is
            # ended here that is not.
            self._collect(self._end(incarnation), steps=1)
            patience = self._again(patience)

    def _look_up(self) -> tuple[bytes | None, bool]:
        """Return the incarnation in the registry, and whether all markers, and the index, are known to be raised to it.

        Lays the places out as it says. There is no incarnation if there is no namespace.
        """
        names = (b"incarnation", b"alive", b"keys", b"raised")
        (identity, alive, keys, raised), listed = self._run(
            (
                Call(self._registry_slot, (b"HMGET", self._registry, *names)),
                Call(slot_of(NAMESPACES), (b"HGET", NAMESPACES, self._namespace)),
            )
        )
        if identity is None or not self._is_alive(alive):
            return None, False
        incarnation = bytes(identity + (keys or bytes(KEYS_BYTES)))
        self._lay_out(incarnation)
        return incarnation, incarnation == raised and identity == listed

    def _lay_out(self, incarnation: bytes) -> None:
        self._check_incarnation(incarnation)
        buckets = buckets_of(incarnation)
        if len(self._places) != buckets:
            self._places = make_places(buckets, self._namespace)

    def _check_incarnation(self, incarnation: bytes) -> None:
        if not is_incarnation(incarnation):
            raise CorruptionError(
                f"the registry of the namespace {self._name!r} on the Redis server {self._target} is damaged: "
                f"the incarnation in the hash {self._registry!r} is none; restore it, or delete the keys of the namespace"
            )

    def _is_alive(self, alive: bytes | None) -> bool:
        """Read the registry; anything unexpected in it must not be taken for the end of the namespace."""
        if alive not in (b"0", b"1"):
            raise CorruptionError(
                f"the registry of the namespace {self._name!r} on the Redis server {self._target} is damaged: the "
                f"field 'alive' of the hash {self._registry!r} is neither 0 nor 1; restore it"
            )
        return alive == b"1"

    def _register(self) -> bytes:
        """Return the incarnation in the registry, entering one if there is none."""
        # A failover can lose what was registered last. The markers then still tell of it, and so does every bucket's
        # data: what they say is taken up again, unless the registry knows of one as late.
        marker = self._client.call(Call(self._places[0].slot, (b"GET", self._places[0].marker_key)))
        lost = make_place(0, 0, self._namespace, marker).incarnation  # whatever the number of its buckets
        drawn = os.urandom(7) + bytes((self._target.buckets.bit_length() - 1,))
        call = _CREATE.on(self._registry_slot, (self._registry,), drawn, lost, write=True, again=True)
        incarnation = b"".join(self._client.call(call))
        self._lay_out(incarnation)
        return incarnation

    def _raise_markers(self, incarnation: bytes) -> bytes | None:
        """Bring the markers of all buckets to an incarnation, and return it; None if one of them tells of its end.

        It is a later one where a failover lost that a fact was added.
        """
        places = self._places
        generation = os.urandom(GENERATION_BYTES)
        markers = self._run(
            _RAISE.on(place.slot, (place.marker_key, place.garbage), incarnation, generation, write=True, again=True)
            for place in places
        )
        self._places = [self._with_marker(place, marker) for place, marker in zip(places, markers, strict=True)]
        latest = max(marker[:INCARNATION_BYTES] for marker in markers)
        if identity_of(latest) == identity_of(incarnation) and latest > incarnation:
            # With the fact, it was lost that others are out of date: they still are.
            told = identity_of(incarnation), latest[-KEYS_BYTES:]
            self._client.call(_CATCH_UP.on(self._registry_slot, (self._registry,), *told, write=True, again=True))
            return self._raise_markers(latest)
        if not all(is_of(marker, incarnation) for marker in markers):
            return None
        # Not before it is registered: whoever discards an earlier one may strike out the name until then. And before
        # anybody writes into it: whoever dies here leaves it to the next one, who finds that it is not done.
        self._list(_ENLIST, incarnation)
        with suppress(StoreError):  # it only saves the next one this work
            call = _RAISED.on(
                self._registry_slot, (self._registry,), identity_of(incarnation), incarnation, write=True, again=True
            )
            self._client.call(call)
        return incarnation

    def _list(self, script: Script, incarnation: bytes) -> None:
        """Enter this incarnation of the namespace into the index of all, or strike it out."""
        listed = self._namespace, incarnation[:IDENTITY_BYTES]
        call = script.on(slot_of(NAMESPACES), (NAMESPACES,), *listed, write=True, again=True)
        self._client.call(call)

    # -- discarding ---------------------------------------------------------------------------------------------------

    def discard(self) -> None:
        incarnation = self._client.call(Call(self._registry_slot, (b"HGET", self._registry, b"incarnation")))
        if incarnation is not None:
            self._check_incarnation(incarnation)
            self._collect(self._end(bytes(incarnation)))

    def _end(self, incarnation: bytes) -> list[Place]:
        """End one incarnation of the namespace, or what is left of it; return the buckets that have garbage then.

        A later one is left alone, so that each step may be done again, whoever has begun it.
        """
        incarnation = incarnation[:IDENTITY_BYTES]
        self._client.call(self._ending(incarnation, b""))
        self._lay_out(incarnation)
        places = self._places
        try:
            left = self._run(
                _BURY.on(
                    place.slot,
                    (place.marker_key, place.garbage),
                    incarnation,
                    b"%d" % TOMBSTONE_MS,
                    write=True,
                    again=True,
                )
                for place in places
            )
            # Not before the markers are buried: whoever comes after a discarder that died has to find its trace.
            self._client.call(self._ending(incarnation, b"%d" % TOMBSTONE_MS))
        except StoreError as error:
            raise OutcomeUnknownError(
                f"the namespace {self._name!r} is discarded in part: discard it again ({reason_of(error)})"
            ) from error
        with suppress(StoreError):  # who is named and is not there is not told of
            self._list(_STRIKE, incarnation)
        return [place for place, entries in zip(places, left, strict=True) if entries]

    def _ending(self, incarnation: bytes, stays_ms: bytes) -> Call:
        return _END.on(self._registry_slot, (self._registry,), incarnation, stays_ms, write=True, again=True)

    def _look_into_some(self, incarnation: bytes) -> bool:
        """Delete a little of what others left behind; return False if a bucket is found that has seen the incarnation end."""
        places = self._places
        places = self._random.sample(places, min(len(places), _BUCKETS_LOOKED_INTO))
        replies = self._run(
            Call(place.slot, command)
            for place in places
            for command in ((b"EXISTS", place.garbage, place.staged), (b"GET", place.marker_key))
        )
        dirty, markers = replies[::2], replies[1::2]
        self._collect((place for place, one in zip(places, dirty, strict=True) if one), steps=1)
        return not any(tells_of_end(marker, incarnation) for marker in markers)

    def _collect(self, places: Iterable[Place], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete garbage. What fails is left to whoever comes next: the call that made it garbage has done its work."""
        with suppress(StoreError):
            self._delete_garbage(places, steps, given_up=given_up)

    def _delete_garbage(self, places: Iterable[Place], steps: int | None = None, *, given_up: bytes = b"") -> None:
        """Delete the garbage of buckets, which nobody sees, a bounded part at a time.

        `steps` bounds how many parts; `given_up` is a batch of records that is not staged any more.
        """
        places = list(places)
        while places and steps != 0:
            call = (b"%d" % GARBAGE_A_STEP, given_up)
            left = self._run(
                _COLLECT.on(place.slot, (place.garbage, place.staged), *call, write=True, again=True)
                for place in places
            )
            given_up = b""
            self._client.deadline.begin()
            places = [place for place, entries in zip(places, left, strict=True) if entries]
            steps = None if steps is None else steps - 1

    # -- facts --------------------------------------------------------------------------------------------------------

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        fields = self._client.call(Call(self._registry_slot, (b"HGETALL", self._registry)))
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        if b"incarnation" not in known or not self._is_alive(known.get(b"alive")):
            return None, {}
        incarnation = bytes(known[b"incarnation"] + known.get(b"keys", bytes(KEYS_BYTES)))
        self._check_incarnation(incarnation)
        named = {name[len(_FACT) :]: bytes(fact) for name, fact in known.items() if name[: len(_FACT)] == _FACT}
        names = names_of(named, f"a fact about the namespace {self._name!r}")
        return incarnation, dict(zip(names, named.values(), strict=True))

    def add_fact(self, name: str, fact: bytes) -> bytes:
        field = _FACT + name.encode()
        call = _KEEP_FACT.on(self._registry_slot, (self._registry,), field, fact, write=True, again=True)
        try:
            kept = bytes(self._client.call(call))
        except Signal as signal:
            raise NamespaceGone from signal
        self._revivals.n = 0
        # Not before nobody can write any more who does not know of it.
        incarnation, raised = self._look_up()
        if incarnation is None or not (raised or self._raise_markers(incarnation)):
            raise NamespaceGone
        return kept

    # -- what every method begins with --------------------------------------------------------------------------------

    def _place_of(self, key: bytes) -> Place:
        places = self._places
        return places[crc32(key, self._seed) % len(places)]

    def _place_of_log(self, log: Log) -> Place:
        return self._place_of(b"%d%b" % (log.model, log.key.encode()))

    def _refreshed(self, place: Place) -> Place:
        """Return the place of the same bucket by the marker that is there now."""
        marker = self._client.call(Call(place.slot, (b"GET", place.marker_key)))
        return self._adopt(place, marker)

    def _adopt(self, place: Place, marker: bytes | None) -> Place:
        fresh = self._with_marker(place, marker)
        places = self._places
        # Otherwise the namespace was laid out anew meanwhile, in another number of buckets.
        if place.bucket < len(places) and places[place.bucket].tag == place.tag:
            places[place.bucket] = fresh
        return fresh

    def _with_marker(self, place: Place, marker: bytes | None) -> Place:
        fresh = make_place(place.bucket, place.tag, self._namespace, marker)
        if fresh.incarnation and buckets_of(fresh.incarnation) != len(self._places):
            # Of a namespace in another number of buckets, which share their tags: whoever looks it up lays it out anew.
            return fresh._replace(incarnation=b"", batch=b"")
        return fresh

    @contextmanager
    def _unseen(self) -> Generator[None, None, None]:
        """Say that nothing was applied where it is unknown what became of a step that nobody sees."""
        try:
            yield
        except TooFewReplicasError as error:
            raise StoreBusyError(
                f"of the first of several steps on the Redis server {self._target}, {error.why}; nothing was stored"
            ) from error
        except OutcomeUnknownError as error:
            raise StoreBusyError(f"{reason_of(error)}{NOTHING}") from error

    def _is_laid_out_anew(self) -> bool:
        """Return whether the namespace, where no marker of it is found, was created again in other buckets."""
        places = self._places
        self._look_up()
        return self._places is not places

    def _current(self, place_now: Callable[[], Place]) -> Place:
        """Return a place by its marker of now; one without an incarnation if there is no namespace."""
        patience: Patience | None = None
        while True:
            place = self._refreshed(place_now())
            if place.incarnation or not self._is_laid_out_anew():
                return place
            patience = self._again(patience)

    def _read(
        self,
        place_now: Callable[[], Place],
        call: Callable[[Place], Call],
        nothing: Any,
        *,
        if_incarnation: ExpectedIncarnation = ANY,
    ) -> Any:
        """Return the reply of a script on one bucket; `nothing` if there is no namespace.

        Raises `NamespaceGone` if it is not of the incarnation that was asked for.
        """
        place = place_now()
        patience: Patience | None = None
        while True:
            if not place.incarnation or if_incarnation not in (ANY, place.incarnation):
                place = self._current(place_now)
                if not place.incarnation:
                    return nothing
                if if_incarnation not in (ANY, place.incarnation):
                    raise NamespaceGone
            try:
                return self._client.call(call(place))
            except Signal as signal:
                if signal.code != "STALE":
                    raise
                patience = self._again(patience)
                place = self._current(place_now)

    def _read_all(self, call: Callable[[Place], Call]) -> list[Any]:
        """Return the replies of a script that reads one bucket, of those buckets that there are."""
        patience: Patience | None = None
        while True:
            places = self._places
            if not all(place.incarnation for place in places):
                self._refresh_all()
                if not any(place.incarnation for place in places) and self._is_laid_out_anew():
                    patience = self._again(patience)
                    continue
            try:
                replies = self._client.run([call(place) for place in places if place.incarnation])
            except Signal as signal:
                replies = [signal]
            if any(isinstance(reply, Signal) for reply in replies):
                patience = self._again(patience)
                self._refresh_all()
                continue
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    def _refresh_all(self) -> None:
        places = list(self._places)
        markers = self._run(Call(place.slot, (b"GET", place.marker_key)) for place in places)
        for place, marker in zip(places, markers, strict=True):
            self._adopt(place, marker)

    def _write(self, place_now: Callable[[], Place], incarnation: bytes, call: Callable[[Place], Call]) -> Any:
        """Return the reply of a script that writes into one incarnation of the namespace.

        Raises `NamespaceGone` if it is gone, or of another incarnation; the other signals of the script; `LostReplyError`.
        """
        place = place_now()
        patience: Patience | None = None
        while True:
            if place.incarnation != incarnation:
                place = self._current(place_now)
                if place.incarnation != incarnation:
                    raise NamespaceGone
            try:
                reply = self._client.call(call(place))
            except Signal as signal:
                if signal.code != "STALE":
                    raise
                patience = self._again(patience)
                place = self._current(place_now)
            else:
                self._revivals.n = 0
                return reply

    def _run(self, calls: Iterable[Call]) -> list[Any]:
        """Return the replies to calls on several buckets, of which none may fail."""
        some = list(calls)
        replies = self._client.run(some) if some else []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _found_out(self, place: Place, question: Callable[[], bool]) -> bool:
        """Return whether a question about what became of a write is answered by yes; no answer is no.

        Nor is it a yes where the namespace is gone, and with it what tells, or where too few replicas have the write.
        """
        self._client.deadline.extend()
        try:
            if not question():
                return False
            if self._target.wait_replicas:
                # A connection waits for what was written before its own last write, whoever wrote it: one that nobody
                # sees.
                self._client.call(Call(place.slot, (b"SET", place.awaited, b"", b"PX", b"1"), write=True))
        except (StoreError, LostReplyError, NamespaceGone):
            return False
        return True

    def _unknown(self, what: str, lost: LostReplyError) -> OutcomeUnknownError:
        error = OutcomeUnknownError(
            f"the connection to the Redis server {self._target} was lost: whether {what} in the namespace "
            f"{self._name!r} is unknown"
        )
        error.__cause__ = lost.__cause__
        return error
