"""A SQLite file and the connections to it: one a thread, none across a fork, none to a file that is gone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from threading import local
from typing import Final, NoReturn, TypeVar
from weakref import WeakSet

import apsw

from rstore.backends.common.backoff import Deadline
from rstore.backends.sqlite.schema import refuse_changes, schema_of
from rstore.backends.sqlite.transport.errors import (
    FAILURES,
    CommitInDoubtError,
    is_failed_sync,
    may_pass,
    translated,
)
from rstore.backends.sqlite.transport.failed_sync import distrust, trust_again
from rstore.backends.sqlite.transport.filesystem import Identity, is_there, unreachable
from rstore.backends.sqlite.transport.forks import lost_paths
from rstore.backends.sqlite.transport.lockwait import LockWait, limit_waiting_inside
from rstore.backends.sqlite.transport.opening import connect_frozen, connect_phantom, connect_writable
from rstore.backends.sqlite.transport.removing import remove_if_unused
from rstore.backends.sqlite.transport.savepoints import in_transaction
from rstore.backends.sqlite.transport.slot import CHECK_EVERY_S, Slot, Whereabouts, gate
from rstore.backends.sqlite.transport.stale_file import are_others, leave, leave_early, leave_others
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Options
from rstore.errors import (
    NotSupportedError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreNotAvailableError,
)

T = TypeVar("T")

_logger: Final = logging.getLogger("rstore.sqlite")
_FIRST_SAFE_SQLITE: Final = 3_051_003  # before it, a checkpoint that races with a WAL reset can corrupt the file
_OF_THE_SYSTEM: Final = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)


class ThreadSlot(local):
    """The slot of each thread; its connection is closed when the thread ends."""

    def __init__(self, path: str, slots: WeakSet[Slot]) -> None:
        self.slot = Slot(path)
        with gate:
            slots.add(self.slot)


class SqliteFile:
    """The connections of one open store to its file."""

    def __init__(self, path: str, options: Options) -> None:
        if apsw.SQLITE_VERSION_NUMBER < _FIRST_SAFE_SQLITE:
            raise StoreNotAvailableError(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt files in WAL mode: pip install --upgrade apsw"
            )
        self.path = path
        self._options = options
        self._slots: WeakSet[Slot] = WeakSet()
        self.spare: list[Slot] = []  # of snapshots that have ended, for the next one
        self.local = ThreadSlot(path, self._slots)
        self._closed = False

    def open(self) -> None:
        """Open the file in this thread, creating it if it is not frozen."""
        self._closed = False
        slot = self.local.slot
        with slot.lock:
            self._connect(slot, writing=not self._options.frozen)

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its thread is not using it."""
        self._closed = True
        with gate:
            slots = list(self._slots)
        for slot in slots:
            while not slot.lock.acquire(timeout=0.05):
                pass  # it may be another lock by now
            try:
                slot.close()
            finally:
                slot.lock.release()

    def new_slot(self) -> Slot:
        """Return another slot for this thread or any, which is closed with the store."""
        slot = Slot(self.path)
        with gate:
            self._slots.add(slot)
        return slot

    def know(self, connection: apsw.Connection, number: int) -> None:
        """Keep the statements on one key of a namespace in this thread."""
        self.local.slot.know(connection, number)

    def read(self, work: Callable[[apsw.Connection], T], slot: Slot | None = None) -> T:
        """Call `work` with the connection of this thread, or of another slot, and return its result."""
        slot, wait = slot or self.local.slot, None
        while True:
            waits = None
            with slot.lock:
                connection = self._checked(slot)
                if connection is not None:
                    try:
                        result = work(connection)
                    except FAILURES as error:
                        if slot.connection is not connection:
                            continue  # a signal handler has closed it meanwhile
                        if in_transaction(connection) or not slot.is_stale():
                            waits = wait = self._wait(error, slot, wait)
                    else:
                        if slot.stamp is None or not slot.is_stale():
                            return result
            if waits is None:
                self.leave()  # whatever went wrong with a file that bears the name no more
            else:
                waits.pause()

    def write(self, work: Callable[[apsw.Connection], T], *, create: bool = True, arm: bool = True) -> T:
        """Call `work`, which is one transaction, with a connection to the file that bears the name now.

        `create`: whether to make the file if it is not there; not for calls that only take away.
        `arm`: whether the work may remove or replace records.

        The check comes after the commit and not before: a connection that was used keeps others from removing the
        file, so that a file that is still there after a commit stays.
        """
        slot, suspicious, wait = self.local.slot, True, None
        while True:
            waits, failed, strayed = None, None, None
            done: list[T] = []
            with slot.lock:
                connection = slot.connection
                if connection is None or slot.phantom or slot.transaction is not None:
                    connection = self.connection(slot, create=create)
                try:
                    if arm and not slot.armed:
                        slot.arm(connection)
                    result = work(connection)
                except FAILURES as error:
                    if slot.connection is not connection:
                        continue  # a signal handler has closed it meanwhile, and nothing was done
                    # Once: the logs of two files may be mixed up by their name, or the connection can only read, for
                    # want of descriptors. A new connection settles both, and true damage shows again. All that had
                    # begun was rolled back.
                    again = suspicious and may_pass(error)
                    suspicious = suspicious and not again
                    if is_failed_sync(error) or isinstance(error, CommitInDoubtError):
                        failed = error
                    elif in_transaction(connection) or not (again or slot.moved()):
                        waits = wait = self._wait(error, slot, wait)
                else:
                    if slot.is_in_place(connection):
                        return result
                    strayed, done = slot.whereabouts(), [result]
            if failed is not None:
                raise self.distrusted(failed) from failed
            if waits is not None:
                waits.pause()
            elif strayed is None:
                self.leave()  # whatever went wrong with a file that bears the name no more
            elif self.stays(strayed):
                return done[0]

    def stays(self, strayed: Whereabouts) -> bool:
        """Return whether what this thread has committed just now stays, by the whereabouts of its file.

        False: the file bears the name no more, and the call has to be repeated on the one that does. Raises
        `OutcomeUnknownError` where it cannot be told.
        """
        try:
            if strayed.error is not None:
                raise strayed.error
            if strayed.lost_wal:
                self.leave()  # moves it into the file
        except StoreError as error:
            raise OutcomeUnknownError(f"the call was applied, and then: {error}; read, before you repeat it") from error
        if strayed.moved:
            self.leave()
        return not strayed.moved

    def leave(self) -> None:
        """Close all connections of this process to files of the name, which was seen to have changed hands."""
        self._note(Occurrence.RECONNECTION, "the file is opened anew")
        leave(self.path, self._options.timeout_s)

    def connection(self, slot: Slot, *, create: bool = True) -> apsw.Connection:
        """Return the slot's connection for writing; the caller holds the slot."""
        if slot.transaction is not None:
            self._refuse_inside()
        if slot.connection is None or (slot.phantom and (create or is_there(self.path))):
            return self._connect(slot, writing=create)
        return slot.connection

    def _checked(self, slot: Slot) -> apsw.Connection | None:
        """Return the slot's connection for reading, or None if it is seen now that the file is another one."""
        if slot.transaction is not None:
            self._refuse_inside()
        connection = slot.connection
        if connection is None:
            return self._connect(slot, writing=False)
        if time.monotonic() < slot.check_at or connection.in_transaction:
            return connection
        if slot.is_stale():
            return None
        if slot.check_at:
            slot.check_at = time.monotonic() + CHECK_EVERY_S
            self._check_schema(slot, connection)
        return connection

    def _check_schema(self, slot: Slot, connection: apsw.Connection) -> None:
        """Refuse a file whose tables were changed since it was opened; it costs next to nothing where they were not."""
        try:
            with suppress(apsw.BusyError):  # then at the next check
                version = connection.pragma("schema_version")
                if version != slot.schema_version:
                    refuse_changes(connection, self.path, schema_of(connection))
                    slot.schema_version = version
        except FAILURES as error:
            if slot.connection is connection:
                raise self.translated(error) from error

    def _refuse_inside(self) -> NoReturn:
        raise NotSupportedError(f"a transaction of this thread is open on {self.path!r}: go through its object")

    def _note(self, occurrence: Occurrence, message: str) -> None:
        self._options.telemetry.note(_logger, occurrence, f"%s: {message}", self.path)

    def distrusted(self, error: apsw.Error | UnicodeDecodeError) -> StoreError:
        """Return the error of rstore for one of the disk, after closing all connections to the file."""
        self._note(Occurrence.LOST_REPLY, "a commit failed, and may be done")
        distrust(self.path)
        return self.translated(error)

    def _wait(self, error: apsw.Error | UnicodeDecodeError, slot: Slot, wait: LockWait | None) -> LockWait:
        """Return the pauses of a call that meets a lock; raise any other error."""
        connection = slot.connection
        if isinstance(error, apsw.BusyError) and connection is not None and not in_transaction(connection):
            if wait is None:
                self._note(Occurrence.WAIT, "a call waits for other writers")
            wait = wait or self.new_wait()
            if not wait.is_over:
                return wait
        if isinstance(error, _OF_THE_SYSTEM):
            slot.close()  # for want of descriptors it may not be able to write, and would stay so
        raise self.translated(error) from error

    def new_wait(self) -> LockWait:
        """Return how long a call that begins now may wait for a lock."""
        return LockWait(self._options.timeout_s)

    def translated(self, error: apsw.Error | UnicodeDecodeError) -> StoreError:
        """Return the error of rstore for an error of the driver."""
        return translated(error, self.path, self._options.timeout_s)

    def check_usable(self) -> None:
        """Refuse a store that was closed, and a file that cannot be opened in this process any more."""
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")
        if lost_paths and os.path.realpath(self.path) in lost_paths:
            raise StoreNotAvailableError(
                f"{self.path!r} cannot be used in this process: it was forked inside a transaction, which is its "
                "parent's; fork outside of transactions, or start processes by 'spawn'"
            )

    def _connect(self, slot: Slot, *, writing: bool) -> apsw.Connection:
        deadline, spared = Deadline(self._options.timeout_s), True
        while True:
            self.check_usable()
            leave_others(self.path, self._options.timeout_s)
            with gate:  # no connection is opened while a fork is under way, or while the file is being removed
                slot.close()
                try:
                    connection = self._try_connect(slot, writing=writing)
                    if not self._options.frozen:
                        trust_again(slot, connection)
                    limit_waiting_inside(connection, self._options.timeout_s)
                except FileNotFoundError as error:  # it was removed since it was found or created: once more
                    leave_early(self.path, slot, self._options.timeout_s)
                    if deadline.is_over:
                        raise StoreBusyError(f"{self.path!r} was removed again and again") from error
                except apsw.Error as error:
                    gone = not is_there(self.path) or slot.moved()
                    if isinstance(error, apsw.CantOpenError):  # once: it may have been removed, and made again by now
                        gone, spared = gone or spared, False
                    slot.close()
                    if not (gone or isinstance(error, apsw.BusyError)) or deadline.is_over:
                        raise self.translated(error) from error
                except OSError as error:
                    slot.close()
                    raise unreachable(self.path, error) from error
                except BaseException:
                    slot.close()
                    raise
                else:
                    return connection
            time.sleep(0.002)  # outside of the gate: others must not wait for the lock of a file that is not theirs

    def _try_connect(self, slot: Slot, *, writing: bool) -> apsw.Connection:
        if are_others(self.path):  # it was replaced once more, since these were left
            raise FileNotFoundError(self.path)
        if self._options.frozen:
            return connect_frozen(slot)
        if not writing and not is_there(self.path):
            return connect_phantom(slot, self._options.durability)
        return connect_writable(slot, self._options.durability)

    def remove_if_unused(self, is_unused: Callable[[apsw.Connection], bool]) -> None:
        """Remove the file if no other connection has it open and nothing is in it; otherwise it stays."""
        with self.local.slot.lock:
            opened: Identity | None = self.local.slot.opened
        if opened is not None:
            remove_if_unused(self.path, opened, self._slots.__contains__, is_unused, self._options.timeout_s)
