"""Key/value records in Redis: a string each, and per bucket an index of the keys and one of those that expire."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, repeat
from math import isqrt
from operator import itemgetter
from typing import Any, Final

from rstore.backends.base import KEEP, Found, NamespaceGone, Page, Write
from rstore.backends.redis_batches import MOST_RECORDS, WRITE, RedisBatches, is_large, writing
from rstore.backends.redis_client import Call, Script
from rstore.backends.redis_errors import LostReplyError, Signal
from rstore.backends.redis_layout import GENERATION_BYTES, Place
from rstore.errors import OutcomeUnknownError, StoreError

_WRITE_IF: Final = Script("write_if")
_DELETE: Final = Script("delete")
_CLEAR: Final = Script("clear")
_COUNT: Final = Script("count")
_DELETE_RANGE: Final = Script("delete_range")
_FETCH: Final = Script("fetch")
_SCAN: Final = Script("scan")
_SWEEP: Final = Script("sweep")
_TOUCH: Final = Script("touch")

_PAGE_BYTES: Final = 4 * 1024 * 1024


class RedisRecords(RedisBatches):
    """The records of a namespace."""

    def get(self, key: str) -> bytes | None:
        name = key.encode()
        while True:
            place = self._place_of(name)
            if place.batch:
                return self._find(name, there=False)  # type: ignore[no-any-return]
            call = Call(place.slot, (b"MGET", place.marker_key, place.records + name))
            marker, record = self._client.call(call)
            if marker != place.marker:
                self._adopt(place, marker)
            elif place.birth:
                return record  # type: ignore[no-any-return]
            elif not self._is_laid_out_anew():
                return None

    def has(self, key: str) -> bool:
        name = key.encode()
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
            elif place.birth:
                return bool(there)
            elif not self._is_laid_out_anew():
                return False

    def fetch(self, keys: Collection[str]) -> list[Found]:
        def call(place: Place, names: Sequence[bytes]) -> Call:
            self._fold(place)
            names = [place.records + name for name in names]
            return _FETCH.on(
                place.slot,
                (place.marker_key, place.expiry_index, *names),
                place.marker,
                _PAGE_BYTES,
                write=False,
                again=True,
            )

        found: list[Found] = []
        left = [key.encode() for key in keys]
        while left:
            if not all(place.birth for place in self._places):
                self._refresh_all()
                if not any(place.birth for place in self._places) and self._is_laid_out_anew():
                    continue
            groups: dict[Place, list[bytes]] = defaultdict(list)
            for name in left:
                if (place := self._place_of(name)).birth:
                    groups[place].append(name)
            try:
                replies = self._run(call(place, names[:MOST_RECORDS]) for place, names in groups.items())
            except Signal:
                self._refresh_all()
                continue
            left = []
            for names, (records, last) in zip(groups.values(), replies, strict=True):
                expiries = map(_expires_ms, last) if last else repeat(None)
                found += (
                    (name.decode(), record, expires_ms)
                    for name, record, expires_ms in zip(names, records, expiries, strict=False)
                    if record is not None
                )
                left += names[len(records) :]
        return found

    def count(self, start: str = "", stop: str | None = None) -> int:
        low, high = _bounds(start, stop)

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _COUNT.on(place.slot, keys, place.marker, low, high, write=False, again=True)

        counts = self._read_all(call)
        if -1 not in counts:
            return sum(counts)
        n, after, more = 0, None, True
        while more:
            records, more = self.scan(start=start, after=after, stop=stop, limit=MOST_RECORDS, keys_only=True)
            n += len(records)
            after = records[-1][0] if records else None
        return n

    # -- writing ------------------------------------------------------------------------------------------------------

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return len(self._places) == 1 or len({self._place_of(key.encode()).bucket for key in keys}) <= 1

    def write(self, writes: Sequence[Write], birth: bytes) -> None:
        if len(writes) == 1:
            # The common case, written out: what is general takes a fifth longer.
            key, record, ttl_ms = writes[0]
            name = key.encode()
            place = self._place_of(name)
            if record is not None and ttl_ms is None and place.birth == birth and not place.batch:
                keys = (place.marker_key, place.key_index, place.expiry_index, place.records + name)
                call = WRITE.on(place.slot, keys, place.marker, 1, 0, record, write=True, again=False)
                try:
                    self._client.call(call)
                except (Signal, LostReplyError) as outcome:
                    self._settle(writes, birth, outcome)
                return None
        if len(writes) == 1 or len(self._places) == 1:
            return self._write_bucket(writes, birth)
        groups: dict[Place, list[Write]] = defaultdict(list)
        for write in writes:
            groups[self._place_of(write.key.encode())].append(write)
        if any(place.birth != birth for place in groups):
            self._refresh_all()
            if not all(place.birth == birth for place in self._places):
                raise NamespaceGone
            return self.write(writes, birth)
        if any(place.batch or is_large(group) for place, group in groups.items()):
            replies = [self._outcome(partial(self._write_bucket, group, birth)) for group in groups.values()]
        else:
            calls = [writing(place, group) for place, group in groups.items()]
            replies = [
                self._outcome(partial(self._settle, group, birth, reply))
                if isinstance(reply, Signal | LostReplyError)
                else reply
                for group, reply in zip(groups.values(), self._client.run(calls), strict=True)
            ]
        self._total([reply or 0 for reply in replies], "written")
        return None

    def _settle(self, group: Sequence[Write], birth: bytes, reply: Signal | LostReplyError) -> None:
        """Do what is left to do for some records of one bucket."""
        if isinstance(reply, Signal):
            self._write_bucket(group, birth)
        elif not self._found_out(lambda: self._is_written(group)):
            raise self._unknown(f"{len(group)} records were written", reply)

    def _write_bucket(self, writes: Sequence[Write], birth: bytes) -> None:
        name = writes[0].key.encode()

        def call(place: Place) -> Call:
            self._fold(place)
            return writing(place, writes)

        try:
            if is_large(writes):
                self._write_batch(lambda: self._place_of(name), writes, birth)
            else:
                self._write(lambda: self._place_of(name), birth, call)
        except LostReplyError as lost:
            if not self._found_out(lambda: self._is_written(writes)):
                raise self._unknown(f"{len(writes)} records were written", lost) from lost.__cause__

    def _is_written(self, writes: Sequence[Write]) -> bool:
        """Return whether one of these records is there: then all were written, for each has a stamp of its own."""
        return any(write.record is not None and self.get(write.key) == write.record for write in writes[:10])

    def write_if(self, write: Write, version: bytes | None, birth: bytes) -> bool:
        name = write.key.encode()

        def call(place: Place) -> Call:
            self._fold(place)
            arguments = (
                place.marker,
                version or b"",
                b"0" if write.record is None else b"1",
                write.record or b"",
                b"" if write.ttl_ms is None else b"keep" if write.ttl_ms is KEEP else write.ttl_ms,
            )
            keys = (place.marker_key, place.key_index, place.expiry_index, place.records + name)
            return _WRITE_IF.on(place.slot, keys, *arguments, write=True, again=False)

        try:
            return bool(self._write(lambda: self._place_of(name), birth, call))
        except LostReplyError as lost:
            if self._found_out(lambda: self._is_written([write])):
                return True
            raise self._unknown(f"{write.key!r} was written", lost) from lost.__cause__

    def touch(self, key: str, ttl_ms: int | None) -> bool:
        name = key.encode()

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.expiry_index, place.records + name)
            lives = b"" if ttl_ms is None else ttl_ms
            return _TOUCH.on(place.slot, keys, place.marker, lives, write=True, again=False)

        try:
            return bool(self._read(lambda: self._place_of(name), call, 0))
        except LostReplyError as lost:
            raise self._unknown(f"the expiry of {key!r} was changed", lost) from lost.__cause__

    def delete(self, keys: Sequence[str]) -> int:
        buckets: dict[int, list[bytes]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            name = key.encode()
            buckets[self._place_of(name).bucket].append(name)
        # Not more than that at once: deleting is promised for each key, not for all of them as one.
        groups = [names[i : i + MOST_RECORDS] for names in buckets.values() for i in range(0, len(names), MOST_RECORDS)]
        places = [self._place_of(names[0]) for names in groups]
        if len(groups) == 1 or any(place.batch or not place.birth for place in places):
            return self._total([self._outcome(partial(self._delete_bucket, names)) for names in groups], "deleted")
        replies = self._client.run([_deleting(place, names) for place, names in zip(places, groups, strict=True)])
        return self._total(
            [
                self._outcome(partial(self._delete_bucket, names)) if isinstance(reply, Signal) else reply
                for names, reply in zip(groups, replies, strict=True)
            ],
            "deleted",
        )

    def _delete_bucket(self, names: Sequence[bytes]) -> int:
        buckets = len(self._places)

        def call(place: Place) -> Call:
            if len(self._places) != buckets:
                raise Signal("REGROUP")
            self._fold(place)
            return _deleting(place, names)

        try:
            return int(self._read(lambda: self._place_of(names[0]), call, 0))
        except Signal:  # the namespace was made anew, and these are not in one bucket any more
            return self.delete([name.decode() for name in names])

    def delete_range(self, start: str, stop: str | None) -> int:
        low, high = _bounds(start, stop)
        self._refresh_all()
        if not any(place.birth for place in self._places) and self._is_laid_out_anew():
            self._refresh_all()
        found = 0
        todo = [(place, low) for place in self._places]
        while todo := [(place, begin) for place, begin in todo if place.birth]:
            for place, _ in todo:
                with suppress(Signal):
                    self._fold(place)
            replies = self._client.run([_deleting_range(place, begin, high) for place, begin in todo])
            rest: list[tuple[Place, bytes]] = []
            for (place, begin), reply in zip(todo, replies, strict=True):
                if isinstance(reply, Signal):
                    rest.append((self._refreshed(place), begin))
                elif isinstance(reply, LostReplyError):
                    raise self._unknown("a range of keys was deleted", reply) from reply.__cause__
                elif isinstance(reply, Exception):
                    raise reply
                else:
                    found += reply[0]
                    if reply[
                        1
                    ]:  # go on behind it: from the beginning, whoever goes on writing there would keep this busy
                        rest.append((place, b"(" + reply[1]))
            todo = rest
        return found

    def sweep(self, limit: int) -> int:
        share = max(1, limit // len(self._places))

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _SWEEP.on(place.slot, keys, place.marker, min(share, MOST_RECORDS), write=True, again=True)

        return sum(self._read_all(call))

    def clear(self) -> None:
        self._refresh_all()
        if not any(place.birth for place in self._places) and self._is_laid_out_anew():
            self._refresh_all()
        todo = [place for place in self._places if place.birth]
        outcomes: list[Any] = []
        cleared: list[Place] = []
        while todo:
            replies = self._client.run(
                [
                    _CLEAR.on(
                        place.slot,
                        (place.marker_key, place.garbage, place.key_index),
                        place.marker,
                        place.birth + os.urandom(GENERATION_BYTES),
                        write=True,
                        again=True,
                    )
                    for place in todo
                ]
            )
            outcomes += [reply for reply in replies if not isinstance(reply, Signal)]
            cleared += [place for place, left in zip(todo, replies, strict=True) if isinstance(left, int) and left]
            stale = [place for place, reply in zip(todo, replies, strict=True) if isinstance(reply, Signal)]
            # Where the generation is another, somebody cleared since this call began, or this call did and its reply
            # was lost. Otherwise a batch became visible, or was folded in.
            fresh = [(place, self._refreshed(place)) for place in stale]
            todo = [now for was, now in fresh if now.birth == was.birth and now.records == was.records]
        self._total(outcomes, "cleared")
        self._refresh_all()
        self._collect(cleared)

    @staticmethod
    def _outcome(attempt: Callable[[], object]) -> Any:
        try:
            return attempt()
        except (StoreError, LostReplyError) as error:
            return error

    def _total(self, outcomes: Sequence[Any], what: str) -> int:
        """Return the sum of what several buckets answered.

        Raises the error of one, as long as it speaks for all; otherwise some of the records may be gone.
        """
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if not failures:
            return sum(outcomes)
        for failure in failures:
            if isinstance(failure, LostReplyError):
                raise self._unknown(f"records were {what}", failure) from failure.__cause__
            if isinstance(failure, OutcomeUnknownError):
                raise failure
        if len(failures) < len(outcomes):
            raise OutcomeUnknownError(
                f"in the namespace {self._name!r}, some records were {what} and others not: {failures[0]}"
            ) from failures[0]
        raise failures[0]

    # -- scanning -----------------------------------------------------------------------------------------------------

    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
    ) -> Page:
        low, high = _bounds(start, stop)
        if after is not None and reverse:
            high = b"(" + (after if stop is None else min(after, stop)).encode()
        elif after is not None and after >= start:
            low = b"(" + after.encode()
        while True:
            found, edge = self._merged(low, high, limit, reverse=reverse, keys_only=keys_only)
            sizes = list(accumulate(len(record) for _, record, _ in found[:limit]))
            page = found[: max(1, bisect_left(sizes, _PAGE_BYTES) + 1)][:limit]
            more = edge is not None or len(page) < len(found)
            if page or edge is None:
                return Page([(key.decode(), record, expires_ms) for key, record, expires_ms in page], more)
            low, high = (low, b"(" + edge) if reverse else (b"(" + edge, high)  # all of these have expired

    def _merged(
        self, low: bytes, high: bytes, limit: int, *, reverse: bool, keys_only: bool
    ) -> tuple[list[tuple[bytes, bytes, int | None]], bytes | None]:
        """Return the first records of all buckets in order, and the key up to which they are all; None: to the end."""
        buckets = len(self._places)
        share = limit // buckets
        arguments = (
            *((high, low) if reverse else (low, high)),
            # Some more than the share: the first bucket to run out ends the page.
            limit if buckets == 1 else min(limit, share + 3 * isqrt(share) + 4),
            int(reverse),
            int(keys_only),
            _PAGE_BYTES // buckets,
        )

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _SCAN.on(place.slot, keys, place.marker, *arguments, write=False, again=True)

        pages = self._read_all(call)
        edges = [page[0] for page in pages if page[0]]
        edge = (max(edges) if reverse else min(edges)) if edges else None
        found: list[tuple[bytes, bytes, int | None]] = []
        for page in pages:
            if keys_only:
                found += zip(page[2:], repeat(b""), repeat(None))
                continue
            keys, last = page[2::2], dict(zip(page[1][::2], map(_expires_ms, page[1][1::2]), strict=True))
            found += zip(keys, page[3::2], map(last.get, keys) if last else repeat(None), strict=False)
        if len(pages) > 1:
            found.sort(key=itemgetter(0), reverse=reverse)
            if edge is not None:
                found = [one for one in found if (one[0] >= edge if reverse else one[0] <= edge)]
        return found, edge


def _bounds(start: str, stop: str | None) -> tuple[bytes, bytes]:
    """Return a range as ZRANGEBYLEX has it."""
    return b"[" + start.encode() if start else b"-", b"+" if stop is None else b"(" + stop.encode()


def _expires_ms(last_ms: bytes | None) -> int | None:
    """Return the expiry of a record of which the index knows the last millisecond that it is there."""
    return None if last_ms is None else int(last_ms) + 1


def _deleting(place: Place, names: Sequence[bytes]) -> Call:
    keys = (place.marker_key, place.key_index, place.expiry_index, *(place.records + name for name in names))
    return _DELETE.on(place.slot, keys, place.marker, write=True, again=False)


def _deleting_range(place: Place, low: bytes, high: bytes) -> Call:
    keys = (place.marker_key, place.key_index, place.expiry_index)
    return _DELETE_RANGE.on(place.slot, keys, place.marker, low, high, MOST_RECORDS, write=True, again=False)
