"""Writing logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import apsw

from rstore.backends.common.heads import admits, changed
from rstore.backends.sqlite.logs.reading import CHUNK, LogReads
from rstore.backends.sqlite.namespace import NamespaceWrites
from rstore.backends.sqlite.transport.savepoints import atomic, commit
from rstore.backends.types import ANY, Commit, Expected, ExpectedIncarnation, Head, Log, Row

# Not INSERT OR REPLACE: it deletes the row first.
_APPEND: Final = """
INSERT INTO hot (log, t, seq, body) VALUES (
  (SELECT logs.id FROM namespaces JOIN logs ON logs.ns = namespaces.id
  WHERE namespaces.name = ? AND incarnation = ? AND model = ? AND logs.key = ? AND sealed = ?), ?, ?, ?)
ON CONFLICT DO UPDATE SET body = excluded.body"""
_PUT_ROW: Final = "INSERT INTO hot VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
_IS_EMPTY: Final = """
SELECT NOT EXISTS (SELECT 1 FROM hot WHERE log = ?1) AND NOT EXISTS (SELECT 1 FROM chunks WHERE log = ?1)"""


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
                connection.executemany(_PUT_ROW, ((number, t, seq, body) for t, seq, body in rows))
                return True

        return self._executor.write(work)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                ns = self._expect(connection, incarnation)
                number, head = self._find(connection, log) or (None, None)
                if not admits(head, commit):
                    return False
                if number is None and commit.create is not None:
                    head = commit.create
                    number = _insert_log(connection, ns, log, head)
                if number is not None and head is not None:
                    _apply(connection, number, head, commit)
                return True

        return self._executor.write(work)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                self._check_incarnation(connection, if_incarnation)
                found = self._find(connection, log)
                if found is None or if_version not in (ANY, found[1].version):
                    return False
                _delete_log(connection, found[0])
                return True

        return self._executor.write(work, create=False)


def _insert_log(connection: apsw.Connection, ns: int, log: Log, head: Head) -> int:
    """Create a log, and return its number."""
    sql = "INSERT INTO logs (ns, model, key, epoch, version, sealed, facts) VALUES (?, ?, ?, ?, ?, ?, ?)"
    place = ns, int(log.model), log.key
    connection.execute(sql, (*place, *head))
    # Not `last_insert_rowid`: a signal handler may have inserted something since.
    number: int = connection.execute("SELECT id FROM logs WHERE ns = ? AND model = ? AND key = ?", place).get
    return number


def _delete_log(connection: apsw.Connection, number: int) -> None:
    """Delete a log with everything it holds."""
    for table in ("hot", "chunks", "checkpoints"):
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (number,))
    connection.execute("DELETE FROM logs WHERE id = ?", (number,))


def _apply(connection: apsw.Connection, number: int, head: Head, commit: Commit) -> None:
    """Do all of a commit to a log that admits it."""
    many: Callable[..., Any] = connection.executemany
    if commit.drop_rows:
        many(
            "DELETE FROM hot WHERE log = ? AND t = ? AND seq = ? AND body = ?",
            ((number, t, seq, body) for t, seq, body in commit.drop_rows),
        )
    if commit.drop_chunks:
        many(
            "DELETE FROM chunks WHERE log = ? AND first_t = ? AND first_seq = ?",
            ((number, *first) for first in commit.drop_chunks),
        )
    if commit.drop_checkpoints_from is not None:
        sql = "DELETE FROM checkpoints WHERE log = ? AND (t, seq) >= (?, ?)"
        connection.execute(sql, (number, *commit.drop_checkpoints_from))
    if commit.put_rows:
        many(_PUT_ROW, ((number, t, seq, body) for t, seq, body in commit.put_rows))
    if commit.put_chunks:
        many(
            f"INSERT INTO chunks (log, {CHUNK}, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((number, *first, *last, n, meta, body) for first, last, n, meta, body in commit.put_chunks),
        )
    if commit.put_checkpoints:
        many(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)",
            ((number, t, seq, body) for t, seq, body in commit.put_checkpoints),
        )
    if (new := changed(head, commit)) != head:
        sql = "UPDATE logs SET epoch = ?, version = ?, facts = ? WHERE id = ?"
        connection.execute(sql, (new.epoch, new.version, new.facts, number))
    if commit.drop_if_empty and connection.execute(_IS_EMPTY, (number,)).get:
        _delete_log(connection, number)
