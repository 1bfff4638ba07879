"""From the errors of the driver to those of rstore."""

from __future__ import annotations

import errno
import os
from typing import Final

import apsw

from rstore.errors import (
    CorruptionError,
    NotSupportedError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

_FAILED_WRITES: Final = {apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE, apsw.SQLITE_IOERR_SHMSIZE}
_FAILED_SYNCS: Final = {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}
_AFTER_THE_WAL: Final = {apsw.SQLITE_IOERR_SHMSIZE, apsw.SQLITE_IOERR_SHMMAP}
_OUT_OF_DESCRIPTORS: Final = errno.EMFILE, errno.ENFILE
_OF_MIXED_FILES: Final = (apsw.CorruptError, apsw.NotADBError)

FAILURES: Final = (apsw.Error, UnicodeDecodeError)
"""The errors of a statement; the second where a text in the file is no UTF-8."""


class CommitInDoubtError(apsw.Error):
    """A commit failed when all of it was in the write-ahead log: the next recovery may find it there."""


def code_of(error: Exception) -> int:
    """Return the extended result code of an error of the driver, 0 if it has none."""
    return int(getattr(error, "extendedresult", 0))


def is_failed_sync(error: Exception) -> bool:
    """Return whether the system could not bring something to the disk: its memory differs from the disk then."""
    return code_of(error) in _FAILED_SYNCS


def may_pass(error: apsw.Error | UnicodeDecodeError) -> bool:
    """Return whether a failed write may succeed on a new connection."""
    if isinstance(error, apsw.IOError):  # many kinds of it while others remove the file; to write again proves nothing
        return code_of(error) not in _FAILED_WRITES
    return isinstance(error, (*_OF_MIXED_FILES, apsw.ReadOnlyError))


def is_in_doubt(error: apsw.Error) -> bool:
    """Return whether a commit that failed with an error, or a statement without a transaction, may be done.

    The write-ahead log is written and synced first, its index in shared memory follows. A commit that fails before
    that was not written as a whole, and is nothing.
    """
    return isinstance(error, apsw.NoMemError) or code_of(error) in _FAILED_SYNCS | _AFTER_THE_WAL


def translated(error: apsw.Error | UnicodeDecodeError, path: str, timeout_s: float) -> StoreError:
    """Return the error of rstore for an error of the driver; it names the file, never a value."""
    if isinstance(error, UnicodeDecodeError):
        return CorruptionError(f"{path!r}: a text in the file is damaged; check() says more")
    reason = f"{path!r}: {error}"
    if isinstance(error, CommitInDoubtError):
        return OutcomeUnknownError(
            f"{reason}, at the commit: all of the call was applied or none of it; read, before you repeat it"
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreBusyError(f"{reason}; others kept it locked for {timeout_s:g} s")
    # A full disk is an error of its own; a quota, or a limit on the size of files, is a failed write or extension.
    if isinstance(error, apsw.FullError | apsw.NoMemError) or code_of(error) in _FAILED_WRITES:
        return StoreFullError(f"{reason}; nothing was applied")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError | apsw.FormatError | apsw.MismatchError):
        return CorruptionError(reason)
    if isinstance(error, apsw.TooBigError):
        return NotSupportedError(f"{reason}; SQLite holds values of up to 1,000,000,000 bytes")
    if isinstance(error, apsw.ConnectionClosedError | apsw.ThreadingViolationError):
        return StoreClosedError(reason)
    if isinstance(error, apsw.CantOpenError) and are_descriptors_spent():
        return StoreNotAvailableError(f"{path!r} cannot be opened: {os.strerror(errno.EMFILE).lower()}")
    return StoreNotAvailableError(reason)


def are_descriptors_spent() -> bool:
    """Return whether there is no file descriptor left: SQLite says of that only that it could not open a file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _OUT_OF_DESCRIPTORS
    return False
