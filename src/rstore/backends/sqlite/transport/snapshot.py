"""A SQLite file as it was at one moment, read by a connection that stays there."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import inf
from threading import get_ident
from typing import Final, TypeVar

import apsw

from rstore.backends.sqlite.transport.errors import FAILURES
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.savepoints import in_transaction
from rstore.backends.sqlite.transport.slot import Slot
from rstore.errors import ConflictError

T = TypeVar("T")

_MAX_SPARE: Final = 2


class SnapshotConnection:
    """A connection that reads from one moment; threads take turns."""

    def __init__(self, file: SqliteFile, slot: Slot, connection: apsw.Connection) -> None:
        self.path = file.path
        self.owner = get_ident() if slot.stamp is None else 0
        """The one thread that may use the slot's cursor without its lock; none where the file may change beneath."""
        self.slot = slot
        self._file = file
        self._connection = connection

    def know(self, connection: apsw.Connection, number: int) -> None:
        """Keep the statements on one key of a namespace."""
        self.slot.know(connection, number)

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Call `work` with the connection, and return its result.

        Raises `ConflictError` if the moment is lost.
        """
        slot = self.slot
        with slot.lock:
            if slot.connection is not self._connection:
                raise ConflictError("the store was closed, discarded or forked while it was being read: read again")
            while True:
                try:
                    result = work(self._connection)
                except apsw.ThreadingViolationError:  # the owner is in a statement that runs without the lock
                    time.sleep(0.0001)
                except FAILURES as error:
                    raise self._file.translated(error) from error
                else:
                    break
            if slot.stamp is not None and slot.is_stale():  # it is read without locks
                raise ConflictError("the file was changed while it was being read: read again")
            return result


@contextmanager
def spare_snapshot(file: SqliteFile) -> Generator[SnapshotConnection, None, None]:
    """Read the file as of now on a connection of its own, while this thread's one goes on.

    The write-ahead log cannot be moved into the file beyond this moment until it ends.
    """
    slot = _take_spare(file)
    try:
        with _held_at_moment(file, slot) as snapshot:
            yield snapshot
    finally:
        _give_back(file, slot)


@contextmanager
def own_snapshot(file: SqliteFile) -> Generator[SnapshotConnection, None, None]:
    """Do the same with this thread's connection, which has much of the file in its cache; the thread gets another."""
    mine, other = file.local.slot, _take_spare(file)
    file.local.slot = other
    try:
        with _held_at_moment(file, mine) as snapshot:
            yield snapshot
    finally:
        if file.local.slot is other:  # else it ends in another thread or order, and its thread keeps the other one
            file.local.slot, mine = mine, other
        _give_back(file, mine)


def _take_spare(file: SqliteFile) -> Slot:
    try:
        return file.spare.pop()
    except IndexError:
        return file.new_slot()


def _give_back(file: SqliteFile, slot: Slot) -> None:
    if len(file.spare) < _MAX_SPARE:
        file.spare.append(slot)
    else:
        slot.close()


@contextmanager
def _held_at_moment(file: SqliteFile, slot: Slot) -> Generator[SnapshotConnection, None, None]:
    try:
        connection = file.read(_begin, slot)
        check_at = slot.check_at
        slot.check_at = inf if slot.stamp is None else 0.0  # the moment stays, whatever becomes of the file
        try:
            yield SnapshotConnection(file, slot, connection)
        finally:
            slot.check_at = check_at
    finally:
        with slot.lock:
            if slot.connection is not None and slot.connection.in_transaction:
                slot.connection.execute("ROLLBACK")


def _begin(connection: apsw.Connection) -> apsw.Connection:
    try:
        connection.execute("BEGIN; SELECT 1 FROM namespaces LIMIT 1").fetchall()  # which takes the lock
    except apsw.Error:
        if in_transaction(connection):
            connection.execute("ROLLBACK")
        raise
    return connection
