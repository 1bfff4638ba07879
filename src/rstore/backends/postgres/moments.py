"""Transactions that read from one moment, each on a connection of its own."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from rstore.backends.postgres.link import Call, Link, Results

if TYPE_CHECKING:
    from rstore.backends.postgres.connections import Connections


class Moment:
    """A transaction that reads from one moment, for one thread at a time. `found` is what its first calls found."""

    def __init__(self, connections: Connections, link: Link, found: Results) -> None:
        self._connections = connections
        self._link = link
        self.found = found

    def read(self, *calls: Call) -> Results:
        """Return what statements find, at the same moment.

        Raises `ConflictError` if the moment is lost.
        """
        return self._connections.still(self._link, calls)


class Turns:
    """A moment for several threads, which take turns."""

    bound = True
    """It is a transaction, and what is read bit by bit needs none of its own."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._lock = Lock()

    def read(self, *calls: Call) -> Results:
        """Return what statements find, at the same moment.

        Raises `ConflictError` if the moment is lost.
        """
        with self._lock:
            return self._moment.read(*calls)

    def ask(self, *calls: Call) -> None:
        """Send nothing ahead: all read on one connection."""
