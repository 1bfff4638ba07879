"""A transaction that hands every call on to another one: the base of those that add something to some calls."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rstore.backends.contract import WriteTransaction
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    Log,
    LogSnapshot,
    Model,
    Page,
    Position,
    Row,
    ScanQuery,
    Ttl,
    View,
    ViewQuery,
    Write,
    Writes,
    close_scope,
)


class Forwarding(WriteTransaction):
    """Hands every call on to another transaction."""

    _inner: WriteTransaction

    def _wrap(self, inner: WriteTransaction) -> WriteTransaction:
        """Return the wrapper of a transaction that begins inside."""
        return inner

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        return self._inner.is_remote

    @property
    def max_rows(self) -> int:  # type: ignore[override]
        return self._inner.max_rows

    @property
    def transactional(self) -> bool:
        return self._inner.transactional

    def transaction(
        self, *, create: bool = True, serializable: bool = True
    ) -> AbstractContextManager[WriteTransaction]:
        return self._wrapped(self._inner.transaction(create=create, serializable=serializable))

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self._wrapped(self._inner.exclusive(log))

    @contextmanager
    def _wrapped(self, scope: AbstractContextManager[WriteTransaction]) -> Generator[WriteTransaction, None, None]:
        try:
            with scope as inner:
                yield self._wrap(inner)
        finally:
            close_scope(scope)

    def clock_ms(self) -> int | None:
        return self._inner.clock_ms()

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        return self._inner.facts()

    def create(self) -> bytes:
        return self._inner.create()

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        return self._inner.add_fact(name, fact, incarnation)

    def get(self, key: str) -> bytes | None:
        return self._inner.get(key)

    def peek(self, key: Any) -> bytes | None:
        return self._inner.peek(key)

    def has(self, key: str) -> bool:
        return self._inner.has(key)

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        return self._inner.fetch(keys, heads=heads)

    def count(self, start: str = "", stop: str | None = None) -> int:
        return self._inner.count(start, stop)

    def scan(self, query: ScanQuery) -> Page:
        return self._inner.scan(query)

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return self._inner.is_one_place(keys)

    def write(self, writes: Writes, incarnation: bytes) -> None:
        self._inner.write(writes, incarnation)

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        self._inner.put(key, record, ttl_ms, incarnation)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        return self._inner.write_if(write, version, incarnation)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        return self._inner.touch(key, ttl_ms, if_incarnation=if_incarnation)

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._inner.delete(keys, if_incarnation=if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._inner.delete_range(start, stop, if_incarnation=if_incarnation)

    def sweep(self, limit: int) -> int:
        return self._inner.sweep(limit)

    def clear(self) -> None:
        self._inner.clear()

    def logs(self, model: Model) -> list[str]:
        return self._inner.logs(model)

    def view(self, log: Log, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
        return self._inner.view(log, query)

    def views(self, logs: Sequence[Log], query: ViewQuery = ViewQuery()) -> list[View]:  # noqa: B008 - immutable
        return self._inner.views(logs, query)

    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> AbstractContextManager[LogSnapshot]:
        return self._inner.log_snapshot(log, lo, hi)

    def checkpoints(self, log: Log) -> Iterator[Row]:
        return self._inner.checkpoints(log)

    def hot(self, log: Log) -> tuple[int, int]:
        return self._inner.hot(log)

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        return self._inner.append(log, head, rows, incarnation)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        return self._inner.commit(log, commit, incarnation)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        return self._inner.drop(log, if_version=if_version, if_incarnation=if_incarnation)
