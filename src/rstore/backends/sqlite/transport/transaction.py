"""A transaction over several calls: it holds the connection of its thread from its beginning to its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import apsw

from rstore.backends.sqlite.statements import KeptStatements
from rstore.backends.sqlite.transport.errors import FAILURES, CommitInDoubtError, is_failed_sync, may_pass
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.savepoints import atomic
from rstore.backends.sqlite.transport.slot import Slot
from rstore.errors import (
    ConflictError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

T = TypeVar("T")


class TransactionConnection(KeptStatements):
    """Runs statements on the connection of a transaction, in the thread that began it."""

    def __init__(self, file: SqliteFile, slot: Slot, connection: apsw.Connection) -> None:
        self.path = file.path
        self.statements = slot.statements  # which the file must not use meanwhile
        self._file = file
        self._slot = slot
        self._connection = connection

    def owns(self) -> bool:
        """Return whether no other transaction has begun on the connection.

        An interrupted beginning may leave a transaction to the garbage collector, which ends it inside of a later one.
        """
        return self._slot.connection is self._connection and self._slot.transaction in (None, self)

    @property
    def _is_open(self) -> bool:
        return self._slot.transaction is self

    def check(self) -> None:
        """Refuse to go on where the transaction is not there any more."""
        slot = self._slot
        if not self._is_open:
            raise StoreClosedError("the transaction is over")
        if slot.connection is not self._connection:
            self._file.check_usable()
            raise ConflictError(f"the transaction on {self.path!r} was rolled back; nothing was applied")
        if self._connection.get_autocommit():  # or what follows would be done at once, without what was before it
            self.statements = None
            raise StoreFullError(
                f"{self.path!r}: the disk or the memory was full, and the whole transaction was rolled back; "
                "nothing was applied"
            )

    def write(self, work: Callable[[apsw.Connection], T], *, create: bool = True, arm: bool = True) -> T:
        """Call `work` inside the transaction, and return its result."""
        del create, arm  # the transaction began with both
        self.check()
        try:
            return work(self._connection)
        except FAILURES as error:
            raise self._failed(error) from error

    read = write

    def _failed(self, error: apsw.Error | UnicodeDecodeError) -> StoreError:
        slot = self._slot
        if is_failed_sync(error):
            return self._file.distrusted(error)
        if slot.connection is self._connection and self._connection.get_autocommit():  # it was rolled back as a whole
            self.statements = None
            if may_pass(error) or slot.moved():
                self._file.leave()
        if slot.connection is not self._connection:
            self.check()
        return self._file.translated(error)

    @contextmanager
    def part(self) -> Generator[None, None, None]:
        """Do a part of the transaction all or not at all; it ends with the transaction at the latest."""
        self.check()
        stays = False
        try:
            with atomic(self._connection, owns=lambda: self._is_open and self._slot.connection is self._connection):
                yield
                if self._is_open:
                    self.check()
            stays = True
        except apsw.Error as error:
            raise self._file.translated(error) from error
        finally:
            if not stays:  # if the namespace was made inside, the next one is given its number
                self.statements = None


@contextmanager
def begin(file: SqliteFile, *, create: bool) -> Generator[TransactionConnection, None, None]:
    """Begin a transaction of this thread, and end it.

    `create`: whether to make the file if it is not there.
    """
    slot = file.local.slot
    file.write(
        lambda _: None, create=create
    )  # leaves a file that is gone: only the caller could repeat a transaction on it
    stays, failed, strayed = False, None, None
    with slot.held():
        connection = file.connection(slot, create=create)
        opened = TransactionConnection(file, slot, connection)
        try:
            slot.arm(connection)  # outside of the transaction, with which the triggers would be rolled back
            with atomic(connection, begin=file.new_wait().until_done, owns=opened.owns):
                # Not before: a signal handler may use the store while BEGIN waits.
                slot.transaction, slot.statements = opened, None
                yield opened
                opened.check()
                if slot.moved():
                    raise StoreNotAvailableError(f"{file.path!r} was replaced meanwhile; nothing was applied")
            stays = True
            strayed = None if slot.is_in_place(connection) else slot.whereabouts()
        except (CommitInDoubtError, apsw.ReadOnlyError) as error:
            failed = error
        except apsw.Error as error:
            raise file.translated(error) from error
        finally:
            if slot.transaction is opened:
                slot.transaction = None
                slot.statements = opened.statements if stays and slot.connection is connection else None
    if isinstance(failed, CommitInDoubtError):
        raise file.distrusted(failed) from failed
    if failed is not None:
        file.leave()  # for want of descriptors it can only read, and would stay so
        raise file.translated(failed) from failed
    if strayed is not None and not file.stays(strayed):
        raise OutcomeUnknownError(f"{file.path!r} was replaced while a transaction was committed; read it again")
