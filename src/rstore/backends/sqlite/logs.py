"""The SQL of logs: hot rows, chunks and checkpoints, inside a transaction that the caller has begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw

from rstore.backends.sqlite.cells import bytes_of, chunk_of, rows_of
from rstore.backends.types import Chunk, Commit, Head, Log, Position, Row

PUT_ROW: Final = "INSERT INTO hot VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"
_CHUNK: Final = "first_t, first_seq, last_t, last_seq, n, meta"


def insert_log(connection: apsw.Connection, ns: int, log: Log, head: Head) -> int:
    """Create a log, and return its number."""
    sql = "INSERT INTO logs (ns, model, key, epoch, version, sealed, facts) VALUES (?, ?, ?, ?, ?, ?, ?)"
    place = ns, int(log.model), log.key
    connection.execute(sql, (*place, *head))
    # Not `last_insert_rowid`: a signal handler may have inserted something since.
    number: int = connection.execute("SELECT id FROM logs WHERE ns = ? AND model = ? AND key = ?", place).get
    return number


def delete_log(connection: apsw.Connection, number: int) -> None:
    """Delete a log with everything it holds."""
    for table in ("hot", "chunks", "checkpoints"):
        connection.execute(f"DELETE FROM {table} WHERE log = ?", (number,))
    connection.execute("DELETE FROM logs WHERE id = ?", (number,))


def newest_checkpoint(connection: apsw.Connection, number: int, at: Position) -> Row | None:
    """Return the newest checkpoint at or before a position."""
    sql = "SELECT t, seq, body FROM checkpoints WHERE log = ? AND (t, seq) <= (?, ?) ORDER BY t DESC, seq DESC LIMIT 1"
    found = rows_of(connection.execute(sql, (number, *at)).fetchall())
    return found[0] if found else None


def rows(
    connection: apsw.Connection, number: int, lo: Position, hi: Position, limit: int | None, *, reverse: bool
) -> list[Row]:
    """Return the hot rows of a view."""
    order = "t DESC, seq DESC" if reverse else "t, seq"
    sql = "SELECT t, seq, body FROM hot WHERE log = ? AND (t, seq) >= (?, ?) AND (t, seq) <= (?, ?)"
    sql += f" ORDER BY {order} LIMIT ?"
    bindings: tuple[Any, ...] = (number, *lo, *hi, -1 if limit is None else limit)
    rows = rows_of(connection.execute(sql, bindings))
    return rows[::-1] if reverse else rows


def chunks(
    connection: apsw.Connection,
    number: int,
    lo: Position,
    hi: Position,
    limit: int | None,
    *,
    reverse: bool,
    bodies: bool,
    neighbours: bool,
) -> list[Chunk]:
    """Return the chunks of a view."""
    select = f"SELECT {_CHUNK}, {'body' if bodies else 'NULL'} FROM chunks WHERE log = ? AND "
    chunks: list[Chunk] = []
    if neighbours:
        sql = select + "(first_t, first_seq) > (?, ?) ORDER BY first_t, first_seq LIMIT 1"
        chunks += (chunk_of(row) for row in connection.execute(sql, (number, *hi)))
    if limit is None or reverse:
        # Backwards from the last one that begins in time: chunks are disjoint, so the first to end too early ends it.
        sql = select + "(first_t, first_seq) <= (?, ?) ORDER BY first_t DESC, first_seq DESC"
        bindings: tuple[int, ...] = (number, *hi)
    else:
        sql = "SELECT first_t, first_seq FROM chunks WHERE log = ? AND (first_t, first_seq) <= (?, ?)"
        sql += " ORDER BY first_t DESC, first_seq DESC LIMIT 1"
        begin: Any = connection.execute(sql, (number, *lo)).fetchone() or lo
        sql = select + "(first_t, first_seq) >= (?, ?) AND (first_t, first_seq) <= (?, ?) ORDER BY first_t, first_seq"
        bindings = (number, *begin, *hi)
    held = -1  # how many rows the chunks after the first one hold; -1 before the first one
    for row in connection.execute(sql, bindings):
        chunk = chunk_of(row)
        if chunk.last < lo:
            if limit is not None and not reverse:
                continue
            if neighbours:
                chunks.append(chunk)
            break
        chunks.append(chunk)
        held = 0 if held < 0 else held + chunk.n
        if limit is not None and held >= limit:
            break
    return chunks if limit is not None and not reverse else chunks[::-1]


def with_body(connection: apsw.Connection, number: int, chunk: Chunk) -> Chunk:
    """Return a chunk with its body."""
    sql = "SELECT body FROM chunks WHERE log = ? AND first_t = ? AND first_seq = ?"
    body = connection.execute(sql, (number, *chunk.first)).get
    return chunk._replace(body=bytes_of(body, f"the chunk at {chunk.first[0]}"))


def apply(connection: apsw.Connection, number: int, commit: Commit) -> None:
    """Do what a commit says to a log whose conditions hold."""
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
        many(PUT_ROW, ((number, t, seq, body) for t, seq, body in commit.put_rows))
    if commit.put_chunks:
        many(
            f"INSERT INTO chunks (log, {_CHUNK}, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            ((number, *first, *last, n, meta, body) for first, last, n, meta, body in commit.put_chunks),
        )
    if commit.put_checkpoints:
        many(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)",
            ((number, t, seq, body) for t, seq, body in commit.put_checkpoints),
        )
    if not (commit.epoch is commit.version is commit.facts is None):
        connection.execute(
            "UPDATE logs SET epoch = coalesce(?, epoch), version = coalesce(?, version), facts = coalesce(?, facts) "
            "WHERE id = ?",
            (commit.epoch, commit.version, commit.facts, number),
        )
    if commit.drop_if_empty:
        empty = (
            "SELECT NOT EXISTS (SELECT 1 FROM hot WHERE log = ?1) AND NOT EXISTS (SELECT 1 FROM chunks WHERE log = ?1)"
        )
        if connection.execute(empty, (number,)).get:
            delete_log(connection, number)
