"""Locks on an open file that stay when another SQLite library in this process closes the same file.

SQLite locks by POSIX, and such locks go with the first descriptor of the file that anything in the process closes:
`sqlite3` or `pandas.read_sql` has a look, and other processes take this one for gone, and remove the write-ahead log
beneath it. A lock of an open file description stays. It is shared, like SQLite's own lock that says "in use", and is
put beside that. The lock of a writing transaction cannot be kept in the same way: the two would be in conflict.

Nouns: a *file lock* (of one file, for all connections of this process).
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from typing import Final
from weakref import WeakSet

from rstore.backends.sqlite.transport.filesystem import Identity, wal_names

if _IS_POSSIBLE := sys.platform == "linux":  # on Windows locks belong to handles anyway
    import fcntl

# Where SQLite locks: the shared range of a file, and the byte of the index that says "in use".
_SHARED: Final = 0x40000002, 510
_IN_USE: Final = 128, 1


class FileLock:
    """The locks of one file. To ask for it and to leave it takes the gate."""

    def __init__(self, known: Identity) -> None:
        self.known = known
        self.users: WeakSet[object] = WeakSet()
        self.holds = False
        self._descriptors: list[int] = []

    def lock(self, real_path: str) -> None:
        """Take the locks, if descriptors are left and the file system has such locks.

        A descriptor that was opened in vain is kept as well: to close it would drop the locks of SQLite.
        """
        with suppress(OSError):
            for name, where in zip((real_path, wal_names(real_path)[1]), (_SHARED, _IN_USE), strict=True):
                self._descriptors.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
                _set_lock(self._descriptors[-1], fcntl.F_RDLCK, *where)
            found = os.fstat(self._descriptors[0])
            self.holds = (found.st_dev, found.st_ino) == self.known

    def unlock(self) -> None:
        """Drop the locks, so that the last connection that closes can move the write-ahead log into the file."""
        for descriptor in self._descriptors:
            with suppress(OSError):  # then the write-ahead log stays, for the next connection that opens the file
                _set_lock(descriptor, fcntl.F_UNLCK, 0, 0)

    def close(self) -> None:
        """Close the descriptors: with them go the locks of all that this process has left of the file."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _set_lock(descriptor: int, kind: int, start: int, length: int) -> None:
    # `struct flock` as Linux has it: the padding follows from the alignment.
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


_file_locks: dict[Identity, FileLock] = {}


def locked(user: object, known: Identity, real_path: str) -> FileLock | None:
    """Return the lock of the file that a user has opened; None where the system has no such locks."""
    if not _IS_POSSIBLE:
        return None
    file_lock = _file_locks.get(known)
    if file_lock is None:
        file_lock = _file_locks[known] = FileLock(known)
        file_lock.lock(real_path)
    file_lock.users.add(user)
    return file_lock


def leave(user: object, file_lock: FileLock) -> bool:
    """Take a user from a lock that it is about to leave; return whether it was the last one."""
    file_lock.users.discard(user)
    if file_lock.users:
        return False
    file_lock.unlock()
    return True


def forget(file_lock: FileLock) -> None:
    """Close a lock that the last user has left."""
    _file_locks.pop(file_lock.known, None)
    file_lock.close()


def forget_inherited() -> None:
    """Close the locks of the parent, in a child."""
    for file_lock in _file_locks.values():
        file_lock.close()
    _file_locks.clear()
