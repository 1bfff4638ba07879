"""From the errors of the driver to those of rstore."""

from __future__ import annotations

from typing import Final

import apsw

from rstore.errors import (
    CorruptionError,
    NotSupportedError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)

_FAILED_WRITES: Final = {apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_TRUNCATE, apsw.SQLITE_IOERR_SHMSIZE}


def translated(error: apsw.Error | UnicodeDecodeError, path: str, timeout_s: float) -> StoreError:
    """Return the error of rstore for an error of the driver; it names the file, never a value."""
    if isinstance(error, UnicodeDecodeError):
        return CorruptionError(f"{path!r}: a text in the file is damaged; check() says more")
    reason = f"{path!r}: {error}"
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreBusyError(f"{reason}; others kept it locked for {timeout_s:g} s")
    if isinstance(error, apsw.FullError | apsw.NoMemError) or _is_out_of_space(error):
        return StoreFullError(f"{reason}; nothing was applied")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError | apsw.FormatError | apsw.MismatchError):
        return CorruptionError(reason)
    if isinstance(error, apsw.TooBigError):
        return NotSupportedError(f"{reason}; SQLite holds values of up to 1,000,000,000 bytes")
    if isinstance(error, apsw.ConnectionClosedError | apsw.ThreadingViolationError):
        return StoreClosedError(reason)
    return StoreNotAvailableError(reason)


def _is_out_of_space(error: apsw.Error) -> bool:
    # A full disk is an error of its own; a quota, or a limit on the size of files, is a failed write or extension.
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) in _FAILED_WRITES
