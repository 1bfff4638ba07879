"""The key/value verbs that deal with many keys at once, with runs of keys, and with what is known about an entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rstore.arguments import check_count, check_edge, check_key, check_ttl
from rstore.backends.types import ScanQuery
from rstore.errors import InvalidTypeError, InvalidValueError, NotSupportedError
from rstore.keyvalue.record_store import Entry
from rstore.keyvalue.records import Records, encode_pairs, prefix_end
from rstore.namespace import rereads


class Entries(Records):
    """Many keys at once."""

    @rereads
    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of the keys that have one, in the order of `keys`, from one question.

        >>> store.update(a=1, b=2)
        >>> store.get_many(['b', 'c', 'a'])
        {'b': 2, 'a': 1}
        """
        session = self._reader
        if isinstance(keys, str):
            raise InvalidTypeError(f"get_many takes several keys, not the str {keys!r}: put it into a list")
        try:
            given = iter(keys)
        except TypeError as error:
            raise InvalidTypeError(f"get_many takes an iterable of keys, not {type(keys).__name__}") from error
        asked = dict.fromkeys(map(check_key, given))
        if not asked:
            session.check_open()
            return {}
        records = {key: record for key, record, _ in session.backend.fetch(asked)}
        return {key: session.records.open_value(key, records[key]) for key in asked if key in records}

    def set_many(
        self, pairs: Mapping[str, Any] | Iterable[tuple[str, Any]], *, ttl: float | None = None, atomic: bool = True
    ) -> None:
        """Store many pairs, from a mapping or from pairs: all of them or, if it raises, none.

        With `ttl` they expire after so many seconds; without, an expiry that was there is gone.

        Raises `NotSupportedError` on a Redis Cluster if the keys lie in several slots, unless `atomic=False` is given:
        then each of the 256 buckets is written as a whole.

        >>> store.set_many({'a': 1, 'b': 2}, ttl=3600)
        >>> store.entry('a').expires == store.entry('b').expires
        True
        """
        session = self._writer
        ttl_ms = check_ttl(ttl)
        encoded = encode_pairs(session.records, pairs, {})
        if not encoded:
            return
        if atomic and not session.backend.is_one_place(encoded):
            raise NotSupportedError(
                "these keys lie in several slots of a Redis Cluster, which cannot be written as one: "
                "with atomic=False each bucket is written on its own; nothing was stored"
            )
        session.records.write(encoded, ttl_ms)

    def entry(self, key: str) -> Entry | None:
        """Return a key's value with its version and its expiry, or None if there is none.

        >>> store.set('token', 'abc') == store.entry('token').version
        True
        >>> store.entry('token').expires, store.entry('unknown')
        (None, None)
        """
        session = self._reader
        for found in session.backend.fetch([check_key(key)]):
            return session.records.open_entry(found)
        return None

    def touch(self, key: str, ttl: float | None) -> bool:
        """Let a key expire in `ttl` seconds from now on, never if it is None; return whether there is such a key.

        The value is not read, and its version stays.

        >>> store.set('session', 'ada', ttl=60) == store.entry('session').version
        True
        >>> store.touch('session', None), store.entry('session').expires, store.touch('unknown', 60)
        (True, None, False)
        """
        session = self._writer
        key, ttl_ms = check_key(key), check_ttl(ttl)
        return session.records.touch(key, ttl_ms)

    def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        stop: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        r"""Stream the entries whose keys begin with `prefix`, from `start` (included) to `stop` (excluded), in order.

        The order is that of the keys' UTF-8 bytes, or its reverse. It is read page by page, in constant memory: what is
        written meanwhile is seen, too, behind the thousand keys at hand. Nothing lies between `stop` and a `start` that
        comes after it. To go on behind the last key seen, pass `start=key + '\x01'`: no key lies between the two; in
        reverse pass `stop=key`.

        >>> store.update({'log.1': 'a', 'log.2': 'b', 'logs': 'c'})
        >>> [(entry.key, entry.value) for entry in store.scan('log.')]
        [('log.1', 'a'), ('log.2', 'b')]
        >>> [entry.key for entry in store.scan(start='log.2', reverse=True, limit=1)]
        ['logs']
        """
        session = self._reader
        session.check_open()
        low, high = _range(prefix, start, stop)
        most = None if limit is None else check_count(limit, "limit")
        query = ScanQuery(1, low, high, reverse=bool(reverse))
        return filter(None, map(session.records.open_entry, self._scan(session, query, most)))

    def count(self, prefix: str = "") -> int:
        """Return how many keys begin with `prefix`, without listing them.

        >>> store.update({'log.1': 'a', 'log.2': 'b', 'logs': 'c'})
        >>> store.count('log.'), store.count()
        (2, 3)
        """
        backend = self._reader.backend
        return backend.count(*_range(prefix, None, None))

    def delete_prefix(self, prefix: str) -> int:
        """Delete all keys that begin with `prefix`, and return how many there were.

        Raises `InvalidArgumentError` if the prefix is empty: `clear` deletes all keys.

        >>> store.update({'log.1': 'a', 'log.2': 'b', 'logs': 'c'})
        >>> store.delete_prefix('log.'), store.keys()
        (2, ['logs'])
        """
        session = self._writer
        if check_edge(prefix, "prefix") == "":
            raise InvalidValueError("the prefix is empty: to delete all keys, use clear()")
        bounds = _range(prefix, None, None)
        return session.records.delete_range(*bounds)


def _range(prefix: str, start: str | None, stop: str | None) -> tuple[str, str | None]:
    """Return from where (included) to where (excluded) the keys lie that are asked for."""
    low, high = check_edge(prefix, "prefix"), prefix_end(prefix)
    if start is not None:
        low = max(low, check_edge(start, "start"))
    if stop is not None:
        stop = check_edge(stop, "stop")
        high = stop if high is None else min(stop, high)
    return low, high
