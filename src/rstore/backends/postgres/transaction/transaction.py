"""Transactions, each on a connection of its own, and their parts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from secrets import randbelow
from typing import Final, TypeVar

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.errors import ABORTED, RETRY, TAKEN, CutOff, Passed
from rstore.backends.postgres.sql.schema import COMMIT
from rstore.backends.postgres.transaction.executor import Executor, Look
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


class OpenTransaction(Executor):
    """Runs statements inside a transaction, for one thread."""

    def __init__(self, sender: Sender, connection: PostgresConnection, *, serializable: bool) -> None:
        self.tombstones = {} if serializable else None
        self._sender = sender
        self._connection: PostgresConnection | None = connection
        self._xid: bytes | None = None  # its number at the server, since its first write
        self._gone: StoreError | None = None  # the reason that it cannot go on

    def read(self, *calls: Call) -> Results:
        return self.run(calls)

    def write(self, calls: Iterable[Call], look: Look, *, claim: int | None = None, patient: bool = False) -> Results:
        # The receipt takes the place of a look, and all waits of a transaction end with the time-out.
        if self._xid is not None:
            return self.run(calls)
        *results, xid = self.run(Calls(lambda: chain(calls, [_XID])))
        self._xid = xid.get_value(0, 0)
        return results

    @contextmanager
    def scope(self, make: Callable[[Executor, Results], T], *first: Call) -> Generator[T]:
        self.run([_SAVEPOINT])
        try:
            yield make(self, self.run(first) if first else [])
        except BaseException:
            if self._can_go_on:
                self.run([_BACK, _RELEASE])
            raise
        if self._connection is not None:  # else the whole has ended before
            self.run([_RELEASE])

    def run(self, calls: Iterable[Call]) -> Results:
        """Return the results of a pipeline; only the owner of a transaction can begin it again."""
        connection = self._own()
        try:
            return self._sender.run_on(connection, calls, self._sender.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED and self._gone is not None:
                raise self._gone from failure.error  # which says why, and whether it may be done again
            error = self._sender.refusal(failure)
            if self._sender.may_retry(failure) or failure.sqlstate == TAKEN:
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
    def _can_go_on(self) -> bool:
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


@contextmanager
def transaction(
    sender: Sender,
    make: Callable[[Executor, Results], T],
    first: Sequence[Call] = (),
    *,
    serializable: bool = False,
    behind: Callable[[Mapping[Log, bytes]], None] | None = None,
) -> Generator[T]:
    """Begin a transaction and end it, as of `Executor.scope`.

    `behind` is called with its tombstones if it was committed, or is to be done again: one may have been in the way.
    """
    connection, found = sender.begin(first, serializable=serializable)
    opened = OpenTransaction(sender, connection, serializable=serializable)
    is_over = False
    try:
        yield make(opened, found)
        receipt = opened.commit()
        is_over = True
    except BaseException as error:
        is_over = isinstance(error, RolledBack)
        opened.roll_back()
        raise
    finally:
        opened.leave()
        if is_over and behind is not None and opened.tombstones:
            behind(opened.tombstones)
    if receipt is not None and receipt.is_new and not randbelow(REMOVE_EVERY):
        with suppress(StoreError):  # the transaction is done, and an error here would say that it is not
            sender.run_behind([sender.receipts.remove_stale], Deadline(BEHIND_S))
