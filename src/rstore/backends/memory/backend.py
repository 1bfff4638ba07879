"""The reference backend: dicts. It says what the contract means, and the other backends must agree.

`memory://NAME` is one *place* a name, shared within the process, and gone with it. Who writes there for longer than one
call has the *turn*: others wait for its end, and read what was there before.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Final

from rstore.backends.contract import Backend
from rstore.backends.maintenance import RECORDS, Durability, Finding, Stats, no_namespace, stats_of
from rstore.backends.memory.dicts import LogDicts, Namespace
from rstore.backends.memory.places import Placed, changed, lock, writes
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_BYTES,
    KEYS_BYTES,
    LAST,
    Commit,
    Expected,
    ExpectedIncarnation,
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
    Writes,
    first_of,
    identity_of,
    overlapping,
    version_of,
)
from rstore.errors import StoreClosedError

_PAGE_BYTES: Final = 4 * 1024 * 1024


def _now_ms() -> int:
    return int(time.time() * 1000)


class _Watcher(Watcher):
    def __init__(self, place: tuple[str, str]) -> None:
        self._place = place
        self._seen = writes[place]

    def wait(self, timeout_s: float) -> bool:
        """Wait until the namespace was written to."""
        with lock:
            changed.wait_for(lambda: writes[self._place] != self._seen, timeout_s)
            before, self._seen = self._seen, writes[self._place]
            return before != self._seen


class MemoryBackend(Placed, Backend):
    """One namespace of one store in this process."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        super().__init__(path, namespace, options)
        self._frozen = options.frozen

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        with lock:
            if self._frozen and self._find() is None:
                raise no_namespace(self, self._namespace, f"in memory://{self._name}")

    def create(self) -> bytes:
        with lock:
            if (namespace := self._find()) is None:  # mostly it is there, and nobody has to wait
                with self._writing():
                    namespace = self._find() or Namespace()
                    self._put_namespace(namespace)
            return namespace.incarnation

    def close(self) -> None:
        self._closed = True

    def discard(self) -> None:
        with self._writing():
            self._find()
            self._put_namespace(None)
            self._wrote()

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        with lock:
            namespace = self._find()
            return (None, {}) if namespace is None else (namespace.incarnation, namespace.facts.copy())

    def add_fact(self, name: str, fact: bytes) -> bytes:
        with self._writing():
            if (namespace := self._find()) is None:
                raise NamespaceGone
            if name not in namespace.facts:
                namespace.facts[name] = fact
                namespace.incarnation = identity_of(namespace.incarnation) + os.urandom(KEYS_BYTES)
            return namespace.facts[name]

    def _check_incarnation(self, incarnation: ExpectedIncarnation) -> None:
        """Raise `NamespaceGone` if the namespace is there, and of another incarnation."""
        namespace = self._find()
        if namespace is not None and incarnation not in (ANY, namespace.incarnation):
            raise NamespaceGone

    # -- key/value ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        with lock:
            namespace = self._find()
            record, expires_ms = (None, None) if namespace is None else namespace.records.get(key, (None, None))
            return None if expires_ms is not None and expires_ms <= _now_ms() else record

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        with lock:
            live = self._live()
        return [(key, live[key][0][: HEAD_BYTES if heads else None], live[key][1]) for key in keys if key in live]

    def count(self, start: str = "", stop: str | None = None) -> int:
        with lock:
            return len(self._between(start, stop))

    def write(self, writes: Writes, incarnation: bytes) -> None:
        with self._writing():
            namespace = self._expect(incarnation)
            now = _now_ms()  # one moment for all of them
            for write in writes:
                namespace.put(Write(*write), now)
            self._wrote()

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        with self._writing():
            namespace = self._expect(incarnation)
            record = self.get(write.key)
            if version != (None if record is None else version_of(record)):
                return False
            namespace.put(write, _now_ms())
            self._wrote()
            return True

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._writing():
            self._check_incarnation(if_incarnation)
            namespace, record = self._find(), self.get(key)
            if namespace is None or record is None:
                return False
            namespace.put(Write(key, record, ttl_ms), _now_ms())
            self._wrote()
            return True

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        with self._writing():
            self._check_incarnation(if_incarnation)
            namespace = self._find()
            if namespace is None:
                return 0
            found = {key for key in keys if self.has(key)}
            for key in found:
                del namespace.records[key]
            self._wrote()
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
                del self._find().records[key]  # type: ignore[union-attr]  # which has expired ones
            return len(expired)

    def _expired(self, limit: int) -> list[str]:
        namespace, now = self._find(), _now_ms()
        records = {} if namespace is None else namespace.records
        return [key for key, (_, expires_ms) in records.items() if expires_ms is not None and expires_ms <= now][:limit]

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
        with lock:
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
        with self._writing():
            if (namespace := self._find()) is not None:
                namespace.records.clear()
                self._wrote()

    @contextmanager
    def watcher(self, keys: Sequence[str], prefix: str | None) -> Generator[Watcher]:
        yield _Watcher((self._name, self._namespace))

    def _live(self) -> dict[str, tuple[bytes, int | None]]:
        namespace, now = self._find(), _now_ms()
        if namespace is None:
            return {}
        return {key: one for key, one in namespace.records.items() if one[1] is None or one[1] > now}

    def _between(self, start: str, stop: str | None) -> list[str]:
        return sorted(key for key in self._live() if start <= key and (stop is None or key < stop))

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self, model: Model) -> list[str]:
        with lock:
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
        with lock:
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

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        with self._writing():
            found = self._expect(incarnation).logs.setdefault(log, LogDicts(head))
            if found.head.sealed != head.sealed:
                return False
            for t, seq, body in rows:
                found.rows[t, seq] = body
            return True

    def hot(self, log: Log) -> tuple[int, int]:
        with lock:
            found = self._log(log)
            return (0, 0) if found is None else (len(found.rows), sum(map(len, found.rows.values())))

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        with self._writing():
            logs = self._expect(incarnation).logs
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

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        with self._writing():
            self._check_incarnation(if_incarnation)
            namespace, found = self._find(), self._log(log)
            if namespace is None or found is None or if_version not in (ANY, found.head.version):
                return False
            del namespace.logs[log]
            return True

    @contextmanager
    def exclusive(self, log: Log) -> Generator[None, None, None]:
        if self._turn() is not None:
            yield
            return
        with self._taking_the_turn(transaction=False):
            yield

    @contextmanager
    def moment(self) -> Generator[Backend, None, None]:
        with lock:
            self._find()
            namespace = self._committed
            moment = _Moment(self._namespace, Namespace() if namespace is None else namespace.copy())
        yield moment

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[None, None, None]:
        if (outer := self._turn()) is not None and outer.transaction:
            before = None if outer.namespace is None else outer.namespace.copy()
            try:
                yield
            except BaseException:
                outer.namespace = before
                raise
            return
        with self._taking_the_turn(transaction=True) as turn:
            yield
            with lock:
                if self._turn() is not turn:
                    raise StoreClosedError("the transaction is that of another thread or process; nothing was applied")
                self._find()
                turn.transaction = False  # what follows is done, and seen by all
                self._put_namespace(turn.namespace)
                if turn.wrote:
                    self._wrote()

    def _log(self, log: Log) -> LogDicts | None:
        namespace = self._find()
        return None if namespace is None else namespace.logs.get(log)

    # -- the store as a whole -----------------------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        with lock:
            self._find()
            return sorted(self._place.namespaces)

    def ping(self) -> None:
        with lock:
            self._find()

    def stats(self) -> Stats:
        with lock:
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
