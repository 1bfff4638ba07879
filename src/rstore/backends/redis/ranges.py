"""Runs of keys in Redis: counted, scanned and deleted in all buckets at once."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, repeat
from math import isqrt
from operator import itemgetter
from typing import Any, Final, TypeVar

from rstore.backends.redis.batches import MAX_RECORDS, RedisBatches
from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import LostReplyError, Signal, TooFewReplicasError, reason_of
from rstore.backends.redis.layout import GENERATION_BYTES, Place, is_name
from rstore.backends.redis.patience import Patience
from rstore.backends.types import ANY, HEAD_BYTES, ExpectedIncarnation, Found, NamespaceGone, Page
from rstore.errors import CorruptionError, OutcomeUnknownError, StoreBusyError, StoreError

_CLEAR: Final = Script("clear")
_COUNT: Final = Script("count")
_DELETE_RANGE: Final = Script("delete_range")
_SCAN: Final = Script("scan")
_SWEEP: Final = Script("sweep")

PAGE_BYTES: Final = 4 * 1024 * 1024

Record = TypeVar("Record", bound=tuple[Any, bytes, int | None])


class RedisRanges(RedisBatches):
    """The records of a namespace, many at a time."""

    def count(self, start: str = "", stop: str | None = None) -> int:
        low, high = _bounds(start, stop)

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _COUNT.on(place.slot, keys, place.mark, low, high, write=False, again=True)

        counts = self._read_all(call)
        if -1 not in counts:
            return sum(counts)
        n, after, more = 0, None, True
        while more:
            records, more = self.scan(start=start, after=after, stop=stop, limit=MAX_RECORDS, keys_only=True)
            n += len(records)
            after = records[-1][0] if records else None
            self._client.deadline.begin()
        return n

    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> Page:
        low, high = _bounds(start, stop)
        if after is not None and reverse:
            high = b"(" + (after if stop is None else min(after, stop)).encode()
        elif after is not None and after >= start:
            low = b"(" + after.encode()
        while True:
            found, edge = self._merged(low, high, limit, reverse=reverse, keys_only=keys_only, heads=heads)
            page = cut(found, limit)
            more = edge is not None or len(page) < len(found)
            records = self._named(page)
            if records or not more:
                return Page(records, more)
            self._client.deadline.begin()
            behind = b"(" + (page[-1][0] if page else edge or b"")
            low, high = (low, behind) if reverse else (behind, high)  # all of these have expired, or are damaged

    def _named(self, page: list[tuple[bytes, bytes, int | None]]) -> list[Found]:
        try:
            return [(key.decode(), record, expires_ms) for key, record, expires_ms in page]
        except UnicodeDecodeError as error:
            if self.around_damage:
                return [(key.decode(), record, expires_ms) for key, record, expires_ms in page if is_name(key)]
            what = f"of a key in namespace {self._name!r} is damaged, it is no text"
            raise CorruptionError(f"the name {error.object!r} {what}") from error

    def _merged(
        self, low: bytes, high: bytes, limit: int, *, reverse: bool, keys_only: bool, heads: bool
    ) -> tuple[list[tuple[bytes, bytes, int | None]], bytes | None]:
        """Return the first records of all buckets in order, and the key up to which they are all; None: to the end."""
        buckets = len(self._places)
        share = limit // buckets
        arguments = (
            *((high, low) if reverse else (low, high)),
            # Some more than the share: the first bucket to run out ends the page.
            b"%d" % (limit if buckets == 1 else min(limit, share + 3 * isqrt(share) + 4)),
            b"%d" % reverse,
            b"%d" % keys_only,
            b"%d" % (PAGE_BYTES // buckets),
            b"%d" % HEAD_BYTES if heads else b"",
        )

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _SCAN.on(place.slot, keys, place.mark, *arguments, write=False, again=True)

        pages = self._read_all(call)
        edges = [page[0] for page in pages if page[0]]
        edge = (max(edges) if reverse else min(edges)) if edges else None
        found: list[tuple[bytes, bytes, int | None]] = []
        for page in pages:
            if keys_only:
                found += zip(page[2:], repeat(b""), repeat(None))
                continue
            keys, last = page[2::2], dict(zip(page[1][::2], map(expires_ms_of, page[1][1::2]), strict=True))
            found += zip(keys, page[3::2], map(last.get, keys) if last else repeat(None), strict=False)
        if len(pages) > 1:
            found.sort(key=itemgetter(0), reverse=reverse)
            if edge is not None:
                found = [one for one in found if (one[0] >= edge if reverse else one[0] <= edge)]
        return found, edge

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        low, high = _bounds(start, stop)
        self._refresh_all()
        if not any(place.incarnation for place in self._places) and self._is_laid_out_anew():
            self._refresh_all()
        outcomes: list[Any] = []
        todo = [(place, low) for place in self._places]
        patience: Patience | None = None
        while todo := [(place, begin) for place, begin in todo if place.incarnation]:
            if if_incarnation is not ANY and any(place.incarnation != if_incarnation for place, _ in todo):
                raise NamespaceGone
            done = len(outcomes)
            try:
                todo = self._delete_some(todo, high, outcomes)
                if len(outcomes) > done:
                    self._client.deadline.begin()
                    patience = None
                else:
                    patience = self._again(patience)
            except StoreError as error:
                outcomes.append(error)
            if any(isinstance(outcome, Exception) for outcome in outcomes):
                break
        return self._total(outcomes, "deleted")

    def _delete_some(
        self, todo: Sequence[tuple[Place, bytes]], high: bytes, outcomes: list[Any]
    ) -> list[tuple[Place, bytes]]:
        """Delete some records of each bucket, add how many or what went wrong, and return where to go on."""
        for place, _ in todo:
            with suppress(Signal):
                self._fold(place)
        replies = self._client.run([_deleting_range(place, begin, high) for place, begin in todo])
        rest: list[tuple[Place, bytes]] = []
        stale: list[tuple[Place, bytes]] = []
        for (place, begin), reply in zip(todo, replies, strict=True):
            if isinstance(reply, Signal):
                stale.append((place, begin))
            elif isinstance(reply, Exception):
                outcomes.append(reply)
            else:
                outcomes.append(reply[0])
                if reply[1]:  # behind it: from the beginning, whoever goes on writing there would keep this busy
                    rest.append((place, b"(" + reply[1]))
        return rest + [(self._refreshed(place), begin) for place, begin in stale]

    def sweep(self, limit: int) -> int:
        share = max(1, limit // len(self._places))

        def call(place: Place) -> Call:
            self._fold(place)
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _SWEEP.on(place.slot, keys, place.mark, b"%d" % min(share, MAX_RECORDS), write=True, again=True)

        return sum(self._read_all(call))

    def clear(self) -> None:
        self._refresh_all()
        if not any(place.incarnation for place in self._places) and self._is_laid_out_anew():
            self._refresh_all()
        todo = [place for place in self._places if place.incarnation]
        outcomes: list[Any] = []
        cleared: list[Place] = []
        patience: Patience | None = None
        while todo:
            replies = self._client.run(
                [
                    _CLEAR.on(
                        place.slot,
                        (place.marker_key, place.garbage, place.key_index),
                        place.mark,
                        place.incarnation + os.urandom(GENERATION_BYTES),
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
            try:
                fresh = [(place, self._refreshed(place)) for place in stale]
            except StoreError as error:
                raise OutcomeUnknownError(
                    f"whether the records of the namespace {self._name!r} were cleared is unknown: {reason_of(error)}"
                ) from error
            todo = [now for was, now in fresh if now.incarnation == was.incarnation and now.records == was.records]
            if todo:
                try:
                    patience = self._again(patience)
                except StoreBusyError as error:
                    outcomes.append(error)
                    break
        self._total(outcomes, "cleared")
        with suppress(StoreError):  # whoever comes next finds out that the place is out of date
            self._refresh_all()
        self._collect(cleared)

    # -- what several buckets answer ----------------------------------------------------------------------------------

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
            if isinstance(failure, OutcomeUnknownError) and not isinstance(failure, TooFewReplicasError):
                raise failure
        if all(isinstance(failure, TooFewReplicasError) for failure in failures):
            raise failures[0]
        refused = next(failure for failure in failures if not isinstance(failure, TooFewReplicasError))
        if len(failures) < len(outcomes) or any(isinstance(failure, TooFewReplicasError) for failure in failures):
            raise OutcomeUnknownError(
                f"in the namespace {self._name!r}, some records were {what} and others not: {reason_of(refused)}"
            ) from refused
        raise refused


def cut(found: list[Record], limit: int) -> list[Record]:
    """Return as many of the first records, of those that were found, as make a page."""
    sizes = list(accumulate(len(record) for _, record, _ in found[:limit]))
    return found[: max(1, bisect_left(sizes, PAGE_BYTES) + 1)][:limit]


def _bounds(start: str, stop: str | None) -> tuple[bytes, bytes]:
    """Return a range as ZRANGEBYLEX has it."""
    return b"[" + start.encode() if start else b"-", b"+" if stop is None else b"(" + stop.encode()


def expires_ms_of(last_ms: bytes | None) -> int | None:
    """Return the expiry of a record of which the index knows the last millisecond that it is there."""
    try:
        return None if last_ms is None else int(last_ms) + 1
    except ValueError as error:
        raise CorruptionError(f"an expiry on the Redis server is no time: {last_ms!r}") from error


def _deleting_range(place: Place, low: bytes, high: bytes) -> Call:
    keys = (place.marker_key, place.key_index, place.expiry_index)
    return _DELETE_RANGE.on(place.slot, keys, place.mark, low, high, b"%d" % MAX_RECORDS, write=True, again=False)
