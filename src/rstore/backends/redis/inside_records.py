"""Records as a transaction sees them: what is stored, and over it what the transaction has put."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache

from rstore.backends.redis.batches import MAX_RECORDS
from rstore.backends.redis.changes import Held
from rstore.backends.redis.inside import Inside
from rstore.backends.redis.plain import Seen
from rstore.backends.redis.ranges import cut
from rstore.backends.types import ANY, HEAD_BYTES, KEEP, ExpectedIncarnation, Found, Page, Write, Writes, version_of


class InsideRecords(Inside):
    """The methods on records."""

    def get(self, key: str) -> bytes | None:
        return next((record for _, record, _ in self.fetch([key])), None)

    def has(self, key: str) -> bool:
        return self._peek([key])[0] is not None

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        stored = [key for key in keys if self._is_stored(key)]
        self._grow(len(stored))
        found = {one[0]: one for one in self._plain.fetch(stored, heads=heads)}
        for key in stored:
            self._see(key, _seen(found[key]) if key in found else None)
        is_alive = self._clocked()
        for key in keys:
            if (held := self._changes.records.get(key)) is None:
                continue
            record = held.record if held.record is not None else found.pop(key)[1]
            if is_alive(held):
                found[key] = (key, record[: HEAD_BYTES if heads else None], held.expires_ms)
        return list(found.values())

    def count(self, start: str = "", stop: str | None = None) -> int:
        ours = {key: held for key, held in self._changes.records.items() if _is_within(key, start, stop)}
        stored = 0
        if self._reads_runs():
            stored = self._plain.count(start, stop) - sum(one is not None for one in self._peek_stored(list(ours)))
        is_alive = self._clocked()
        return stored + sum(held is not None and is_alive(held) for held in ours.values())

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return True

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
        found: list[Found] = []
        edge, more = after, self._reads_runs()
        while more and len(found) < limit:
            page, more = self._plain.scan(
                start=start, after=edge, stop=stop, limit=limit, reverse=reverse, keys_only=keys_only, heads=heads
            )
            if not keys_only:
                self._grow(len(page))
                for one in page:
                    self._see(one[0], _seen(one))
            found += (one for one in page if one[0] not in self._changes.records)
            edge = page[-1][0] if page else edge
        # Ours as far as what is stored is known, and all of them at its end.
        bounds = (edge, after) if reverse else (after, edge)
        if not more:
            bounds = (None, after) if reverse else (after, None)
        low, high = bounds
        ours = [
            key
            for key in self._changes.records
            if _is_within(key, start, stop)
            and (low is None or (key >= low if reverse else key > low))
            and (high is None or (key < high if reverse else key <= high))
        ]
        if keys_only:
            there = zip(ours, self._peek(ours), strict=True)
            found += ((key, b"", None) for key, seen in there if seen is not None)
        else:
            found += self.fetch(ours, heads=heads)
        found.sort(reverse=reverse)
        page = cut(found, limit)
        return Page(page, more or len(page) < len(found))

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, writes: Writes, incarnation: bytes) -> None:
        self._expect(incarnation)
        self._grow(len(writes))
        expiry = cache(self._expiry)  # one look at the clock, and one moment at which all of them expire
        self._changes.records.update([(write[0], _held(Write(*write), None, expiry)) for write in writes])

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        self._expect(incarnation)
        [seen] = self._peek([write.key])
        if (None if seen is None else seen[0]) != version:
            return False
        self._grow(1)
        self._changes.records[write.key] = _held(write, seen, self._expiry)
        return True

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        self._check_incarnation(if_incarnation)
        [seen] = self._peek([key])
        if seen is None:
            return False
        self._grow(1)
        held = self._changes.records.get(key)
        self._changes.records[key] = Held(seen[0], self._expiry(ttl_ms), None if held is None else held.record)
        return True

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        self._check_incarnation(if_incarnation)
        keys = list(dict.fromkeys(keys))
        return self._forget([key for key, seen in zip(keys, self._peek(keys), strict=True) if seen is not None])

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        self._check_incarnation(if_incarnation)
        n, more = 0, True
        after: str | None = None
        while more:
            page, more = self.scan(start=start, after=after, stop=stop, limit=MAX_RECORDS, keys_only=True)
            n += self._forget([key for key, _, _ in page])
            after = page[-1][0] if page else None
        return n

    def sweep(self, limit: int) -> int:
        return 0  # nobody sees the difference, and it would change the indexes that are watched

    def clear(self) -> None:
        self._changes.records.clear()
        self._changes.cleared = not self._nowhere

    def _forget(self, keys: Sequence[str]) -> int:
        self._grow(len(keys))
        self._changes.records.update(dict.fromkeys(keys))
        return len(keys)

    # -- what is stored, and what is held -----------------------------------------------------------------------------

    def _expiry(self, ttl_ms: int | None) -> int | None:
        # From now on, and not from the end on: what is inside sees the expiry that everybody will.
        return None if ttl_ms is None else self._plain.now_ms(self._place) + ttl_ms

    def _clocked(self) -> Callable[[Held], bool]:
        """Return what judges whether a record has not expired, by one look at the clock where one is needed."""
        now_ms = cache(lambda: self._plain.now_ms(self._place))
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
            self._watching((self._place.key_index, self._place.expiry_index))
            self._since_ms = self._plain.now_ms(self._place)
        return True

    def _peek(self, keys: Sequence[str]) -> list[Seen | None]:
        """Return what is to be seen of records without moving them."""
        records = self._changes.records
        stored = [] if self._is_bare() else [key for key in keys if key not in records]
        found = dict(zip(stored, self._peek_stored(stored), strict=True))
        is_alive = self._clocked()
        for key in keys:
            if (held := records.get(key)) is not None and is_alive(held):
                found[key] = (held.version, held.expires_ms)
        return [found.get(key) for key in keys]

    def _peek_stored(self, keys: Sequence[str]) -> list[Seen | None]:
        # What expires has to be looked at again, and what was put or deleted since is found out in the end.
        new = [key for key in keys if key not in self._seen or (self._seen[key] or (b"", None))[1] is not None]
        self._grow(len(new))
        found = {one[0]: _seen(one) for one in self._plain.fetch(new, heads=True)}
        for key in new:
            self._see(key, found.get(key))
        return [self._seen[key] for key in keys]

    def _see(self, key: str, seen: Seen | None) -> None:
        if self._seen.setdefault(key, seen) != seen:
            raise self._overtaken(f"the record of {key!r}")


def _held(write: Write, seen: Seen | None, expiry: Callable[[int | None], int | None]) -> Held | None:
    """Return what a key holds after it was written; `seen` is what it held."""
    if write.record is None:
        return None
    expires_ms = (seen and seen[1]) if write.ttl_ms is KEEP else expiry(write.ttl_ms)
    return Held(version_of(write.record), expires_ms, write.record)


def _seen(found: Found) -> Seen:
    return version_of(found[1]), found[2]


def _is_within(key: str, start: str, stop: str | None) -> bool:
    return key >= start and (stop is None or key < stop)
