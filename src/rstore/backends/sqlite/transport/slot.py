"""The place of one connection to a SQLite file, which is opened when it is needed, and closed before a fork.

Nouns: a *slot* (of one thread, of a watcher or of a snapshot), the *gate* (held while connections are opened) and the
*whereabouts* (of a file that was not seen in its place).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from math import inf
from threading import RLock
from typing import Final, NamedTuple
from weakref import WeakSet

import apsw

from rstore.backends.sqlite.schema import OWN_TRIGGERS
from rstore.backends.sqlite.statements import KeptStatements
from rstore.backends.sqlite.transport import filelock
from rstore.backends.sqlite.transport.filelock import FileLock
from rstore.backends.sqlite.transport.filesystem import Identity, bears, has_wal, identity, is_there, stamp, wal_names
from rstore.errors import StoreNotAvailableError

_HAS_MOVED: Final = apsw.SQLITE_FCNTL_HAS_MOVED
CHECK_EVERY_S: Final = 1.0

gate = RLock()  # guards the slots below; held while a connection is opened, a process forks, or a file is removed
_slots: WeakSet[Slot] = WeakSet()


def all_slots() -> list[Slot]:
    """Return the slots of all stores; none is added while the caller holds the gate."""
    return list(_slots)


class Whereabouts(NamedTuple):
    """The fate of a file whose commit was not seen in its place, or the reason why it is unknown."""

    moved: bool
    lost_wal: bool
    error: StoreNotAvailableError | None = None


class Slot(KeptStatements):
    """Holds a connection, if it is open; a fork, or `close` in another thread, waits until it is not in use.

    Every use takes `lock`. The one exception is a single statement that is tried again where it fails: the driver
    refuses to close a connection while a statement runs. A question about the file raises `StoreNotAvailableError`
    where the system gives no answer.
    """

    def __init__(self, path: str) -> None:
        self.path = self.real_path = path  # as it was given, and the file that it led to when that was opened
        self.lock = RLock()  # guards everything below
        self.transaction: object = None  # the transaction over several calls that is open on the connection
        self.file_lock: FileLock | None = None
        self._moved = ctypes.c_int(0)
        self._moved_at = ctypes.addressof(self._moved)
        self._forget()
        with gate:
            _slots.add(self)

    def _forget(self) -> None:
        self.connection: apsw.Connection | None = None
        self.statements = None
        self.armed = False  # whether the connection has the triggers that it writes with
        self.schema_version = -1  # of the schema that was last compared with the layout, after the opening
        self.phantom = False  # stands for a file that is not there: empty, in memory, for reading only
        self.stamp: tuple[int, ...] | None = None  # of a file that is read without locks: changed with its content
        # When to check again whether the file is still the one that was opened; monotonic seconds, 0 before every use.
        self.check_at = 0.0
        # The file that is open. Read before the opening: afterwards the name may belong to another file already, and a
        # connection to the first would pass for one to the second.
        self.opened: Identity | None = None
        self.wal_files: dict[str, Identity | None] = {}  # write-ahead log and index, as they were opened for writing
        self.wal: tuple[str, Identity] | None = None  # the write-ahead log, as it was opened
        self.wal_check_at = inf  # when to check, after a write, whether it is still there; monotonic seconds

    def arm(self, connection: apsw.Connection) -> None:
        """Let the connection remove large records with the rows that lead to them.

        Not when it is opened: most connections only read.
        """
        if not self.armed:
            connection.execute(OWN_TRIGGERS)
            self.armed = True

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Hold the lock. Nothing can prevent another thread from ending the scope."""
        lock = self.lock
        lock.acquire()
        try:
            yield
        finally:
            try:
                lock.release()
            except RuntimeError:  # in another thread: it, and every other one, goes on with a new lock
                self.lock = RLock()

    def settle(self, *, check_always: bool) -> None:
        """Remember the write-ahead log of the file that was opened just now.

        `check_always`: look for it after every write, even where it is locked.
        """
        wal, index = wal_names(self.real_path)
        if self.opened is not None:
            self.file_lock = filelock.locked(self, self.opened, self.real_path)
        self.wal_files = {name: identity(name) for name in (wal, index)}
        if (found := self.wal_files[wal]) is not None:
            self.wal = wal, found
            # Beside a write that waits for the disk a look at the log takes no time, beside any other one it does.
            is_kept = self.file_lock is not None and self.file_lock.holds
            self.wal_check_at = time.monotonic() + CHECK_EVERY_S if is_kept and not check_always else 0.0

    def moved(self) -> bool:
        """Return whether the file was moved, replaced or deleted since it was opened."""
        connection = self.connection
        if connection is None:
            return False
        try:
            # The driver takes a `stat` that fails, for whatever reason, for a file that has moved.
            return self._has_moved(connection) and not bears(self.path, self.opened)
        except apsw.ConnectionClosedError:  # by a signal handler, just now
            return False

    def _has_moved(self, connection: apsw.Connection) -> bool:
        connection.file_control("main", _HAS_MOVED, self._moved_at)
        return self._moved.value != 0

    def is_in_place(self, connection: apsw.Connection) -> bool:
        """Return whether a commit of just now is in the file that bears the name, and in its write-ahead log.

        False also where it takes a closer look.
        """
        try:
            if self._has_moved(connection):
                return False
        except apsw.ConnectionClosedError:  # by a signal handler, just now
            return True
        if (now := time.monotonic()) < self.wal_check_at:
            return True
        if self.wal_check_at:
            self.wal_check_at = now + CHECK_EVERY_S
        with suppress(StoreNotAvailableError):
            return not self.has_lost_wal()
        return False

    def whereabouts(self) -> Whereabouts:
        """Look what has become of the file and its write-ahead log.

        To be asked under the lock that the commit was made under: another thread may close the connection behind it.
        """
        try:
            moved = self.moved()
            return Whereabouts(moved, not moved and self.has_lost_wal())
        except StoreNotAvailableError as error:
            return Whereabouts(False, False, error)

    def has_lost_wal(self) -> bool:
        """Return whether this connection reads and writes another write-ahead log than others find."""
        return self.wal is not None and identity(self.wal[0]) != self.wal[1]

    def is_stale(self) -> bool:
        """Return whether another file bears the name now, or another one that of the write-ahead log."""
        if self.phantom:
            return is_there(self.path)
        if self.stamp is not None and (has_wal(self.real_path) or stamp(self.path) != self.stamp):
            return True  # opened as immutable, and written to now or since
        return self.moved() or self.has_lost_wal()

    def calm(self) -> None:
        """Wait until the connection is not in use, by the one statement that runs without the lock."""
        self.statements = None
        while self.connection is not None:
            try:
                self._has_moved(self.connection)
            except apsw.ThreadingViolationError:
                time.sleep(0.0001)
            except apsw.ConnectionClosedError:
                return
            else:
                return

    def close(self) -> None:
        """Close the connection, if there is one; the slot can be used again."""
        with self.lock:
            file_lock, self.file_lock = self.file_lock, None
            if file_lock is None:
                self._close()
                return
            with gate:  # no other slot joins or leaves meanwhile
                is_last = filelock.leave(self, file_lock)
                self._close()
                if is_last:  # not before: it drops the locks of all connections
                    filelock.forget(file_lock)

    def leave_wal(self) -> None:
        """Leave the write-ahead log as it is when the connection is closed: not moved into the file, not removed."""
        with suppress(apsw.Error):  # of a connection that is closed already, or in use
            if self.connection is not None:
                self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def __del__(self) -> None:
        if self.file_lock is not None:  # its thread has ended
            self.close()

    def _close(self) -> None:
        spare, leave = self._spares_wal() if self.wal_files else (False, False)
        connection = self.connection
        self._forget()
        while connection is not None:
            try:
                if spare:
                    keep = ctypes.c_int(1)
                    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(keep))
                if leave:
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()
            except apsw.ThreadingViolationError:  # its thread is in a statement that runs without the lock
                time.sleep(0.0001)
            except apsw.Error:  # closed already, or its log could not be moved: the next connection reads that
                return
            else:
                return

    def _spares_wal(self) -> tuple[bool, bool]:
        """Return whether to keep the driver from deleting the write-ahead log, and from moving it into the file.

        The first if another file bears a name; the second if there is another log, too: its writers go by what the file
        was.
        """
        try:
            lost = self.has_lost_wal()
            return lost or not bears(self.path, self.opened), lost and is_there(wal_names(self.real_path)[0])
        except StoreNotAvailableError:
            return True, True
