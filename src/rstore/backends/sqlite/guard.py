"""Locks on an open file that stay when another SQLite library in this process closes the same file.

SQLite locks by POSIX, and such locks go with the first descriptor of the file that anybody in the process closes:
`sqlite3`, or `pandas.read_sql`, has a look, and other processes take us for gone, and remove the log beneath us. A lock
of an open file description stays. It is shared, as the one of SQLite that says that somebody is there, and is put
beside it. What a transaction holds while it writes cannot be kept the same way: the two would be in conflict.

Nouns: a *guard* (of one file, for all links of this process).
"""

from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from rstore.backends.sqlite.place import Identity, log_names

if TYPE_CHECKING:
    from rstore.backends.sqlite.link import Link

if sys.platform == "linux":
    import fcntl

    def _lock(descriptor: int, start: int, length: int, *, unlock: bool = False) -> None:
        kind = fcntl.F_UNLCK if unlock else fcntl.F_RDLCK
        # `struct flock` as Linux has it: the padding follows from the alignment.
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))

else:  # on Windows locks belong to handles anyway

    def _lock(descriptor: int, start: int, length: int, *, unlock: bool = False) -> None:
        raise NotImplementedError


_IS_POSSIBLE = sys.platform == "linux"

# Where SQLite locks: the shared range of a file, and the byte of a log's index that says that somebody uses it.
_SHARED: Final = 0x40000002, 510
_IN_USE: Final = 128, 1


class Guard:
    """The locks of one file. Whoever asks for it or leaves it holds the gate."""

    def __init__(self, known: Identity) -> None:
        self.known = known
        self.links: WeakSet[Link] = WeakSet()
        self.holds = False
        self._descriptors: list[int] = []

    def lock(self, path: str) -> None:
        """Take the locks, if descriptors are left and the file system has such locks.

        A descriptor that was opened in vain is kept as well: to close it would let go of the locks of SQLite.
        """
        with suppress(OSError, ImportError):
            for name, where in zip((path, log_names(path)[1]), (_SHARED, _IN_USE), strict=True):
                self._descriptors.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
                _lock(self._descriptors[-1], *where)
            found = os.fstat(self._descriptors[0])
            self.holds = (found.st_dev, found.st_ino) == self.known

    def unlock(self) -> None:
        """Let go of the file, so that the last link that closes can move the log into it."""
        for descriptor in self._descriptors:
            with suppress(OSError):  # then the log stays beside the file, for the next one that opens it
                _lock(descriptor, 0, 0, unlock=True)

    def close(self) -> None:
        """Close the descriptors: with them go the locks of all that this process has left of the file."""
        while self._descriptors:
            os.close(self._descriptors.pop())


_guards: dict[Identity, Guard] = {}


def guarded(link: Link, known: Identity) -> Guard | None:
    """Return the guard of the file that a link has opened; None where the system has no such locks."""
    if not _IS_POSSIBLE:
        return None
    guard = _guards.get(known)
    if guard is None:
        guard = _guards[known] = Guard(known)
        guard.lock(link.place)
    guard.links.add(link)
    return guard


def leave(link: Link, guard: Guard) -> bool:
    """Take a link from a guard that is about to be closed; return whether it was the last one."""
    guard.links.discard(link)
    if guard.links:
        return False
    guard.unlock()
    return True


def forget(guard: Guard) -> None:
    """Close a guard that the last link has left."""
    _guards.pop(guard.known, None)
    guard.close()


def inherited() -> None:
    """Close what the parent guards, in a child: the locks are the parent's."""
    for guard in _guards.values():
        guard.close()
    _guards.clear()
