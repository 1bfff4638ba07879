"""The objects that run statements: for single calls, for a transaction, and for a snapshot.

Nouns: a *statement reader* (runs statements that only read), an *executor* (runs those that write, too) and a *look*
(reads back whether a write was done, after its reply was lost).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias, TypeVar

from rstore.backends.postgres.transport.statements import Call, Results
from rstore.backends.types import Log, close_scope

T = TypeVar("T")


class StatementReader(ABC):
    """Runs statements that only read."""

    @abstractmethod
    def read(self, *calls: Call) -> Results:
        """Return the results of statements, of one moment each."""

    def snapshot(self, *calls: Call) -> AbstractContextManager[tuple[StatementReader, Results] | None]:
        """Return the scope of a snapshot: it yields its reader, and the results of its first calls.

        It yields None where no connection can be spared, or where this reader stays at one moment itself.
        """
        return nullcontext(None)

    def shrink(self, carried: int) -> None:
        """Free the buffers of connections that have carried so many bytes."""
        del carried


Look: TypeAlias = Callable[[StatementReader], bool | None]
"""Reads back the result of a write: True, it is there; False, the state before it is still there, so that it may be
sent again; None, that cannot be told. An absent record tells nothing: a concurrent write may have removed it."""


class Executor(StatementReader):
    """Runs statements that read and write."""

    tombstones: dict[Log, bytes] | None = None
    """The series that a serializable transaction has emptied, with their incarnations; None elsewhere."""

    @abstractmethod
    def write(
        self, calls: Iterable[Call], look: Look, *, claim: int | None = None, patient: bool = False
    ) -> Results | None:
        """Return the results of statements that are done together, or not at all.

        None: the connection was lost before the answer, and a look has shown that all was done. `claim` is the place of
        a conditional statement, whose second column tells whether all was done. `patient` is for statements that may
        take long without waiting for others: locks are waited for no longer than the time-out even so.

        Raises `OutcomeUnknownError` if that cannot be told.
        """

    @abstractmethod
    def scope(self, make: Callable[[Executor, Results], T], *first: Call) -> AbstractContextManager[T]:
        """Return the scope of a transaction that begins with some statements.

        It yields the result of `make`, which is given an executor and the results of these. Its user calls
        `close_scope` behind it: an interrupt may come while `with` enters it.
        """

    def in_transaction(self, work: Callable[[Executor, Results], T], *first: Call) -> T:
        """Return the result of `work` in a transaction that begins with some statements; see `scope`.

        Single calls do it again where the server undid it.
        """
        scope = self.scope(work, *first)
        try:
            with scope as result:
                return result
        finally:
            close_scope(scope)
