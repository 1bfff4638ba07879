"""One connection to a SQLite file, and what all of this process have in common: none is open across a fork."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Final
from weakref import WeakSet

import apsw

_HAS_MOVED: Final = apsw.SQLITE_FCNTL_HAS_MOVED


class Link:
    """One thread's connection, opened when needed; a fork, or `close` in another thread, waits until it is not in use.

    Whoever uses it holds `lock`. The one exception is a single statement that is tried again where it fails: the driver
    refuses to close a connection while a statement runs.
    """

    __slots__ = (
        "__weakref__",
        "_moved",
        "_moved_at",
        "armed",
        "begun",
        "bound",
        "connection",
        "execute",
        "insert",
        "insert_expiring",
        "lock",
        "logs",
        "look_at",
        "lookup",
        "opened",
        "owner",
        "path",
        "phantom",
        "schema_version",
        "stamp",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = RLock()  # guards everything below
        self.connection: apsw.Connection | None = None
        self.bound: apsw.Connection | None = None  # the one above, while a transaction over several calls is open on it
        self.begun = 0  # how many of these there have been
        # A cursor that is kept, and the statements on one key of the namespace, once that was seen.
        self.execute: Callable[..., apsw.Cursor] | None = None
        self.lookup = self.insert = self.insert_expiring = ""
        self.owner = 0  # the thread that uses this cursor alone, of a link that several share; 0 if it is one thread's
        self.armed = False  # whether the connection has the triggers that it writes with
        self.schema_version = -1  # of the schema that was compared last with the layout, after it was opened
        self.phantom = False  # stands for a file that is not there: empty, in memory, for reading only
        self.stamp: tuple[int, ...] | None = None  # of a file that is read without locks: changed, so is what was read
        # When to look next whether the file is still the one that was opened; monotonic seconds, 0 before every use.
        self.look_at = 0.0
        self.opened: tuple[int, int] | None = None  # the file that is open for writing
        self.logs: dict[str, tuple[int, int] | None] = {}  # the files of the write-ahead log, as they were opened
        self._moved = ctypes.c_int(0)
        self._moved_at = ctypes.addressof(self._moved)
        with gate:
            _links.add(self)

    def know(self, connection: apsw.Connection, lookup: str, insert: str, insert_expiring: str) -> None:
        """Keep the statements on one key of a namespace, and a cursor: a new one takes a tenth of a statement."""
        self.lookup, self.insert, self.insert_expiring = lookup, insert, insert_expiring
        self.execute = self.execute or connection.cursor().execute

    def forget(self) -> None:
        """Keep none of that any more: the namespace may have been made in a transaction that was rolled back."""
        self.execute, self.lookup, self.insert, self.insert_expiring = None, "", "", ""

    def forget_undone(self) -> None:
        """Do that where a full disk has rolled back the transaction that is open, so that nobody reads without it."""
        if self.bound is not None and self.bound is self.connection and self.bound.get_autocommit():
            self.forget()

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Keep to its thread, which should be the one that lets go of it, and need not: that cannot be prevented."""
        lock = self.lock
        lock.acquire()
        try:
            yield
        finally:
            try:
                lock.release()
            except RuntimeError:  # only its thread can do that; it, and everybody else, goes on with another one
                self.lock = RLock()

    def moved(self) -> bool:
        """Return whether the file was moved, replaced or deleted since it was opened."""
        connection = self.connection
        if connection is None:
            return False
        try:
            return self.has_moved(connection)
        except apsw.ConnectionClosedError:  # by a signal handler, just now
            return False

    def has_moved(self, connection: apsw.Connection) -> bool:
        """Return the same of the connection, as far as it is open."""
        connection.file_control("main", _HAS_MOVED, self._moved_at)
        return self._moved.value != 0

    def calm(self) -> None:
        """Wait until the connection is not in use, by the one statement that runs without the lock."""
        self.execute = None
        while self.connection is not None:
            try:
                self.moved()
            except apsw.ThreadingViolationError:
                time.sleep(0.0001)
            else:
                return

    def is_stale(self) -> bool:
        """Return whether what bears the name of the file now is not what was opened."""
        if self.phantom:
            return os.path.exists(self.path)
        if self.stamp is not None and (has_log(self.path) or stamp(self.path) != self.stamp):
            return True  # opened as immutable, and somebody writes now, or did since
        return self.moved()

    def close(self) -> None:
        """Close the connection, if there is one; the link can be used again."""
        if self.logs:
            self._spare_logs()
        connection, self.connection, self.phantom, self.armed = self.connection, None, False, False
        self.look_at, self.logs, self.execute, self.stamp = 0.0, {}, None, None
        self.schema_version = -1
        while connection is not None:
            try:
                connection.close()
            except apsw.ThreadingViolationError:  # its thread is in a statement that runs without the lock
                time.sleep(0.0001)
            else:
                return

    def _spare_logs(self) -> None:
        """Keep the driver from deleting, by its name, the log of another file that bears the name by now."""
        with suppress(apsw.Error):  # of a connection that is closed already, or in use: it has been told before
            if self.connection is not None and self.moved():
                keep = ctypes.c_int(1)
                self.connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(keep))


def in_transaction(connection: apsw.Connection) -> bool:
    """Return whether a connection is inside a transaction; one that a signal handler has closed just now is not."""
    try:
        return connection.in_transaction
    except apsw.ConnectionClosedError:
        return False


def log_names(path: str) -> tuple[str, str]:
    """Return the log and its index: SQLite keeps them beside the file that a link leads to, not beside the link."""
    path = os.path.realpath(path)
    return path + "-wal", path + "-shm"


def has_log(path: str) -> bool:
    """Return whether there is a write-ahead log with something in it; frozen connections leave empty ones."""
    try:
        return os.path.getsize(log_names(path)[0]) > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when somebody writes to a file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from every other one that bears its name before or after."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


@contextmanager
def transaction(
    connection: apsw.Connection,
    kind: str = "IMMEDIATE",
    *,
    begin: Callable[[Callable[[], object]], object] = lambda attempt: attempt(),
    alive: Callable[[], bool] = lambda: True,
) -> Generator[None, None, None]:
    """Run statements as one transaction, or as one step of the transaction that is open: all of them or none.

    `begin` tries to begin it, more than once if need be. A connection that is not `alive` any more, since others run
    inside, is not touched.
    """
    nested = connection.in_transaction
    end, undo = ("RELEASE step", "ROLLBACK TO step; RELEASE step") if nested else ("COMMIT", "ROLLBACK")
    if nested:
        connection.execute("SAVEPOINT step")
    try:
        if not nested:  # inside, since an interrupt while it waits may come when it has just begun
            begin(lambda: connection.execute(f"BEGIN {kind}"))
        yield
        connection.execute(end)
    except BaseException:
        if alive() and not connection.get_autocommit():  # a full disk has rolled all of it back already
            connection.execute(undo)
        raise


# SQLite's table of locks is inherited by a child, the locks are not: a child that merely opens a connection of its own
# can lose acknowledged commits when the parent closes its one. So no connection is open at the moment of a fork.

gate = RLock()  # guards the two below, and is held by whoever opens a connection, forks, or removes a file
_links: WeakSet[Link] = WeakSet()
_held_for_fork: list[Link] = []


def all_links() -> list[Link]:
    """Return those of all stores; none is added while somebody holds the gate."""
    return list(_links)


def hold(chosen: Callable[[Link], bool]) -> list[Link]:
    """Take the gate and the locks of some links, waiting for what is under way."""
    while True:
        gate.acquire()
        held: list[Link] = []
        for link in [link for link in all_links() if chosen(link)]:
            if not link.lock.acquire(timeout=0.01):
                break
            held.append(link)
        else:
            return held
        # Its owner may be waiting for the gate, in order to open a connection: let it.
        release(held)
        time.sleep(0.001)


def release(held: list[Link]) -> None:
    """Let go of what `hold` took."""
    for link in held:
        link.lock.release()
    gate.release()


# A transaction goes on in the parent, so that its connection stays open. The child keeps what it inherited of it, and
# never touches it: even closing it would write to memory that it shares with the parent.
_inherited: list[apsw.Connection] = []
lost_places: set[str] = set()
"""The files that cannot be opened in this process any more."""


def _before_fork() -> None:
    _held_for_fork[:] = hold(lambda _: True)
    for link in _held_for_fork:
        if link.bound is None:
            link.close()


def _after_fork() -> None:
    held = _held_for_fork[:]
    _held_for_fork.clear()
    release(held)


def _after_fork_in_child() -> None:
    for link in _held_for_fork:
        if link.bound is not None:
            _inherited.append(link.bound)
            link.connection = link.execute = None
            lost_places.add(os.path.realpath(link.path))
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
