"""A transaction that is open on a connection of its own, and the scopes of it and of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from random import SystemRandom
from types import TracebackType
from typing import Final, TypeVar

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.errors import ABORTED, RETRY, CutOff, Passed
from rstore.backends.postgres.sql.schema import COMMIT
from rstore.backends.postgres.transaction.executor import Executor, ExecutorScope, Look
from rstore.backends.postgres.transaction.receipts import REMOVE_EVERY, Receipt
from rstore.backends.postgres.transaction.sender import BEHIND_S, Sender
from rstore.backends.postgres.transport.protocol import Failed, Lost, PostgresConnection, Silent
from rstore.backends.postgres.transport.statements import Call, Calls, Results, Statement
from rstore.backends.types import Log, RolledBack
from rstore.errors import StoreClosedError, StoreError, StoreNotAvailableError

T = TypeVar("T")

_COMMIT: Final[Call] = (COMMIT, ())
_SAVEPOINT: Final[Call] = (Statement("SAVEPOINT step"), ())
_BACK: Final[Call] = (Statement("ROLLBACK TO SAVEPOINT step"), ())
_RELEASE: Final[Call] = (Statement("RELEASE SAVEPOINT step"), ())
_XID: Final[Call] = (Statement("SELECT pg_current_xact_id()::text"), ())
_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it


class OpenTransaction(Executor):
    """Runs statements inside a transaction, for one thread."""

    def __init__(self, sender: Sender, connection: PostgresConnection, *, serializable: bool) -> None:
        self.tombstones = {} if serializable else None
        self._sender = sender
        self._connection: PostgresConnection | None = connection
        self._xid: bytes | None = None  # its number at the server, since its first write
        self._gone: StoreError | None = None  # the reason that it cannot go on

    def read(self, *calls: Call, patient: bool = False) -> Results:
        del patient  # all waits of a transaction end with the time-out
        return self.run(calls)

    def write(
        self,
        calls: Iterable[Call],
        look: Look,
        was_done: Callable[[Results], bool] = lambda _: True,
        *,
        patient: bool = False,
    ) -> Results:
        del look, was_done, patient  # its COMMIT tells
        if self._xid is not None:
            return self.run(calls)
        *results, xid = self.run(Calls(lambda: chain(calls, [_XID])))
        self._xid = xid.get_value(0, 0)
        return results

    def scope(self, make: Callable[[Executor], T], *first: Call) -> ExecutorScope[T]:
        return _PartScope(self, make, first)

    def run(self, calls: Iterable[Call]) -> Results:
        """Return the results of a pipeline; only the owner of a transaction can begin it again."""
        connection = self._own()
        try:
            return self._sender.run_on(connection, calls, self._sender.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED and self._gone is not None:
                raise self._gone from failure.error  # which says why, and whether it may be done again
            error = self._sender.refusal(failure)
            if self._sender.may_retry(failure):
                error = Passed(str(error))
            self._gone = error
            raise error from failure.error
        except Lost as lost:
            kind = StoreNotAvailableError if isinstance(lost, Silent) else CutOff
            self._gone = kind(f"{self._show}: the connection was lost inside a transaction; nothing was applied")
            raise self._gone from lost.__cause__
        except BaseException:
            self._gone = StoreNotAvailableError(
                f"{self._show}: a call inside the transaction was interrupted; nothing was applied"
            )
            raise

    @property
    def _show(self) -> str:
        return self._sender.place.show

    def _own(self) -> PostgresConnection:
        """Return its connection, which the child of a fork does not have."""
        if self._connection is None:
            raise StoreClosedError("the transaction is over: use it inside its `with`")
        if self._connection not in self._sender.pool:
            raise self._gone or StoreNotAvailableError("a transaction does not outlive a fork: it is its parent's")
        return self._connection

    @property
    def can_go_on(self) -> bool:
        """Whether it is still there, failed or not."""
        connection = self._connection
        return connection is not None and connection in self._sender.pool and not connection.idle

    def commit(self) -> Receipt | None:
        """Commit it, and return its receipt if it has written anything."""
        connection, deadline = self._own(), Deadline(self._sender.timeout_s)
        xid = self._xid
        receipt = None if xid is None else self._sender.receipts.make(connection)
        failed = StoreNotAvailableError(f"{self._show}: the transaction had failed; nothing was applied")
        try:
            calls = [_COMMIT] if receipt is None else [receipt.leave, _COMMIT]
            *_, ended = self._sender.run_on(connection, calls, self._sender.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED:
                raise self._gone or failed from failure.error
            error = self._sender.refusal(failure)
            raise (Passed(str(error)) if failure.sqlstate in RETRY else error) from failure.error
        except Lost as lost:
            message = f"{self._show}: the connection was lost at the end of a transaction; nothing was applied"
            if xid is None or receipt is None:
                if self.tombstones is None:
                    return None
                # The server was to say whether all that it has read belongs together.
                raise CutOff(message) from lost.__cause__
            if not self._sender.was_done(lambda reader: receipt.was_committed(xid, reader), lost, deadline):
                raise StoreNotAvailableError(message) from lost.__cause__
            return receipt
        if ended.command_status != b"COMMIT":
            raise self._gone or failed
        return receipt

    def roll_back(self) -> None:
        """Undo it, unless it has ended."""
        if self._connection is not None:
            self._sender.roll_back(self._connection)

    def leave(self) -> None:
        """Give its connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._sender.pool.give_back(connection)


class TransactionScope(ExecutorScope[T]):
    """The scope of a transaction; `behind` is called with its tombstones if it was committed, or is to be retried."""

    def __init__(
        self,
        sender: Sender,
        make: Callable[[Executor], T],
        first: Sequence[Call] = (),
        *,
        serializable: bool = False,
        behind: Callable[[Mapping[Log, bytes]], None] | None = None,
    ) -> None:
        self._sender = sender
        self._make = make
        self._first = first
        self._serializable = serializable
        self._behind = behind
        self._open: OpenTransaction | None = None

    def __enter__(self) -> T:
        connection, self.found = self._sender.begin(self._first, serializable=self._serializable)
        self._open = OpenTransaction(self._sender, connection, serializable=self._serializable)
        return self._make(self._open)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction = self._open
        if transaction is None:
            return  # it was ended before
        receipt: Receipt | None = None
        to_be_retried = isinstance(error, RolledBack)
        try:
            if error is None:
                receipt = transaction.commit()
            else:
                transaction.roll_back()
        except BaseException as failed:
            to_be_retried = isinstance(failed, RolledBack)
            transaction.roll_back()
            raise
        finally:
            self._leave(transaction)
            if to_be_retried:  # a tombstone may have been in the way
                self._do_behind(transaction)
        if error is None:
            self._remove_stale(receipt)
            self._do_behind(transaction)

    def _remove_stale(self, receipt: Receipt | None) -> None:
        """Remove now and then, behind a transaction that left one, the receipts of connections that are gone."""
        if receipt is not None and receipt.is_new and not _random.randrange(REMOVE_EVERY):
            with suppress(StoreError):  # the transaction is done, and an error here would say that it is not
                self._sender.run_behind([self._sender.receipts.remove_stale], Deadline(BEHIND_S))

    def _do_behind(self, transaction: OpenTransaction) -> None:
        if self._behind is not None and transaction.tombstones:
            self._behind(transaction.tombstones)

    def _leave(self, transaction: OpenTransaction) -> None:
        self._open = None
        transaction.leave()

    def close(self) -> None:
        transaction = self._open
        if transaction is not None:
            try:
                transaction.roll_back()
            finally:
                self._leave(transaction)


class _PartScope(ExecutorScope[T]):
    """The scope of a part of a transaction: all of it or nothing."""

    def __init__(self, whole: OpenTransaction, make: Callable[[Executor], T], first: Sequence[Call]) -> None:
        self._whole = whole
        self._make = make
        self._first = first
        self._is_open = False

    def __enter__(self) -> T:
        self._whole.run([_SAVEPOINT])
        self._is_open = True
        try:
            self.found = self._whole.run(self._first) if self._first else []
        except BaseException:
            self.close()
            raise
        return self._make(self._whole)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.close()
        elif self._is_open:
            self._is_open = False
            self._whole.run([_RELEASE])

    def close(self) -> None:
        is_open, self._is_open = self._is_open, False
        if is_open and self._whole.can_go_on:
            self._whole.run([_BACK, _RELEASE])
