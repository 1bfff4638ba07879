"""The reference backend: dicts. It says what the contract means, and the other backends must agree.

`memory://NAME` is one *place* a name, shared within the process, and gone with it. A transaction has its *turn*: others
that write wait for its end, and read what was there before.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.maintenance import Durability, Finding, no_namespace
from rstore.backends.memory.dicts import MemoryNamespace, copy_of
from rstore.backends.memory.places import changed, lock, place_of, writes
from rstore.backends.memory.reading import MemorySnapshot
from rstore.backends.memory.writing import MemoryTransaction, MemoryWrites
from rstore.backends.types import Log, Model, Options, Watcher
from rstore.errors import StoreClosedError


class MemoryWatcher(Watcher):
    """Hears that the records, or the logs, of a namespace were written to."""

    def __init__(self, place: str, namespace: str, *, logs: bool) -> None:
        self._key = place, namespace, logs
        self._seen = writes[self._key]

    def wait(self, timeout_s: float) -> bool:
        with lock:
            changed.wait_for(lambda: writes[self._key] != self._seen, timeout_s)
            before, self._seen = self._seen, writes[self._key]
            return before != self._seen


class MemoryBackend(MemoryWrites, Backend):
    """One namespace of one store in this process."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        self._place = place_of(path)
        self._namespace = namespace
        self._options = options
        self._closed = False

    def open(self) -> None:
        with lock:
            if self._options.frozen and self._find() is None:
                raise no_namespace(self, self._namespace, f"in memory://{self._place.name}")

    def close(self) -> None:
        self._closed = True

    def discard(self) -> None:
        with self._writing():
            self._find()
            self._put_namespace(None)

    def _find(self) -> MemoryNamespace | None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")
        return self._place.namespaces.get(self._namespace)

    def _put_namespace(self, namespace: MemoryNamespace | None) -> None:
        if namespace is None:
            self._place.namespaces.pop(self._namespace, None)
        else:
            self._place.namespaces[self._namespace] = namespace

    @contextmanager
    def _writing(self, *, logs: bool = False) -> Generator[None, None, None]:
        with lock:
            self._place.wait(self._options.timeout_s)
            yield
            self._notify(records=not logs)

    def _notify(self, *, records: bool) -> None:
        if records:
            writes[self._place.name, self._namespace, False] += 1
        writes[self._place.name, self._namespace, True] += 1
        changed.notify_all()

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Generator[Watcher, None, None]:
        yield MemoryWatcher(self._place.name, self._namespace, logs=False)

    @contextmanager
    def log_watcher(self, model: Model) -> Generator[Watcher, None, None]:
        yield MemoryWatcher(self._place.name, self._namespace, logs=True)

    # -- several calls as one -----------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        with self._place.take_turn(self._options.timeout_s) as is_held:
            with lock:
                tx = MemoryTransaction(self._find(), is_held)
            yield tx
            with lock:
                tx.check()
                if tx.has_written:
                    self._put_namespace(tx.namespace)
                    self._notify(records=True)

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()

    @contextmanager
    def snapshot(self) -> Generator[ReadTransaction, None, None]:
        with lock:
            snapshot = MemorySnapshot(copy_of(self._find()))
        yield snapshot

    # -- the store as a whole -----------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        with lock:
            self._find()
            return sorted(self._place.namespaces)

    def ping(self) -> None:
        with lock:
            self._find()

    def durability(self) -> Durability:
        return Durability(False, False, True, False, "all is gone when this process ends", {})

    def findings(self) -> Iterator[Finding]:
        return iter(())

    def reclaim(self) -> None:
        """Do nothing: what is not there any more takes no space."""
