"""Writing a namespace of dicts: call by call, or in a transaction that works on a copy."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rstore.backends.common.heads import admits, admits_ids
from rstore.backends.contract import WriteTransaction
from rstore.backends.memory.dicts import LogDicts, MemoryNamespace, copy_of
from rstore.backends.memory.places import lock
from rstore.backends.memory.reading import MemoryReads, now_ms
from rstore.backends.types import (
    ANY,
    IDS_HEAD,
    KEYS_BYTES,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    Log,
    NamespaceGone,
    Row,
    Write,
    Writes,
    identity_of,
    ids_of,
    version_of,
)
from rstore.errors import StoreClosedError


class MemoryWrites(MemoryReads, WriteTransaction):
    """Reads and writes a namespace of dicts."""

    @abstractmethod
    def _writing(self, *, logs: bool = False) -> AbstractContextManager[None]:
        """Let one step write, to `logs` alone or to all, when no transaction of others has the turn; tell watchers."""

    @abstractmethod
    def _put_namespace(self, namespace: MemoryNamespace | None) -> None:
        """Put a namespace in place of the one that is there, or of none."""

    def create(self) -> bytes:
        with lock:
            if (namespace := self._find()) is None:  # mostly it is there, and nothing has to wait
                with self._writing():
                    namespace = self._find() or MemoryNamespace()
                    self._put_namespace(namespace)
            return namespace.incarnation

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        with self._writing():
            namespace = self._find()
            if namespace is None or identity_of(namespace.incarnation) != identity_of(incarnation):
                raise NamespaceGone
            if name not in namespace.facts:
                namespace.facts[name] = fact
                namespace.incarnation = identity_of(namespace.incarnation) + os.urandom(KEYS_BYTES)
            return namespace.facts[name]

    def _expect(self, incarnation: bytes) -> MemoryNamespace:
        namespace = self._find()
        if namespace is None or namespace.incarnation != incarnation:
            raise NamespaceGone
        return namespace

    def _take_from(self, if_incarnation: ExpectedIncarnation) -> MemoryNamespace | None:
        """Return the namespace to take something away from, None if there is none."""
        namespace = self._find()
        if namespace is not None and if_incarnation not in (ANY, namespace.incarnation):
            raise NamespaceGone
        return namespace

    # -- records ------------------------------------------------------------------------------------------------------

    def write(self, writes: Writes, incarnation: bytes) -> None:
        with self._writing():
            namespace = self._expect(incarnation)
            now = now_ms()  # one moment for all of them
            for write in writes:
                namespace.put(Write(*write), now)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        with self._writing():
            namespace = self._expect(incarnation)
            record = self.get(write.key)
            if version != (None if record is None else version_of(record)):
                return False
            namespace.put(write, now_ms())
            return True

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._writing():
            namespace, record = self._take_from(if_incarnation), self.get(key)
            if namespace is None or record is None:
                return False
            namespace.put(Write(key, record, ttl_ms), now_ms())
            return True

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._writing():
            namespace = self._take_from(if_incarnation)
            if namespace is None:
                return 0
            found = {key for key in keys if self.has(key)}
            for key in found:
                del namespace.records[key]
            return len(found)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._writing():
            return self.delete(self._between(start, stop), if_incarnation=if_incarnation)

    def sweep(self, limit: int) -> int:
        with lock:
            if not self._expired(limit):
                return 0  # without waiting for others
        with self._writing():
            expired = self._expired(limit)
            for key in expired:
                del self._records()[key]
            return len(expired)

    def _expired(self, limit: int) -> list[str]:
        now, records = now_ms(), self._records()
        return [key for key, (_, expires_ms) in records.items() if expires_ms is not None and expires_ms <= now][:limit]

    def _records(self) -> dict[str, tuple[bytes, int | None]]:
        namespace = self._find()
        return {} if namespace is None else namespace.records

    def clear(self) -> None:
        with self._writing():
            self._records().clear()

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        with self._writing(logs=True):
            logs = self._expect(incarnation).logs
            if (found := logs.get(log)) is None:
                found = logs[log] = LogDicts(head)
            if found.head.sealed != head.sealed:
                return False
            for t, seq, body in rows:
                found.rows[t, seq] = body
            return True

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        with self._writing(logs=True):
            logs = self._expect(incarnation).logs
            found = logs.get(log)
            beside = logs.get(ids_of(log)) or LogDicts(IDS_HEAD)
            if not (admits(None if found is None else found.head, commit) and admits_ids(beside.rows.get, commit)):
                return False
            if commit.put_ids:
                logs[ids_of(log)] = beside
                beside.apply(Commit(drop_rows=commit.drop_ids, put_rows=commit.put_ids))
            if found is None and commit.create is not None:
                found = logs[log] = LogDicts(commit.create)
            if found is not None:
                found.apply(commit)
                if commit.drop_if_empty and not found.rows and not found.chunks:
                    del logs[log]
            return True

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._writing(logs=True):
            namespace, found = self._take_from(if_incarnation), self._log(log)
            if namespace is None or found is None or if_version not in (ANY, found.head.version):
                return False
            del namespace.logs[log]
            return True


class MemoryTransaction(MemoryWrites):
    """Works on a copy of a namespace; `namespace` is what it has become. The caller puts it in place at the end.

    `is_open`: whether the transaction may still write.
    """

    def __init__(self, namespace: MemoryNamespace | None, is_open: Callable[[], bool] = lambda: True) -> None:
        self.namespace = copy_of(namespace)
        self.has_written = False
        self._is_open = is_open

    def _find(self) -> MemoryNamespace | None:
        return self.namespace

    def _put_namespace(self, namespace: MemoryNamespace | None) -> None:
        self.namespace = namespace

    @contextmanager
    def _writing(self, *, logs: bool = False) -> Generator[None, None, None]:
        with lock:
            self.check()
            self.has_written = True
            yield

    def check(self) -> None:
        """Refuse to go on where the transaction is over."""
        if not self._is_open():
            raise StoreClosedError("the transaction is over, or that of another process; nothing was applied")

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        before = copy_of(self.namespace)
        try:
            yield self
        except BaseException:
            self.namespace = before
            raise

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return nullcontext(self)
