"""Namespaces and key/value records in PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import cache, partial
from itertools import islice
from operator import itemgetter
from time import monotonic
from typing import Final, Unpack

from psycopg import pq

from rstore.backends.contract import Ahead, Backend
from rstore.backends.maintenance import no_namespace
from rstore.backends.postgres.ahead import MIN_AHEAD, PageAhead, most_ahead
from rstore.backends.postgres.binary import (
    blobs,
    changed,
    found_of,
    int8,
    int8s_or_null,
    number,
    texts,
    truth,
)
from rstore.backends.postgres.caller import set_local
from rstore.backends.postgres.connections import Connections, Look
from rstore.backends.postgres.dsn import parse
from rstore.backends.postgres.emptied import Emptied
from rstore.backends.postgres.link import Call, Calls, Results, Statement
from rstore.backends.postgres.logs import MAX_BYTES, batches, ns_of
from rstore.backends.postgres.moments import Turns
from rstore.backends.postgres.sql import LogSql, RecordSql
from rstore.backends.postgres.watcher import PostgresWatcher
from rstore.backends.types import (
    ANY,
    KEEP,
    KEYS_BYTES,
    ExpectedIncarnation,
    Found,
    NamespaceGone,
    Options,
    Page,
    Scan,
    Ttl,
    Write,
    Writes,
    too_large,
    version_of,
)
from rstore.errors import StoreBusyError

_NO_SORT: Final = set_local("enable_sort", "off")
_INCARNATION_BYTES: Final = 8 + KEYS_BYTES
_PAGE_BYTES: Final = 4 * 1024 * 1024
_LOOKED_AT: Final = 10
"""After a bulk write whose answer was lost, so many keys are read back: others may have written some of them since."""


class PostgresRecords(Backend):
    """One namespace of one schema, as far as it holds key/value pairs."""

    def __init__(self, rest: str, namespace: str, options: Options) -> None:
        self._place = parse(rest, options.credentials)
        self._name = namespace.encode()
        self._connections = Connections(self._place, options, self._name)
        self._reads: Connections | Turns = self._connections
        self._records, self._logs = _statements(self._place.schema)
        self._emptied = Emptied(self._connections, self._logs)
        self._namespace = namespace
        self._frozen = options.frozen

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._connections.set_up()
        if self._frozen and self._incarnation() is None:
            raise no_namespace(self, self._namespace, f"in {self._place.show}")

    def create(self) -> bytes:
        deadline = monotonic() + self._connections.timeout_s
        while (incarnation := self._incarnation()) is None:
            if monotonic() > deadline:
                raise StoreBusyError(
                    f"the namespace {self._namespace!r} keeps being discarded concurrently; nothing was applied"
                )
            incarnation = os.urandom(8 + KEYS_BYTES)
            create = self._records.create, (self._name, ns_of(incarnation), incarnation)
            # What was lost is tried again as it is: the look is the loop.
            self._connections.write([create], lambda: self._incarnation() is not None)
        return incarnation

    def close(self) -> None:
        self._connections.pool.close()

    def discard(self) -> None:
        incarnation = self._incarnation()
        if incarnation is None:
            return
        space, empty = (self._name, ns_of(incarnation)), [(one, (ns_of(incarnation),)) for one in self._records.empty]
        calls = [(self._records.close, space), *empty, (self._records.discard, space)]
        # Incarnations never come back, so that it happens once, however often it is sent.
        self._write(None, calls, lambda: ns_of(self._incarnation() or b"") != ns_of(incarnation), patient=True)

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        (found,) = self._reads.read((self._records.facts, (self._name,)))
        rows = [[found.get_value(row, column) for column in range(3)] for row in range(found.ntuples)]
        facts = {name.decode(): fact or b"" for _, name, fact in rows if name is not None}
        return (rows[0][0] if rows else None), facts

    def add_fact(self, name: str, fact: bytes) -> bytes:
        incarnation = self._incarnation()
        if incarnation is None:
            raise NamespaceGone
        new = ns_of(incarnation) + os.urandom(KEYS_BYTES)
        add = self._records.add_fact, (self._name, name.encode(), fact, ns_of(incarnation), new)
        self._connections.write([add], lambda: name in self.facts()[1])
        kept = self.facts()[1].get(name)
        if kept is None:
            raise NamespaceGone
        return kept

    def _incarnation(self) -> bytes | None:
        (found,) = self._reads.read((self._records.find, (self._name,)))
        incarnation = found.get_value(0, 0) if found.ntuples else None
        if found.ntuples and (incarnation is None or len(incarnation) != _INCARNATION_BYTES):
            raise changed()
        return incarnation

    def _write(
        self,
        key: str | None,
        calls: Iterable[Call],
        look: Look,
        was_done: Callable[[Results], bool] = lambda _: True,
        *,
        patient: bool = False,
    ) -> Results | None:
        """Write, and say in an error what was written, as far as it has one name."""
        try:
            return self._connections.write(calls, look, was_done, patient=patient)
        except StoreBusyError as error:
            what = "" if key is None else f"{key!r} in "
            raise type(error)(f"{what}namespace {self._namespace!r}: {error}") from error.__cause__

    # -- key/value ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        (found,) = self._reads.read((self._records.get, (self._name, key.encode())))
        record = found.get_value(0, 0) if found.ntuples else None
        if record is not None:
            self._connections.shrink(len(record))
        elif found.ntuples:  # it is there, and holds nothing
            raise changed()
        return record

    def has(self, key: str) -> bool:
        (found,) = self._reads.read((self._records.has, (self._name, key.encode())))
        return found.ntuples > 0

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        statement = self._records.fetch_heads if heads else self._records.fetch
        (found,) = self._reads.read((statement, (self._name, texts(keys))))
        records = found_of(found, found.ntuples)
        if any(record is None for _, record, _ in records):
            raise changed()
        return records

    def count(self, start: str = "", stop: str | None = None) -> int:
        (found,) = self._reads.read((self._records.count(stop=stop is not None), self._range(start, stop)))
        return number(found)

    def _range(self, start: str, stop: str | None) -> tuple[bytes, ...]:
        return self._name, start.encode(), *(() if stop is None else (stop.encode(),))

    def write(self, writes: Writes, incarnation: bytes) -> None:
        def look() -> bool | None:
            # All or none was done, and records carry random stamps: one of them that is there is enough.
            some = islice(((key, record) for key, record, _ in writes if record is not None), _LOOKED_AT)
            return True if any(self.get(key) == record for key, record in some) else None

        size = self._check_sizes(writes)
        space = self._name, incarnation
        if len(writes) == 1 and (record := writes[0][1]) is not None:
            key, _, ttl_ms = writes[0]
            put = self._records.put, (*space, key.encode(), record, _int8_or_null(ttl_ms))
            results = self._write(key, [put], look)
            found = results is None or results[0].command_tuples
        else:
            results = self._write(None, Calls(lambda: self._puts(writes, space)), look)
            found = results is None or results[0].ntuples
        self._connections.shrink(size)
        if not found:
            raise NamespaceGone

    def _puts(self, writes: Writes, space: tuple[bytes, bytes]) -> Iterator[Call]:
        yield self._records.lock, space
        # In the order of their keys, which is the one in which all take the locks of rows.
        ordered = sorted(writes, key=itemgetter(0))
        kept = [write for write in ordered if write[1] is not None]
        for batch in batches(kept, [len(record or b"") for _, record, _ in kept]):
            keys, records, ttls_ms = zip(*batch, strict=True)
            if len(batch) == 1:  # a large one among them: in an array it would be one more copy
                yield self._records.put, (*space, keys[0].encode(), records[0], _int8_or_null(ttls_ms[0]))
                continue
            pairs = *space, texts(keys), blobs(records)
            if ttls_ms.count(ttls_ms[0]) == len(ttls_ms):
                yield self._records.put_many, (*pairs, _int8_or_null(ttls_ms[0]))
            else:
                yield self._records.put_many_apart, (*pairs, int8s_or_null(ttls_ms))
        if len(kept) < len(writes):
            yield self._records.delete, (self._name, texts(key for key, record, _ in ordered if record is None), None)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        key, record, ttl_ms = write
        space, lives = (self._name, incarnation, key.encode()), _int8_or_null(ttl_ms)
        if record is None:
            if version is None:
                return self._is_absent(key, incarnation)
            call: Call = self._records.delete_if, (*space, version)
        elif version is None:
            call = self._records.put_if_absent, (*space, record, lives)
        else:
            put = self._records.put_keeping_if if ttl_ms is KEEP else self._records.put_if
            call = put, (*space, record, lives, version)
        size = self._check_sizes([write])

        def look() -> bool | None:
            found = self.get(key)
            if found is None:
                return None  # somebody may have read what was put there, and have deleted it
            if found == record:
                return True
            return False if version_of(found) == version else None  # versions never come back

        results = self._write(key, [call], look, lambda results: truth(results[0], 1))
        self._connections.shrink(size)
        return was_done(None if results is None else results[0])

    def _check_sizes(self, writes: Writes) -> int:
        """Return the size of the largest record; refuse what PostgreSQL cannot hold, before it is sent."""
        sizes = [0 if record is None else len(record) for _, record, _ in writes]
        largest = max(sizes, default=0)
        if largest > MAX_BYTES:
            raise too_large(writes[sizes.index(largest)][0], self._namespace, largest, MAX_BYTES, "PostgreSQL")
        return largest

    def _is_absent(self, key: str, incarnation: bytes) -> bool:
        if self._incarnation() != incarnation:
            raise NamespaceGone
        return not self.has(key)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        named = self._name, key.encode(), _int8_or_null(ttl_ms)
        return self._take_away(self._records.touch, *named, key=key, if_incarnation=if_incarnation) > 0

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        key = keys[0] if len(keys) == 1 else None
        named = self._name, texts(sorted(set(keys)))
        return self._take_away(self._records.delete, *named, key=key, if_incarnation=if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        statement = self._records.delete_range(stop=stop is not None)
        return self._take_away(statement, *self._range(start, stop), patient=True, if_incarnation=if_incarnation)

    def _take_away(
        self,
        statement: Statement,
        *parameters: bytes | None,
        key: str | None = None,
        patient: bool = False,
        if_incarnation: ExpectedIncarnation,
    ) -> int:
        incarnation = None if if_incarnation is ANY else if_incarnation
        n = self._count_of(statement, *parameters, incarnation, key=key, patient=patient)
        if n == 0 and incarnation is not None and self._incarnation() not in (None, incarnation):
            raise NamespaceGone  # incarnations never come back: the one of now was that of the statement, or this is raised
        return n

    def sweep(self, limit: int) -> int:
        return self._count_of(self._records.sweep, self._name, int8(limit))

    def _count_of(
        self, statement: Statement, *parameters: bytes | None, key: str | None = None, patient: bool = False
    ) -> int:
        # How many there were is in the answer alone.
        results = self._write(key, [(statement, parameters)], lambda: None, patient=patient)
        return 0 if results is None else results[0].command_tuples or 0

    def scan(self, **asked: Unpack[Scan]) -> Page:
        calls = self._page_calls(_PAGE_BYTES // asked["limit"], summed=False, **asked)
        return self._page(asked, self._reads.read(*calls)[-1])

    def scan_ahead(self, before: Sequence[Found], **asked: Unpack[Scan]) -> Ahead | None:
        asked["limit"] = min(asked["limit"], most_ahead(before))
        if asked["limit"] < MIN_AHEAD:
            return None
        under_way = self._reads.ask(*self._page_calls(_PAGE_BYTES // asked["limit"], summed=False, **asked))
        if under_way is None:
            return None
        return PageAhead(under_way, self._connections.take_in, partial(self._page, asked), partial(self.scan, **asked))

    def _page_calls(
        self,
        most: int,
        *,
        summed: bool,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> tuple[Call, Call]:
        """Return what finds a page, and one record more; `most` is as of `RecordSql.scan`."""
        bounds = [bound.encode() for bound in (after, stop) if bound is not None]
        query = self._records.scan(
            after=after is not None, stop=stop is not None, reverse=reverse, keys_only=keys_only, heads=heads,
            summed=summed,
        )  # fmt: skip
        size = [] if keys_only or heads else [int8(most)]
        # A sort would read all that follows for each page, and the planner may not know before an ANALYZE.
        return _NO_SORT, (query, [self._name, start.encode(), int8(limit + 1), *bounds, *size])

    def _page(self, asked: Scan, found: pq.abc.PGresult) -> Page:
        records = _records_of(found, asked["limit"])
        if len(records) < min(asked["limit"], found.ntuples):  # a large one is among them
            found = self._reads.read(*self._page_calls(_PAGE_BYTES, summed=True, **asked))[-1]
            records = _records_of(found, asked["limit"])
            if not records and found.ntuples:  # one is never left behind
                raise changed()
        return Page(records, more=len(records) < found.ntuples)

    def clear(self) -> None:
        self._write(None, [(self._records.clear, (self._name,))], lambda: self.count() == 0 or None, patient=True)

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[PostgresWatcher]:
        return closing(PostgresWatcher(self._place, self._records, self._name, self._connections.timeout_s))


@cache
def _statements(schema: str) -> tuple[RecordSql, LogSql]:
    return RecordSql(schema), LogSql(schema)


def _int8_or_null(ttl_ms: Ttl) -> bytes | None:
    return None if ttl_ms is None or ttl_ms is KEEP else int8(ttl_ms)


def _records_of(found: pq.abc.PGresult, limit: int) -> list[Found]:
    """Return keys, records and expiries up to the first one that was left behind."""
    records = found_of(found, min(found.ntuples, limit))
    left_behind = [*map(itemgetter(1), records)]
    return records[: left_behind.index(None)] if None in left_behind else records


def was_done(result: pq.abc.PGresult | None) -> bool:
    """Return what a conditional statement says it did; one whose answer was lost was found to be done."""
    if result is None:
        return True
    if not truth(result, 0):
        raise NamespaceGone
    return truth(result, 1)
