"""One connection to a SQLite file, and what all of this process have in common: none is open across a fork."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from math import inf
from threading import RLock
from typing import Any, Final
from weakref import WeakSet

import apsw

from rstore.backends.sqlite import guard as guards
from rstore.backends.sqlite.errors import CommitInDoubtError, is_in_doubt
from rstore.backends.sqlite.guard import Guard
from rstore.backends.sqlite.place import Identity, bears, has_log, identity, is_there, log_names, stamp
from rstore.errors import StoreBusyError, StoreNotAvailableError

_HAS_MOVED: Final = apsw.SQLITE_FCNTL_HAS_MOVED
LOOK_EVERY_S: Final = 1.0


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
        "guard",
        "insert",
        "insert_expiring",
        "lock",
        "log",
        "log_look_at",
        "logs",
        "look_at",
        "lookup",
        "opened",
        "owner",
        "path",
        "phantom",
        "place",
        "schema_version",
        "stamp",
    )

    def __init__(self, path: str) -> None:
        self.path = self.place = path  # as it was given, and the file that it led to when that was opened
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
        self.opened: Identity | None = None  # the file that is open
        self.logs: dict[str, Identity | None] = {}  # the files of the write-ahead log, as they were opened for writing
        self.log: tuple[str, Identity] | None = None  # the log, as it was opened
        self.log_look_at = inf  # when to look next, after a write, whether it is still there; monotonic seconds
        self.guard: Guard | None = None
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

    def settle(self, *, look_often: bool) -> None:
        """Keep what the file and its log are that were opened just now.

        `look_often`: look after every write whether the log is still there, even where a guard keeps it.
        """
        log, index = log_names(self.place)
        self.opened = identity(self.place)
        if self.opened is not None:
            self.guard = guards.guarded(self, self.opened)
        self.logs = {name: identity(name) for name in (log, index)}
        if (found := self.logs[log]) is not None:
            self.log = log, found
            # A look takes a sixteenth of a `set` that does not wait for the disk, and nothing of one that does.
            is_kept = self.guard is not None and self.guard.holds
            self.log_look_at = time.monotonic() + LOOK_EVERY_S if is_kept and not look_often else 0.0

    def moved(self) -> bool:
        """Return whether the file was moved, replaced or deleted since it was opened.

        Raises `StoreNotAvailableError` where that cannot be told.
        """
        connection = self.connection
        if connection is None:
            return False
        try:
            # The driver takes a `stat` that fails, for whatever reason, for a file that has moved.
            if not self._has_moved(connection):
                return False
        except apsw.ConnectionClosedError:  # by a signal handler, just now
            return False
        opened = self.opened or (-1, -1)  # while it is being opened
        return not bears(self.path, opened)

    def _has_moved(self, connection: apsw.Connection) -> bool:
        connection.file_control("main", _HAS_MOVED, self._moved_at)
        return self._moved.value != 0

    def is_in_place(self, connection: apsw.Connection) -> bool:
        """Return whether what was just committed is in the file that bears the name, and in its log.

        False also where something has to be looked at more closely.
        """
        try:
            connection.file_control("main", _HAS_MOVED, self._moved_at)
        except apsw.ConnectionClosedError:  # by a signal handler, just now
            return True
        if self._moved.value:
            return False
        if (now := time.monotonic()) < self.log_look_at:
            return True
        if self.log_look_at:
            self.log_look_at = now + LOOK_EVERY_S
        if self.log is None:
            return True
        name, log = self.log
        try:  # as `has_lost_log`, without its frames
            found = os.stat(name)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == log

    def has_lost_log(self) -> bool:
        """Return whether the log that this link reads and writes is not the one that others find.

        Raises `StoreNotAvailableError` where that cannot be told.
        """
        return self.log is not None and identity(self.log[0]) != self.log[1]

    def calm(self) -> None:
        """Wait until the connection is not in use, by the one statement that runs without the lock."""
        self.execute = None
        while self.connection is not None:
            try:
                self._has_moved(self.connection)
            except apsw.ThreadingViolationError:
                time.sleep(0.0001)
            except apsw.ConnectionClosedError:
                return
            else:
                return

    def is_stale(self) -> bool:
        """Return whether what bears the name of the file now, or of its log, is not what was opened.

        Raises `StoreNotAvailableError` where that cannot be told.
        """
        if self.phantom:
            return is_there(self.path)
        if self.stamp is not None and (has_log(self.place) or stamp(self.path) != self.stamp):
            return True  # opened as immutable, and somebody writes now, or did since
        return self.moved() or self.has_lost_log()

    def close(self) -> None:
        """Close the connection, if there is one; the link can be used again."""
        guard, self.guard = self.guard, None
        if guard is None:
            self._close()
            return
        with gate:  # nobody joins or leaves meanwhile
            is_last = guards.leave(self, guard)
            self._close()
            if is_last:  # not before: it lets go of the locks of all connections
                guards.forget(guard)

    def leave_log(self) -> None:
        """Let the log be when the connection is closed: not moved into the file, and not removed."""
        with suppress(apsw.Error):  # of a connection that is closed already, or in use
            if self.connection is not None:
                self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def __del__(self) -> None:
        if self.guard is not None:  # its thread has ended
            self.close()

    def _close(self) -> None:
        spare, leave = self._spares_logs() if self.logs else (False, False)
        connection, self.connection, self.phantom, self.armed = self.connection, None, False, False
        self.look_at, self.logs, self.execute, self.stamp = 0.0, {}, None, None
        self.log, self.log_look_at, self.opened = None, inf, None
        self.schema_version = -1
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
            except apsw.Error:  # closed already, or it failed to empty the log, which the next one that opens it reads
                return
            else:
                return

    def _spares_logs(self) -> tuple[bool, bool]:
        """Return whether to keep the driver from deleting the log, by its name, and from moving its own into the file.

        The first if what bears a name is not what is open; the second if there is another log, too, since whoever
        writes it goes by what the file was.
        """
        try:
            lost = self.has_lost_log()
            return (
                lost or not bears(self.path, self.opened),
                lost and self.log is not None and is_there(self.log[0]),
            )
        except StoreNotAvailableError:
            return True, True


def in_transaction(connection: apsw.Connection) -> bool:
    """Return whether a connection is inside a transaction; one that a signal handler has closed just now is not."""
    try:
        return connection.in_transaction
    except apsw.ConnectionClosedError:
        return False


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
        try:
            connection.execute(end)
        except apsw.Error as error:
            if not nested and is_in_doubt(error):
                raise CommitInDoubtError(str(error)) from error
            raise
    except BaseException:
        if alive() and not connection.get_autocommit():  # a full disk has rolled all of it back already
            connection.execute(undo)
        raise


def execute_alone(connection: apsw.Connection, sql: str, bindings: Any = None) -> None:
    """Execute a statement that is a transaction of its own, or a step of the one that is open."""
    alone = connection.get_autocommit()
    try:
        connection.execute(sql, bindings)
    except apsw.Error as error:
        if alone and is_in_doubt(error):
            raise CommitInDoubtError(str(error)) from error
        raise


# SQLite's table of locks is inherited by a child, the locks are not: a child that merely opens a connection of its own
# can lose acknowledged commits when the parent closes its one. So no connection is open at the moment of a fork.

gate = RLock()  # guards the two below, and is held by whoever opens a connection, forks, or removes a file
_links: WeakSet[Link] = WeakSet()
_held_for_fork: list[Link] = []


def all_links() -> list[Link]:
    """Return those of all stores; none is added while somebody holds the gate."""
    return list(_links)


def hold(chosen: Callable[[Link], bool], timeout_s: float = inf) -> list[Link]:
    """Take the gate and the locks of some links, waiting for what is under way.

    Raises `StoreBusyError` if that takes too long: a thread may stay inside a transaction for as long as it likes.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        held: list[Link] = []
        gate.acquire()
        try:
            busy = next((link for link in all_links() if chosen(link) and not _take(link, held)), None)
        except BaseException:
            release(held)
            raise
        if busy is None:
            return held
        # Its owner may be waiting for the gate, in order to open a connection: let it.
        release(held)
        if time.monotonic() > deadline:
            raise StoreBusyError(
                f"{busy.path!r} is to be opened anew, and another thread of this process has been using it for "
                f"{timeout_s:g} s: end its transaction"
            )
        time.sleep(0.001)


def _take(link: Link, held: list[Link]) -> bool:
    if link.lock.acquire(timeout=0.01):
        held.append(link)
        return True
    return False


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
            link.guard = None
            lost_places.add(os.path.realpath(link.path))
    guards.inherited()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
