"""Opening a SQLite file as a store: for writing, for reading, and where it cannot be locked or is not there."""

from __future__ import annotations

import os
import stat
import time
from typing import Final, Literal
from urllib.parse import quote

import apsw

from rstore.backends.sqlite.schema import distrust, is_fresh, lay_out
from rstore.backends.sqlite.transport.errors import are_descriptors_spent, code_of
from rstore.backends.sqlite.transport.filesystem import has_wal, identity, stamp, status
from rstore.backends.sqlite.transport.savepoints import atomic
from rstore.backends.sqlite.transport.slot import CHECK_EVERY_S, Slot
from rstore.errors import StoreNotAvailableError

KEEP_IN_MEMORY: Final = "PRAGMA temp_store = MEMORY"
"""Keeps the pages that a step of a transaction may have to restore. A file of them would leave the place that the user
has chosen, and a directory for such files may be full, or read-only."""
_CACHE_KIB: Final = 16384  # with SQLite's 2 MiB, many of the lookups among 20,000 records miss
_CHECKPOINT_PAGES: Final = 4000
"""The size of the write-ahead log at which it is moved into the file. SQLite's 1,000 pages would move a page that is
written again and again four times as often. With more than these, its index would have a second part, which every
lookup goes through. The price is a log of up to 16 MB, and a longer pause, one call in 4,000."""
# And no mmap_size: all that is read of a file would count as memory of the process, and to cut the file short would end
# the process by SIGBUS instead of an error.


def connect_phantom(slot: Slot, durability: Literal["full", "normal"]) -> apsw.Connection:
    """Open a stand-in for a file that was discarded: reading finds nothing, and does not create the file again."""
    slot.connection, slot.phantom = apsw.Connection(":memory:"), True
    lay_out(slot.connection)
    slot.connection.execute(_synchronous(durability))  # tells of the file that the next write makes
    return slot.connection


def connect_writable(slot: Slot, durability: Literal["full", "normal"]) -> apsw.Connection:
    """Open the file for writing, after creating it if it is not there.

    Raises `FileNotFoundError` if it is removed or replaced meanwhile.
    """
    # Once: a symbolic link that is turned meanwhile must not have one file checked and another one written.
    real_path = slot.real_path = os.path.realpath(slot.path)
    _create(real_path, slot.path)
    slot.opened = identity(real_path)
    connection = slot.connection = apsw.Connection(real_path, flags=apsw.SQLITE_OPEN_READWRITE)
    if connection.readonly("main"):  # SQLite falls back on reading, and would stay there
        reason = "too many open files" if are_descriptors_spent() else "the system does not let it be written"
        raise StoreNotAvailableError(f"cannot open {slot.path!r} for writing: {reason}")
    _prepare(connection)
    fresh = is_fresh(connection, real_path)
    _check_moved(slot)
    # Ignores the busy timeout: the caller waits.
    if connection.pragma("journal_mode", "wal") != "wal":
        raise StoreNotAvailableError(f"the file system of {slot.path!r} cannot hold a write-ahead log")
    _check_moved(slot)
    connection.execute(_synchronous(durability))
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    if fresh:
        with atomic(connection):
            if is_fresh(connection, real_path):  # another process may have been faster
                lay_out(connection)
    connection.execute("SELECT 1 FROM namespaces LIMIT 1").fetchall()  # opens the write-ahead log
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    slot.settle(check_always=durability == "full")
    _check_moved(slot)
    slot.check_at = time.monotonic() + CHECK_EVERY_S
    return connection


def connect_frozen(slot: Slot) -> apsw.Connection:
    """Open the file for reading; as immutable where a directory does not allow what locks take.

    Raises `StoreNotAvailableError` if it is not there, is no store, or has a log that cannot be read there.
    """
    path = slot.real_path = os.path.realpath(slot.path)
    found = status(path)
    slot.opened = identity(path)
    if found is None or slot.opened is None:
        raise StoreNotAvailableError(f"there is no file {slot.path!r}; frozen=False creates one")
    if not stat.S_ISREG(found.st_mode):
        raise StoreNotAvailableError(f"{path!r} is not a regular file")
    try:
        slot.connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        _require_format(slot.connection, path)
        slot.settle(check_always=False)
        slot.wal_files = {}  # it writes nothing, and removes nothing
        slot.check_at = time.monotonic() + CHECK_EVERY_S
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.PermissionsError) as error:
        # A file in WAL mode needs a -shm beside it, which cannot be made in a read-only directory.
        if (reason := _why_unread(path, error)) is not None:
            raise StoreNotAvailableError(f"cannot read {path!r}: {reason}") from error
        slot.close()
        slot.stamp = stamp(path)
        uri = "file:" + quote(path) + "?immutable=1"
        slot.connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        _require_format(slot.connection, path)
        slot.check_at = 0.0  # checks every time: an immutable connection takes no locks
    return slot.connection


def _why_unread(path: str, error: apsw.Error) -> str | None:
    """Return why a file cannot be read as others leave it; None if it can, without locks: nothing is under way."""
    if are_descriptors_spent():
        return "too many open files"
    if not os.access(path, os.R_OK):
        return "permission denied"
    journal = status(path + "-journal")
    if code_of(error) == apsw.SQLITE_READONLY_ROLLBACK or (journal is not None and journal.st_size > 0):
        return "a transaction was broken off, and is to be undone: open it once with frozen=False"
    if has_wal(path):
        return "its write-ahead log cannot be read in a read-only directory: open it once where it can be written"
    return None


def _create(real_path: str, path: str) -> None:
    """Create the file if it is not there, readable by its owner alone."""
    try:
        # Only if it is new: closing any descriptor of a file drops all locks that the process holds on it.
        os.close(os.open(real_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if os.path.isdir(real_path):
            raise StoreNotAvailableError(f"{path!r} is a directory") from None
        if os.path.exists(real_path) and not os.access(real_path, os.W_OK):  # SQLite would fall back on reading
            raise StoreNotAvailableError(f"cannot open {path!r} for writing: permission denied") from None
    except OSError as error:
        raise StoreNotAvailableError(f"cannot open {path!r} for writing: {error.strerror}") from error


def _synchronous(durability: Literal["full", "normal"]) -> str:
    return f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}"


def _check_moved(slot: Slot) -> None:
    if slot.opened is None or slot.moved() or identity(slot.path) != slot.opened:
        raise FileNotFoundError(slot.path)


def _prepare(connection: apsw.Connection) -> None:
    distrust(connection)
    # Plans must not depend on bound values: with STAT4 the driver's SQLite would plan many of these statements anew
    # at each execution, which takes longer than most of them.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.execute(KEEP_IN_MEMORY)


def _require_format(connection: apsw.Connection, path: str) -> None:
    _prepare(connection)
    if is_fresh(connection, path):
        if os.path.getsize(path):
            raise StoreNotAvailableError(
                f"{path!r} holds nothing. If it is a copy of a store that was open, its -wal was not copied with it: "
                "use backup(); else frozen=False makes it a store"
            )
        raise StoreNotAvailableError(f"{path!r} is empty; frozen=False makes it a store")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
