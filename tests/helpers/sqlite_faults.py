"""Calls of the system that fail under SQLite and the store: the n-th of a kind, and as many more as one likes.

SQLite lets the calls that it makes be replaced, all but `fsync`: that one fails in a VFS above its own, and only where
it is asked for, since an error of a VFS in Python goes through whatever SQLite makes of it: of what fails behind a
commit, SQLite itself says nothing.

Nouns: a *kind* of call, a *faulty* file system (beneath every connection that is made while it is entered).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import apsw

Kind: TypeAlias = Literal["open", "writable", "read", "write", "sync", "truncate", "delete", "stat"]
KINDS: Final[tuple[Kind, ...]] = ("open", "writable", "read", "write", "sync", "truncate", "delete", "stat")

_NAME: Final = "rstore-faulty"
_INT, _PATH, _BYTES, _SIZE, _AT = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_SIZED: Final = ctypes.c_ssize_t
# Of those that SQLite was built to use, the first.
_CALLS: Final[tuple[tuple[Kind, tuple[tuple[str, Any], ...]], ...]] = (
    ("open", (("open", (_INT, _PATH, _INT, _INT)),)),
    (
        "read",
        (
            ("pread64", (_SIZED, _INT, _BYTES, _SIZE, _AT)),
            ("pread", (_SIZED, _INT, _BYTES, _SIZE, _AT)),
            ("read", (_SIZED, _INT, _BYTES, _SIZE)),
        ),
    ),
    (
        "write",
        (
            ("pwrite64", (_SIZED, _INT, _BYTES, _SIZE, _AT)),
            ("pwrite", (_SIZED, _INT, _BYTES, _SIZE, _AT)),
            ("write", (_SIZED, _INT, _BYTES, _SIZE)),
        ),
    ),
    ("truncate", (("ftruncate", (_INT, _INT, _AT)),)),
    ("delete", (("unlink", (_INT, _PATH)),)),
    ("stat", (("stat", (_INT, _PATH, _BYTES)),)),
)


class Faulty(apsw.VFS):
    """A VFS by which every connection opens its files while it is entered."""

    def __init__(self, directory: str | os.PathLike[str], kind: Kind) -> None:
        self._base = apsw.vfs_names()[0]
        self._directory = os.fspath(directory)
        self._kind: Kind = kind
        self._left = self._times = 0
        self._errno = 0
        self.fired = 0
        self._stat = os.stat
        self._replaced: dict[str, Any] = {}
        super().__init__(_NAME, self._base, makedefault=kind == "sync")

    def arm(self, n: int, times: int = 1, errno: int = 5) -> None:
        """Let the n-th call of the kind fail from now on, and those after it, `times` in all."""
        self._left, self._times, self._errno, self.fired = n, times, errno, 0

    def disarm(self) -> int:
        """Let all succeed again; return how many have failed."""
        self._left, self._times = 0, 0
        return self.fired

    def hits(self, kind: Kind) -> bool:
        """Count a call, and return whether it fails."""
        if kind != self._kind or not self._times:
            return False
        self._left -= 1
        fails = -self._times < self._left <= 0
        self.fired += fails
        return fails

    def _replace(self, kind: Kind, name: str, types: tuple[Any, ...]) -> bool:
        if not (address := self.xGetSystemCall(name)):
            return False
        prototype = ctypes.CFUNCTYPE(*types, use_errno=True)
        original = prototype(address)

        def call(*arguments: Any) -> int:
            # SQLite opens a file for reading where it may not be written.
            writable = kind == "open" and bool(arguments[1] & os.O_RDWR) and self.hits("writable")
            if writable or self.hits(kind):
                ctypes.set_errno(self._errno)
                return -1
            return int(original(*arguments))

        self._replaced[name] = prototype(call)
        self.xSetSystemCall(name, ctypes.cast(self._replaced[name], ctypes.c_void_p).value or 0)
        return True

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        return _File(self, self._base, name, flags)

    def _look(self, path: Any, *args: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str) and path.startswith(self._directory) and self.hits("stat"):
            raise OSError(self._errno, os.strerror(self._errno), path)
        return self._stat(path, *args, **options)

    def __enter__(self) -> Self:
        for kind, calls in _CALLS:
            if not any(self._replace(kind, name, types) for name, types in calls):
                raise RuntimeError(f"SQLite does not let the call {kind!r} be replaced")
        os.stat = self._look
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disarm()
        os.stat = self._stat
        for name in self._replaced:
            self.xSetSystemCall(name, 0)
        apsw.set_default_vfs(self._base)
        self.unregister()


class _File(apsw.VFSFile):
    def __init__(self, faulty: Faulty, base: str, name: Any, flags: list[int]) -> None:
        self._hits: Callable[[Kind], bool] = faulty.hits
        super().__init__(base, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._hits("sync"):
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
