"""Reading a namespace of dicts: as it is, or the copy that a transaction or a snapshot has made."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection

from rstore.backends.common.pages import cut
from rstore.backends.contract import ReadTransaction
from rstore.backends.maintenance import RECORDS, Stats, stats_of
from rstore.backends.memory.dicts import LogDicts, MemoryNamespace
from rstore.backends.memory.places import lock
from rstore.backends.types import (
    FIRST,
    HEAD_BYTES,
    LAST,
    Found,
    Log,
    Model,
    Page,
    Row,
    ScanQuery,
    View,
    ViewQuery,
    first_of,
    overlapping,
)


def now_ms() -> int:
    """Return the time in POSIX milliseconds."""
    return int(time.time() * 1000)


class MemoryReads(ReadTransaction):
    """Reads a namespace of dicts."""

    @abstractmethod
    def _find(self) -> MemoryNamespace | None:
        """Return the namespace that is read, None if there is none."""

    def clock_ms(self) -> int:
        return now_ms()

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        with lock:
            namespace = self._find()
            return (None, {}) if namespace is None else (namespace.incarnation, namespace.facts.copy())

    # -- records ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        with lock:
            namespace = self._find()
            record, expires_ms = (None, None) if namespace is None else namespace.records.get(key, (None, None))
            return None if expires_ms is not None and expires_ms <= now_ms() else record

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        with lock:
            live = self._live()
        return [(key, live[key][0][: HEAD_BYTES if heads else None], live[key][1]) for key in keys if key in live]

    def count(self, start: str = "", stop: str | None = None) -> int:
        with lock:
            return len(self._between(start, stop))

    def scan(self, query: ScanQuery) -> Page:
        after, most = query.after, HEAD_BYTES if query.heads else None
        with lock:
            live = self._live()
            keys = self._between(query.start, query.stop)
        if query.reverse:
            keys = [key for key in reversed(keys) if after is None or key < after]
        else:
            keys = [key for key in keys if after is None or key > after]
        found: list[Found] = [
            (key, b"", None) if query.keys_only else (key, live[key][0][:most], live[key][1]) for key in keys
        ]
        return cut(found, query.limit)

    def _live(self) -> dict[str, tuple[bytes, int | None]]:
        """Return the records that have not expired, each with its expiry."""
        namespace, now = self._find(), now_ms()
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

    def view(self, log: Log, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
        with lock:
            found = self._log(log)
            if found is None:
                return View(now_ms(), None)
            if found.head.version == query.unless_version:
                return View(now_ms(), found.head)
            lo, hi, checkpoint = query.lo, query.hi, None
            if query.from_checkpoint and (before := found.checkpoints.between(FIRST, query.from_checkpoint)):
                t, seq = before[-1]
                checkpoint = Row(t, seq, found.checkpoints[t, seq])
                lo = (t, seq + 1)
            hot = [Row(t, seq, found.rows[t, seq]) for t, seq in found.rows.between(lo, hi)] if query.rows else []
            chunks = [found.chunks[first] for first in found.chunks.between(FIRST, LAST)]
            chunks = overlapping(chunks, lo, hi, neighbours=query.neighbours)
            if query.limit is not None:
                hot, chunks = first_of(hot, chunks, query.limit, reverse=query.reverse)
            if not query.bodies:
                chunks = [chunk._replace(body=b"") for chunk in chunks]
            return View(now_ms(), found.head, hot, chunks, checkpoint)

    def hot(self, log: Log) -> tuple[int, int]:
        with lock:
            found = self._log(log)
            return (0, 0) if found is None else (len(found.rows), sum(map(len, found.rows.values())))

    def stats(self) -> Stats:
        """Return the size of the namespace."""
        with lock:
            namespace = self._find()
            records = [(RECORDS, 1, 0, len(record)) for record, _ in self._live().values()]
            logs = [] if namespace is None else [(log.model, *one.totals()) for log, one in namespace.logs.items()]
            return stats_of([*records, *logs])

    def _log(self, log: Log) -> LogDicts | None:
        namespace = self._find()
        return None if namespace is None else namespace.logs.get(log)


class MemorySnapshot(MemoryReads):
    """Reads a namespace that is not written to."""

    def __init__(self, namespace: MemoryNamespace | None) -> None:
        self._namespace = namespace

    def _find(self) -> MemoryNamespace | None:
        return self._namespace
