"""The key/value verbs: what is true now."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from fnmatch import translate
from itertools import chain
from typing import Any, Final

from rstore.arguments import check_key, key_or_none
from rstore.backends.base import NamespaceGone, Write, version_of
from rstore.errors import InvalidTypeError
from rstore.session import Session, Verbs

_PAGE: Final = 1000
_MISSING: Final = object()


class StoreItems(ItemsView[str, Any]):
    """The (key, value) pairs of a store; iterating streams one scan."""

    _mapping: Values

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._stream()  # noqa: SLF001 - a view is part of its mapping

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        value = self._mapping.get(item[0], _MISSING) if self._mapping.has(item[0]) else _MISSING
        return value is not _MISSING and (value is item[1] or bool(value == item[1]))


class StoreValues(ValuesView[Any]):
    """The values of a store; iterating streams one scan."""

    _mapping: Values

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._stream())  # noqa: SLF001 - a view is part of its mapping

    def __contains__(self, value: object) -> bool:
        return any(one is value or bool(one == value) for one in self)


class Values(Verbs, MutableMapping[str, Any]):
    """A mapping of str to any value, in the order of the keys' UTF-8 bytes."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if there is none.

        >>> store.set('limit', 10)
        >>> store.get('limit'), store.get('unknown', 0)
        (10, 0)
        """
        session = self._reader
        key = check_key(key)
        record = session.backend.get(key)
        return default if record is None else session.open_value(key, record)

    def __getitem__(self, key: str) -> Any:
        session = self._reader
        checked = check_key(key)
        record = session.backend.get(checked)
        if record is None:
            raise KeyError(key)
        return session.open_value(checked, record)

    def set(self, key: str, value: Any) -> None:
        """Store `value` under `key`, whatever was there.

        Raises `SerializationError` if the value cannot be dumped.
        """
        session = self._writer
        key = check_key(key)
        self._write(session, {key: session.encode_value(key, value)})

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def delete(self, *keys: str) -> int:
        """Delete keys, and return how many of them there were.

        >>> store.update(a=1, b=2)
        >>> store.delete('a', 'b', 'c')
        2
        """
        backend = self._writer.backend
        checked = [check_key(key) for key in keys]
        return backend.delete(checked) if checked else 0

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def has(self, key: object) -> bool:
        """Return whether there is a value under `key`; False for what cannot be a key."""
        backend = self._reader.backend
        checked = key_or_none(key)
        return checked is not None and backend.has(checked)

    def __contains__(self, key: object) -> bool:
        return self.has(key)

    def __len__(self) -> int:
        return self._reader.backend.count()

    def __iter__(self) -> Iterator[str]:
        session = self._reader
        session.check_open()
        return (key for key, _ in self._scan(session, keys_only=True))

    def keys(self) -> list[str]:  # type: ignore[override]  # a list is promised; `iter(store)` streams
        """Return the list of all keys, in order.

        >>> store.update({'b': 1, 'a': 2, 'é': 3})
        >>> store.keys()
        ['a', 'b', 'é']
        """
        return list(self)

    def items(self) -> StoreItems:
        """Return a view of the (key, value) pairs, in order; iterating streams."""
        self._reader.check_open()
        return StoreItems(self)

    def values(self) -> StoreValues:
        """Return a view of the values, in the order of their keys; iterating streams."""
        self._reader.check_open()
        return StoreValues(self)

    def find(self, pattern: str | None = None) -> list[tuple[str, Any]]:
        """Return the (key, value) pairs whose whole key matches `pattern`, or all.

        `*` stands for any characters, `?` for exactly one, and everything else for itself.

        >>> store.update({'log.1': 'a', 'log.2': 'b', 'logs': 'c'})
        >>> store.find('log.?')
        [('log.1', 'a'), ('log.2', 'b')]
        """
        session = self._reader
        if pattern is None:
            return list(self._stream())
        if not isinstance(pattern, str):
            raise InvalidTypeError(f"a pattern is a str, not {type(pattern).__name__}")
        prefix = re.split(r"[*?]", pattern, maxsplit=1)[0]
        if prefix and key_or_none(prefix) is None:
            return []  # no key begins like this: it is too long, or no UTF-8
        # Not a regular expression of one's own: `translate` makes one that does not backtrack from star to star.
        matches = re.compile(translate(pattern.replace("[", "[[]"))).match
        return [
            (key, session.open_value(key, record))
            for key, record in self._scan(session, start=prefix, stop=prefix_end(prefix))
            if matches(key)
        ]

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove `key` and return its value, or `default` if there is none; nobody else gets the same value."""
        session = self._writer
        key = check_key(key)
        while (record := session.backend.get(key)) is not None:
            value = session.open_value(key, record)
            if self._take(session, key, record):
                return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[str, Any]:
        """Remove the last key in order, and return it with its value."""
        session = self._writer
        while records := session.backend.scan(limit=1, reverse=True).records:
            key, record = records[0]
            value = session.open_value(key, record)
            if self._take(session, key, record):
                return key, value
        raise KeyError("the store holds no keys")

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after storing `default` if there is none; of two callers one stores."""
        session = self._writer
        key = check_key(key)
        while (record := session.backend.get(key)) is None:
            birth = session.birth
            write = Write(key, session.seal_value(key, session.encode_value(key, default)))
            try:
                if session.backend.write_if(write, None, birth):
                    return default
            except NamespaceGone:
                session.revive()
        return session.open_value(key, record)

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Store many pairs, from a mapping, pairs or keywords; none if one of them cannot be stored.

        >>> store.update({'a': 1}, b=2)
        >>> dict(store)
        {'a': 1, 'b': 2}
        """
        session = self._writer
        pairs: Iterable[tuple[str, Any]]
        if isinstance(other, Mapping):
            pairs = other.items()
        elif hasattr(other, "keys"):
            pairs = ((key, other[key]) for key in other.keys())  # noqa: SIM118 - what dict.update does
        else:
            pairs = other
        encode = session.encode_value
        given = chain(_pairs(pairs), kwargs.items())
        encoded = {key: encode(key, value) for key, value in ((check_key(key), value) for key, value in given)}
        if encoded:
            self._write(session, encoded)

    def clear(self) -> None:
        """Delete all keys; series and event sequences stay."""
        self._writer.backend.clear()

    def _write(self, session: Session, encoded: Mapping[str, bytes]) -> None:
        while True:
            birth = session.birth
            writes = [Write(key, session.seal_value(key, one)) for key, one in encoded.items()]
            try:
                return session.backend.write(writes, birth)
            except NamespaceGone:
                session.revive()

    def _take(self, session: Session, key: str, record: bytes) -> bool:
        """Delete a record if it is still this one."""
        try:
            return session.backend.write_if(Write(key, None), version_of(record), session.birth)
        except NamespaceGone:
            session.revive()
            return False

    def _stream(self) -> Iterator[tuple[str, Any]]:
        session = self._reader
        session.check_open()
        return ((key, session.open_value(key, record)) for key, record in self._scan(session))

    def _scan(
        self, session: Session, *, start: str = "", stop: str | None = None, keys_only: bool = False
    ) -> Iterator[tuple[str, bytes]]:
        after = None
        while True:
            page = session.backend.scan(start=start, after=after, stop=stop, limit=_PAGE, keys_only=keys_only)
            yield from page.records
            if not page.more:
                return
            after = page.records[-1][0]


def _pairs(pairs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    try:
        iterator = iter(pairs)
    except TypeError as error:
        raise InvalidTypeError(f"update takes a mapping or (key, value) pairs, not {type(pairs).__name__}") from error
    for i, pair in enumerate(iterator):
        try:
            key, value = pair
        except (TypeError, ValueError) as error:
            raise InvalidTypeError(f"element {i} is not a (key, value) pair; nothing was stored") from error
        yield key, value


def prefix_end(prefix: str) -> str | None:
    """Return the first string in order behind all that begin with `prefix`; None if there is nothing behind them."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # surrogates are no characters
