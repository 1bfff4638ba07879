"""Reading a namespace in PostgreSQL: by single calls, in a transaction, or at the moment of a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from typing import Final, NamedTuple

from psycopg import pq

from rstore.backends.common.pages import PAGE_BYTES
from rstore.backends.contract import ReadTransaction
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.logs.views import view_call, view_of
from rstore.backends.postgres.sql.logs import LogSql
from rstore.backends.postgres.sql.records import RecordSql
from rstore.backends.postgres.transaction.executor import StatementReader
from rstore.backends.postgres.transport.binary import changed, found_of, int4, int8, number, texts
from rstore.backends.postgres.transport.statements import Call, Results, Statement, set_local
from rstore.backends.types import (
    FIRST,
    KEYS_BYTES,
    LAST,
    Chunk,
    Found,
    Head,
    HeldLogSnapshot,
    Log,
    LogSnapshot,
    Model,
    Page,
    Position,
    ScanQuery,
    View,
    ViewQuery,
    close_scope,
)

_NO_SORT: Final = set_local("enable_sort", "off")
INCARNATION_BYTES: Final = 8 + KEYS_BYTES
_FEW_CHUNKS: Final = 8
"""So many are fetched at once: a transaction would ask the server more often, and keep a connection."""
_WHOLE: Final = ViewQuery()


class PostgresNamespace(NamedTuple):
    """A namespace of a schema, and the statements on it."""

    place: PostgresPlace
    name: str
    named: bytes
    records: RecordSql
    logs: LogSql

    @classmethod
    def at(cls, place: PostgresPlace, name: str) -> PostgresNamespace:
        """Return the namespace of that name."""
        return cls(place, name, name.encode(), *_statements(place.schema))


@cache
def _statements(schema: str) -> tuple[RecordSql, LogSql]:
    return RecordSql(schema), LogSql(schema)


class PostgresReader(ReadTransaction):
    """Reads one namespace through an object that runs statements."""

    is_remote = True

    def __init__(self, namespace: PostgresNamespace, reader: StatementReader) -> None:
        self._namespace = namespace
        self._name = namespace.named
        self._records = namespace.records
        self._logs = namespace.logs
        self._reader = reader

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        (found,) = self._reader.read((self._records.facts, (self._name,)))
        rows = [[found.get_value(row, column) for column in range(3)] for row in range(found.ntuples)]
        facts = {name.decode(): fact or b"" for _, name, fact in rows if name is not None}
        return (rows[0][0] if rows else None), facts

    def _incarnation(self) -> bytes | None:
        (found,) = self._reader.read((self._records.find, (self._name,)))
        incarnation = found.get_value(0, 0) if found.ntuples else None
        if found.ntuples and (incarnation is None or len(incarnation) != INCARNATION_BYTES):
            raise changed()
        return incarnation

    # -- records ------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        (found,) = self._reader.read((self._records.get, (self._name, key.encode())))
        record = found.get_value(0, 0) if found.ntuples else None
        if record is not None:
            self._reader.shrink(len(record))
        elif found.ntuples:  # it is there, and holds nothing
            raise changed()
        return record

    def has(self, key: str) -> bool:
        (found,) = self._reader.read((self._records.has, (self._name, key.encode())))
        return found.ntuples > 0

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        statement = self._records.fetch_heads if heads else self._records.fetch
        (found,) = self._reader.read((statement, (self._name, texts(keys))))
        records = found_of(found, found.ntuples)
        if any(record is None for _, record, _ in records):
            raise changed()
        return records

    def count(self, start: str = "", stop: str | None = None) -> int:
        (found,) = self._reader.read((self._records.count(stop=stop is not None), self._range(start, stop)))
        return number(found)

    def _range(self, start: str, stop: str | None) -> tuple[bytes, ...]:
        return self._name, start.encode(), *(() if stop is None else (stop.encode(),))

    def scan(self, query: ScanQuery) -> Page:
        found, records = self._page(query, PAGE_BYTES // query.limit, summed=False)
        if len(records) < min(query.limit, found.ntuples):  # a large one is among them
            found, records = self._page(query, PAGE_BYTES, summed=True)
            if not records and found.ntuples:  # one is never left behind
                raise changed()
        return Page(records, more=len(records) < found.ntuples)

    def _page(self, query: ScanQuery, max_bytes: int, *, summed: bool) -> tuple[pq.abc.PGresult, list[Found]]:
        """Return the result for a page and one record more, and the records of the page up to one that is too large.

        `max_bytes` and `summed` as of `RecordSql.scan`.
        """
        limit, start, stop, after, reverse, keys_only, heads = query
        statement = self._records.scan(after is not None, stop is not None, reverse, keys_only, heads, summed)
        bounds = [bound.encode() for bound in (after, stop) if bound is not None]
        size = [] if keys_only or heads else [int8(max_bytes)]
        # A sort would read all that follows for each page, and the planner may not know before an ANALYZE.
        scan = statement, [self._name, start.encode(), int8(limit + 1), *bounds, *size]
        found = self._reader.read(_NO_SORT, scan)[-1]
        records = found_of(found, min(found.ntuples, limit))
        bodies = [*map(itemgetter(1), records)]
        return found, records[: bodies.index(None)] if None in bodies else records

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self, model: Model) -> list[str]:
        (found,) = self._reader.read((self._logs.keys, (self._name, int4(model))))
        return [(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)]

    def heads(self, model: Model, start: str = "", stop: str | None = None) -> list[tuple[str, Head]]:
        statement = self._logs.heads if stop is None else self._logs.heads_before
        bounds = start.encode(), *(() if stop is None else (stop.encode(),))
        (found,) = self._reader.read((statement, (self._name, int4(model), *bounds)))
        heads: list[tuple[str, Head]] = []
        for row in range(found.ntuples):
            key, epoch, version, sealed, facts = (found.get_value(row, column) or b"" for column in range(5))
            heads.append((key.decode(), Head(epoch, version, sealed == b"\1", facts)))
        return heads

    def view(self, log: Log, query: ViewQuery = _WHOLE) -> View:
        if query.unless_version is not None:
            glance = self.glance(log)  # a shorter path than the statement that looks for everything
            if glance.head is not None and glance.head.version == query.unless_version:
                return glance
        (found,) = self._reader.read(self._view_call(log, query))
        return view_of(found)

    def views(self, logs: Sequence[Log], query: ViewQuery = _WHOLE) -> list[View]:
        return [view_of(found) for found in self._reader.read(*(self._view_call(log, query) for log in logs))]

    @contextmanager
    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[LogSnapshot]:
        query = ViewQuery(lo, hi, bodies=False)
        view = self.view(log, query)
        if len(view.chunks) <= _FEW_CHUNKS:
            yield HeldLogSnapshot(self.view(log, ViewQuery(lo, hi)) if view.chunks else view)
            return
        scope = self._reader.snapshot(self._view_call(log, query))
        try:
            with scope as snapshot:
                if snapshot is None:
                    yield HeldLogSnapshot(self.view(log, ViewQuery(lo, hi)))
                else:
                    yield _PinnedLogSnapshot(*snapshot, self._logs.body, self._named(log))
        finally:
            close_scope(scope)

    def hot(self, log: Log) -> tuple[int, int]:
        (found,) = self._reader.read((self._logs.hot, self._named(log)))
        return number(found, 0), number(found, 1)

    def _view_call(self, log: Log, query: ViewQuery) -> Call:
        statement, parameters = view_call(self._namespace.place.schema, query)
        return statement, (*self._named(log), *parameters)

    def _named(self, log: Log) -> tuple[bytes, bytes, bytes]:
        return self._name, int4(log.model), log.key.encode()

    def glance(self, log: Log) -> View:
        """Return a view of the head alone; the clock is only told of a log that is there."""
        (found,) = self._reader.read((self._logs.head, self._named(log)))
        if not found.ntuples:
            return View(0, None)
        epoch, version, sealed, facts = (found.get_value(0, column) or b"" for column in range(4))
        return View(number(found, 4), Head(epoch, version, sealed == b"\1", facts))


class _PinnedLogSnapshot(LogSnapshot):
    """A log in a transaction that stays at one moment."""

    def __init__(self, reader: StatementReader, found: Results, body: Statement, named: tuple[bytes, ...]) -> None:
        self.view = view_of(found[0])
        self._reader = reader
        self._body = body
        self._named = named

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        found = self._reader.read(*((self._body, (*self._named, int8(t), int4(seq))) for (t, seq), *_ in chunks))
        return [chunk._replace(body=one.get_value(0, 0) or b"") for chunk, one in zip(chunks, found, strict=True)]
