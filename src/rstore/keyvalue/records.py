"""The base of the key/value verbs: streaming over records, and encoding the pairs that `update` takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from rstore.backends.types import Found, ScanQuery
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.keyvalue.record_store import RecordStore
from rstore.session import ReadSession
from rstore.verbs import Verbs


class Records(Verbs):
    """The base of the key/value verbs."""

    def _scan(self, session: ReadSession, query: ScanQuery, limit: int | None = None) -> Iterator[Found]:
        # Python code runs once for a page, and not for each record.
        return chain.from_iterable(self._pages(session, query, limit))

    def _pages(self, session: ReadSession, query: ScanQuery, limit: int | None) -> Iterator[list[Found]]:
        return session.records.pages(query, limit)


def encode_pairs(records: RecordStore, other: Any, more: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the pairs that `update` takes, encoded."""
    if type(other) is dict and not more and (encoded := records.encode_alike(other)) is not None:
        return encoded
    pairs: Iterable[tuple[str, Any]] | dict[str, Any]
    if type(other) is dict:
        pairs = other  # its pairs need no check that they are pairs
    elif isinstance(other, Mapping):
        pairs = other.items()
    elif hasattr(other, "keys"):
        pairs = ((key, other[key]) for key in other.keys())  # noqa: SIM118 - what dict.update does
    else:
        pairs = other
    given = pairs.items() if type(pairs) is dict else _pairs(pairs)
    return records.encode_values(given if not more else chain(given, more.items()))


def _pairs(pairs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    try:
        iterator = iter(pairs)
    except TypeError as error:
        raise InvalidTypeError(f"pass a mapping or (key, value) pairs, not {type(pairs).__name__}") from error
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
