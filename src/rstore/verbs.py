"""The base of the verbs: where a verb gets the session that it works with.

Every verb begins with `_reader` or `_writer`, a verb of the store as a whole with `_alone`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, cast

from rstore.session import ReadSession, Session, StoreSession

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Asked(Generic[T_co]):
    """A property, unless the object has an attribute of its own under that name.

    So an open store pays for no check: its session stands in the object. When a verb may not go through at once (the
    store is closed or frozen, a transaction is open), that attribute is gone, and the property decides.
    """

    def __init__(self, ask: Callable[[Any], T_co]) -> None:
        self._ask = ask

    def __get__(self, verbs: object, owner: type) -> T_co:
        if verbs is None:
            raise AttributeError
        return self._ask(verbs)


def _asked(ask: Callable[[Any], T]) -> T:
    """Return an attribute of the type that `ask` returns."""
    return cast("T", _Asked(ask))  # else a type checker refuses the assignment to an object


class Verbs:
    """The base of the three models."""

    @_asked
    def _reader(self) -> ReadSession:
        """The session of the verbs that read."""
        return self._get_reader()

    @_asked
    def _writer(self) -> Session:
        """The session of the verbs that write."""
        return self._get_writer()

    def _get_reader(self) -> ReadSession:
        raise NotImplementedError

    def _get_writer(self) -> Session:
        raise NotImplementedError

    def _while_open(self, items: Iterator[T]) -> Iterator[T]:
        """Return a stream that ends with the transaction or the snapshot that it comes from."""
        return items


class StoreVerbs(Verbs):
    """The base of the verbs of a store alone, which no transaction has."""

    def _alone(self, verb: str, *, writes: bool = False) -> StoreSession:
        """Return the session of a verb that is refused inside a transaction."""
        raise NotImplementedError
