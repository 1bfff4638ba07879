"""Writing key/value records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any, Final

import apsw

from rstore.backends.sqlite.namespace import NamespaceWrites
from rstore.backends.sqlite.records.reading import RecordReads, head_of_record, of_range
from rstore.backends.sqlite.statements import (
    INLINE_BYTES,
    LIVE,
    NS,
    NS_OF_INCARNATION,
    OVER_PLAIN,
    OVER_SMALL,
    expires_ms,
    now_ms,
)
from rstore.backends.sqlite.transport.savepoints import atomic, commit
from rstore.backends.types import (
    ANY,
    HEAD_BYTES,
    KEEP,
    LARGE_BYTES,
    ExpectedIncarnation,
    Ttl,
    Write,
    Writes,
    too_large,
    version_of,
)

_ROW_BYTES: Final = 64
"""More than a row of `blobs` holds beside its record."""
_ROWS_AT_ONCE: Final = 50
"""So many rows are put by one statement: a longer one saves no more."""

_GET_HEAD: Final = (
    f"SELECT substr(record, 1, {HEAD_BYTES}), blob FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
)
# Not INSERT OR REPLACE: it deletes the row first.
_PUT: Final = """
INSERT INTO records (ns, key, record, blob, expires_ms) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET record = excluded.record, blob = excluded.blob, expires_ms = excluded.expires_ms"""
_PUT_KEEPING: Final = _PUT.rpartition(",")[0]  # all but the expiry
_DELETE_ONE: Final = f"DELETE FROM records WHERE ns = {NS} AND key = :key"
_DELETE: Final = f"DELETE FROM records WHERE ns = {NS} AND {LIVE} AND key "
_CLEAR: Final = f"DELETE FROM records WHERE ns = {NS}"
_TOUCH: Final = f"UPDATE records SET expires_ms = :expires WHERE ns = {NS} AND key = :key AND {LIVE}"
_ANY_EXPIRED: Final = f"SELECT EXISTS (SELECT 1 FROM records WHERE ns = {NS} AND expires_ms <= :now)"
_SWEEP: Final = f"""
DELETE FROM records WHERE (ns, key) IN (
  SELECT ns, key FROM records WHERE ns = {NS} AND expires_ms <= :now ORDER BY expires_ms LIMIT :limit)"""


class RecordWrites(RecordReads, NamespaceWrites):
    """Writes key/value records."""

    def write(self, writes: Writes, incarnation: bytes) -> None:
        if len(writes) == 1 and (record := writes[0][1]) is not None:
            key, _, ttl_ms = writes[0]
            self.put(key, record, ttl_ms, incarnation)
        else:
            self._write_many(writes, incarnation)

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        self._write_many(((key, record, ttl_ms),), incarnation)

    def _write_many(self, writes: Writes, incarnation: bytes) -> None:
        def work(connection: apsw.Connection) -> None:
            with atomic(connection):
                number = self._expect(connection, incarnation)
                self._writer.know(connection, number)
                _put_many(connection, writes, number, self._namespace)

        self._writer.write(work)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                number = self._expect(connection, incarnation)
                if version != self._version(connection, write.key):
                    return False
                _put(connection, write, number, self._namespace)
                return True

        return self._writer.write(work)

    def _version(self, connection: apsw.Connection, key: str) -> bytes | None:
        """Return the version of a record that has not expired, without reading the rest of a large one."""
        named = {"ns": self._namespace, "key": key, "now": now_ms()}
        row: Any = connection.execute(_GET_HEAD, named).fetchone()
        return None if row is None else version_of(head_of_record(connection, key, *row))

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        named = {"ns": self._namespace, "now": now_ms(), "key": key, "expires": expires_ms(ttl_ms)}
        return self._change(_TOUCH, named, if_incarnation) > 0

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        named: dict[str, Any] = {"ns": self._namespace, "now": now_ms()}
        if len(keys) == 1:
            sql, named["key"] = _DELETE + "= :key", keys[0]
        else:
            sql, named["keys"] = _DELETE + "IN (SELECT value FROM json_each(:keys))", json.dumps(keys)
        return self._change(sql, named, if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._change(of_range("DELETE", stop), self._range(start, stop), if_incarnation)

    def sweep(self, limit: int) -> int:
        named = {"ns": self._namespace, "now": now_ms(), "limit": limit}
        if not self._reader.read(lambda connection: connection.execute(_ANY_EXPIRED, named).get):
            return 0  # without a lock, which others might wait for
        return self._change(_SWEEP, named)

    def clear(self) -> None:
        self._change(_CLEAR, {"ns": self._namespace})

    def _change(self, sql: str, named: dict[str, Any], if_incarnation: ExpectedIncarnation = ANY) -> int:
        """Execute one statement that only takes away or changes; return how many records it concerned."""
        if if_incarnation is not ANY:
            sql, named["incarnation"] = sql.replace(NS, NS_OF_INCARNATION), if_incarnation

        def work(connection: apsw.Connection) -> int:
            commit(connection, sql, named)
            n = connection.changes()
            if n == 0:  # incarnations never come back: the one of now was that of the statement
                self._check_incarnation(connection, if_incarnation)
            return n

        return self._writer.write(work, create=False)


def _is_small(record: bytes | None) -> bool:
    """Return whether there is a record, and fits into its row."""
    return record is not None and len(record) <= INLINE_BYTES


def _put(connection: apsw.Connection, write: Write, number: int, namespace: str) -> None:
    """Put or delete a record in a namespace that is there, inside a transaction that the caller has begun."""
    if write.record is None:
        connection.execute(_DELETE_ONE, {"ns": namespace, "key": write.key})
        return
    place: tuple[bytes | None, int | None] = write.record, None
    if not _is_small(write.record):
        place = None, _put_blob(connection, write.key, write.record, namespace)
    put = _PUT_KEEPING if write.ttl_ms is KEEP else _PUT
    connection.execute(put, (number, write.key, *place, expires_ms(write.ttl_ms)))


def _put_blob(connection: apsw.Connection, key: str, record: bytes, namespace: str) -> int:
    """Put a record into the table of the large ones, and return its number there."""
    if len(record) <= LARGE_BYTES:
        return _insert_blob(connection, record)
    limit = connection.limit(apsw.SQLITE_LIMIT_LENGTH) - _ROW_BYTES
    if len(record) > limit:
        raise too_large(key, namespace, len(record), limit, "SQLite")
    # Reserved, and then filled: as a parameter it would be copied twice before it is written.
    number = _insert_blob(connection, apsw.zeroblob(len(record)))
    with connection.blob_open("main", "blobs", "record", number, True) as blob:
        blob.write(record)
    return number


def _insert_blob(connection: apsw.Connection, record: bytes | apsw.zeroblob) -> int:
    # Numbered first: `last_insert_rowid` may be that of a signal handler, which has stored something large since.
    while True:
        number: int = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM blobs").get
        with suppress(apsw.ConstraintError):  # it has stored something large in between
            connection.execute("INSERT INTO blobs (id, record) VALUES (?, ?)", (number, record))
            return number


def _put_many(connection: apsw.Connection, writes: Writes, number: int, namespace: str) -> None:
    """Put and delete records in a namespace that is there, inside a transaction that the caller has begun."""
    values: list[Any] = [*chain.from_iterable(writes)]
    others: list[Write] = []
    if _are_plain(values[1::3], values[2::3]):
        small: Writes = writes
        del values[2::3]
        columns, over = "key, record", OVER_PLAIN
    else:
        expiry = cache(expires_ms)  # one moment for all of them
        small = [(key, record, expiry(ttl_ms)) for key, record, ttl_ms in writes if _is_small(record)]
        others = [Write(*write) for write in writes if not _is_small(write[1])]
        values = [*chain.from_iterable(small)]
        columns, over = "key, record, expires_ms", OVER_SMALL
    try:
        _put_rows(connection, number, columns, over, values)
    except apsw.ConstraintError:  # something large, or that expires, is in the place of some
        connection.executemany(_PUT, ((number, key, record, None, expires) for key, record, expires in small))
    for write in others:
        _put(connection, write, number, namespace)


def _are_plain(records: list[Any], ttls_ms: list[Ttl]) -> bool:
    """Return whether all of these are records, which fit into their rows and do not expire."""
    if ttls_ms.count(None) < len(ttls_ms):
        return False
    try:
        return max(map(len, records), default=0) <= INLINE_BYTES
    except TypeError:  # of None: it is to be deleted
        return False


def _put_rows(connection: apsw.Connection, number: int, columns: str, over: str, values: list[Any]) -> None:
    """Put rows, of which all values are given one after another, many by one statement."""
    width, at = columns.count(",") + 1, 0
    row = f"({number}{', ?' * width})"
    # OR FAIL: the caller undoes all of it, so that no statement has to keep what it would take to undo itself.
    insert = f"INSERT OR FAIL INTO records (ns, {columns}) VALUES"
    if len(values) >= 2 * _ROWS_AT_ONCE * width:  # or to prepare it would take as long as it saves
        size = _ROWS_AT_ONCE * width
        at = len(values) - len(values) % size
        many = f"{insert} {', '.join([row] * _ROWS_AT_ONCE)} {over}"
        connection.executemany(many, (values[i : i + size] for i in range(0, at, size)))
    connection.executemany(f"{insert} {row} {over}", (values[i : i + width] for i in range(at, len(values), width)))
