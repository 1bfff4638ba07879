"""Key/value records in Redis: a string each, and per bucket an index of the keys and one of those that expire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from itertools import repeat
from os.path import commonprefix
from typing import Final

from rstore.backends.redis.batches import MAX_RECORDS, WRITE, is_large, writing
from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import LostReplyError, Signal
from rstore.backends.redis.layout import Place
from rstore.backends.redis.patience import Patience
from rstore.backends.redis.pool import connector
from rstore.backends.redis.ranges import PAGE_BYTES, RedisRanges, expires_ms_of
from rstore.backends.redis.watcher import RedisWatcher
from rstore.backends.types import (
    ANY,
    HEAD_BYTES,
    KEEP,
    LARGE_BYTES,
    ExpectedIncarnation,
    Found,
    NamespaceGone,
    Ttl,
    Write,
    Writes,
    too_large,
)
from rstore.errors import StoreError

_MAX_BYTES: Final = 512 * 1024 * 1024
"""So much a server takes unless its `proto-max-bulk-len` says otherwise."""
_WRITE_IF: Final = Script("write_if")
_DELETE: Final = Script("delete")
_FETCH: Final = Script("fetch")
_TOUCH: Final = Script("touch")


class RedisRecords(RedisRanges):
    """The records of a namespace."""

    def get(self, key: str) -> bytes | None:
        name = key.encode()
        patience: Patience | None = None
        while True:
            place = self._place_of(name)
            if place.batch:
                return self._find(name, there=False)  # type: ignore[no-any-return]
            call = Call(place.slot, (b"MGET", place.marker_key, place.records + name))
            marker, record = self._client.call(call)
            if marker != place.marker:
                self._adopt(place, marker)
            elif place.incarnation:
                if record is not None:
                    self._client.shrink(place.slot, len(record))
                return record  # type: ignore[no-any-return]
            elif not self._is_laid_out_anew():
                return None
            patience = self._again(patience)

    def has(self, key: str) -> bool:
        name = key.encode()
        patience: Patience | None = None
        while True:
            place = self._place_of(name)
            if place.batch:
                return bool(self._find(name, there=True))
            # In this order: where the marker is still the same afterwards, the record was one of the namespace.
            there, marker = self._run(
                (
                    Call(place.slot, (b"EXISTS", place.records + name)),
                    Call(place.slot, (b"GET", place.marker_key)),
                )
            )
            if marker != place.marker:
                self._adopt(place, marker)
            elif place.incarnation:
                return bool(there)
            elif not self._is_laid_out_anew():
                return False
            patience = self._again(patience)

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        def call(place: Place, names: Sequence[bytes]) -> Call:
            self._fold(place)
            names = [place.records + name for name in names]
            return _FETCH.on(
                place.slot,
                (place.marker_key, place.expiry_index, *names),
                place.mark,
                b"%d" % PAGE_BYTES,
                b"%d" % HEAD_BYTES if heads else b"",
                write=False,
                again=True,
            )

        found: list[Found] = []
        left = [key.encode() for key in keys]
        patience: Patience | None = None
        while left:
            if not all(place.incarnation for place in self._places):
                self._refresh_all()
                if not any(place.incarnation for place in self._places) and self._is_laid_out_anew():
                    patience = self._again(patience)
                    continue
            groups: dict[Place, list[bytes]] = defaultdict(list)
            for name in left:
                if (place := self._place_of(name)).incarnation:
                    groups[place].append(name)
            try:
                replies = self._run(call(place, names[:MAX_RECORDS]) for place, names in groups.items())
            except Signal:
                patience = self._again(patience)
                self._refresh_all()
                continue
            patience, left = None, []
            self._client.deadline.begin()
            for names, (records, last) in zip(groups.values(), replies, strict=True):
                expiries = map(expires_ms_of, last) if last else repeat(None)
                found += (
                    (name.decode(), record, expires_ms)
                    for name, record, expires_ms in zip(names, records, expiries, strict=False)
                    if record is not None
                )
                left += names[len(records) :]
        return found

    # -- writing ------------------------------------------------------------------------------------------------------

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return len(self._places) == 1 or len({self._place_of(key.encode()).bucket for key in keys}) <= 1

    def write(self, writes: Writes, incarnation: bytes) -> None:
        if len(writes) == 1:
            # The common case, written out: what is general takes a fifth longer.
            key, record, ttl_ms = writes[0]
            name = key.encode()
            place = self._place_of(name)
            fits = ttl_ms is None and place.incarnation == incarnation and not place.batch
            if fits and record is not None and len(record) <= LARGE_BYTES:
                keys = (place.marker_key, place.key_index, place.expiry_index, place.records + name)
                call = WRITE.on(place.slot, keys, place.mark, b"1", b"0", record, write=True, again=False)
                try:
                    self._client.call(call)
                except (Signal, LostReplyError) as outcome:
                    self._settle(writes, incarnation, outcome)
                self._revivals.n = 0
                return None
        self._check_sizes(writes)
        if len(writes) == 1 or len(self._places) == 1:
            return self._write_bucket(writes, incarnation)
        groups: dict[Place, list[tuple[str, bytes | None, Ttl]]] = defaultdict(list)
        for write in writes:
            groups[self._place_of(write[0].encode())].append(write)
        if any(place.incarnation != incarnation for place in groups):
            self._refresh_all()
            if not all(place.incarnation == incarnation for place in self._places):
                raise NamespaceGone
            return self.write(writes, incarnation)
        if any(place.batch or is_large(group) for place, group in groups.items()):
            replies = [self._outcome(partial(self._write_bucket, group, incarnation)) for group in groups.values()]
        else:
            calls = [writing(place, group) for place, group in groups.items()]
            replies = [
                self._outcome(partial(self._settle, group, incarnation, reply))
                if isinstance(reply, Signal | LostReplyError)
                else reply
                for group, reply in zip(groups.values(), self._client.run(calls), strict=True)
            ]
        self._total([reply or 0 for reply in replies], "written")
        return None

    def _settle(self, group: Writes, incarnation: bytes, reply: Signal | LostReplyError) -> None:
        """Do what is left to do for some records of one bucket."""
        if isinstance(reply, Signal):
            self._write_bucket(group, incarnation)
        elif not self._found_out(self._place_of(group[0][0].encode()), lambda: self._is_written(group)):
            raise self._unknown(f"{len(group)} records were written", reply)

    def _write_bucket(self, writes: Writes, incarnation: bytes) -> None:
        name = writes[0][0].encode()

        def call(place: Place) -> Call:
            self._fold(place)
            return writing(place, writes)

        try:
            if is_large(writes):
                self._write_batch(lambda: self._place_of(name), writes, incarnation)
            else:
                self._write(lambda: self._place_of(name), incarnation, call)
        except LostReplyError as lost:
            if not self._found_out(self._place_of(name), lambda: self._is_written(writes)):
                raise self._unknown(f"{len(writes)} records were written", lost) from lost.__cause__

    def _is_written(self, writes: Writes) -> bool:
        """Return whether one of these records is there: then all were written, for each has a stamp of its own."""
        return any(record is not None and self.get(key) == record for key, record, _ in writes[:10])

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        self._check_sizes([write])
        name, large = write.key.encode(), len(write.record or b"") > LARGE_BYTES

        def call(place: Place) -> Call:
            self._fold(place)
            arguments = (
                place.mark,
                version or b"",
                b"0" if write.record is None else b"1",
                write.record or b"",
                b"" if write.ttl_ms is None else b"keep" if write.ttl_ms is KEEP else b"%d" % write.ttl_ms,
            )
            keys = (place.marker_key, place.key_index, place.expiry_index, place.records + name)
            return _WRITE_IF.on(place.slot, keys, *arguments, write=True, again=False)._replace(large=large)

        try:
            return bool(self._write(lambda: self._place_of(name), incarnation, call))
        except LostReplyError as lost:
            if self._found_out(self._place_of(name), lambda: self._is_written([write])):
                return True
            raise self._unknown(f"{write.key!r} was written", lost) from lost.__cause__

    def _check_sizes(self, writes: Writes) -> None:
        """Refuse what a server does not take, before it is sent: it would close the connection in the middle of it."""
        for key, record, _ in writes:
            if record is not None and (size := len(record)) > LARGE_BYTES:  # which the limit is never below
                slot = self._place_of(key.encode()).slot
                try:
                    _, limit = self._client.call(Call(slot, (b"CONFIG", b"GET", b"proto-max-bulk-len")))
                except (StoreError, ValueError):  # not for this user, or of another name
                    limit = _MAX_BYTES
                if size > int(limit):
                    server = f"the Redis server {self._target} (proto-max-bulk-len)"
                    raise too_large(key, self._name, size, int(limit), server)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        name = key.encode()

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.expiry_index, place.records + name)
            lives = b"" if ttl_ms is None else b"%d" % ttl_ms
            return _TOUCH.on(place.slot, keys, place.mark, lives, write=True, again=False)

        try:
            return bool(self._read(lambda: self._place_of(name), call, 0, if_incarnation=if_incarnation))
        except LostReplyError as lost:
            raise self._unknown(f"the expiry of {key!r} was changed", lost) from lost.__cause__

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        layout = len(self._places)
        buckets: dict[int, list[bytes]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            name = key.encode()
            buckets[self._place_of(name).bucket].append(name)
        # Not more than that at once: deleting is promised for each key, not for all of them as one.
        groups = [names[i : i + MAX_RECORDS] for names in buckets.values() for i in range(0, len(names), MAX_RECORDS)]
        places = [self._place_of(names[0]) for names in groups]
        delete = partial(self._delete_bucket, layout=layout, if_incarnation=if_incarnation)
        if len(groups) == 1 or any(
            place.batch or not place.incarnation or if_incarnation not in (ANY, place.incarnation) for place in places
        ):
            return self._total([self._outcome(partial(delete, names)) for names in groups], "deleted")
        replies = self._client.run([_deleting(place, names) for place, names in zip(places, groups, strict=True)])
        return self._total(
            [
                self._outcome(partial(delete, names)) if isinstance(reply, Signal) else reply
                for names, reply in zip(groups, replies, strict=True)
            ],
            "deleted",
        )

    def _delete_bucket(self, names: Sequence[bytes], *, layout: int, if_incarnation: ExpectedIncarnation) -> int:
        """Delete records that are in one bucket where the namespace lies in so many."""

        def call(place: Place) -> Call:
            if len(self._places) != layout:
                raise Signal("REGROUP")
            self._fold(place)
            return _deleting(place, names)

        try:
            return int(self._read(lambda: self._place_of(names[0]), call, 0, if_incarnation=if_incarnation))
        except Signal:  # the namespace was made anew, and these are not in one bucket any more
            return self.delete([name.decode() for name in names], if_incarnation=if_incarnation)

    # -- watching -----------------------------------------------------------------------------------------------------

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[RedisWatcher]:
        def places() -> Collection[Place]:
            if prefix is not None or len(self._places) == 1:
                return self._places
            found = {place.bucket: place for place in (self._place_of(key.encode()) for key in keys)}
            return found.values()

        # One for all, since each costs whoever writes: what is not watched and begins the same wakes, too.
        stem = commonprefix([*keys, *([] if prefix is None else [prefix])]).encode()  # noqa: RUF071 - of no paths
        self._refresh_all()
        connect = connector(self._target, self._timeout_s, protocol=3)
        return closing(RedisWatcher(self._client, connect, places, stem))


def _deleting(place: Place, names: Sequence[bytes]) -> Call:
    keys = (place.marker_key, place.key_index, place.expiry_index, *(place.records + name for name in names))
    return _DELETE.on(place.slot, keys, place.mark, write=True, again=False)
