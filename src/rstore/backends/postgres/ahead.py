"""What is asked for before it is wanted: the server finds the next page while this one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from psycopg import pq

from rstore.backends.contract import Ahead
from rstore.backends.postgres.link import Call, Failed, Link, Lost, Results, Silent
from rstore.backends.postgres.pool import Pool
from rstore.backends.types import Found, Page

MIN_AHEAD: Final = 100
"""For fewer records it is not worth a connection: they are large, and take the client long."""
_MAX_BYTES: Final = 112 * 1024
"""So much fits into the buffers of a connection: the server can send it and be done, whenever it is taken in."""
_BESIDE_BYTES: Final = 32


def most_ahead(before: Sequence[Found]) -> int:
    """Return how many records like these may be asked for ahead."""
    size = sum(len(key) + len(record) + _BESIDE_BYTES for key, record, _ in before)
    return _MAX_BYTES * len(before) // size


class Asked:
    """Statements that only read, under way on a connection of their own, which others take if they need it more."""

    def __init__(self, pool: Pool, link: Link, prepared: dict[int, bytes], writes: int) -> None:
        self.writes = writes
        """How many writes there were before."""
        self._pool = pool
        self._link = link
        self._prepared = prepared
        pool.leave(link)

    def results(self, timeout_s: float) -> Results | None:
        """Return what they found; None if that is lost, and is to be asked for again.

        Raises `Silent` or `Failed`.
        """
        pool, link = self._pool, self._link
        if not pool.claim(link):
            return None
        try:
            results = link.receive(self._prepared, timeout_s)
        except Failed:
            pool.give_back(link)
            raise
        except BaseException as error:
            pool.drop(link)
            if isinstance(error, Lost) and not isinstance(error, Silent):
                return None
            raise
        pool.give_back(link)
        return None if pool.closed else results

    def drop(self) -> None:
        """Want it no more."""
        if self._pool.claim(self._link):
            self._pool.drop(self._link)


def ask(pool: Pool, calls: Iterable[Call], writes: int) -> Asked | None:
    """Send statements on a connection that can be spared, if there is one."""
    link = pool.take_spare()
    if link is None:
        return None
    try:
        return Asked(pool, link, link.send(calls), writes)
    except BaseException as error:
        pool.drop(link)
        if isinstance(error, Lost):
            return None
        raise


class PageAhead(Ahead):
    """A page that was asked for; what is lost of it, or may be old, is asked for again."""

    def __init__(
        self,
        asked: Asked,
        take_in: Callable[[Asked], Results | None],
        make: Callable[[pq.abc.PGresult], Page],
        again: Callable[[], Page],
    ) -> None:
        self._asked = asked
        self._take_in = take_in
        self._make = make
        self._again = again

    def page(self) -> Page:
        results = self._take_in(self._asked)
        return self._again() if results is None else self._make(results[-1])

    def drop(self) -> None:
        self._asked.drop()
