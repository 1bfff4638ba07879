"""What the key/value verbs have in common: how records are written and read in runs.

Nouns: an *entry* (a key with its value, version and expiry) and *pairs* (what `update` takes, checked and encoded).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from time import monotonic
from typing import Any, Final, NamedTuple

from rstore.backends.types import Found, NamespaceGone, Prefetch, ScanQuery, Ttl, Write, version_of
from rstore.errors import CorruptionError, InvalidTypeError, InvalidValueError
from rstore.session import Session, Verbs

_PAGE: Final = 1000
_QUICK_S: Final = 0.1


class Entry(NamedTuple):
    """A key with its value and what the store knows about it.

    `version` are bytes that every write replaces: what `if_version` takes. `expires` is when the entry expires, in
    POSIX milliseconds of the backend's clock; None if it does not.
    """

    key: str
    value: Any
    version: bytes
    expires: int | None


class Stored(NamedTuple):
    """The version of a record that was put, and its value as it will be read."""

    version: bytes
    value: Any


def entry_of(session: Session, found: Found) -> Entry:
    """Return the entry of a record."""
    key, record, expires_ms = found
    if expires_ms is not None and type(expires_ms) is not int:
        raise CorruptionError(f"the expiry of {session.place(key)} is damaged")
    return Entry(key, session.open_value(key, record), version_of(record), expires_ms)


class Records(Verbs):
    """The base of the key/value verbs."""

    def _write(self, session: Session, encoded: Mapping[str, bytes], ttl_ms: int | None = None) -> None:
        """Put many records, whatever was there."""
        patience = None
        while True:
            incarnation = session.incarnation
            writes = session.seal_values(encoded, ttl_ms)
            try:
                session.backend.write(writes, incarnation)
            except NamespaceGone:
                patience = session.revive(patience)
                continue
            session.wrote(len(writes))
            return

    def _find(self, session: Session, key: str) -> bytes | None:
        """Return the record of a key."""
        record = session.backend.peek(key)
        return session.backend.get(key) if record is None else record

    def _put_if(
        self, session: Session, key: str, value: Any, version: bytes | None, ttl_ms: Ttl = None, *, reads: bool = False
    ) -> Stored | None:
        """Put a value in place of a version (None: of nothing); return None if that is not there.

        `reads`: also return the value as a read will return it. It is loaded before it is stored, so that a value that
        cannot be loaded is refused instead.
        """
        patience = None
        while True:
            incarnation = session.incarnation
            record = session.make_record(key, value)
            stored = Stored(version_of(record), session.reread(key, value, record) if reads else None)
            try:
                done = session.backend.write_if(Write(key, record, ttl_ms), version, incarnation)
            except NamespaceGone:
                patience = session.revive(patience)
                continue
            session.wrote(1)
            return stored if done else None

    def _take(self, session: Session, key: str, version: bytes | None) -> bool:
        """Delete a record if it has this version (None: find that there is none)."""
        patience = None
        while True:
            try:
                return session.backend.write_if(Write(key, None), version, session.incarnation)
            except NamespaceGone:
                patience = session.revive(patience)

    def _scan(
        self,
        session: Session,
        start: str = "",
        stop: str | None = None,
        *,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
        limit: int | None = None,
    ) -> Iterator[Found]:
        # A page at a time through the hands of the interpreter, and its records through none.
        return chain.from_iterable(
            self._pages(session, start, stop, reverse=reverse, keys_only=keys_only, heads=heads, limit=limit)
        )

    def _pages(
        self,
        session: Session,
        start: str,
        stop: str | None,
        *,
        reverse: bool,
        keys_only: bool,
        heads: bool,
        limit: int | None,
    ) -> Iterator[list[Found]]:
        after, left = None, limit

        def query() -> ScanQuery:
            return ScanQuery(_PAGE if left is None else min(left, _PAGE), start, stop, after, reverse, keys_only, heads)

        ahead: Prefetch | None = None
        quick = False
        try:
            while left is None or left > 0:
                page = session.backend.scan(query()) if ahead is None else ahead.page()
                ahead = None
                if page.more:
                    after = page.records[-1][0]
                    left = None if left is None else left - len(page.records)
                    # For whoever has come back at once for this page, and so is likely to come back for the next one.
                    if quick and left != 0:
                        ahead = session.backend.prefetch(query(), page.records)
                given_at = monotonic()
                yield page.records
                quick = monotonic() - given_at < _QUICK_S
                if not page.more:
                    return
                if ahead is not None and not quick:
                    ahead.drop()  # what it holds may be old by now
                    ahead = None
        finally:
            if ahead is not None:
                ahead.drop()


def encode_pairs(session: Session, other: Any, more: Mapping[str, Any]) -> dict[str, bytes]:
    """Return what `update` takes, encoded."""
    if type(other) is dict and not more and (encoded := session.encode_alike(other)) is not None:
        return encoded
    pairs: Iterable[tuple[str, Any]] | dict[str, Any]
    if type(other) is dict:
        pairs = other  # whose pairs need no check that they are pairs
    elif isinstance(other, Mapping):
        pairs = other.items()
    elif hasattr(other, "keys"):
        pairs = ((key, other[key]) for key in other.keys())  # noqa: SIM118 - what dict.update does
    else:
        pairs = other
    given = pairs.items() if type(pairs) is dict else _pairs(pairs)
    return session.encode_values(given if not more else chain(given, more.items()))


def _pairs(pairs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    try:
        iterator = iter(pairs)
    except TypeError as error:
        raise InvalidTypeError(f"this takes a mapping or (key, value) pairs, not {type(pairs).__name__}") from error
    for i, pair in enumerate(iterator):
        try:
            key, value = pair
        except (TypeError, ValueError) as error:
            kind = InvalidTypeError if isinstance(error, TypeError) else InvalidValueError
            raise kind(f"element {i} is not a (key, value) pair; nothing was stored") from error
        yield key, value


def prefix_end(prefix: str) -> str | None:
    """Return the first string in order behind all that begin with `prefix`; None if there is nothing behind them."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # surrogates are no characters
