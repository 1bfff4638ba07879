"""Writing where others have sealed values that the keys at hand do not open: what is there is looked at first.

Nouns: a *guarded* backend (one that leaves alone what cannot be opened).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from rstore.backends.contract import Backend
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_BYTES,
    LAST,
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
    Ttl,
    View,
    Write,
    Writes,
    version_of,
)
from rstore.codec.envelope import Cell, Envelope

T = TypeVar("T")

_PAGE: Final = 1000
_RACES: Final = 100
_CELLS: Final = {Model.SERIES: Cell.POINT, Model.EVENTS: Cell.CHANGE}


class GuardedBackend:
    """A backend whose methods that replace, change or delete raise an error for what the envelope cannot open.

    `KeyRequiredError` without a key, else `WrongKeyError`, and nothing was done. Discarding, clearing and expiry take
    everything. It costs a look at what is there before each write: a store that holds all keys of its namespace, or of
    whose namespace nobody has sealed anything, goes without.
    """

    def __init__(self, backend: Backend, envelope: Envelope) -> None:
        self._backend = backend
        self._envelope = envelope

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    # -- key/value ----------------------------------------------------------------------------------------------------

    def is_one_place(self, keys: Iterable[str]) -> bool:
        """Return whether one `write` of these keys is all or nothing."""
        return self._backend.transactional or len({*keys}) <= 1

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        """Put one record."""
        self._write_one(Write(key, record, ttl_ms), incarnation)

    def write(self, writes: Writes, incarnation: bytes) -> None:
        """Put and delete records of distinct keys."""

        def work() -> None:
            self._check(self._backend.fetch([key for key, _, _ in writes], heads=True))
            if self._backend.transactional:
                self._backend.write(writes, incarnation)
            else:
                for write in writes:
                    self._write_one(Write(*write), incarnation)

        self._together(work)

    def _write_one(self, write: Write, incarnation: bytes) -> bool:
        """Put or delete a record; return whether there was one."""
        while True:
            found = self._backend.fetch([write.key], heads=True)
            self._check(found)
            version = version_of(found[0][1]) if found else None
            if self._backend.write_if(write, version, incarnation):
                return bool(found)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        """Put or delete a record if it still has that version."""
        if version is not None:  # or nothing is replaced
            self._check(self._backend.fetch([write.key], heads=True))  # the version stays that of what was looked at
        return self._backend.write_if(write, version, incarnation)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        """Let a record live that long from now on."""
        incarnation = self._incarnation(if_incarnation)
        while incarnation is not None:
            found = self._backend.fetch([key])
            self._check(found)
            if not found:
                return False
            record = found[0][1]  # the same once more, which no other way does on condition of its version
            if self._backend.write_if(Write(key, record, ttl_ms), version_of(record), incarnation):
                return True
        return False

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        """Delete records, all or none where the backend can."""
        incarnation = self._incarnation(if_incarnation)
        if incarnation is None:
            return 0
        self._check(self._backend.fetch(keys, heads=True))
        return sum(self._write_one(Write(key, None), incarnation) for key in dict.fromkeys(keys))

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        """Delete the records of a range, all or none where the backend can."""
        incarnation = self._incarnation(if_incarnation)
        if incarnation is None:
            return 0

        def work() -> int:
            for page in self._pages(start, stop):
                self._check(page)
            if self._backend.transactional:
                return self._backend.delete_range(start, stop, if_incarnation=if_incarnation)
            pages = self._pages(start, stop)
            return sum(self._write_one(Write(key, None), incarnation) for page in pages for key, _, _ in page)

        return self._together(work)

    def _pages(self, start: str, stop: str | None) -> Iterable[list[Found]]:
        after, more = None, True
        while more:
            page, more = self._backend.scan(start=start, after=after, stop=stop, limit=_PAGE, heads=True)
            yield page
            after = page[-1][0] if page else None

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        """Put rows, replacing those at the same positions."""

        def work() -> bool:
            first, last = min(rows)[:2], max(rows)[:2]
            view = self._backend.view(log, first, last)
            if view.head is None or view.head.sealed == head.sealed:
                places = {row[:2] for row in rows}
                inside = [row for row in view.rows if row[:2] in places]
                self._check_log(log, view._replace(rows=inside))
            return self._backend.append(log, head, rows, incarnation)

        return self._together(work)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        """Do all of a commit, or return False if a condition does not hold."""
        if log.model is Model.LEASES or not (commit.drop_rows or commit.drop_chunks):
            return self._backend.commit(log, commit, incarnation)

        def work() -> bool:
            # The rows go only as they were read, and the chunks with the epoch that they were read with.
            self._check_log(log, View(0, None, commit.drop_rows))
            if commit.drop_chunks:
                dropped = set(commit.drop_chunks)
                view = self._backend.view(log, min(dropped), max(dropped), rows=False)
                chunks = [chunk for chunk in view.chunks if chunk.first in dropped]
                self._check_log(log, view._replace(chunks=chunks))
            return self._backend.commit(log, commit, incarnation)

        return self._together(work)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        """Delete a log with everything it holds."""
        if log.model is Model.LEASES:
            return self._backend.drop(log, if_version=if_version, if_incarnation=if_incarnation)

        def work() -> bool:
            self._check_log(log, self._backend.view(log, FIRST, LAST))
            return self._backend.drop(log, if_version=if_version, if_incarnation=if_incarnation)

        return self._together(work)

    # -- what is looked at --------------------------------------------------------------------------------------------

    def _incarnation(self, if_incarnation: ExpectedIncarnation) -> bytes | None:
        """Return the incarnation to write under, None if there is no namespace."""
        incarnation, _ = self._backend.facts()
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

    def _together(self, work: Callable[[], T]) -> T:
        """Do the work as one step, where the backend can do several calls as one."""
        if not self._backend.transactional:
            return work()
        races = 0
        while True:
            try:
                with self._backend.transaction():
                    return work()
            except RolledBack:
                races += 1
                if races == _RACES:
                    raise
