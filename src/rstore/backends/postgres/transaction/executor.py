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
from rstore.backends.types import Log

T = TypeVar("T")


class StatementReader(ABC):
    """Runs statements that only read."""

    @abstractmethod
    def read(self, *calls: Call, patient: bool = False) -> Results:
        """Return the results of statements, of one moment each; `patient` as of `Executor.write`."""

    def moment(self, *calls: Call) -> AbstractContextManager[tuple[StatementReader, Results] | None]:
        """Return a scope that reads one moment: it yields its reader, and the results of its first calls.

        It yields None where no connection can be spared, or where this reader stays at a moment itself.
        """
        del calls
        return nullcontext(None)

    def shrink(self, carried: int) -> None:
        """Free the buffers of connections that have carried so many bytes."""
        del carried


Look: TypeAlias = Callable[[StatementReader], bool | None]
"""Reads back the result of a write: True, it is there; False, the state before it is still there, so that it may be
sent again; None, that cannot be told. An absent record tells nothing: a concurrent write may have removed it."""


class ExecutorScope(AbstractContextManager[T]):
    """The scope of a transaction, or of a part of one. Its user calls `close` behind it.

    Not a generator: an interrupt may come while `with` enters one; then nothing ends it until it is collected, which a
    cycle of tracebacks puts off. Here a scope is entered by the last step of `__enter__`.
    """

    found: Results
    """The results of its first statements."""

    @abstractmethod
    def close(self) -> None:
        """Undo it, if it was begun and its `with` does not know of it."""


class Executor(StatementReader):
    """Runs statements that read and write."""

    tombstones: dict[Log, bytes] | None = None
    """The series that a serializable transaction has emptied, with their incarnations; None elsewhere."""

    @abstractmethod
    def write(
        self,
        calls: Iterable[Call],
        look: Look,
        was_done: Callable[[Results], bool] = lambda _: True,
        *,
        patient: bool = False,
    ) -> Results | None:
        """Return the results of statements that are done together, or not at all.

        None: the connection was lost before the answer, and a look has shown that all was done. `was_done` tells that
        by the results, where they are not the same for a commit that won and one that lost. `patient` is for statements
        that may take long without waiting for others: locks are waited for no longer than the time-out even so.

        Raises `OutcomeUnknownError` if that cannot be told.
        """

    @abstractmethod
    def scope(self, make: Callable[[Executor], T], *first: Call) -> ExecutorScope[T]:
        """Return the scope of a transaction that begins with some statements; it yields `make` of its executor."""

    def in_transaction(self, work: Callable[[Executor, Results], T], *first: Call) -> T:
        """Return the result of `work` in a transaction, given the results of the statements at its beginning.

        Single calls do it again where the server undid it.
        """
        scope = self.scope(_itself, *first)
        try:
            with scope as executor:
                return work(executor, scope.found)
        finally:
            scope.close()


def _itself(executor: Executor) -> Executor:
    return executor
