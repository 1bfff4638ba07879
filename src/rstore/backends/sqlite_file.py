"""A SQLite file and the connections to it: one a thread, none across a fork, none to a file that is gone.

Nouns: a *link* (one thread's connection, opened when needed) and a *file* (all links of one open store).
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import RLock, local
from typing import Final, TypeVar
from urllib.parse import quote
from weakref import WeakSet

import apsw

from rstore.backends.base import Options
from rstore.backends.sqlite_format import is_fresh, lay_out
from rstore.errors import (
    ConflictError,
    CorruptionError,
    NotSupportedError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

T = TypeVar("T")

_FIRST_SAFE_SQLITE: Final = 3_051_003  # before it, a checkpoint that races with a WAL reset can corrupt the file
_LOOK_EVERY_S: Final = 1.0
_MOST_SPARE: Final = 2
_CACHE_KIB: Final = 16384  # of SQLite's 2 MiB, a quarter of the lookups among 20,000 records miss
_FAILED_WRITES: Final = {apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE, apsw.SQLITE_IOERR_SHMSIZE}


_OF_MIXED_FILES: Final = (apsw.CorruptError, apsw.NotADBError, apsw.IOError)


class Link:
    """One thread's connection; a fork, or `close` in another thread, waits until it is not in use.

    Whoever uses it holds `lock`. The one exception is a single statement that is tried again where it fails: the driver
    refuses to close a connection while a statement runs.
    """

    __slots__ = (
        "__weakref__",
        "_moved",
        "connection",
        "execute",
        "lock",
        "logs",
        "look_at",
        "namespace",
        "phantom",
        "stamp",
    )

    def __init__(self) -> None:
        self.lock = RLock()  # guards everything below
        self.connection: apsw.Connection | None = None
        # A cursor that is kept, and what the namespace's rows are found by, once a lookup has seen them.
        self.execute: Callable[..., apsw.Cursor] | None = None
        self.namespace = 0
        self.phantom = False  # stands for a file that is not there: empty, in memory, for reading only
        self.stamp: tuple[int, ...] | None = None  # of a file that is read without locks: changed, so is what was read
        # When to look next whether the file is still the one that was opened; monotonic seconds, 0 before every use.
        self.look_at = 0.0
        self.logs: dict[str, tuple[int, int] | None] = {}  # the files of the write-ahead log, as they were opened
        self._moved = ctypes.c_int(0)

    def moved(self) -> bool:
        """Return whether the file was moved, replaced or deleted since it was opened."""
        if self.connection is None:
            return False
        self.connection.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(self._moved))
        return bool(self._moved.value)

    def close(self) -> None:
        """Close the connection, if there is one; the link can be used again."""
        connection, self.connection, self.phantom = self.connection, None, False
        self.look_at, self.logs, self.execute, self.stamp = 0.0, {}, None, None
        while connection is not None:
            try:
                connection.close()
            except apsw.ThreadingViolationError:  # its thread is in a statement that runs without the lock
                time.sleep(0.0001)
            else:
                return


class _Local(local):
    """What belongs to one thread; its connection is closed when the thread ends."""

    def __init__(self, links: WeakSet[Link]) -> None:
        self.link = Link()
        with _gate:
            links.add(self.link)


class Pinned:
    """A connection that reads from one moment, for one thread at a time."""

    def __init__(self, file: SqliteFile, link: Link, connection: apsw.Connection) -> None:
        self._file = file
        self._link = link
        self._connection = connection

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return what `work` reads.

        Raises `ConflictError` if the moment is lost.
        """
        with self._link.lock:
            if self._link.connection is not self._connection:
                raise ConflictError("the store was closed, discarded or forked while it was being read: read again")
            try:
                return work(self._connection)
            except apsw.Error as error:
                raise self._file.translated(error) from error


class SqliteFile:
    """The connections of one open store to its file."""

    def __init__(self, path: str, options: Options) -> None:
        if apsw.SQLITE_VERSION_NUMBER < _FIRST_SAFE_SQLITE:
            raise StoreNotAvailableError(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt files in WAL mode: pip install --upgrade apsw"
            )
        self.path = path
        self._options = options
        self._links: WeakSet[Link] = WeakSet()
        self._spare: list[Link] = []  # of those who read from one moment, for the next one
        self.local = _Local(self._links)
        self._closed = False
        with _gate:
            _files.add(self)

    def open(self) -> None:
        """Open the file in this thread, creating it if it is not frozen.

        Raises `StoreNotAvailableError` if it cannot be opened or is no store, and `CorruptionError` if it is damaged.
        """
        self._closed = False
        link = self.local.link
        with link.lock:
            self._connect(link, writing=not self._options.frozen)

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its thread is not using it."""
        self._closed = True
        with _gate:
            links = list(self._links)
        for link in links:
            with link.lock:
                link.close()

    # -- using it -----------------------------------------------------------------------------------------------------

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return what `work` reads from a connection."""
        link = self.local.link
        while True:
            with link.lock:
                connection = self._look(link)
                if connection is not None:
                    try:
                        result = work(connection)
                    except apsw.Error as error:
                        if connection.in_transaction or not self._is_stale(link):
                            raise self.translated(error) from error
                    else:
                        if link.stamp is None or not self._is_stale(link):
                            return result
            self._leave()  # whatever went wrong with a file that bears the name no more

    def delete(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do the same as `write` for what only takes away: a file that is not there is not made for it."""
        return self.write(work, create=False)

    def write(self, work: Callable[[apsw.Connection], T], *, create: bool = True) -> T:
        """Return what `work` did, in one transaction, to the file that bears the name now.

        The look comes after the commit and not before: a connection that was used keeps others from removing the
        file, so that a file that is still there after a commit stays.
        """
        link, suspicious = self.local.link, True
        while True:
            with link.lock:
                connection = self.connection(link, create=create)
                try:
                    result = work(connection)
                except apsw.Error as error:
                    # The first time damage is seen it may be that of two files whose logs were mixed up by their name:
                    # connected anew, what is damaged is damaged still. Whatever had begun was rolled back.
                    mixed, suspicious = suspicious and isinstance(error, _OF_MIXED_FILES), False
                    if connection.in_transaction or not (mixed or link.moved()):
                        raise self.translated(error) from error
                else:
                    if connection.in_transaction or not link.moved():
                        return result
            self._leave()  # whatever was done to, or went wrong with, a file that bears the name no more

    def connection(self, link: Link, *, create: bool = True) -> apsw.Connection:
        """Return the link's connection for writing, to whoever holds its lock."""
        if link.connection is None or (link.phantom and (create or os.path.exists(self.path))):
            return self._connect(link, writing=create)
        return link.connection

    @contextmanager
    def pinned(self) -> Generator[Pinned, None, None]:
        """Keep what the file holds now, for reading on a connection of its own while this thread's one goes on.

        The log cannot be moved into the file beyond this moment until it ends.
        """
        link = self._spare.pop() if self._spare else Link()
        with _gate:
            self._links.add(link)
        try:
            yield Pinned(self, link, self._begin(link))
        finally:
            with link.lock:
                if link.connection is not None and link.connection.in_transaction:
                    link.connection.execute("ROLLBACK")
            if len(self._spare) < _MOST_SPARE:
                self._spare.append(link)
            else:
                link.close()

    def _begin(self, link: Link) -> apsw.Connection:
        while True:
            with link.lock:
                connection = self._look(link)
                if connection is not None:
                    try:
                        connection.execute("BEGIN; SELECT 1 FROM namespaces LIMIT 1").fetchall()  # which takes the lock
                    except apsw.Error as error:
                        if not link.moved():
                            raise self.translated(error) from error
                    else:
                        return connection
                link.close()

    def _look(self, link: Link) -> apsw.Connection | None:
        """Return the link's connection for reading, or None if it is seen now that the file is another one."""
        connection = link.connection
        if connection is None:
            return self._connect(link, writing=False)
        if time.monotonic() < link.look_at or connection.in_transaction:
            return connection
        if self._is_stale(link):
            return None
        if link.look_at:
            link.look_at = time.monotonic() + _LOOK_EVERY_S
        return connection

    def _leave(self) -> None:
        """Close all connections of this process to a file that bears the name no more, and take its log out of the way.

        The log is found by its name: whoever opens another file of this name next would take it for that file's. It is
        moved into the file that it belongs to, and unlinked if it is still the one that was opened.
        """
        place = os.path.realpath(self.path)
        held = _hold(lambda file: os.path.realpath(file.path) == place)
        try:
            mine = self.local.link
            if mine.connection is not None and mine.logs and mine.moved():
                self._empty_log(mine.connection)
                for path, identity in mine.logs.items():
                    if identity is not None and _identity(path) == identity:
                        os.unlink(path)
            for link in held:
                link.close()
        finally:
            _release(held)

    def _empty_log(self, connection: apsw.Connection) -> None:
        """Move what is in the log into the file, waiting for those who still read what the file was before."""
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            try:
                busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() or (0, 0, 0)
            except apsw.Error as error:
                raise self.translated(error) from error
            if not busy and frames == moved:
                return
            if time.monotonic() > deadline:
                raise StoreBusyError(f"{self.path!r} was replaced, and others still read the file that was there")
            time.sleep(0.002)

    def _is_stale(self, link: Link) -> bool:
        if link.phantom:
            return os.path.exists(self.path)
        if link.stamp is not None and (self._has_log() or _stamp(self.path) != link.stamp):
            return True  # opened as immutable, and somebody writes now, or did since
        return link.moved()

    def _log_names(self) -> tuple[str, str]:
        """Return the log and its index: SQLite keeps them beside the file that a link leads to, not beside the link."""
        path = os.path.realpath(self.path)
        return path + "-wal", path + "-shm"

    def _has_log(self) -> bool:
        """Return whether there is a write-ahead log with something in it; frozen connections leave empty ones."""
        try:
            return os.path.getsize(self._log_names()[0]) > 0
        except FileNotFoundError:
            return False

    # -- opening ------------------------------------------------------------------------------------------------------

    def _connect(self, link: Link, *, writing: bool) -> apsw.Connection:
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            if self._closed:
                raise StoreClosedError("the store was closed meanwhile")
            with _gate:  # no connection is opened while a fork is under way, or while the file is being removed
                link.close()
                try:
                    connection = self._try_connect(link, writing=writing)
                    connection.set_busy_timeout(int(self._options.timeout_s * 1000))
                except FileNotFoundError as error:  # somebody removed it since it was found or created: once more
                    link.close()
                    if time.monotonic() > deadline:
                        raise StoreBusyError(f"{self.path!r} was removed again and again") from error
                except apsw.Error as error:
                    gone = not os.path.exists(self.path) or link.moved()
                    link.close()
                    if not (gone or isinstance(error, apsw.BusyError)) or time.monotonic() > deadline:
                        raise self.translated(error) from error
                except BaseException:
                    link.close()
                    raise
                else:
                    return connection
            time.sleep(0.002)  # outside of the gate: others must not wait for the lock of a file that is not theirs

    def _try_connect(self, link: Link, *, writing: bool) -> apsw.Connection:
        if self._options.frozen:
            return self._connect_frozen(link)
        if not writing and not os.path.exists(self.path):
            return self._connect_phantom(link)
        return self._connect_writable(link)

    def _connect_phantom(self, link: Link) -> apsw.Connection:
        # After a discard: reading must find nothing, and must not create the file again.
        link.connection, link.phantom = apsw.Connection(":memory:"), True
        lay_out(link.connection)
        return link.connection

    def _connect_writable(self, link: Link) -> apsw.Connection:
        self._create()
        connection = link.connection = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READWRITE)
        self._prepare(connection)
        fresh = is_fresh(connection, self.path)
        self._check_place(link)
        self._switch_to_wal(connection)
        self._check_place(link)
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._options.durability == 'full' else 'NORMAL'}")
        if fresh:
            with transaction(connection):
                if is_fresh(connection, self.path):  # another process may have been faster
                    lay_out(connection)
        connection.execute("SELECT 1 FROM namespaces LIMIT 1").fetchall()  # opens the log
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        link.logs = {path: _identity(path) for path in self._log_names()}
        self._check_place(link)
        link.look_at = time.monotonic() + _LOOK_EVERY_S
        return connection

    def _check_place(self, link: Link) -> None:
        if link.moved():
            raise FileNotFoundError(self.path)

    def _create(self) -> None:
        """Create the file if it is not there, for nobody else to read."""
        try:
            # Only if it is new: closing any descriptor of a file drops all locks that the process holds on it.
            os.close(os.open(os.path.realpath(self.path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if os.path.isdir(self.path):
                raise StoreNotAvailableError(f"{self.path!r} is a directory") from None
            if os.path.exists(self.path) and not os.access(self.path, os.W_OK):  # SQLite would fall back on reading
                raise StoreNotAvailableError(f"cannot open {self.path!r} for writing: permission denied") from None
        except OSError as error:
            raise StoreNotAvailableError(f"cannot open {self.path!r} for writing: {error.strerror}") from error

    def _connect_frozen(self, link: Link) -> apsw.Connection:
        if not os.path.isfile(self.path):
            raise StoreNotAvailableError(f"there is no file {self.path!r}; frozen=False creates one")
        try:
            link.connection = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READONLY)
            self._prepare(link.connection)
            self._require_format(link.connection)
            link.look_at = time.monotonic() + _LOOK_EVERY_S
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.PermissionsError) as error:
            # A file in WAL mode needs a -shm beside it, which cannot be made in a read-only directory.
            if not os.access(self.path, os.R_OK):
                raise StoreNotAvailableError(f"cannot read {self.path!r}: permission denied") from error
            if self._has_log():
                raise StoreNotAvailableError(
                    f"{self.path!r} has a write-ahead log that cannot be read in a read-only directory: "
                    "open it once where it can be written"
                ) from error
            link.close()
            link.stamp = _stamp(self.path)
            uri = "file:" + quote(self.path) + "?immutable=1"
            link.connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
            self._prepare(link.connection)
            self._require_format(link.connection)
            link.look_at = 0.0  # looks every time: an immutable connection takes no locks
        return link.connection

    def _prepare(self, connection: apsw.Connection) -> None:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        # Plans must not depend on bound values: with STAT4 the driver's SQLite would plan many of these statements anew
        # at each execution, which takes longer than most of them.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)

    def _require_format(self, connection: apsw.Connection) -> None:
        if is_fresh(connection, self.path):
            raise StoreNotAvailableError(f"{self.path!r} is empty; frozen=False makes it a store")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def _switch_to_wal(self, connection: apsw.Connection) -> None:
        # Ignores the busy timeout; whoever is busy is waited for in `_connect`.
        if connection.pragma("journal_mode", "wal") != "wal":
            raise StoreNotAvailableError(f"the file system of {self.path!r} cannot hold a write-ahead log")

    # -- removing -----------------------------------------------------------------------------------------------------

    def remove_if_unused(self, is_unused: Callable[[apsw.Connection], bool]) -> None:
        """Remove the file if nobody else has it open and nothing is in it; otherwise it stays."""
        held = _hold(lambda file: file is self)
        try:
            for link in held:
                link.close()
            connection = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                # Leaving WAL takes an exclusive lock: the proof of being alone. A newcomer could have entered it since.
                if connection.pragma("journal_mode", "delete") != "delete":
                    return
                connection.execute("BEGIN EXCLUSIVE")
                if connection.pragma("journal_mode") == "delete" and is_unused(connection):
                    with suppress(OSError):  # in a directory that others own, or that is gone, it stays, empty
                        os.unlink(os.path.realpath(self.path))
                connection.execute("ROLLBACK")
            except (apsw.BusyError, apsw.CantOpenError):
                return
            finally:
                connection.close()
        except apsw.CantOpenError:
            return  # somebody else removed it
        except apsw.Error as error:
            raise self.translated(error) from error
        finally:
            _release(held)

    # -- errors -------------------------------------------------------------------------------------------------------

    def translated(self, error: apsw.Error) -> StoreError:
        """Return the error of rstore for an error of the driver; it names the file, never a value."""
        reason = f"{self.path!r}: {error}"
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            return StoreBusyError(f"{reason}; others kept it locked for {self._options.timeout_s:g} s")
        if isinstance(error, apsw.FullError | apsw.NoMemError) or _is_out_of_space(error):
            return StoreFullError(f"{reason}; nothing was applied")
        if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError | apsw.FormatError):
            return CorruptionError(reason)
        if isinstance(error, apsw.TooBigError):
            return NotSupportedError(f"{reason}; SQLite holds values of up to 1,000,000,000 bytes")
        if isinstance(error, apsw.ConnectionClosedError | apsw.ThreadingViolationError):
            return StoreClosedError(reason)
        return StoreNotAvailableError(reason)


def _stamp(path: str) -> tuple[int, ...] | None:
    """Return what changes when somebody writes to a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from every other one that bears its name before or after."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _is_out_of_space(error: apsw.Error) -> bool:
    # A full disk is an error of its own; a quota, or a limit on the size of files, is a failed write or extension.
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) in _FAILED_WRITES


@contextmanager
def transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Generator[None, None, None]:
    """Run statements as one transaction, or as one step of the transaction that is open: all of them or none."""
    begin, end, undo = f"BEGIN {kind}", "COMMIT", "ROLLBACK"
    if connection.in_transaction:
        begin, end, undo = "SAVEPOINT step", "RELEASE step", "ROLLBACK TO step; RELEASE step"
    connection.execute(begin)
    try:
        yield
        connection.execute(end)
    except BaseException:
        if not connection.get_autocommit():  # a full disk has rolled all of it back already
            connection.execute(undo)
        raise


# -- forks ------------------------------------------------------------------------------------------------------------
# SQLite's table of locks is inherited by a child, the locks are not: a child that merely opens a connection of its own
# can lose acknowledged commits when the parent closes its one. So no connection is open at the moment of a fork.

_gate = RLock()  # guards the two sets below, and is held by whoever opens a connection, forks, or removes a file
_files: WeakSet[SqliteFile] = WeakSet()
_held_for_fork: list[Link] = []


def _hold(chosen: Callable[[SqliteFile], bool]) -> list[Link]:
    """Take the gate and the locks of all links of some files, waiting for what is under way."""
    while True:
        _gate.acquire()
        held: list[Link] = []
        for link in [link for file in list(_files) if chosen(file) for link in list(file._links)]:  # noqa: SLF001 - same module
            if not link.lock.acquire(timeout=0.01):
                break
            held.append(link)
        else:
            return held
        # Its owner may be waiting for the gate, in order to open a connection: let it.
        _release(held)
        time.sleep(0.001)


def _release(held: list[Link]) -> None:
    for link in held:
        link.lock.release()
    _gate.release()


def _before_fork() -> None:
    _held_for_fork[:] = _hold(lambda _: True)
    for link in _held_for_fork:
        link.close()


def _after_fork() -> None:
    held = _held_for_fork[:]
    _held_for_fork.clear()
    _release(held)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
