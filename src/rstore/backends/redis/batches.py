"""Writing records to one bucket: some by one script, many as a batch that is staged, made visible, and folded in.

A script that wrote a hundred thousand records would stop the server for half a second. A batch lies beside the single
records, under names of its own, until the marker names it; from then on whoever writes folds some of it in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final

from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import Signal
from rstore.backends.redis.layout import GENERATION_BYTES, Place
from rstore.backends.redis.namespace import RedisNamespace
from rstore.backends.redis.patience import Patience
from rstore.backends.types import LARGE_BYTES, NamespaceGone, Writes
from rstore.errors import StoreBusyError, StoreError, StoreFullError

_FIND: Final = Script("find")
_FOLD: Final = Script("fold")
_PUBLISH: Final = Script("publish")
_STAGE: Final = Script("stage")
WRITE: Final = Script("write")

MAX_RECORDS: Final = 2000
"""So many records one script writes or moves: less than 10 ms."""
_MAX_BYTES: Final = 8 * 1024 * 1024
_STAGED_S: Final = 3600
"""After so long a batch that was not made visible is given up, and becomes garbage."""


class RedisBatches(RedisNamespace):
    """Batches of records, as far as reading and writing single ones has to know of them."""

    def _write_batch(self, place_now: Callable[[], Place], writes: Writes, incarnation: bytes) -> None:
        """Write many records of one bucket, all or nothing."""
        place = self._current(place_now)
        if place.incarnation != incarnation:
            raise NamespaceGone
        batch = os.urandom(GENERATION_BYTES)
        publish = _PUBLISH.on(place.slot, (place.marker_key, place.staged), incarnation, batch, write=True, again=False)
        try:
            self._stage_batch(place, batch, writes)
            self._client.deadline.begin()
            patience: Patience | None = None
            while not self._client.call(publish):
                patience = self._again(patience)
                with suppress(Signal):
                    self._fold(self._refreshed(place))
        except (Signal, StoreFullError, StoreBusyError) as error:
            # What was staged is in nobody's way, but for its memory.
            self._collect([place], given_up=batch)
            if isinstance(error, StoreError):
                raise
            raise NamespaceGone from error
        self._revivals.n = 0
        # The batch is visible: if it cannot be folded in now, whoever comes next does it.
        with suppress(Signal, StoreError):
            self._fold(self._refreshed(place))

    def _stage_batch(self, place: Place, batch: bytes, writes: Writes) -> None:
        seconds, micros = self._client.call(Call(place.slot, (b"TIME",)))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        writes = [
            (key, record, now_ms + ttl_ms if isinstance(ttl_ms, int) else ttl_ms) for key, record, ttl_ms in writes
        ]
        until_s = int(seconds) + _STAGED_S
        entry = _STAGE.on(place.slot, (place.marker_key, place.staged), batch, b"%d" % until_s, write=True, again=True)
        beside = place.of_batch(batch)._replace(marker=place.incarnation)
        with self._unseen():
            self._client.call(entry)  # before there is anything that might be left behind
            self._run(writing(beside, some)._replace(again=True) for some in _pieces(writes))

    def _fold(self, place: Place) -> None:
        """Fold a batch in, if there is one, and raise the signal that the place is out of date.

        A frozen store waits for those who write.
        """
        if not place.batch:
            return
        patience = Patience(self._client.deadline)
        while self._frozen:
            if self._refreshed(place).marker != place.marker:
                raise Signal("STALE")
            if not patience.wait():
                raise StoreBusyError(
                    f"a large write to the namespace {self._name!r} is not finished; the next writer finishes it"
                )
        beside = place.of_batch(place.batch)
        keys = (place.marker_key, beside.key_index, beside.expiry_index, place.key_index, place.expiry_index)
        call = _FOLD.on(place.slot, keys, place.mark, b"%d" % MAX_RECORDS, write=True, again=True)
        with self._unseen():
            while self._client.call(call):
                self._client.deadline.begin()
        raise Signal("STALE")

    def _find(self, name: bytes, *, there: bool) -> Any:
        """Return a record, or whether it is there, where a batch may be visible."""

        def call(place: Place) -> Call:
            keys = (place.marker_key, place.of_batch(place.batch).key_index)
            names = (place.of_batch(place.batch).records + name, place.records + name)
            return _FIND.on(place.slot, (*keys, *names), place.mark, name, b"%d" % there, write=False, again=True)

        return self._read(lambda: self._place_of(name), call, None)


def is_large(writes: Writes) -> bool:
    """Return whether one script would take too long to write these."""
    # Deletions have no place in a batch. Nobody writes many of them together.
    return (
        len(writes) > 1
        and (len(writes) > MAX_RECORDS or sum(len(record or b"") for _, record, _ in writes) > _MAX_BYTES)
        and all(record is not None for _, record, _ in writes)
    )


def _pieces(writes: Writes) -> Iterator[Writes]:
    start = size = 0
    for i, (_, record, _) in enumerate(writes):
        if i > start and (i - start == MAX_RECORDS or size + len(record or b"") > _MAX_BYTES):
            yield writes[start:i]
            start, size = i, 0
        size += len(record or b"")
    yield writes[start:]


def writing(place: Place, writes: Writes) -> Call:
    """Return the call that writes records of one bucket."""
    prefix = place.records
    stay = [(key, record) for key, record, ttl_ms in writes if record is not None and ttl_ms is None]
    expire = [(key, record, ttl_ms) for key, record, ttl_ms in writes if record is not None and isinstance(ttl_ms, int)]
    keys = [place.marker_key, place.key_index, place.expiry_index]
    keys += [prefix + key.encode() for key, _ in stay]
    arguments: list[Any] = [place.mark, b"%d" % len(stay), b"%d" % len(expire)]
    arguments += map(itemgetter(1), stay)
    if len(stay) != len(writes):
        keys += [prefix + key.encode() for key, _, _ in expire]
        for _, record, ttl_ms in expire:
            arguments += (record, b"%d" % ttl_ms)
        keys += [prefix + key.encode() for key, record, _ in writes if record is None]
    call = WRITE.on(place.slot, keys, *arguments, write=True, again=False)
    large = any(len(record or b"") > LARGE_BYTES for _, record, _ in writes)
    return call._replace(large=True) if large else call
