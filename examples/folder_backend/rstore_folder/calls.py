"""The calls of the contract, on a namespace in memory.

Nouns: *calls* (of a backend, or inside a transaction) and a *transaction* (the namespace that calls read and change).
"""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from rstore.backends.common.heads import admits
from rstore.backends.common.pages import cut
from rstore.backends.contract import WriteTransaction
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_BYTES,
    KEYS_BYTES,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    Log,
    Model,
    NamespaceGone,
    Page,
    Row,
    ScanQuery,
    View,
    ViewQuery,
    Write,
    Writes,
    first_of,
    identity_of,
    overlapping,
    version_of,
)

from rstore_folder.namespace import LogContent, Namespace, between, now_ms


class Calls(WriteTransaction):
    """Answers all calls by a namespace; subclasses say where that is."""

    @abstractmethod
    def _read(self) -> Namespace:
        """Return the namespace, not to be changed; an empty one without an incarnation if there is none."""

    @abstractmethod
    def _change(self) -> AbstractContextManager[FolderTransaction]:
        """Yield a transaction whose changes are kept if nothing is raised."""

    # -- reading ------------------------------------------------------------------------------------------------------

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        namespace = self._read()
        return namespace.incarnation, dict(namespace.facts)

    def get(self, key: str) -> bytes | None:
        return self._read().live().get(key, (None, None))[0]

    def has(self, key: str) -> bool:
        return key in self._read().live()

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        live, size = self._read().live(), HEAD_BYTES if heads else None
        return [(key, live[key][0][:size], live[key][1]) for key in keys if key in live]

    def count(self, start: str = "", stop: str | None = None) -> int:
        return len(self._read().keys(start, stop))

    def scan(self, query: ScanQuery) -> Page:
        keys = self._read().keys(query.start, query.stop)
        if query.reverse:
            keys = [key for key in reversed(keys) if query.after is None or key < query.after]
        elif query.after is not None:
            keys = [key for key in keys if key > query.after]
        found = [(key, b"", None) for key in keys] if query.keys_only else self.fetch(keys, heads=query.heads)
        return cut(found, query.limit)

    def logs(self, model: Model) -> list[str]:
        return sorted(log.key for log in self._read().logs if log.model == model)

    def view(self, log: Log, query: ViewQuery = ViewQuery()) -> View:
        found, lo, checkpoint = self._read().logs.get(log), query.lo, None
        if found is None or found.head.version == query.unless_version:
            return View(now_ms(), found and found.head)
        if query.from_checkpoint and (before := between(found.checkpoints, FIRST, query.from_checkpoint)):
            (t, seq), body = before[-1]
            checkpoint, lo = Row(t, seq, body), (t, seq + 1)
        rows = [Row(*at, body) for at, body in between(found.rows, lo, query.hi)] if query.rows else []
        chunks = [found.chunks[first] for first in sorted(found.chunks)]
        chunks = overlapping(chunks, lo, query.hi, neighbours=query.neighbours)
        if query.limit is not None:
            rows, chunks = first_of(rows, chunks, query.limit, reverse=query.reverse)
        if not query.bodies:
            chunks = [chunk._replace(body=b"") for chunk in chunks]
        return View(now_ms(), found.head, rows, chunks, checkpoint)

    def hot(self, log: Log) -> tuple[int, int]:
        found = self._read().logs.get(log)
        return (0, 0) if found is None else (len(found.rows), sum(map(len, found.rows.values())))

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self) -> bytes:
        if (incarnation := self._read().incarnation) is not None:
            return incarnation  # as mostly; no other writer has to be waited for
        with self._change() as tx:
            tx.namespace.incarnation = tx.namespace.incarnation or os.urandom(16 + KEYS_BYTES)
            return tx.namespace.incarnation

    def add_fact(self, name: str, fact: bytes) -> bytes:
        with self._change() as tx:
            namespace = tx.namespace
            if namespace.incarnation is None:
                raise NamespaceGone
            if name not in namespace.facts:
                namespace.facts[name] = fact
                namespace.incarnation = identity_of(namespace.incarnation) + os.urandom(KEYS_BYTES)
            return namespace.facts[name]

    def write(self, writes: Writes, incarnation: bytes) -> None:
        with self._change() as tx:
            namespace, now = tx.sealed_for(incarnation), now_ms()  # one moment for all of them
            for write in writes:
                namespace.put(Write(*write), now)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        with self._change() as tx:
            namespace, record = tx.sealed_for(incarnation), tx.get(write.key)
            if version != (None if record is None else version_of(record)):
                return False
            namespace.put(write, now_ms())
            return True

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._change() as tx:
            namespace, record = tx.expected(if_incarnation), tx.get(key)
            if record is not None:
                namespace.put(Write(key, record, ttl_ms), now_ms())
            return record is not None

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._change() as tx:
            namespace = tx.expected(if_incarnation)
            found = namespace.live().keys() & set(keys)
            for key in found:
                del namespace.records[key]
            return len(found)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._change() as tx:
            return tx.delete(tx.namespace.keys(start, stop), if_incarnation=if_incarnation)

    def sweep(self, limit: int) -> int:
        with self._change() as tx:
            records = tx.namespace.records
            expired = [*(records.keys() - tx.namespace.live().keys())][:limit]
            for key in expired:
                del records[key]
            return len(expired)

    def clear(self) -> None:
        with self._change() as tx:
            tx.namespace.records.clear()

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        with self._change() as tx:
            found = tx.sealed_for(incarnation).logs.setdefault(log, LogContent(head))
            if found.head.sealed == head.sealed:
                found.rows |= {(t, seq): body for t, seq, body in rows}
            return found.head.sealed == head.sealed

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        with self._change() as tx:
            logs = tx.sealed_for(incarnation).logs
            found = logs.get(log)
            if not admits(None if found is None else found.head, commit):
                return False
            if found is None and commit.create is not None:
                found = logs[log] = LogContent(commit.create)
            if found is not None:
                found.apply(commit)
                if commit.drop_if_empty and not found.rows and not found.chunks:
                    del logs[log]
            return True

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._change() as tx:
            logs = tx.expected(if_incarnation).logs
            if log not in logs or if_version not in (ANY, logs[log].head.version):
                return False
            del logs[log]
            return True

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()  # which keeps all others from everything, and so from one log


class FolderTransaction(Calls):
    """Reads and changes a namespace that it has for itself."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def _read(self) -> Namespace:
        return self.namespace

    @contextmanager
    def _change(self) -> Iterator[FolderTransaction]:
        yield self

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Iterator[WriteTransaction]:
        before = copy.deepcopy(self.namespace)
        try:
            yield self
        except BaseException:
            self.namespace = before
            raise

    def expected(self, incarnation: ExpectedIncarnation) -> Namespace:
        """Return the namespace, to take something away.

        Raises `NamespaceGone` if it is of another incarnation. Of one that is gone there is nothing to take.
        """
        if incarnation is not ANY and self.namespace.incarnation not in (None, incarnation):
            raise NamespaceGone
        return self.namespace

    def sealed_for(self, incarnation: bytes) -> Namespace:
        """Return the namespace, to put what is sealed for an incarnation.

        Raises `NamespaceGone` if it is gone, or of another one.
        """
        if self.namespace.incarnation != incarnation:
            raise NamespaceGone
        return self.namespace
