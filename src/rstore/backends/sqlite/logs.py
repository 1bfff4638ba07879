"""Logs: one row for the head, and one a hot row, chunk and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import apsw

from rstore.backends.common.heads import admits, admits_ids, changed
from rstore.backends.common.names import is_name
from rstore.backends.sqlite.cells import chunk_of, head_of, names_of, rows_of
from rstore.backends.sqlite.namespace import NamespaceReads, NamespaceWrites
from rstore.backends.sqlite.statements import NS, now_ms
from rstore.backends.sqlite.transport.savepoints import atomic, commit
from rstore.backends.types import (
    ANY,
    IDS_HEAD,
    Chunk,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    Log,
    Model,
    Position,
    Row,
    View,
    ViewQuery,
    ids_of,
)

_CHUNK: Final = "first_t, first_seq, last_t, last_seq, n, meta"
_FIND: Final = """
SELECT logs.id, epoch, version, sealed, facts FROM namespaces JOIN logs ON logs.ns = namespaces.id
WHERE name = ? AND model = ? AND key = ?"""
_HEADS: Final = f"""
SELECT key, epoch, version, sealed, facts FROM logs WHERE ns = {NS} AND model = :model AND key >= :start"""
_HOT: Final = f"""
SELECT count(*), coalesce(sum(length(body)), 0) FROM hot
WHERE log = (SELECT id FROM logs WHERE ns = {NS} AND model = :model AND key = :key)"""
# Not INSERT OR REPLACE: it deletes the row first.
_APPEND: Final = """
INSERT INTO hot (log, t, seq, body) VALUES (
  (SELECT logs.id FROM namespaces JOIN logs ON logs.ns = namespaces.id
  WHERE namespaces.name = ? AND birth = ? AND model = ? AND logs.key = ? AND sealed = ?), ?, ?, ?)
ON CONFLICT DO UPDATE SET body = excluded.body"""
_PUT_ROW: Final = "INSERT INTO hot VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
ADVANCE: Final = "INSERT INTO advances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
"""A commit as `advances` tells one, by one statement; it fails where a condition does not hold."""
_IS_EMPTY: Final = """
SELECT NOT EXISTS (SELECT 1 FROM hot WHERE log = ?1) AND NOT EXISTS (SELECT 1 FROM chunks WHERE log = ?1)"""


class LogReads(NamespaceReads):
    """Reads logs."""

    def clock_ms(self) -> int:
        return now_ms()

    def logs(self, model: Model) -> list[str]:
        column = f"key FROM logs WHERE ns = {NS} AND model = :model ORDER BY key"
        named = {"ns": self._namespace, "model": int(model)}
        what = f"a log in namespace {self._namespace!r}"

        def work(connection: apsw.Connection) -> list[str]:
            if not self.around_damage:
                return names_of(connection, column, named, what)
            raws = [raw for (raw,) in connection.execute(f"SELECT CAST(key AS BLOB){column[3:]}", named)]
            return [raw.decode() for raw in raws if type(raw) is bytes and is_name(raw)]

        return self._reader.read(work)

    def heads(self, model: Model, start: str = "", stop: str | None = None) -> list[tuple[str, Head]]:
        sql, named = _HEADS, {"ns": self._namespace, "model": int(model), "start": start}
        if stop is not None:
            sql, named = f"{_HEADS} AND key < :stop", {**named, "stop": stop}

        def work(connection: apsw.Connection) -> list[tuple[str, Head]]:
            return [(row[0], head_of(row[1:])) for row in connection.execute(sql, named)]

        return self._reader.read(work)

    def hot(self, log: Log) -> tuple[int, int]:
        named = {"ns": self._namespace, "model": int(log.model), "key": log.key}
        row: Any = self._reader.read(lambda connection: connection.execute(_HOT, named).fetchone())
        return int(row[0]), int(row[1])

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


class LogWrites(LogReads, NamespaceWrites):
    """Writes logs."""

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        place = self._namespace, incarnation, int(log.model), log.key, head.sealed

        def work(connection: apsw.Connection) -> bool:
            if len(rows) == 1:
                with suppress(apsw.ConstraintError):  # there is no such log
                    commit(connection, _APPEND, (*place, *rows[0]))
                    return True
            with atomic(connection):
                number, known = self._find(connection, log) or (None, head)
                ns = self._expect(connection, incarnation)
                if known.sealed != head.sealed:
                    return False
                if number is None:
                    number = _insert_log(connection, ns, log, head)
                connection.executemany(_PUT_ROW, ((number, *row) for row in rows))
                return True

        return self._writer.write(work)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                ns = self._expect(connection, incarnation)
                number, head = self._find(connection, log) or (None, None)
                if not admits(head, commit) or (commit.put_ids and not self._put_ids(connection, ns, log, commit)):
                    return False
                if number is None and commit.create is not None:
                    head = commit.create
                    number = _insert_log(connection, ns, log, head)
                if number is not None and head is not None:
                    _apply(connection, number, head, commit)
                return True

        return self._writer.write(work)

    def _put_ids(self, connection: apsw.Connection, ns: int, log: Log, commit: Commit) -> bool:
        """Put the ids of a commit, or return False and do nothing if one is there."""
        number, _ = self._find(connection, ids_of(log)) or (None, None)
        if number is None:
            number = _insert_log(connection, ns, ids_of(log), IDS_HEAD)
        find = "SELECT body FROM hot WHERE log = ? AND t = ? AND seq = ?"
        if not admits_ids(lambda at: connection.execute(find, (number, *at)).get, commit):
            return False
        _apply(connection, number, IDS_HEAD, Commit(drop_rows=commit.drop_ids, put_rows=commit.put_ids))
        return True

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                self._check_incarnation(connection, if_incarnation)
                found = self._find(connection, log)
                if found is None or if_version not in (ANY, found[1].version):
                    return False
                _delete_log(connection, found[0])
                return True

        return self._writer.write(work, create=False)


def advances(commit: Commit) -> bool:
    """Return whether a commit replaces a known version, puts one row, and does no more: as for most changes."""
    create, if_epoch, if_version, epoch, version, facts, put_rows, *others = commit
    return (
        len(put_rows) == 1
        and type(if_version) is type(version) is bytes
        and if_epoch is ANY
        and (create, epoch, facts) == (None, None, None)
        and not any(others)
    )


def _newest_checkpoint(connection: apsw.Connection, number: int, at: Position) -> Row | None:
    sql = "SELECT t, seq, body FROM checkpoints WHERE log = ? AND (t, seq) <= (?, ?) ORDER BY t DESC, seq DESC LIMIT 1"
    found = rows_of(connection.execute(sql, (number, *at)).fetchall())
    return found[0] if found else None


def _rows(connection: apsw.Connection, number: int, query: ViewQuery) -> list[Row]:
    order = "t DESC, seq DESC" if query.reverse else "t, seq"
    sql = "SELECT t, seq, body FROM hot WHERE log = ? AND (t, seq) >= (?, ?) AND (t, seq) <= (?, ?)"
    sql += f" ORDER BY {order} LIMIT ?"
    limit = -1 if query.limit is None else query.limit
    rows = rows_of(connection.execute(sql, (number, *query.lo, *query.hi, limit)))
    return rows[::-1] if query.reverse else rows


def _chunks(connection: apsw.Connection, number: int, query: ViewQuery) -> list[Chunk]:
    lo, hi, limit = query.lo, query.hi, query.limit
    forwards = limit is not None and not query.reverse
    select = f"SELECT {_CHUNK}, {'body' if query.bodies else 'NULL'} FROM chunks WHERE log = ? AND "
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
        # Backwards from the last chunk that begins in time. Chunks are disjoint: before one that ends early all do.
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


def _insert_log(connection: apsw.Connection, ns: int, log: Log, head: Head) -> int:
    sql = "INSERT INTO logs (ns, model, key, epoch, version, sealed, facts) VALUES (?, ?, ?, ?, ?, ?, ?)"
    place = ns, int(log.model), log.key
    connection.execute(sql, (*place, *head))
    # Not `last_insert_rowid`: a signal handler may have inserted something since.
    number: int = connection.execute("SELECT id FROM logs WHERE ns = ? AND model = ? AND key = ?", place).get
    return number


def _delete_log(connection: apsw.Connection, number: int) -> None:
    for table in ("hot", "chunks", "checkpoints"):
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (number,))
    connection.execute("DELETE FROM logs WHERE id = ?", (number,))


def _apply(connection: apsw.Connection, number: int, head: Head, commit: Commit) -> None:
    """Do all of a commit to a log that admits it."""

    def each(sql: str, items: Sequence[tuple[Any, ...]]) -> None:
        if items:
            connection.executemany(sql, ((number, *item) for item in items))

    each("DELETE FROM hot WHERE log = ? AND t = ? AND seq = ? AND body = ?", commit.drop_rows)
    each("DELETE FROM chunks WHERE log = ? AND first_t = ? AND first_seq = ?", commit.drop_chunks)
    if commit.drop_checkpoints_from is not None:
        each("DELETE FROM checkpoints WHERE log = ? AND (t, seq) >= (?, ?)", [commit.drop_checkpoints_from])
    each(_PUT_ROW, commit.put_rows)
    chunks = [(*first, *last, *rest) for first, last, *rest in commit.put_chunks]
    each(f"INSERT INTO chunks (log, {_CHUNK}, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", chunks)
    each("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", commit.put_checkpoints)
    if (new := changed(head, commit)) != head:
        sql = "UPDATE logs SET epoch = ?, version = ?, facts = ? WHERE id = ?"
        connection.execute(sql, (new.epoch, new.version, new.facts, number))
    if commit.drop_if_empty and connection.execute(_IS_EMPTY, (number,)).get:
        _delete_log(connection, number)
