"""The key/value verbs of a mapping, and the two that a mapping writes by."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextlib import suppress
from fnmatch import translate
from threading import get_ident
from types import FrameType
from typing import Any, Final, Self

from rstore.arguments import MAX_KEY_BYTES, check_key, check_ttl, check_version, key_or_none
from rstore.backends.types import ANY, HEAD_ONLY, Expected, ScanQuery, version_of
from rstore.errors import ConflictError, InvalidTypeError, InvalidValueError, StoreError, TamperedError, WrongKeyError
from rstore.keyvalue.keys import DictRead, Keys
from rstore.keyvalue.records import Records, encode_pairs, prefix_end
from rstore.namespace import rereads
from rstore.session import Session

_MISSING: Final = object()


class StoreItems(ItemsView[str, Any]):
    """The (key, value) pairs of a store; iterating streams one scan."""

    _mapping: Mapped

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._stream()  # noqa: SLF001 - a view is part of its mapping

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._stream(reverse=True)  # noqa: SLF001 - as above

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        value = self._mapping.get(item[0], _MISSING) if self._mapping.has(item[0]) else _MISSING
        return value is not _MISSING and (value is item[1] or bool(value == item[1]))


class StoreValues(ValuesView[Any]):
    """The values of a store; iterating streams one scan."""

    _mapping: Mapped

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._stream())  # noqa: SLF001 - a view is part of its mapping

    def __reversed__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._stream(reverse=True))  # noqa: SLF001 - as above

    def __contains__(self, value: object) -> bool:
        return any(one is value or bool(one == value) for one in self)


class Mapped(Records, MutableMapping[str, Any]):
    """The verbs of a dict."""

    _dict_reads: Mapping[int, DictRead] = {}
    """By thread, the pairs read for a dict that is being made; an object gets its own with its first dict."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if there is none.

        >>> store['limit'] = 10
        >>> store.get('limit'), store.get('unknown', 0)
        (10, 0)
        """
        session = self._reader
        record = session.backend.peek(key)
        if record is None:
            key = check_key(key)
            record = session.backend.get(key)
            if record is None:
                return default
        try:
            return session.records.open_value(key, record)
        except (WrongKeyError, TamperedError):
            pass
        entry = session.records.find_entry(key)  # the record may be of another incarnation than the envelope
        return default if entry is None else entry.value

    def __getitem__(self, key: str) -> Any:
        if self._dict_reads and (pair := self._from_dict_read(key, sys._getframe(1))) is not None:  # noqa: SLF001 - documented
            return pair[1]
        value = _get(self, key, _MISSING)  # not the `get` of a subclass, which may call this method
        if value is _MISSING:
            raise KeyError(key)
        return value

    def set(self, key: str, value: Any, *, ttl: float | None = None, if_version: Expected = ANY) -> bytes:
        """Store `value` under `key`, and return its version: random bytes that tell it from every other write.

        With `ttl` it expires after so many seconds; without, it stays, also where the one before was to expire. With
        `if_version` it is stored only in place of the value of that version, or for None only where there is none.

        Raises `ConflictError` (with `expected` and `actual`) if there is another version, and `SerializationError` if
        the value cannot be dumped.

        >>> version = store.set('page', 'draft', ttl=60)
        >>> version = store.set('page', 'final', if_version=version)
        >>> store.set('page', 'late', if_version=None)
        Traceback (most recent call last):
            ...
        rstore.errors.ConflictError: 'page' in namespace 'docstrings' is there already; nothing was stored
        """
        session = self._writer
        key = check_key(key)
        ttl_ms = None if ttl is None else check_ttl(ttl)
        if if_version is not ANY:
            version = check_version(if_version)
            put = session.records.put_if(key, value, version, ttl_ms)
            if put is None:
                raise _conflict(session, key, version, "stored")
            return put.version
        return session.records.put(key, value, ttl_ms)

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def delete(self, *keys: str, if_version: Expected = ANY) -> int:
        """Delete keys, and return how many of them there were.

        A series or an event sequence of that name stays: `remove` deletes a series, `forget` a sequence.

        With `if_version`, one key is deleted only if its value is of that version. Raises `ConflictError` if not.

        >>> store.update(a=1, b=2)
        >>> store.delete('a', 'b', 'c')
        2
        """
        session = self._writer
        checked = [check_key(key) for key in keys]
        if if_version is ANY:
            if not checked:
                session.check_open()
                return 0
            return session.records.delete(checked)
        version = check_version(if_version)
        if len(checked) != 1:
            raise InvalidValueError(f"if_version is the version of one key, not of {len(checked)}")
        if not session.records.take(checked[0], version):
            raise _conflict(session, checked[0], version, "deleted")
        return 0 if version is None else 1

    def __delitem__(self, key: str) -> None:
        if not self.delete(key):
            raise _missing(self._writer, key)

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
        return (key for key, _, _ in self._scan(session, ScanQuery(1, keys_only=True)))

    def __reversed__(self) -> Iterator[str]:
        session = self._reader
        session.check_open()
        return (key for key, _, _ in self._scan(session, ScanQuery(1, keys_only=True, reverse=True)))

    def keys(self) -> Keys:  # type: ignore[override]  # a list is promised; `iter(store)` streams
        """Return the list of all keys, in order; it does the set operations of a dict's keys as well.

        >>> store.update({'b': 1, 'a': 2, 'é': 3})
        >>> store.keys()
        ['a', 'b', 'é']
        >>> store.keys() & {'a', 'c'}
        {'a'}
        """
        return Keys(self, self._read_for_dict)

    @rereads
    def _read_for_dict(self, frame: FrameType) -> Iterable[str]:
        """Read all pairs for the call that makes a dict of them, and return their keys."""
        pairs = deque(self._stream())
        self.__dict__.setdefault("_dict_reads", {})[get_ident()] = DictRead(frame, pairs)
        return [key for key, _ in pairs]

    def _from_dict_read(self, key: str, frame: FrameType) -> tuple[str, Any] | None:
        reads = self.__dict__["_dict_reads"]
        read = reads.get(get_ident())
        pair = None if read is None else read.take(key, frame)
        if read is not None and (pair is None or not read):
            reads.pop(get_ident(), None)
        return pair

    def items(self) -> StoreItems:
        """Return a view of the (key, value) pairs, in order; iterating streams."""
        self._reader.check_open()
        return StoreItems(self)

    def values(self) -> StoreValues:
        """Return a view of the values, in the order of their keys; iterating streams."""
        self._reader.check_open()
        return StoreValues(self)

    @rereads
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
        if (prefix and key_or_none(prefix) is None) or len(pattern) - pattern.count("*") > MAX_KEY_BYTES:
            session.check_open()
            return []  # no key begins like this, or is as long
        # Not a regular expression of one's own: `translate` makes one that does not backtrack from star to star.
        matches = re.compile(translate(pattern.replace("[", "[[]"))).match
        return [
            (key, session.records.open_value(key, record))
            for key, record, _ in self._scan(session, ScanQuery(1, prefix, prefix_end(prefix)))
            if matches(key)
        ]

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Remove `key` and return its value, or `default` if there is none; no other caller gets the same value."""
        session = self._writer
        records, key = session.records, check_key(key)

        def attempt() -> tuple[Any] | None:
            record = records.find(key)
            if record is None:
                if default is _MISSING:
                    raise KeyError(key)
                return (default,)
            version, value = version_of(record), records.open_value(key, record)
            del record  # so that fewer copies of a large value are held
            return (value,) if records.take(key, version) else None

        return session.until_won(f"concurrent writers keep changing {session.place(key)}", attempt)[0]

    def popitem(self) -> tuple[str, Any]:
        """Remove the last key in order, and return it with its value."""
        session = self._writer
        records = session.records

        def attempt() -> tuple[str, Any] | None:
            page = session.backend.scan(ScanQuery(1, reverse=True)).records
            if not page:
                raise KeyError("the store holds no keys")
            key, record, _ = page[0]
            version, value = version_of(record), records.open_value(key, record)
            del page, record
            return (key, value) if records.take(key, version) else None

        return session.until_won("concurrent writers keep taking the last key", attempt)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after storing `default` if there is none; of two callers one stores.

        The one that stores gets its value as it will be read: with `serializer='json'`, a list for a tuple.
        """
        records = self._writer.records
        return records.get_or_put(check_key(key), lambda: default)

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Store many pairs, from a mapping, pairs or keywords; none if one of them cannot be stored.

        >>> store.update({'a': 1}, b=2)
        >>> dict(store)
        {'a': 1, 'b': 2}
        """
        session = self._writer
        encoded = encode_pairs(session.records, other, kwargs)
        if encoded:
            session.records.write(encoded)

    def __or__(self, other: Any) -> dict[Any, Any]:
        return dict(self._stream()) | dict(other) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return dict(other) | dict(self._stream()) if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def clear(self) -> None:
        """Delete all keys; series and event sequences stay."""
        self._writer.backend.clear()

    def _stream(self, *, reverse: bool = False) -> Iterator[tuple[str, Any]]:
        session = self._reader
        session.check_open()
        return session.records.open_pairs(self._scan(session, ScanQuery(1, reverse=reverse)))


_get: Final = Mapped.get  # found in one step


def _missing(session: Session, key: str) -> KeyError:
    """Return the error for a key that is not there; its note tells what does delete an event sequence of that name."""
    error = KeyError(key)
    with suppress(StoreError):  # it must not hide the first one
        if session.events.view(check_key(key), HEAD_ONLY).head is not None:
            error.add_note(f"there is an event sequence {key!r}: forget({key!r}) deletes it, with its history")
    return error


def _conflict(session: Session, key: str, expected: bytes | None, done: str) -> ConflictError:
    record = session.backend.get(key)
    actual = None if record is None else version_of(record)
    what = "is not there" if actual is None else "is there already" if expected is None else "was changed"
    return ConflictError(f"{session.place(key)} {what}; nothing was {done}", expected=expected, actual=actual)
