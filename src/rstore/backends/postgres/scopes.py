"""Transactions and moments as scopes: a `with` begins and ends them, and `close` ends what an interrupt has left open.

Not generators. An interrupt may come while `with` enters one; then nothing ends it until it is collected, which a cycle
of tracebacks puts off, and its thread would go on writing inside of a transaction that is undone later. Here a scope
is entered by the last step of `__enter__`, and whoever uses one calls `close` behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from rstore.backends.postgres.link import Call, Link, Results, Statement
from rstore.backends.postgres.moments import Moment
from rstore.backends.postgres.receipts import Receipt
from rstore.backends.types import RolledBack

if TYPE_CHECKING:
    from rstore.backends.postgres.connections import Connections

_SAVEPOINT: Final = (Statement("SAVEPOINT step"), ())
_BACK: Final = (Statement("ROLLBACK TO SAVEPOINT step"), ())
_RELEASE: Final = (Statement("RELEASE SAVEPOINT step"), ())


class Around(Protocol):
    """Further steps at the beginning and the end of a transaction."""

    def begin(self) -> None:
        """Do what comes before it."""

    def end(self) -> None:
        """Do what comes behind it, when it is done or was undone by the server."""


class Scope(AbstractContextManager[None]):
    """Statements of one thread that are one transaction; inside of another one they are a step of it."""

    def __init__(
        self, connections: Connections, first: Sequence[Call], around: Around | None, *, serializable: bool
    ) -> None:
        self._connections = connections
        self._first = first
        self._around = around
        self._serializable = serializable
        self.found: Results = []
        """The results of its first statements."""
        self._link: Link | None = None
        self._is_step = False
        self._mine: dict[str, Any] = {}

    def __enter__(self) -> None:
        connections = self._connections
        if connections.bound:
            self._enter_step()
            return
        if self._around is not None:
            self._around.begin()
        link, self.found = connections.begin(self._first, serializable=self._serializable)
        self._mine = mine = connections.of_this_thread()
        self._link = link
        mine |= {"link": link, "xid": None, "gone": None, "serializable": self._serializable}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_step:
            self._leave_step(done=error is None)
            return
        if self._link is None:
            return  # it was ended before
        link, receipt, undone = self._link, None, isinstance(error, RolledBack)
        try:
            if error is None:
                receipt = self._connections.receipt(link)
                self._connections.end(link, receipt)
            else:
                self._connections.undo(link)
        except BaseException as failed:
            undone = isinstance(failed, RolledBack)
            self._connections.undo(link)
            raise
        finally:
            self._leave(link)
            # Some of what is around it may have to come first, so that it can be done again.
            if undone and self._around is not None:
                self._around.end()
        if error is None:
            self._behind(receipt)

    def _behind(self, receipt: Receipt | None) -> None:
        self._connections.remove_stale_receipts(receipt)
        if self._around is not None:
            self._around.end()

    def _leave(self, link: Link) -> None:
        self._mine |= {"link": None, "serializable": False}
        self._link = None
        self._connections.finish(link)

    def close(self) -> None:
        """Undo it, if it was begun and its `with` does not know of it."""
        if self._is_step:
            self._leave_step(done=False)
        elif (link := self._link) is not None:
            try:
                self._connections.undo(link)
            finally:
                self._leave(link)

    # -- inside of another one ----------------------------------------------------------------------------------------

    def _enter_step(self) -> None:
        self._connections.inside([_SAVEPOINT])
        self._is_step = True
        try:
            self.found = self._connections.inside(self._first) if self._first else []
        except BaseException:
            self._leave_step(done=False)
            raise

    def _leave_step(self, *, done: bool) -> None:
        self._is_step = False
        if done:
            self._connections.inside([_RELEASE])
        elif self._connections.can_go_on:
            self._connections.inside([_BACK, _RELEASE])


class MomentScope(AbstractContextManager["Moment | None"]):
    """Reads of what there was when it began, on a connection of their own; None where too many are kept already."""

    def __init__(self, begin: Callable[[], tuple[Link, Results]], connections: Connections) -> None:
        self._begin = begin
        self._connections = connections
        self._link: Link | None = None

    def __enter__(self) -> Moment | None:
        self._link, found = self._begin()
        if self._connections.pool.keep(self._link):
            return Moment(self._connections, self._link, found)
        self.close()
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it was not ended before."""
        link, self._link = self._link, None
        if link is not None:
            try:
                self._connections.undo(link)
            finally:
                self._connections.pool.give_back(link)
