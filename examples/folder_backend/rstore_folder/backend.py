"""The backend: it reads the file of its namespace, or changes a copy of the namespace and replaces the file.

Each write writes all of the namespace, so that this is for a few megabytes. The calls of the contract on a namespace in
memory come from the reference backend, `memory://`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rstore import Durability, Finding, InvalidValueError, Stats, StoreClosedError
from rstore.backends.common.autocommit import Autocommit
from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.contract import ReadTransaction, WriteTransaction
from rstore.backends.maintenance import no_namespace
from rstore.backends.memory.dicts import MemoryNamespace
from rstore.backends.memory.reading import MemorySnapshot
from rstore.backends.memory.writing import MemoryTransaction
from rstore.backends.types import Log, Options, Watcher
from rstore_folder.file import locked, pack, read, replace, translated, unpack


class FolderBackend(Autocommit):
    """One namespace in a folder."""

    def __init__(self, place: str, namespace: str, options: Options) -> None:
        if not place:
            raise InvalidValueError("folder://PATH names a folder, and folder:// none")
        self._folder = Path(place).absolute()
        # A hash: the name of a namespace may have 255 bytes and a slash, which the name of a file may not.
        self._path = self._folder / f"{hashlib.sha256(namespace.encode()).hexdigest()}.namespace"
        self._name = namespace
        self._options = options
        self._closed = False

    def open(self) -> None:
        if not self._options.frozen:
            with translated():
                self._folder.mkdir(exist_ok=True)
        elif self._load() is None:
            raise no_namespace(self, self._name, f"in the folder {self._folder}")

    def close(self) -> None:
        self._closed = True

    def ping(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")

    def _load(self) -> MemoryNamespace | None:
        self.ping()
        data = read(self._path)
        return None if data is None else unpack(data, self._path)[1]

    @contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        yield MemorySnapshot(self._load())

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction]:
        with locked(self._folder, self._options.timeout_s) as is_locked:
            tx = MemoryTransaction(self._load(), is_locked)
            yield tx
            tx.check()  # in the child of a fork: the transaction is its parent's
            if tx.has_written:
                replace(self._path, None if tx.namespace is None else pack(self._name, tx.namespace))

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()  # which keeps other writers out of all logs

    def discard(self) -> None:
        self.ping()
        with locked(self._folder, self._options.timeout_s):
            replace(self._path, None)

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Generator[Watcher]:
        yield FileWatcher(self._path)

    # -- the store as a whole -----------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        found = ((path, read(path)) for path in self._folder.glob("*.namespace"))
        return sorted(unpack(data, path)[0] for path, data in found if data is not None)

    def stats(self) -> Stats:
        return MemorySnapshot(self._load()).stats()

    def durability(self) -> Durability:
        return Durability(True, True, True, False, "each call is on the disk", {"fsync": "on"})

    def findings(self) -> Iterator[Finding]:
        return iter(())

    def reclaim(self) -> int:
        return 0  # each write leaves a file that holds nothing else


class FileWatcher(Watcher):
    """Looks whether a file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = read(path)

    def wait(self, timeout_s: float) -> bool:
        backoff = Backoff(Deadline(timeout_s))
        while (now := read(self._path)) == self._seen:
            if not backoff.pause():
                return False
        self._seen = now
        return True
