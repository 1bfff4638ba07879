"""Reading logs."""

from __future__ import annotations

from typing import Any, Final

import apsw

from rstore.backends.common.names import names_of
from rstore.backends.sqlite.cells import chunk_of, damaged_names, head_of, rows_of, texts_of
from rstore.backends.sqlite.namespace import NamespaceReads
from rstore.backends.sqlite.sql import NS, now_ms
from rstore.backends.sqlite.transport.savepoints import atomic
from rstore.backends.types import Chunk, Head, Log, Model, Position, Row, View, ViewQuery
from rstore.errors import CorruptionError

CHUNK: Final = "first_t, first_seq, last_t, last_seq, n, meta"
_FIND: Final = """
SELECT logs.id, epoch, version, sealed, facts FROM namespaces JOIN logs ON logs.ns = namespaces.id
WHERE name = ? AND model = ? AND key = ?"""
_HOT: Final = f"""
SELECT count(*), coalesce(sum(length(body)), 0) FROM hot
WHERE log = (SELECT id FROM logs WHERE ns = {NS} AND model = :model AND key = :key)"""


class LogReads(NamespaceReads):
    """Reads logs."""

    def logs(self, model: Model) -> list[str]:
        rest = f"FROM logs WHERE ns = {NS} AND model = :model ORDER BY key"
        named = {"ns": self._namespace, "model": int(model)}

        def work(connection: apsw.Connection) -> list[str]:
            if self.around_damage:
                raws = [raw for (raw,) in connection.execute(f"SELECT CAST(key AS BLOB) {rest}", named)]
                return names_of([raw for raw in raws if type(raw) is bytes], "a log", around_damage=True)
            try:
                return texts_of(connection.execute(f"SELECT key {rest}", named).fetchall())
            except (CorruptionError, UnicodeDecodeError) as error:
                for raw in damaged_names(connection, f"key {rest}", named):
                    where = f"the name {raw!r} of a log in namespace {self._namespace!r}"
                    raise CorruptionError(f"{where} is damaged, it is no text") from error
                raise

        return self._reader.read(work)

    def hot(self, log: Log) -> tuple[int, int]:
        named = {"ns": self._namespace, "model": int(log.model), "key": log.key}
        rows, size = self._reader.read(lambda connection: connection.execute(_HOT, named).fetchall())[0]
        return int(rows), int(size)

    def view(self, log: Log, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
        def work(connection: apsw.Connection) -> View:
            if query.unless_version is not None:
                found = self._find(connection, log)  # on its own first: one statement is a moment, too
                if found is not None and found[1].version == query.unless_version:
                    return View(now_ms(), found[1])
            with atomic(connection, "DEFERRED"):
                found = self._find(connection, log)
                if found is None:
                    return View(now_ms(), None)
                number, head = found
                checkpoint, some = None, query
                if query.from_checkpoint is not None:
                    checkpoint = _newest_checkpoint(connection, number, query.from_checkpoint)
                    if checkpoint is not None:
                        some = query._replace(lo=(checkpoint.t, checkpoint.seq + 1))
                rows = _rows(connection, number, some) if query.rows else []
                return View(now_ms(), head, rows, _chunks(connection, number, some), checkpoint)

        return self._reader.read(work)

    def _find(self, connection: apsw.Connection, log: Log) -> tuple[int, Head] | None:
        row: Any = connection.execute(_FIND, (self._namespace, int(log.model), log.key)).fetchone()
        return None if row is None else (row[0], head_of(row[1:]))


def _newest_checkpoint(connection: apsw.Connection, number: int, at: Position) -> Row | None:
    """Return the newest checkpoint at or before a position."""
    sql = "SELECT t, seq, body FROM checkpoints WHERE log = ? AND (t, seq) <= (?, ?) ORDER BY t DESC, seq DESC LIMIT 1"
    found = rows_of(connection.execute(sql, (number, *at)).fetchall())
    return found[0] if found else None


def _rows(connection: apsw.Connection, number: int, query: ViewQuery) -> list[Row]:
    """Return the hot rows of a view."""
    order = "t DESC, seq DESC" if query.reverse else "t, seq"
    sql = "SELECT t, seq, body FROM hot WHERE log = ? AND (t, seq) >= (?, ?) AND (t, seq) <= (?, ?)"
    sql += f" ORDER BY {order} LIMIT ?"
    limit = -1 if query.limit is None else query.limit
    rows = rows_of(connection.execute(sql, (number, *query.lo, *query.hi, limit)))
    return rows[::-1] if query.reverse else rows


def _chunks(connection: apsw.Connection, number: int, query: ViewQuery) -> list[Chunk]:
    """Return the chunks of a view."""
    lo, hi, limit = query.lo, query.hi, query.limit
    forwards = limit is not None and not query.reverse
    select = f"SELECT {CHUNK}, {'body' if query.bodies else 'NULL'} FROM chunks WHERE log = ? AND "
    chunks: list[Chunk] = []
    if query.neighbours:
        sql = select + "(first_t, first_seq) > (?, ?) ORDER BY first_t, first_seq LIMIT 1"
        chunks += (chunk_of(row) for row in connection.execute(sql, (number, *hi)))
    if forwards:
        sql = "SELECT first_t, first_seq FROM chunks WHERE log = ? AND (first_t, first_seq) <= (?, ?)"
        sql += " ORDER BY first_t DESC, first_seq DESC LIMIT 1"
        begin: Any = connection.execute(sql, (number, *lo)).fetchone() or lo
        sql = select + "(first_t, first_seq) >= (?, ?) AND (first_t, first_seq) <= (?, ?) ORDER BY first_t, first_seq"
        bindings = (number, *begin, *hi)
    else:
        # Backwards from the last one that begins in time: chunks are disjoint, so the first to end too early ends it.
        sql = select + "(first_t, first_seq) <= (?, ?) ORDER BY first_t DESC, first_seq DESC"
        bindings = (number, *hi)
    held = -1  # how many rows the chunks after the first one hold; -1 before the first one
    for row in connection.execute(sql, bindings):
        chunk = chunk_of(row)
        if chunk.last < lo:
            if forwards:
                continue
            if query.neighbours:
                chunks.append(chunk)
            break
        chunks.append(chunk)
        held = 0 if held < 0 else held + chunk.n
        if limit is not None and held >= limit:
            break
    return chunks if forwards else chunks[::-1]
