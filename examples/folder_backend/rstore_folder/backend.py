"""The backend: it reads the file of its namespace, or changes a copy of the namespace and replaces the file.

Each write writes all of the namespace, so that this is for a few megabytes. The calls of the contract on a namespace in
memory come from the reference backend, `memory://`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rstore import Durability, Finding, InvalidValueError, Stats, StoreClosedError
from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.maintenance import RECORDS, no_namespace, stats_of
from rstore.backends.memory.dicts import MemoryNamespace, copy_of
from rstore.backends.memory.reading import MemoryReads, MemorySnapshot
from rstore.backends.memory.writing import MemoryWrites
from rstore.backends.types import (
    ANY,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    Log,
    Options,
    Row,
    Watcher,
    Write,
    Writes,
)
from rstore_folder.file import NamespaceFile, names_in, translated


class FolderTransaction(MemoryWrites):
    """Changes a copy of a namespace. The backend puts it in place of the namespace at the end."""

    def __init__(self, namespace: MemoryNamespace | None) -> None:
        self.namespace = copy_of(namespace)
        self.changed = False

    def _find(self) -> MemoryNamespace | None:
        return self.namespace

    def _put_namespace(self, namespace: MemoryNamespace | None) -> None:
        self.namespace = namespace

    def _writing(self) -> AbstractContextManager[None]:
        self.changed = True
        return nullcontext()

    def _wrote(self) -> None:
        """Do nothing: watchers look at the file."""

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction]:
        before = copy_of(self.namespace)
        try:
            yield self
        except BaseException:
            self.namespace = before
            raise

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return nullcontext(self)


class FolderBackend(MemoryReads, Backend):
    """One namespace in a folder."""

    def __init__(self, place: str, namespace: str, options: Options) -> None:
        if not place:
            raise InvalidValueError("folder://PATH names a folder, and folder:// none")
        self._folder = Path(place).absolute()
        self._file = NamespaceFile(self._folder, namespace, synced=options.durability == "full")
        self._name = namespace
        self._options = options
        self._closed = False

    def open(self) -> None:
        if not self._options.frozen:
            with translated():
                self._folder.mkdir(exist_ok=True)
        elif self._find() is None:
            raise no_namespace(self, self._name, f"in the folder {self._folder}")

    def close(self) -> None:
        self._closed = True

    def discard(self) -> None:
        with self._changing() as tx:
            tx.namespace, tx.changed = None, True

    def _find(self) -> MemoryNamespace | None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")
        return self._file.read()

    # -- several calls as one -----------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Generator[FolderTransaction]:
        with self._file.locked(self._options.timeout_s):
            tx, owner = FolderTransaction(self._find()), (os.getpid(), threading.get_ident())
            yield tx
            if (os.getpid(), threading.get_ident()) != owner:
                raise StoreClosedError("the transaction is that of another thread or process; nothing was applied")
            if tx.changed:
                self._file.replace(tx.namespace)

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction]:
        with self._changing() as tx:
            yield tx

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()  # which keeps other writers out of all logs

    @contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        yield MemorySnapshot(self._find())

    # -- each call a transaction of its own ---------------------------------------------------------------------------

    def create(self) -> bytes:
        if (namespace := self._find()) is not None:  # as mostly, and then no other writer is waited for
            return namespace.incarnation
        with self._changing() as tx:
            return tx.create()

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        with self._changing() as tx:
            return tx.add_fact(name, fact, incarnation)

    def write(self, writes: Writes, incarnation: bytes) -> None:
        with self._changing() as tx:
            tx.write(writes, incarnation)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        with self._changing() as tx:
            return tx.write_if(write, version, incarnation)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._changing() as tx:
            return tx.touch(key, ttl_ms, if_incarnation=if_incarnation)

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._changing() as tx:
            return tx.delete(keys, if_incarnation=if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._changing() as tx:
            return tx.delete_range(start, stop, if_incarnation=if_incarnation)

    def sweep(self, limit: int) -> int:
        with self._changing() as tx:
            return tx.sweep(limit)

    def clear(self) -> None:
        with self._changing() as tx:
            tx.clear()

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        with self._changing() as tx:
            return tx.append(log, head, rows, incarnation)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        with self._changing() as tx:
            return tx.commit(log, commit, incarnation)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._changing() as tx:
            return tx.drop(log, if_version=if_version, if_incarnation=if_incarnation)

    # -- the store as a whole -----------------------------------------------------------------------------------------

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Generator[Watcher]:
        yield FileWatcher(self._file)

    def namespaces(self) -> list[str]:
        return names_in(self._folder)

    def ping(self) -> None:
        self._find()

    def stats(self) -> Stats:
        namespace = self._find()
        logs = {} if namespace is None else namespace.logs
        records = [(RECORDS, 1, 0, len(record)) for record, _ in self._live().values()]
        return stats_of([*records, *((log.model, *one.totals()) for log, one in logs.items())])

    def durability(self) -> Durability:
        full = self._options.durability == "full"
        meaning = "each call is on the disk" if full else "a power cut may lose the namespace"
        return Durability(True, full, full, False, meaning, {"fsync": "on" if full else "off"})

    def findings(self) -> Iterator[Finding]:
        return iter(())

    def reclaim(self) -> int:
        return 0  # each write leaves a file that holds nothing else


class FileWatcher(Watcher):
    """Looks whether the file of a namespace is another one."""

    def __init__(self, file: NamespaceFile) -> None:
        self._file = file
        self._seen = file.read()

    def wait(self, timeout_s: float) -> bool:
        backoff = Backoff(Deadline(timeout_s))
        while (now := self._file.read()) is self._seen:
            if not backoff.pause():
                return False
        self._seen = now
        return True
