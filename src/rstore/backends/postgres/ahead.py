"""What is asked for before it is wanted: the server finds the next page while this one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from psycopg import pq

from rstore.backends.base import Ahead
from rstore.backends.nouns import Page
from rstore.backends.postgres.link import Call, Failed, Link, Lost, Results
from rstore.backends.postgres.pool import Pool


class Asked:
    """Statements that only read, under way on a connection of their own.

    What does not fit into the buffers of the socket keeps the server's snapshot until it is taken in: whoever asks
    ahead is to come back soon.
    """

    def __init__(self, pool: Pool, link: Link, prepared: dict[int, bytes], wanted: slice, timeout_s: float) -> None:
        self._pool = pool
        self._link = link
        self._prepared = prepared
        self._wanted = wanted
        self._timeout_s = timeout_s

    def results(self) -> Results | None:
        """Return what they found; None if that is lost, and is to be asked for again."""
        pool, link = self._pool, self._link
        if link not in pool:  # but in that of the parent process
            return None
        try:
            results = link.receive(self._prepared, self._timeout_s)
        except (Lost, Failed):
            pool.drop(link)
            return None
        except BaseException:
            pool.drop(link)  # in the middle of something
            raise
        pool.give_back(link)
        return None if pool.closed else results[self._wanted]

    def drop(self) -> None:
        """Let go of the connection."""
        if self._link.has_answer():
            self.results()
        else:
            self._pool.drop(self._link)


def ask(pool: Pool, calls: Iterable[Call], wanted: slice, timeout_s: float) -> Asked | None:
    """Send statements on a connection that can be spared, if there is one."""
    link = pool.take_spare()
    if link is None:
        return None
    try:
        return Asked(pool, link, link.send(calls), wanted, timeout_s)
    except Lost:
        pool.drop(link)
        return None


class PageAhead(Ahead):
    """A page that was asked for; what is lost of it is asked for again."""

    def __init__(self, asked: Asked, make: Callable[[pq.abc.PGresult], Page], again: Callable[[], Page]) -> None:
        self._asked = asked
        self._make = make
        self._again = again

    def page(self) -> Page:
        results = self._asked.results()
        return self._again() if results is None else self._make(results[-1])

    def drop(self) -> None:
        self._asked.drop()
