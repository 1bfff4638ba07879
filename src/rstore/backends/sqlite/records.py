"""The SQL of key/value records: one row each, and one more in another table for a large one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import cache
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import apsw

from rstore.backends.sqlite.cells import damaged_names, found_of, missing, unsound
from rstore.backends.sqlite.link import Link
from rstore.backends.types import (
    HEAD_BYTES,
    KEEP,
    LARGE_BYTES,
    Found,
    Page,
    Ttl,
    Write,
    Writes,
    too_large,
    version_of,
)
from rstore.errors import CorruptionError

INLINE_BYTES: Final = 1024
"""A larger record lies in a table of its own. Past about a quarter of a page SQLite would spill it anyway, and the rest
of it would still widen the tree that every lookup descends."""
_RECORD_OF: Final = itemgetter(1)
_PAGE_BYTES: Final = 4 * 1024 * 1024
_ROW_BYTES: Final = 64
"""More than what a row of `blobs` holds beside its record."""

NS: Final = "(SELECT id FROM namespaces WHERE name = :ns)"
NS_OF_INCARNATION: Final = "(SELECT id FROM namespaces WHERE name = :ns AND incarnation = :incarnation)"
LIVE: Final = "(expires_ms IS NULL OR expires_ms > :now)"
RECORD: Final = "coalesce(record, (SELECT record FROM blobs WHERE id = blob), 0)"
"""0 where a large one is missing: it must not look as if there were none."""
KEYS: Final = "x'', NULL"
SMALL: Final = "record, expires_ms"
WHOLE: Final = f"{RECORD}, expires_ms"
HEADS: Final = f"substr(record, 1, {HEAD_BYTES}), expires_ms, blob"

# Of what does not expire, and is not large, or else it is NULL. Names would take a tenth of a lookup, a tuple or a
# second parameter a twentieth.
_LOOKUP: Final = "SELECT record FROM records WHERE ns = {0} AND key = ? AND expires_ms IS NULL"
FETCH: Final = f"""
SELECT key, {RECORD}, expires_ms FROM records
WHERE ns = {NS} AND key IN (SELECT value FROM json_each(:keys)) AND {LIVE}"""
FETCH_HEADS: Final = FETCH.replace(WHOLE, HEADS)
_GET_ANY: Final = f"SELECT {RECORD} FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
_GET_HEAD: Final = (
    f"SELECT substr(record, 1, {HEAD_BYTES}), blob FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
)
# Not INSERT OR REPLACE: it deletes the row first.
_PUT: Final = """
INSERT INTO records (ns, key, record, blob, expires_ms) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET record = excluded.record, blob = excluded.blob, expires_ms = excluded.expires_ms"""
_PUT_KEEPING: Final = _PUT.rpartition(",")[0]  # all but the expiry
# In place of nothing large, which leaves the trigger out that would remove it, and of nothing that expires, where there
# is no expiry: then the index of these stays as it is. Where there is some, it fails: 0 is no BLOB. To look instead at
# how many rows were changed would be to count those, too, that a signal handler has changed since.
_OVER_PLAIN: Final = "ON CONFLICT DO UPDATE SET record = iif(blob IS NULL AND expires_ms IS NULL, excluded.record, 0)"
_OVER_SMALL: Final = """
ON CONFLICT DO UPDATE SET record = iif(blob IS NULL, excluded.record, 0), expires_ms = excluded.expires_ms"""
# Of a namespace that is known by its number already: found by its name, it would take as long as half of the rest. If
# that is not its incarnation, it is NULL, and it fails.
_NUMBER: Final = "(SELECT id FROM namespaces WHERE id = {0} AND incarnation = ?)"
_INSERT: Final = f"INSERT INTO records (ns, key, record) VALUES ({_NUMBER}, ?, ?) {_OVER_PLAIN}"
_INSERT_EXPIRING: Final = f"INSERT INTO records (ns, key, record, expires_ms) VALUES ({_NUMBER}, ?, ?, ?) {_OVER_SMALL}"
_ROWS_AT_ONCE: Final = 50
"""So many rows are put by one statement, which takes a quarter less than one by one; by more it takes no less."""
_DELETE: Final = f"DELETE FROM records WHERE ns = {NS} AND key = :key"
TOUCH: Final = f"UPDATE records SET expires_ms = :expires WHERE ns = {NS} AND key = :key AND {LIVE}"
ANY_EXPIRED: Final = f"SELECT EXISTS (SELECT 1 FROM records WHERE ns = {NS} AND expires_ms <= :now)"
SWEEP: Final = f"""
DELETE FROM records WHERE (ns, key) IN (
  SELECT ns, key FROM records WHERE ns = {NS} AND expires_ms <= :now ORDER BY expires_ms LIMIT :limit)"""


def now_ms() -> int:
    """Return the clock by which entries expire, POSIX milliseconds."""
    return int(time.time() * 1000)


def expires_ms(ttl_ms: Ttl) -> int | None:
    """Return when a record expires that is to live so long from now."""
    return None if ttl_ms is None or ttl_ms is KEEP else now_ms() + ttl_ms


def _is_small(record: bytes | None) -> bool:
    """Return whether there is a record, and fits into its row."""
    return record is not None and len(record) <= INLINE_BYTES


def know(link: Link, connection: apsw.Connection, number: int) -> None:
    """Keep the statements on one key of a namespace."""
    link.know(connection, *_of_one_key(number))


@cache  # a few namespaces
def _of_one_key(number: int) -> tuple[str, str, str]:
    return _LOOKUP.format(number), _INSERT.format(number), _INSERT_EXPIRING.format(number)


def get(connection: apsw.Connection, namespace: str, key: str) -> bytes | None:
    """Return a record, large or small, that has not expired."""
    record: Any = connection.execute(_GET_ANY, {"ns": namespace, "key": key, "now": now_ms()}).get
    if record is None or type(record) is bytes:
        return record
    raise missing(key)


def version(connection: apsw.Connection, namespace: str, key: str) -> bytes | None:
    """Return the version of a record that has not expired, without reading the rest of a large one."""
    row: Any = connection.execute(_GET_HEAD, {"ns": namespace, "key": key, "now": now_ms()}).fetchone()
    if row is None:
        return None
    head, blob = row
    return version_of(_head_of(connection, key, head, blob))


def put(connection: apsw.Connection, write: Write, number: int, namespace: str) -> None:
    """Put or delete a record in a namespace that is there, inside a transaction that the caller has begun."""
    if write.record is None:
        connection.execute(_DELETE, {"ns": namespace, "key": write.key})
        return
    place: tuple[bytes | None, int | None] = write.record, None
    if not _is_small(write.record):
        place = None, _put_blob(connection, write, namespace)
    put = _PUT_KEEPING if write.ttl_ms is KEEP else _PUT
    connection.execute(put, (number, write.key, *place, expires_ms(write.ttl_ms)))


def _put_blob(connection: apsw.Connection, write: Write, namespace: str) -> int:
    """Put a record into the table of the large ones, and return its number there."""
    record = write.record or b""
    if len(record) <= LARGE_BYTES:
        return _insert_blob(connection, record)
    limit = connection.limit(apsw.SQLITE_LIMIT_LENGTH) - _ROW_BYTES
    if len(record) > limit:
        raise too_large(write.key, namespace, len(record), limit, "SQLite")
    # Made room for, and filled then: as a parameter it would be copied twice before it is written.
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


def put_many(connection: apsw.Connection, writes: Writes, number: int, namespace: str) -> None:
    """Put and delete records in a namespace that is there, inside a transaction that the caller has begun."""
    values: list[Any] = [*chain.from_iterable(writes)]
    others: list[Write] = []
    if _are_plain(values[1::3], values[2::3]):
        small: Writes = writes
        del values[2::3]
        columns, over = "key, record", _OVER_PLAIN
    else:
        expiry = cache(expires_ms)  # one moment for all of them
        small = [(key, record, expiry(ttl_ms)) for key, record, ttl_ms in writes if _is_small(record)]
        others = [Write(*write) for write in writes if not _is_small(write[1])]
        values = [*chain.from_iterable(small)]
        columns, over = "key, record, expires_ms", _OVER_SMALL
    try:
        _put_rows(connection, number, columns, over, values)
    except apsw.ConstraintError:  # something large, or that expires, is in the place of some
        connection.executemany(_PUT, ((number, key, record, None, expires) for key, record, expires in small))
    for write in others:
        put(connection, write, number, namespace)


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
    # OR FAIL: whoever puts them undoes all of it, so that no statement has to keep what it would take to undo itself.
    insert = f"INSERT OR FAIL INTO records (ns, {columns}) VALUES"
    if len(values) >= 2 * _ROWS_AT_ONCE * width:  # or to prepare it would take as long as it saves
        size = _ROWS_AT_ONCE * width
        at = len(values) - len(values) % size
        many = f"{insert} {', '.join([row] * _ROWS_AT_ONCE)} {over}"
        connection.executemany(many, (values[i : i + size] for i in range(0, at, size)))
    connection.executemany(f"{insert} {row} {over}", (values[i : i + width] for i in range(at, len(values), width)))


def heads(connection: apsw.Connection, rows: Iterable[Any]) -> Iterator[Found]:
    """Return records cut short, of rows that say where a large one lies."""
    for key, head, expires, blob in rows:
        # Where it is large, the row is not done with yet, which keeps everything at its moment.
        yield key, _head_of(connection, key, head, blob), expires


def _head_of(connection: apsw.Connection, key: str, head: Any, blob: Any) -> bytes:
    if type(head) is bytes:
        return head
    if head is not None or type(blob) is not int:
        raise missing(key)
    try:
        # Not substr: it would read all of it.
        with closing(connection.blob_open("main", "blobs", "record", blob, False)) as large:
            return large.read(HEAD_BYTES)
    except apsw.SQLError as error:  # there is no such row
        raise missing(key) from error


def scan_query(columns: str, *, stop: bool, reverse: bool) -> str:
    """Return the query of a scan: keys, and what of their records is asked for. In `SMALL`, large ones are NULL."""
    query = f"SELECT key, {columns} FROM records WHERE ns = {NS} AND {LIVE} AND key >= :start"
    if stop:
        query += " AND key < :stop"
    return query + f" ORDER BY key {'DESC' if reverse else ''} LIMIT :more"


def of_range(verb: str, stop: str | None) -> str:
    """Return the statement that counts (`SELECT count(*)`) or deletes (`DELETE`) what is in a range."""
    statement = f"{verb} FROM records WHERE ns = {NS} AND {LIVE} AND key >= :start"
    return statement if stop is None else statement + " AND key < :stop"


def page_of_small(rows: list[Any], limit: int) -> Page | None:
    """Return the same of rows whose records are small, so that they need not be counted; None if they are not."""
    if (kinds := {*map(type, map(_RECORD_OF, rows))}) - {bytes}:
        return None if NoneType in kinds else Page(found_of(rows[:limit]), more=len(rows) > limit)
    # They are sorted, and SQLite sorts what is no text in front of all text or behind it.
    if rows and not type(rows[0][0]) is type(rows[-1][0]) is str:
        found_of(rows)
    return Page(rows[:limit], more=len(rows) > limit)


def page(rows: Iterable[Any], limit: int) -> Page:
    """Return as many of the rows as make a page, of which there is one more where more follow."""
    found: list[Found] = []
    size = 0
    for row in rows:
        if len(found) == limit or size > _PAGE_BYTES:
            return Page(found, more=True)
        key, record, expires = row
        if type(record) is not bytes or type(key) is not str or not (expires is None or type(expires) is int):
            raise unsound([row])
        found.append(row)
        size += len(record)
    return Page(found, more=False)


def around_damage(rows: Iterable[Any], limit: int) -> Page:
    """Return the same of rows whose keys come as bytes, without those that are damaged."""
    found: list[Found] = []
    for raw, record, expires in rows:
        if len(found) == limit:
            return Page(found, more=True)
        if type(raw) is bytes and type(record) is bytes and type(expires) in (int, NoneType):
            with suppress(UnicodeDecodeError):
                found.append((raw.decode(), record, expires))
    return Page(found, more=False)


def damaged_key(connection: apsw.Connection, namespace: str) -> CorruptionError:
    """Return the error for a run of keys that could not be read, naming the one that is damaged."""
    where = f"key FROM records WHERE ns = {NS} ORDER BY key"
    for raw in damaged_names(connection, where, {"ns": namespace}):
        return CorruptionError(f"the name {raw!r} of a key in namespace {namespace!r} is damaged, it is no text")
    return CorruptionError(f"a record in namespace {namespace!r} is damaged: check() says more")
