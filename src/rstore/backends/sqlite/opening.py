"""Opening a SQLite file as a store: for writing, for reading, and where it cannot be locked or is not there."""

from __future__ import annotations

import os
import stat
import time
from typing import Final, Literal
from urllib.parse import quote

import apsw

from rstore.backends.sqlite.errors import are_descriptors_spent, code_of
from rstore.backends.sqlite.format import distrust, is_fresh, lay_out
from rstore.backends.sqlite.link import LOOK_EVERY_S, Link, transaction
from rstore.backends.sqlite.place import has_log, identity, stamp, status
from rstore.errors import StoreNotAvailableError

KEEP_IN_MEMORY: Final = "PRAGMA temp_store = MEMORY"
"""What a step of a transaction may have to undo: at most the pages that it changes. In a file it would leave the place
that the user has chosen, and a directory for such files may be full, or read-only."""
_CACHE_KIB: Final = 16384  # of SQLite's 2 MiB, a quarter of the lookups among 20,000 records miss
_CHECKPOINT_PAGES: Final = 4000
"""So many pages are in the log when somebody moves it into the file. With SQLite's 1,000 that takes a quarter of a
`set`; with these, a page that was written again meanwhile is moved once, and the index of the log has one part still,
which is all that a lookup goes through. The price is a log of up to 16 MB, and a longer pause, one call in 4,000."""
# And no mmap_size: among ten million records it would take a quarter off a lookup, but all that is read of a file would
# count as memory of the process, and whoever cuts the file short would end it by SIGBUS instead of an error.


def connect_phantom(link: Link, durability: Literal["full", "normal"]) -> apsw.Connection:
    """Open what stands for a file that was discarded: reading finds nothing, and does not create the file again."""
    link.connection, link.phantom = apsw.Connection(":memory:"), True
    lay_out(link.connection)
    link.connection.execute(_synchronous(durability))  # tells of the file that the next write makes
    return link.connection


def connect_writable(link: Link, durability: Literal["full", "normal"]) -> apsw.Connection:
    """Open the file for writing, after creating it if it is not there.

    Raises `FileNotFoundError` if it is removed or replaced meanwhile.
    """
    # Once: a link that is turned meanwhile must not have one file looked at and another one written.
    place = link.place = os.path.realpath(link.path)
    _create(place, link.path)
    connection = link.connection = apsw.Connection(place, flags=apsw.SQLITE_OPEN_READWRITE)
    if connection.readonly("main"):  # SQLite falls back on reading, and would stay there
        reason = "too many open files" if are_descriptors_spent() else "the system does not let it be written"
        raise StoreNotAvailableError(f"cannot open {link.path!r} for writing: {reason}")
    _prepare(connection)
    fresh = is_fresh(connection, place)
    _check_place(link)
    # Ignores the busy timeout: whoever is busy is waited for by the caller.
    if connection.pragma("journal_mode", "wal") != "wal":
        raise StoreNotAvailableError(f"the file system of {link.path!r} cannot hold a write-ahead log")
    _check_place(link)
    connection.execute(_synchronous(durability))
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    if fresh:
        with transaction(connection):
            if is_fresh(connection, place):  # another process may have been faster
                lay_out(connection)
    connection.execute("SELECT 1 FROM namespaces LIMIT 1").fetchall()  # opens the log
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    link.settle(look_often=durability == "full")
    _check_place(link)
    link.look_at = time.monotonic() + LOOK_EVERY_S
    return connection


def connect_frozen(link: Link) -> apsw.Connection:
    """Open the file for reading; as immutable where a directory does not allow what locks take.

    Raises `StoreNotAvailableError` if it is not there, is no store, or has a log that cannot be read there.
    """
    path = link.place = os.path.realpath(link.path)
    found = status(path)
    if found is None:
        raise StoreNotAvailableError(f"there is no file {link.path!r}; frozen=False creates one")
    if not stat.S_ISREG(found.st_mode):
        raise StoreNotAvailableError(f"{path!r} is not a regular file")
    try:
        link.connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        _require_format(link.connection, path)
        link.settle(look_often=False)
        link.logs = {}  # it writes nothing, and removes nothing
        link.look_at = time.monotonic() + LOOK_EVERY_S
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError, apsw.PermissionsError) as error:
        # A file in WAL mode needs a -shm beside it, which cannot be made in a read-only directory.
        if (reason := _why_unread(path, error)) is not None:
            raise StoreNotAvailableError(f"cannot read {path!r}: {reason}") from error
        link.close()
        link.stamp = stamp(path)
        uri = "file:" + quote(path) + "?immutable=1"
        link.connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        _require_format(link.connection, path)
        link.look_at = 0.0  # looks every time: an immutable connection takes no locks
    return link.connection


def _why_unread(path: str, error: apsw.Error) -> str | None:
    """Return why a file cannot be read as others leave it; None if it can, without locks, for nothing is under way."""
    if are_descriptors_spent():
        return "too many open files"
    if not os.access(path, os.R_OK):
        return "permission denied"
    if code_of(error) == apsw.SQLITE_READONLY_ROLLBACK or _has_journal(path):
        return "a transaction was broken off, and is to be undone: open it once with frozen=False"
    if has_log(path):
        return "its write-ahead log cannot be read in a read-only directory: open it once where it can be written"
    return None


def _has_journal(path: str) -> bool:
    journal = status(path + "-journal")
    return journal is not None and journal.st_size > 0


def _create(place: str, path: str) -> None:
    """Create the file if it is not there, for nobody else to read."""
    try:
        # Only if it is new: closing any descriptor of a file drops all locks that the process holds on it.
        os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if os.path.isdir(place):
            raise StoreNotAvailableError(f"{path!r} is a directory") from None
        if os.path.exists(place) and not os.access(place, os.W_OK):  # SQLite would fall back on reading
            raise StoreNotAvailableError(f"cannot open {path!r} for writing: permission denied") from None
    except OSError as error:
        raise StoreNotAvailableError(f"cannot open {path!r} for writing: {error.strerror}") from error


def _synchronous(durability: Literal["full", "normal"]) -> str:
    return f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}"


def _check_place(link: Link) -> None:
    if link.moved() or (link.opened is not None and identity(link.path) != link.opened):
        raise FileNotFoundError(link.path)


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
