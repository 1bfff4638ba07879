"""The guard of a namespace with values that the keys at hand do not open: a write looks first at what it replaces.

Noun: a *guarded* transaction (one that leaves alone what cannot be opened).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from rstore.backends.common.forwarding import Forwarding
from rstore.backends.common.pages import pages_of
from rstore.backends.contract import WriteTransaction
from rstore.backends.types import (
    ANY,
    HEAD_BYTES,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    Log,
    Model,
    NamespaceGone,
    RolledBack,
    Row,
    ScanQuery,
    Ttl,
    View,
    ViewQuery,
    Write,
    Writes,
    close_scope,
    version_of,
)
from rstore.codec.envelope import Cell, Envelope

T = TypeVar("T")

_PAGE: Final = 1000
_RACES: Final = 100
_CELLS: Final = {Model.SERIES: Cell.POINT, Model.EVENTS: Cell.CHANGE}


class GuardedTransaction(Forwarding):
    """A transaction whose methods that replace, change or delete refuse what the envelope cannot open.

    They raise `KeyRequiredError` without a key, else `WrongKeyError`, and nothing was done. Discarding, clearing and
    expiry take everything. Each write costs one more read; a store that holds all keys of its namespace needs no guard.
    """

    def __init__(self, inner: WriteTransaction, envelope: Envelope) -> None:
        self._inner = inner
        self._envelope = envelope

    def _wrap(self, inner: WriteTransaction) -> WriteTransaction:
        return GuardedTransaction(inner, self._envelope)

    # -- key/value ----------------------------------------------------------------------------------------------------

    def is_one_place(self, keys: Iterable[str]) -> bool:
        return self._inner.transactional or len({*keys}) <= 1

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        self._write_one(self._inner, Write(key, record, ttl_ms), incarnation)

    def write(self, writes: Writes, incarnation: bytes) -> None:

        def work(backend: WriteTransaction) -> None:
            self._check(backend.fetch([key for key, _, _ in writes], heads=True))
            if backend.transactional:
                backend.write(writes, incarnation)
            else:
                for write in writes:
                    self._write_one(backend, Write(*write), incarnation)

        self._together(work)

    def _write_one(self, backend: WriteTransaction, write: Write, incarnation: bytes) -> bool:
        """Put or delete a record; return whether there was one."""
        while True:
            found = backend.fetch([write.key], heads=True)
            self._check(found)
            version = version_of(found[0][1]) if found else None
            if backend.write_if(write, version, incarnation):
                return bool(found)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        if version is not None:  # or nothing is replaced
            self._check(self._inner.fetch([write.key], heads=True))  # the version stays that of what was looked at
        return self._inner.write_if(write, version, incarnation)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        incarnation = self._incarnation(if_incarnation)
        while incarnation is not None:
            found = self._inner.fetch([key])
            self._check(found)
            if not found:
                return False
            record = found[0][1]  # the same once more, which no other way does on condition of its version
            if self._inner.write_if(Write(key, record, ttl_ms), version_of(record), incarnation):
                return True
        return False

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        incarnation = self._incarnation(if_incarnation)
        if incarnation is None:
            return 0
        self._check(self._inner.fetch(keys, heads=True))
        return sum(self._write_one(self._inner, Write(key, None), incarnation) for key in dict.fromkeys(keys))

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        incarnation = self._incarnation(if_incarnation)
        if incarnation is None:
            return 0

        def work(backend: WriteTransaction) -> int:
            query = ScanQuery(_PAGE, start, stop, heads=True)
            for page in pages_of(backend, query):
                self._check(page)
            if backend.transactional:
                return backend.delete_range(start, stop, if_incarnation=if_incarnation)
            keys = (key for page in pages_of(backend, query) for key, _, _ in page)
            return sum(self._write_one(backend, Write(key, None), incarnation) for key in keys)

        return self._together(work)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:

        def work(backend: WriteTransaction) -> bool:
            first, last = min(rows)[:2], max(rows)[:2]
            view = backend.view(log, ViewQuery(first, last))
            if view.head is None or view.head.sealed == head.sealed:
                places = {row[:2] for row in rows}
                inside = [row for row in view.rows if row[:2] in places]
                self._check_log(log, view._replace(rows=inside))
            return backend.append(log, head, rows, incarnation)

        return self._together(work)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        if log.model is Model.LEASES or not (commit.drop_rows or commit.drop_chunks):
            return self._inner.commit(log, commit, incarnation)

        def work(backend: WriteTransaction) -> bool:
            # The rows go only as they were read, and the chunks with the epoch that they were read with.
            self._check_log(log, View(0, None, commit.drop_rows))
            if commit.drop_chunks:
                dropped = set(commit.drop_chunks)
                view = backend.view(log, ViewQuery(min(dropped), max(dropped), rows=False))
                chunks = [chunk for chunk in view.chunks if chunk.first in dropped]
                self._check_log(log, view._replace(chunks=chunks))
            return backend.commit(log, commit, incarnation)

        return self._together(work)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        if log.model is Model.LEASES:
            return self._inner.drop(log, if_version=if_version, if_incarnation=if_incarnation)

        def work(backend: WriteTransaction) -> bool:
            self._check_log(log, backend.view(log))
            return backend.drop(log, if_version=if_version, if_incarnation=if_incarnation)

        return self._together(work)

    # -- what is looked at --------------------------------------------------------------------------------------------

    def _incarnation(self, if_incarnation: ExpectedIncarnation) -> bytes | None:
        """Return the incarnation to write under, None if there is no namespace."""
        incarnation, _ = self._inner.facts()
        if incarnation is not None and if_incarnation not in (ANY, incarnation):
            raise NamespaceGone
        return incarnation

    def _check(self, found: Iterable[Found]) -> None:
        for key, record, _ in found:
            if not self._envelope.holds(record[:HEAD_BYTES]):
                raise self._envelope.refusal(self._envelope.where(Cell.VALUE, key))

    def _check_log(self, log: Log, view: View) -> None:
        sealed = [row.body for row in view.rows] + [chunk.body for chunk in view.chunks]
        if not all(self._envelope.holds(body[:HEAD_BYTES]) for body in sealed):
            raise self._envelope.refusal(self._envelope.where(_CELLS[log.model], log.key))

    def _together(self, work: Callable[[WriteTransaction], T]) -> T:
        """Do the work as one step, where the backend can do several calls as one."""
        if not self._inner.transactional:
            return work(self._inner)
        races = 0
        while True:
            scope = self._inner.transaction()
            try:
                with scope as inside:
                    return work(inside)
            except RolledBack:
                races += 1
                if races == _RACES:
                    raise
            finally:
                close_scope(scope)
