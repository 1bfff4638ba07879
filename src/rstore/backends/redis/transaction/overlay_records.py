"""Records as a transaction sees them: those that are stored, and over them those that the transaction has put."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache

from rstore.backends.common.pages import cut
from rstore.backends.redis.records.batches import MAX_RECORDS
from rstore.backends.redis.transaction.changes import Held
from rstore.backends.redis.transaction.overlay import Overlay, Seen
from rstore.backends.types import (
    ANY,
    HEAD_BYTES,
    KEEP,
    ExpectedIncarnation,
    Found,
    Page,
    ScanQuery,
    Write,
    Writes,
    version_of,
)


class OverlayRecords(Overlay):
    """The methods on records."""

    def get(self, key: str) -> bytes | None:
        return next((record for _, record, _ in self.fetch([key])), None)

    def has(self, key: str) -> bool:
        self._begin_call()
        return self._look([key])[0] is not None

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        self._begin_call()
        stored = [key for key in keys if self._is_stored(key)]
        found = self._read_stored(stored, heads=heads)
        is_alive = self._clocked()
        for key in keys:
            if (held := self._changes.records.get(key)) is None:
                continue
            record = held.record if held.record is not None else found.pop(key)[1]
            if is_alive(held):
                found[key] = (key, record[: HEAD_BYTES if heads else None], held.expires_ms)
        return list(found.values())

    def count(self, start: str = "", stop: str | None = None) -> int:
        self._begin_call()
        ours = {key: held for key, held in self._changes.records.items() if _is_within(key, start, stop)}
        stored = 0
        if self._reads_runs():
            hidden = sum(seen is not None for seen in self._look_stored(list(ours)))
            stored = self._stored.read_count(start, stop) - hidden
        is_alive = self._clocked()
        return stored + sum(held is not None and is_alive(held) for held in ours.values())

    def scan(self, query: ScanQuery) -> Page:
        self._begin_call()
        found: list[Found] = []
        edge, more = query.after, self._reads_runs()
        while more and len(found) < query.limit:
            page, more = self._stored.read_page(query._replace(after=edge))
            if not query.keys_only:
                self._grow(len(page))
                for one in page:
                    self._see(one[0], one)
            found += (one for one in page if one[0] not in self._changes.records)
            edge = page[-1][0] if page else edge
        ours = self._put_until(query, edge if more else None)
        if query.keys_only:
            there = zip(ours, self._look(ours), strict=True)
            found += ((key, b"", None) for key, seen in there if seen is not None)
        else:
            found += self.fetch(ours, heads=query.heads)
        found.sort(reverse=query.reverse)
        return cut(found, query.limit, more=more)

    def _put_until(self, query: ScanQuery, edge: str | None) -> list[str]:
        """Return the changed keys as far as the stored ones are known: up to the edge, or all."""
        after = query.after
        keys = [key for key in self._changes.records if _is_within(key, query.start, query.stop)]
        if query.reverse:
            return [key for key in keys if (after is None or key < after) and (edge is None or key >= edge)]
        return [key for key in keys if (after is None or key > after) and (edge is None or key <= edge)]

    def write(self, writes: Writes, incarnation: bytes) -> None:
        self._begin_put(incarnation)
        self._grow(len(writes))
        expiry = cache(self._expiry)  # one look at the clock, and one moment at which all of them expire
        self._changes.records.update([(write[0], _held(Write(*write), None, expiry)) for write in writes])

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        self._begin_put(incarnation)
        [seen] = self._look([write.key])
        if (None if seen is None else seen[0]) != version:
            return False
        self._grow(1)
        self._changes.records[write.key] = _held(write, seen, self._expiry)
        return True

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._begin_removal(if_incarnation)
        [seen] = self._look([key])
        if seen is None:
            return False
        self._grow(1)
        held = self._changes.records.get(key)
        self._changes.records[key] = Held(seen[0], self._expiry(ttl_ms), None if held is None else held.record)
        return True

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        self._begin_removal(if_incarnation)
        keys = list(dict.fromkeys(keys))
        return self._forget([key for key, seen in zip(keys, self._look(keys), strict=True) if seen is not None])

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        self._begin_removal(if_incarnation)
        gone: list[str] = []
        more = True
        while more:
            page, more = self.scan(ScanQuery(MAX_RECORDS, start, stop, gone[-1] if gone else None, keys_only=True))
            gone += (key for key, _, _ in page)
            self._grow(len(gone))
        return self._forget(gone)

    def sweep(self, limit: int) -> int:
        return 0  # no reader sees the difference, and it would change the indexes that are watched

    def clear(self) -> None:
        self._begin_call()
        self._changes.records.clear()
        self._changes.cleared = not self._nowhere

    def _forget(self, keys: Sequence[str]) -> int:
        self._grow(len(keys))
        self._changes.records.update(dict.fromkeys(keys))
        return len(keys)

    def _expiry(self, ttl_ms: int | None) -> int | None:
        # From now on, and not from the end on: the transaction sees the expiry that all others will.
        return None if ttl_ms is None else self._now_ms() + ttl_ms

    def _clocked(self) -> Callable[[Held], bool]:
        """Return the judge of whether a record has not expired; it looks at the clock once, where it has to."""
        now_ms = cache(self._now_ms)
        return lambda held: held.expires_ms is None or held.expires_ms > now_ms()

    def _is_bare(self) -> bool:
        """Return whether no record that is stored counts."""
        return self._nowhere or self._changes.cleared

    def _is_stored(self, key: str) -> bool:
        """Return whether the record of a key is the one that is stored, if any."""
        held = self._changes.records.get(key)
        return not self._is_bare() and (key not in self._changes.records or (held is not None and held.record is None))

    def _reads_runs(self) -> bool:
        """Return whether runs of keys have to be asked for, and see to it that they stay what they are."""
        if self._is_bare():
            return False
        if self._since_ms is None:
            self._watch((self._bucket.key_index, self._bucket.expiry_index))
            self._since_ms = self._now_ms()
        return True

    def _look(self, keys: Sequence[str]) -> list[Seen | None]:
        """Return the versions and expiries of records without moving them."""
        records = self._changes.records
        stored = [] if self._is_bare() else [key for key in keys if key not in records]
        found = dict(zip(stored, self._look_stored(stored), strict=True))
        is_alive = self._clocked()
        for key in keys:
            if (held := records.get(key)) is not None and is_alive(held):
                found[key] = (held.version, held.expires_ms)
        return [found.get(key) for key in keys]

    def _look_stored(self, keys: Sequence[str]) -> list[Seen | None]:
        # A record that expires has to be looked at again; the end finds those that were put or deleted since.
        new = [key for key in keys if key not in self._seen or (self._seen[key] or (b"", None))[1] is not None]
        self._read_stored(new, heads=True)
        return [self._seen[key] for key in keys]

    def _read_stored(self, keys: Sequence[str], *, heads: bool) -> dict[str, Found]:
        self._grow(len(keys))
        found = {one[0]: one for one in self._stored.read_records(keys, heads=heads)}
        for key in keys:
            self._see(key, found.get(key))
        return found

    def _see(self, key: str, found: Found | None) -> None:
        seen = None if found is None else (version_of(found[1]), found[2])
        if self._seen.setdefault(key, seen) != seen:
            raise self._overtaken(f"the record of {key!r}")


def _held(write: Write, seen: Seen | None, expiry: Callable[[int | None], int | None]) -> Held | None:
    """Return the record that a key holds after a write; `seen` is the one before it."""
    if write.record is None:
        return None
    expires_ms = (seen and seen[1]) if write.ttl_ms is KEEP else expiry(write.ttl_ms)
    return Held(version_of(write.record), expires_ms, write.record)


def _is_within(key: str, start: str, stop: str | None) -> bool:
    return key >= start and (stop is None or key < stop)
