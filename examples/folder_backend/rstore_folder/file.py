"""The file of one namespace: read without a lock, and replaced as a whole by the one writer that holds the lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rstore import OutcomeUnknownError, StoreBusyError, StoreFullError, StoreNotAvailableError
from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.memory.dicts import MemoryNamespace
from rstore_folder.packing import pack, unpack

_STAMP_BYTES: Final = 16
"""So many random bytes begin a file: other ones in each file that replaces it."""


@contextmanager
def translated() -> Generator[None]:
    """Raise errors of the system as those of rstore. This is the one place that knows both."""
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreNotAvailableError
        raise kind(f"{error.filename or 'the folder'}: {error.strerror}; nothing was applied") from error


class NamespaceFile:
    """The file of one namespace, which is there for as long as the namespace. Threads may share it."""

    def __init__(self, folder: Path, name: str, *, synced: bool) -> None:
        # A hash: the name of a namespace may have 255 bytes and a slash, which the name of a file may not.
        self._path = folder / f"{hashlib.sha256(name.encode()).hexdigest()}.namespace"
        self._folder = folder
        self._name = name
        self._synced = synced
        self._seen: tuple[bytes, MemoryNamespace] | None = None

    def read(self) -> MemoryNamespace | None:
        """Return the namespace, for reading only; the same object for as long as the file is the same."""
        with translated():
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                return None
            with file:  # it stays what it is, also if another one takes its place now
                stamp, seen = file.read(_STAMP_BYTES), self._seen
                if seen is None or seen[0] != stamp:
                    self._seen = seen = stamp, unpack(file.read(), self._path)[1]
        return seen[1]

    def replace(self, namespace: MemoryNamespace | None) -> None:
        """Put another file in place of the one that is there: a reader sees one of the two, and all of it.

        The caller holds the lock, and changes the namespace no more.
        """
        stamp = os.urandom(_STAMP_BYTES)
        with translated():
            if namespace is None:
                self._path.unlink(missing_ok=True)
            else:
                new = self._path.with_suffix(".new")
                with new.open("wb") as file:
                    file.write(stamp + pack(self._name, namespace))
                    file.flush()
                    self._sync(file.fileno())
                new.replace(self._path)
                self._seen = stamp, namespace  # the next reading need not unpack it
        try:  # the folder has to be on the disk, too
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                self._sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutcomeUnknownError(f"{self._folder}: {error.strerror}; it may or may not last") from error

    def _sync(self, descriptor: int) -> None:
        if self._synced:
            os.fsync(descriptor)

    @contextmanager
    def locked(self, timeout_s: float) -> Generator[None]:
        """Keep all other writers out, of all processes. The lock ends with the process.

        Raises `StoreBusyError` if another writer holds it for longer than the time-out.
        """
        backoff = Backoff(Deadline(timeout_s))
        with translated():  # never removed: one process could hold it while another one makes it anew
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        owner = os.getpid()
        try:
            while not _take(descriptor):
                if not backoff.pause():
                    raise StoreBusyError(
                        f"the folder {self._folder} was busy: another writer held its lock for longer than the "
                        f"time-out, {timeout_s:g} s; nothing was applied"
                    )
            yield
        finally:
            if os.getpid() == owner:  # a child of a fork closes its copy, and leaves the lock to its parent
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _take(descriptor: int) -> bool:
    with translated():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def names_in(folder: Path) -> list[str]:
    """Return the names of all namespaces in a folder, in order."""
    names: list[str] = []
    with translated():
        for path in folder.glob("*.namespace"):
            with suppress(FileNotFoundError):  # discarded since
                names.append(unpack(path.read_bytes()[_STAMP_BYTES:], path)[0])
    return sorted(names)
