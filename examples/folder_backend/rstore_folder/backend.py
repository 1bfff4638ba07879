"""The backend: it reads the file of a namespace, or locks the folder, changes it, and puts another file in its place.

Every write writes the whole file, so that this is for a few megabytes. It shows what a backend has to do: transactions,
a bounded wait for a lock, files that are whole whatever happens, and no exception that is not rstore's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rstore import (
    Durability,
    Finding,
    InvalidValueError,
    OutcomeUnknownError,
    Stats,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreNotAvailableError,
)
from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.maintenance import RECORDS, no_namespace, stats_of
from rstore.backends.types import Options, Watcher

from rstore_folder.calls import Calls, FolderTransaction
from rstore_folder.namespace import Namespace

_STAMP_BYTES: Final = 16
"""So many random bytes begin a file, and differ in every version of it."""


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the error of rstore that an error of the system is: the one place that knows both."""
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreNotAvailableError
        raise kind(f"{error.filename or 'the folder'}: {error.strerror}; nothing was applied") from error


class FolderBackend(Calls, Backend):
    """One namespace in a folder."""

    def __init__(self, place: str, namespace: str, options: Options) -> None:
        if not place:
            raise InvalidValueError("folder://PATH names a folder")
        self._folder = Path(place).absolute()
        # Any name may be that of a namespace, also 255 bytes and a slash; a file has none of them.
        self._file = self._folder / f"{hashlib.sha256(namespace.encode()).hexdigest()}.namespace"
        self._name = namespace
        self._options = options
        self._closed = False
        self._seen: tuple[bytes, Namespace] | None = None

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        if not self._options.frozen:
            with _translated():
                self._folder.mkdir(exist_ok=True)
        elif self._read().incarnation is None:
            raise no_namespace(self, self._name, f"in {self._folder}")

    def close(self) -> None:
        self._closed = True

    def discard(self) -> None:
        with self._change() as tx:
            tx.namespace = Namespace(self._name)

    # -- reading and writing ------------------------------------------------------------------------------------------

    def _read(self) -> Namespace:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")
        with _translated():
            try:
                file = self._file.open("rb")
            except FileNotFoundError:
                return Namespace(self._name)
            with file:  # it stays whole, also where it is replaced now
                stamp, seen = file.read(_STAMP_BYTES), self._seen
                if seen is None or seen[0] != stamp:
                    self._seen = seen = stamp, Namespace.unpack(file.read())
        return seen[1]

    @contextmanager
    def _change(self) -> Iterator[FolderTransaction]:
        with self._locked():
            before = self._read()
            tx = FolderTransaction(Namespace.unpack(before.pack()))  # others read the one that was seen
            owner = os.getpid(), threading.get_ident()
            yield tx
            if (os.getpid(), threading.get_ident()) != owner:
                raise StoreClosedError("the transaction is that of another thread or process; nothing was applied")
            if tx.namespace != before:
                self._write(tx.namespace)

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Iterator[WriteTransaction]:
        with self._change() as tx:
            yield tx

    @contextmanager
    def snapshot(self) -> Iterator[ReadTransaction]:
        yield FolderTransaction(self._read())  # which no writer changes: it puts another one in its place

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep all other writers out, of all processes.

        The file of the lock is never removed: another process could hold its lock while a third one makes a new file.
        """
        deadline = Deadline(self._options.timeout_s)
        backoff, pid = Backoff(deadline), os.getpid()
        with _translated():
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            while not _try_lock(descriptor):
                if not backoff.pause():
                    raise StoreBusyError(
                        f"{self._folder} was busy: another writer held its lock for longer than the time-out, "
                        f"{deadline.timeout_s:g} s; nothing was applied"
                    )
            yield
        finally:
            if os.getpid() == pid:  # a child of a fork shares the lock of its parent
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _write(self, namespace: Namespace) -> None:
        """Put another file in the place of the one that is there, or remove it: others see either as a whole."""
        new = self._file.with_suffix(".new")
        with _translated():
            if namespace.incarnation is None:
                self._file.unlink(missing_ok=True)
            else:
                with new.open("wb") as file:
                    file.write(os.urandom(_STAMP_BYTES) + namespace.pack())
                    file.flush()
                    self._sync(file.fileno())
                new.replace(self._file)
        try:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                self._sync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise OutcomeUnknownError(f"{self._folder}: {error.strerror}; the write is there, and may be lost") from error

    def _sync(self, descriptor: int) -> None:
        if self._options.durability == "full":
            os.fsync(descriptor)

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Iterator[Watcher]:
        yield _FileWatcher(self)

    # -- the store as a whole -----------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        with _translated():
            files = list(self._folder.glob("*.namespace"))
            contents = [file.read_bytes()[_STAMP_BYTES:] for file in files]
        return sorted(Namespace.unpack(content).name for content in contents)

    def ping(self) -> None:
        self._read()

    def stats(self) -> Stats:
        namespace = self._read()
        records = [(RECORDS, 1, 0, len(record)) for record, _ in namespace.live().values()]
        return stats_of([*records, *((log.model, *one.totals()) for log, one in namespace.logs.items())])

    def durability(self) -> Durability:
        full = self._options.durability == "full"
        meaning = "each call is on the disk" if full else "a power cut may damage the file"
        return Durability(True, full, full, False, meaning, {"fsync": "on" if full else "off"})

    def findings(self) -> Iterator[Finding]:
        return iter(())

    def reclaim(self) -> int:
        return 0  # every write leaves a file without gaps


def _try_lock(descriptor: int) -> bool:
    try:
        with _translated():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _FileWatcher(Watcher):
    """Looks at the stamp of a file."""

    def __init__(self, backend: FolderBackend) -> None:
        self._backend = backend
        self._seen = backend._read()

    def wait(self, timeout_s: float) -> bool:
        """Return whether the file is another one, as soon as it is."""
        backoff = Backoff(Deadline(timeout_s))
        while (now := self._backend._read()) is self._seen:
            if not backoff.pause():
                return False
        self._seen = now
        return True
