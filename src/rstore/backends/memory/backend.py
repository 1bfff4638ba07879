"""The reference backend: dicts under one lock. It says what the contract means, and the other backends must agree.

`memory://NAME` is one store a name, shared within the process, and gone with it.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from threading import Condition, RLock
from typing import TypeVar

from rstore.backends.base import Backend
from rstore.backends.care import RECORDS, Durability, Finding, Stats, stats_of
from rstore.backends.memory.dicts import LogDicts, Namespace
from rstore.backends.nouns import (
    ANY,
    FIRST,
    HEAD_BYTES,
    LAST,
    Commit,
    Expected,
    Found,
    Head,
    Log,
    Model,
    NamespaceGone,
    Options,
    Page,
    Position,
    Row,
    View,
    Watcher,
    Write,
    first_of,
    overlapping,
    version_of,
)
from rstore.errors import StoreClosedError, StoreNotAvailableError

_PAGE_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


# Guards everything below and inside. A fork waits for it, so that the child finds no half-done change.
_lock = RLock()
_stores: dict[str, dict[str, Namespace]] = {}
_begun: dict[str, dict[str, Namespace]] = {}  # what stores with an open transaction held before it
_writes: Counter[tuple[str, str]] = Counter()  # of each namespace, also of one that is gone
_written = Condition(_lock)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _now_ms() -> int:
    return int(time.time() * 1000)


class _Watcher(Watcher):
    def __init__(self, place: tuple[str, str]) -> None:
        self._place = place
        self._seen = _writes[place]

    def wait(self, timeout_s: float) -> bool:
        """Wait until the namespace was written to."""
        with _lock:
            _written.wait_for(lambda: _writes[self._place] != self._seen, timeout_s)
            before, self._seen = self._seen, _writes[self._place]
            return before != self._seen


class MemoryBackend(Backend):
    """One namespace of one store in this process."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        self._name = path
        self._namespace = namespace
        self._frozen = options.frozen
        self._closed = False

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        with _lock:
            if self._frozen and self._find() is None:
                raise StoreNotAvailableError(f"there is no namespace {self._namespace!r} in memory://{self._name}")

    def create(self) -> bytes:
        with _lock:
            self._find()
            return _stores.setdefault(self._name, {}).setdefault(self._namespace, Namespace()).birth

    def close(self) -> None:
        self._closed = True

    def discard(self) -> None:
        with _lock:
            _stores.get(self._name, {}).pop(self._namespace, None)
            self._wrote()

    def fact(self, name: str) -> bytes | None:
        with _lock:
            namespace = self._find()
            return None if namespace is None else namespace.facts.get(name)

    def add_fact(self, name: str, fact: bytes) -> bytes:
        with _lock:
            if (namespace := self._find()) is None:
                raise NamespaceGone
            return namespace.facts.setdefault(name, fact)

    def _find(self) -> Namespace | None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")
        return _stores.get(self._name, {}).get(self._namespace)

    def _expect(self, birth: bytes) -> Namespace:
        namespace = self._find()
        if namespace is None or namespace.birth != birth:
            raise NamespaceGone
        return namespace

    # -- key/value ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        with _lock:
            namespace = self._find()
            record, expires_ms = (None, None) if namespace is None else namespace.records.get(key, (None, None))
            return None if expires_ms is not None and expires_ms <= _now_ms() else record

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        with _lock:
            live = self._live()
        return [(key, live[key][0][: HEAD_BYTES if heads else None], live[key][1]) for key in keys if key in live]

    def count(self, start: str = "", stop: str | None = None) -> int:
        with _lock:
            return len(self._between(start, stop))

    def write(self, writes: Sequence[Write], birth: bytes) -> None:
        with _lock:
            namespace = self._expect(birth)
            now = _now_ms()  # one moment for all of them
            for write in writes:
                namespace.put(write, now)
            self._wrote()

    def write_if(self, write: Write, version: bytes | None, birth: bytes) -> bool:
        with _lock:
            namespace = self._expect(birth)
            record = self.get(write.key)
            if version != (None if record is None else version_of(record)):
                return False
            namespace.put(write, _now_ms())
            self._wrote()
            return True

    def touch(self, key: str, ttl_ms: int | None) -> bool:
        with _lock:
            namespace, record = self._find(), self.get(key)
            if namespace is None or record is None:
                return False
            namespace.put(Write(key, record, ttl_ms), _now_ms())
            self._wrote()
            return True

    def delete(self, keys: Sequence[str]) -> int:
        with _lock:
            namespace = self._find()
            if namespace is None:
                return 0
            found = {key for key in keys if self.has(key)}
            for key in found:
                del namespace.records[key]
            self._wrote()
            return len(found)

    def delete_range(self, start: str, stop: str | None) -> int:
        with _lock:
            return self.delete(self._between(start, stop))

    def sweep(self, limit: int) -> int:
        with _lock:
            namespace, now = self._find(), _now_ms()
            records = {} if namespace is None else namespace.records
            expired = [key for key, (_, expires_ms) in records.items() if expires_ms is not None and expires_ms <= now]
            for key in expired[:limit]:
                del records[key]
            return len(expired[:limit])

    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> Page:
        with _lock:
            live = self._live()
            keys = self._between(start, stop)
        if reverse:
            keys = [key for key in reversed(keys) if after is None or key < after]
        else:
            keys = [key for key in keys if after is None or key > after]
        most = HEAD_BYTES if heads else None
        found: list[Found] = [
            (key, b"", None) if keys_only else (key, live[key][0][:most], live[key][1]) for key in keys
        ]
        sizes = list(accumulate(len(record) for _, record, _ in found[:limit]))
        page = found[: max(1, bisect_left(sizes, _PAGE_BYTES) + 1)][:limit]
        return Page(page, more=len(page) < len(found))

    def clear(self) -> None:
        with _lock:
            if (namespace := self._find()) is not None:
                namespace.records.clear()
                self._wrote()

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Generator[Watcher]:
        yield _Watcher((self._name, self._namespace))

    def _wrote(self) -> None:
        _writes[self._name, self._namespace] += 1
        _written.notify_all()

    def _live(self) -> dict[str, tuple[bytes, int | None]]:
        namespace, now = self._find(), _now_ms()
        if namespace is None:
            return {}
        return {key: one for key, one in namespace.records.items() if one[1] is None or one[1] > now}

    def _between(self, start: str, stop: str | None) -> list[str]:
        return sorted(key for key in self._live() if start <= key and (stop is None or key < stop))

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self, model: Model) -> list[str]:
        with _lock:
            namespace = self._find()
            return [] if namespace is None else sorted(log.key for log in namespace.logs if log.model == model)

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        with _lock:
            found = self._log(log)
            if found is None:
                return View(_now_ms(), None)
            if found.head.version == unless_version:
                return View(_now_ms(), found.head)
            checkpoint = None
            if from_checkpoint and (before := found.checkpoints.between(FIRST, from_checkpoint)):
                t, seq = before[-1]
                checkpoint = Row(t, seq, found.checkpoints[t, seq])
                lo = (t, seq + 1)
            hot = [Row(t, seq, found.rows[t, seq]) for t, seq in found.rows.between(lo, hi)] if rows else []
            chunks = [found.chunks[first] for first in found.chunks.between(FIRST, LAST)]
            chunks = overlapping(chunks, lo, hi, neighbours=neighbours)
            if limit is not None:
                hot, chunks = first_of(hot, chunks, limit, reverse=reverse)
            if not bodies:
                chunks = [chunk._replace(body=b"") for chunk in chunks]
            return View(_now_ms(), found.head, hot, chunks, checkpoint)

    def append(self, log: Log, head: Head, rows: Sequence[Row], birth: bytes) -> bool:
        with _lock:
            found = self._expect(birth).logs.setdefault(log, LogDicts(head))
            if found.head.sealed != head.sealed:
                return False
            for t, seq, body in rows:
                found.rows[t, seq] = body
            return True

    def hot(self, log: Log) -> tuple[int, int]:
        with _lock:
            found = self._log(log)
            return (0, 0) if found is None else (len(found.rows), sum(map(len, found.rows.values())))

    def commit(self, log: Log, commit: Commit, birth: bytes) -> bool:
        with _lock:
            logs = self._expect(birth).logs
            found = logs.get(log)
            if found is None and commit.create is None:
                return False
            head = None if found is None else found.head
            if commit.if_epoch is not ANY and commit.if_epoch != (head and head.epoch):
                return False
            if commit.if_version is not ANY and commit.if_version != (head and head.version):
                return False
            if found is None and commit.create is not None:
                found = logs[log] = LogDicts(commit.create)
            if found is not None:
                found.apply(commit)
                if commit.drop_if_empty and not found.rows and not found.chunks:
                    del logs[log]
            return True

    def drop(self, log: Log, *, if_version: Expected = ANY) -> bool:
        with _lock:
            namespace, found = self._find(), self._log(log)
            if namespace is None or found is None or if_version not in (ANY, found.head.version):
                return False
            del namespace.logs[log]
            return True

    @contextmanager
    def exclusive(self, log: Log) -> Generator[None, None, None]:
        with _lock:
            yield

    @contextmanager
    def moment(self) -> Generator[Backend, None, None]:
        with _lock:
            self._find()
            namespace = _begun.get(self._name, _stores.get(self._name, {})).get(self._namespace)
            moment = _Moment(self._namespace, Namespace() if namespace is None else namespace.copy())
        yield moment

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[None, None, None]:
        with _lock:
            before = {name: namespace.copy() for name, namespace in _stores.get(self._name, {}).items()}
            outermost = _begun.setdefault(self._name, before) is before
            try:
                yield
            except BaseException:
                _stores[self._name] = before
                raise
            finally:
                if outermost:
                    del _begun[self._name]

    def _log(self, log: Log) -> LogDicts | None:
        namespace = self._find()
        return None if namespace is None else namespace.logs.get(log)

    # -- the store as a whole -----------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        with _lock:
            self._find()
            return sorted(_stores.get(self._name, {}))

    def stats(self) -> Stats:
        with _lock:
            namespace = self._find()
            records = [(RECORDS, 1, 0, len(record)) for record, _ in self._live().values()]
            logs = [] if namespace is None else [(log.model, *one.totals()) for log, one in namespace.logs.items()]
            return stats_of([*records, *logs])

    def durability(self) -> Durability:
        return Durability(False, False, True, False, "all is gone when this process ends", {})

    def findings(self) -> Iterator[Finding]:
        return iter(())

    def reclaim(self) -> None:
        """Do nothing: what is not there any more takes no space."""


class _Moment(MemoryBackend):
    """A copy of a namespace, which nobody changes."""

    def __init__(self, name: str, namespace: Namespace) -> None:
        super().__init__("", name, Options(frozen=True, durability="full", timeout_s=0))
        self._copy = namespace

    def _find(self) -> Namespace:
        return self._copy
