"""Runs of keys in Redis: counted, scanned and deleted in all buckets at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from math import isqrt
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

from rstore.backends.common.names import is_name
from rstore.backends.common.pages import PAGE_BYTES, cut
from rstore.backends.redis.namespace.bucket import GENERATION_BYTES, Bucket
from rstore.backends.redis.records.batches import MAX_RECORDS, RedisBatches
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.errors import LostReplyError, TooFewReplicasError, reason_of
from rstore.backends.types import ANY, HEAD_BYTES, ExpectedIncarnation, Found, Page, ScanQuery
from rstore.errors import CorruptionError, OutcomeUnknownError, StoreError

S = TypeVar("S")
_CLEAR: Final = Script("clear")
_COUNT: Final = Script("count")
_DELETE_RANGE: Final = Script("delete_range")
_SCAN: Final = Script("scan")
_SWEEP: Final = Script("sweep")

RawFound: TypeAlias = tuple[bytes, bytes, int | None]
"""A key as bytes, its record, and when it expires."""


class RedisRanges(RedisBatches):
    """The records of a namespace, many at a time."""

    def count(self, start: str = "", stop: str | None = None) -> int:
        self._deadline.begin()
        return self.read_count(start, stop)

    def read_count(self, start: str, stop: str | None) -> int:
        """Return the number of records from `start` to `stop`."""
        low, high = _bounds(start, stop)

        def ask(bucket: Bucket, _: None) -> Call:
            return _COUNT.on(
                bucket.slot, self.absorbed(bucket).indexes, bucket.mark, low, high, write=False, again=True
            )

        counts = list(self.namespace.replies(ask, None))
        if -1 not in counts:
            return sum(counts)
        n, after, more = 0, None, True
        while more:
            records, more = self.scan(ScanQuery(MAX_RECORDS, start, stop, after, keys_only=True))
            n += len(records)
            after = records[-1][0] if records else None
        return n

    def scan(self, query: ScanQuery) -> Page:
        self._deadline.begin()
        return self.read_page(query)

    def read_page(self, query: ScanQuery) -> Page:
        """Return a page of records in key order."""
        start, stop, after = query.start, query.stop, query.after
        low, high = _bounds(start, stop)
        if after is not None and query.reverse:
            high = b"(" + (after if stop is None else min(after, stop)).encode()
        elif after is not None and after >= start:
            low = b"(" + after.encode()
        while True:
            found, edge = self._merged(low, high, query)
            records = self._named(found)
            if records or edge is None:
                return cut(records, query.limit, more=edge is not None)
            self._deadline.begin()
            behind = b"(" + edge
            low, high = (low, behind) if query.reverse else (behind, high)  # all of these have expired, or are damaged

    def _named(self, found: list[RawFound]) -> list[Found]:
        if self.around_damage:
            found = [one for one in found if is_name(one[0])]
        try:
            return [(key.decode(), record, expires_ms) for key, record, expires_ms in found]
        except UnicodeDecodeError as error:
            what = f"of a key in namespace {self.namespace.name!r} is damaged, it is no text"
            raise CorruptionError(f"the name {error.object!r} {what}") from error

    def _merged(self, low: bytes, high: bytes, query: ScanQuery) -> tuple[list[RawFound], bytes | None]:
        """Return the first records of all buckets in order, and the key up to which none is missing; None: the end."""
        limit, reverse = query.limit, query.reverse
        n = len(self.namespace.buckets)
        share = limit // n
        arguments = (
            *((high, low) if reverse else (low, high)),
            # Some more than the share: the first bucket to run out ends the page.
            b"%d" % (limit if n == 1 else min(limit, share + 3 * isqrt(share) + 4)),
            b"%d" % reverse,
            b"%d" % query.keys_only,
            b"%d" % (PAGE_BYTES // n),
            b"%d" % HEAD_BYTES if query.heads else b"",
        )

        def ask(bucket: Bucket, _: None) -> Call:
            return _SCAN.on(
                bucket.slot, self.absorbed(bucket).indexes, bucket.mark, *arguments, write=False, again=True
            )

        pages = list(self.namespace.replies(ask, None))
        edges = [page[0] for page in pages if page[0]]
        edge = (max(edges) if reverse else min(edges)) if edges else None
        found: list[RawFound] = []
        for page in pages:
            if query.keys_only:
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
        self._deadline.begin()
        low, high = _bounds(start, stop)

        def ask(bucket: Bucket, low: bytes) -> Call:
            arguments = (bucket.mark, low, high, b"%d" % MAX_RECORDS)
            return _DELETE_RANGE.on(bucket.slot, self.absorbed(bucket).indexes, *arguments, write=True, again=False)

        def rest(_: bytes, reply: Any) -> bytes | None:
            # Behind it: from the beginning, a client that goes on writing there would keep this call busy.
            return b"(" + reply[1] if reply[1] else None

        rounds = self.namespace.rounds(
            lambda: [(bucket, low) for bucket in self.namespace.buckets], ask, rest, if_incarnation=if_incarnation
        )
        outcomes = [reply if isinstance(reply, Exception) else reply[0] for _, reply in outcomes_of(rounds)]
        return self._total(outcomes, "deleted")

    def sweep(self, limit: int) -> int:
        self._deadline.begin()
        share = b"%d" % min(max(1, limit // len(self.namespace.buckets)), MAX_RECORDS)

        def ask(bucket: Bucket, _: None) -> Call:
            return _SWEEP.on(bucket.slot, self.absorbed(bucket).indexes, bucket.mark, share, write=True, again=True)

        return sum(self.namespace.replies(ask, None))

    def clear(self) -> None:
        self._deadline.begin()
        first = iter([self.namespace.refresh()])  # if that fails, nothing was cleared
        outcomes: list[Any] = []

        def begin() -> list[tuple[Bucket, Bucket]]:
            return [(bucket, bucket) for bucket in next(first, ()) or self.namespace.refresh()]

        def ask(bucket: Bucket, before: Bucket) -> Call | None:
            if (bucket.incarnation, bucket.records) != (before.incarnation, before.records):
                # Another client cleared since this call began, or this call did and its reply was lost. Where the
                # generation is the same, a batch became visible, or was absorbed.
                outcomes.append(0)
                return None
            keys = (bucket.marker_key, bucket.garbage, bucket.key_index)
            new = bucket.incarnation + os.urandom(GENERATION_BYTES)
            return _CLEAR.on(bucket.slot, keys, bucket.mark, new, write=True, again=True)

        try:
            replies = list(self.namespace.rounds(begin, ask))
        except StoreError as error:
            raise OutcomeUnknownError(
                f"whether the records of the namespace {self.namespace.name!r} were cleared is unknown: "
                f"{reason_of(error)}"
            ) from error
        self._total([*outcomes, *(left for _, _, left in replies)], "cleared")
        with suppress(StoreError):  # the next call finds out that the bucket is out of date
            self.namespace.refresh()
        self.namespace.collect(bucket for bucket, _, left in replies if left)

    @staticmethod
    def _outcome(attempt: Callable[[], object]) -> Any:
        try:
            return attempt()
        except (StoreError, LostReplyError) as error:
            return error

    def _total(self, outcomes: Sequence[Any], what: str) -> int:
        """Return the sum of the answers of several buckets.

        Raises the error of one bucket where it speaks for all, `OutcomeUnknownError` where only some have done it.
        """
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if not failures:
            return sum(outcomes)
        for failure in failures:
            if isinstance(failure, LostReplyError):
                raise self.namespace.unknown(f"records were {what}", failure) from failure.__cause__
            if isinstance(failure, OutcomeUnknownError) and not isinstance(failure, TooFewReplicasError):
                raise failure
        refused = [failure for failure in failures if not isinstance(failure, TooFewReplicasError)]
        if not refused:
            raise failures[0]
        if len(refused) < len(outcomes):
            raise OutcomeUnknownError(
                f"in the namespace {self.namespace.name!r}, some records were {what} and others not: "
                f"{reason_of(refused[0])}"
            ) from refused[0]
        raise refused[0]


def outcomes_of(rounds: Iterator[tuple[Bucket, S, Any]]) -> Iterator[tuple[S | None, Any]]:
    """Yield the place and the reply of each step of some rounds; an error that ends them is the last reply."""
    try:
        for _, at, reply in rounds:
            yield at, reply
    except StoreError as error:
        yield None, error


def _bounds(start: str, stop: str | None) -> tuple[bytes, bytes]:
    """Return a range as ZRANGEBYLEX has it."""
    return b"[" + start.encode() if start else b"-", b"+" if stop is None else b"(" + stop.encode()


def expires_ms_of(last_ms: bytes | None) -> int | None:
    """Return the expiry of a record, given the last millisecond that it is there, as the index has it."""
    try:
        return None if last_ms is None else int(last_ms) + 1
    except ValueError as error:
        raise CorruptionError(f"an expiry on the Redis server is no time: {last_ms!r}") from error
