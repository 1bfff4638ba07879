"""Series that a transaction has emptied: the head stays, unseen, until somebody else has removed it.

An append locks the head of its series FOR KEY SHARE and leaves no trace in it. A SERIALIZABLE transaction sees nothing
that was appended since it began, also when it has locked the head: were it to delete that, rows that were acknowledged
would belong to nothing. So it deletes what it sees and gives the head another epoch, by whose length such a head is
known; what was appended meanwhile comes behind it. Once it has been committed, the head is removed if it is empty, by
statements that see everything; where that fails or a process dies before, it is in nobody's way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from threading import local
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from rstore.backends.postgres.binary import int4, truth
from rstore.backends.postgres.caller import BEHIND_S, set_local
from rstore.backends.postgres.connections import Connections
from rstore.backends.postgres.errors import Passed
from rstore.backends.postgres.link import Call, Statement
from rstore.backends.postgres.logs import ns_of
from rstore.backends.types import Log
from rstore.errors import NotSupportedError, StoreBusyError, StoreError

if TYPE_CHECKING:
    from rstore.backends.postgres.sql import LogSql


class EmptiedHead(NamedTuple):
    """The head of a series without rows and chunks."""

    epoch: bytes
    sealed: bool


class _Own(local):
    """What belongs to one thread."""

    later: dict[Log, bytes]  # what to look at behind its transaction, with the incarnations


class Emptied:
    """The emptied series of one namespace. Threads may share it."""

    def __init__(self, connections: Connections, sql: LogSql) -> None:
        self._connections = connections
        self._sql = sql
        self._own = _Own()

    def find(self, log: Log, incarnation: bytes) -> EmptiedHead | None:
        """Return the head that is in the way of whoever begins a series, if it is one that nobody sees."""
        (found,) = self._connections.read((self._sql.emptied, _this(log, incarnation)))
        return EmptiedHead(found.get_value(0, 0) or b"", truth(found, 1)) if found.ntuples else None

    def remove(self, log: Log, incarnation: bytes) -> None:
        """Remove a head if it is empty still. Not in a transaction that cannot see whether it is.

        There it raises `RolledBack` and is done behind it, or `NotSupportedError` where that would not help.
        """
        if not self._connections.serializable:
            self._remove(log, incarnation, self._sql.take_this)
            return
        if log in self._own.later:
            raise NotSupportedError(
                f"the series {log.key!r} was encrypted and is not to be, or the other way round: PostgreSQL cannot "
                "remove it and begin it anew in one transaction; remove it before"
            )
        self.remove_later(log, incarnation)
        raise Passed(f"the series {log.key!r} was emptied by another transaction; nothing was applied")

    def remove_later(self, log: Log, incarnation: bytes) -> None:
        """Remove a head, if it is empty then, when the transaction of this thread has ended."""
        self._own.later[log] = incarnation

    def begin(self) -> None:
        """Begin what is a transaction of this thread: nothing is to be removed behind it yet."""
        self._own.later = {}

    def end(self) -> None:
        """Remove, behind the transaction of this thread, what is to be removed later."""
        later, self._own.later = self._own.later, {}
        self._remove_all(later)

    def _remove_all(self, later: dict[Log, bytes]) -> None:
        # The transaction is done, and an error here would say that it is not. Who holds the lock of a head appends to
        # it, or is about to remove it. Nothing depends on it that this is on the disk, or on a standby.
        bounds = [set_local("synchronous_commit", "off"), set_local("lock_timeout", f"{BEHIND_S * 1000:.0f}")]

        def remove(deadline: float) -> None:
            for log, incarnation in later.items():
                if monotonic() > deadline:
                    break
                with suppress(StoreBusyError):
                    self._remove(log, incarnation, self._sql.take_this_now, bounds)

        with suppress(StoreError):
            self._connections.within(BEHIND_S, remove)

    def _remove(self, log: Log, incarnation: bytes, take: Statement, bounds: Sequence[Call] = ()) -> None:
        this = _this(log, incarnation)
        remove = [(one, (*this, None, None)) for one in self._sql.remove_if_empty]
        self._connections.write([*bounds, (take, this), *remove], lambda: False)


def _this(log: Log, incarnation: bytes) -> tuple[bytes, bytes, bytes]:
    return ns_of(incarnation), int4(log.model), log.key.encode()
