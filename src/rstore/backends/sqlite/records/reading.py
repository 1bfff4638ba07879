"""Reading key/value records: one row each, and one more in another table for a large one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import apsw

from rstore.backends.common.pages import PAGE_BYTES
from rstore.backends.sqlite.cells import damaged_name, found_of, missing, unsound
from rstore.backends.sqlite.namespace import NamespaceReads
from rstore.backends.sqlite.statements import LIVE, NS, RECORD, now_ms
from rstore.backends.types import HEAD_BYTES, Found, Page, ScanQuery

_RECORD_OF: Final = itemgetter(1)
_KEYS: Final = "x'', NULL"
_SMALL: Final = "record, expires_ms"
_WHOLE: Final = f"{RECORD}, expires_ms"
_HEADS: Final = f"substr(record, 1, {HEAD_BYTES}), expires_ms, blob"

_ALL_KEYS: Final = f"key FROM records WHERE ns = {NS} ORDER BY key"
_GET: Final = f"SELECT {RECORD} FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
_HAS: Final = f"SELECT 1 FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
_FETCH: Final = f"""
SELECT key, {_WHOLE} FROM records
WHERE ns = {NS} AND key IN (SELECT value FROM json_each(:keys)) AND {LIVE}"""
_FETCH_HEADS: Final = _FETCH.replace(_WHOLE, _HEADS)


class RecordReads(NamespaceReads):
    """Reads key/value records."""

    def get(self, key: str) -> bytes | None:
        named = {"ns": self._namespace, "key": key, "now": now_ms()}

        def work(connection: apsw.Connection) -> Any:
            if (number := self._number(connection)) is not None:
                self._reader.know(connection, number)
            return connection.execute(_GET, named).get

        record: Any = self._reader.read(work)
        if record is None or type(record) is bytes:
            return record
        raise missing(key)

    def has(self, key: str) -> bool:
        named = {"ns": self._namespace, "key": key, "now": now_ms()}
        return self._reader.read(lambda connection: connection.execute(_HAS, named).fetchone() is not None)

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        named = {"ns": self._namespace, "now": now_ms(), "keys": json.dumps([*keys])}
        if heads:
            return self._reader.read(
                lambda connection: found_of(with_heads(connection, connection.execute(_FETCH_HEADS, named)))
            )
        return self._reader.read(lambda connection: found_of(connection.execute(_FETCH, named).fetchall()))

    def count(self, start: str = "", stop: str | None = None) -> int:
        sql, named = of_range("SELECT count(*)", stop), self._range(start, stop)
        return self._reader.read(lambda connection: int(connection.execute(sql, named).get))

    def _range(self, start: str, stop: str | None) -> dict[str, Any]:
        return {"ns": self._namespace, "now": now_ms(), "start": start, "stop": stop}

    def scan(self, query: ScanQuery) -> Page:
        # One bound on each side: SQLite seeks to the first bound that it finds, and steps through all up to a second.
        start, stop, limit = query.start, query.stop, query.limit
        if query.after is not None and query.reverse:
            stop = query.after if stop is None else min(stop, query.after)
        elif query.after is not None:
            start = max(start, query.after + "\0")  # the next key
        run = of_range("SELECT key, {}", stop) + f" ORDER BY key {'DESC' if query.reverse else ''}"
        limited = run + " LIMIT :more"
        named = {**self._range(start, stop), "more": limit + 1}

        def work(connection: apsw.Connection) -> Page:
            if self.around_damage:
                around = run.format(_WHOLE).replace("SELECT key", "SELECT CAST(key AS BLOB)")
                return _page_around_damage(connection.execute(around, named), limit)
            try:
                if query.heads:
                    return _page_of(with_heads(connection, connection.execute(limited.format(_HEADS), named)), limit)
                columns = _KEYS if query.keys_only else _SMALL
                small = _page_of_small(connection.execute(limited.format(columns), named).fetchall(), limit)
                return small or _page_of(connection.execute(limited.format(_WHOLE), named), limit)
            except UnicodeDecodeError as error:
                what = f"a key in namespace {self._namespace!r}"
                raise damaged_name(connection, _ALL_KEYS, {"ns": self._namespace}, what) from error

        return self._reader.read(work)


def of_range(verb: str, stop: str | None) -> str:
    """Return the statement that selects or deletes the records of a range."""
    statement = f"{verb} FROM records WHERE ns = {NS} AND {LIVE} AND key >= :start"
    return statement if stop is None else statement + " AND key < :stop"


def with_heads(connection: apsw.Connection, rows: Iterable[Any]) -> Iterator[Found]:
    """Yield records cut short, of rows that say where a large one lies."""
    for key, head, expires, blob in rows:
        # The statement is open while a large record is read, and keeps the read at its moment.
        yield key, head_of_record(connection, key, head, blob), expires


def head_of_record(connection: apsw.Connection, key: str, head: Any, blob: Any) -> bytes:
    """Return the first bytes of a record, of its row or of the large record that the row leads to."""
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


def _page_of_small(rows: list[Any], limit: int) -> Page | None:
    """Return a page of rows, one more than it holds if more follow; None if a record lies elsewhere, and is NULL."""
    if (kinds := {*map(type, map(_RECORD_OF, rows))}) - {bytes}:
        return None if NoneType in kinds else Page(found_of(rows[:limit]), more=len(rows) > limit)
    # They are sorted, and SQLite sorts what is no text in front of all text or behind it.
    if rows and not type(rows[0][0]) is type(rows[-1][0]) is str:
        found_of(rows)
    return Page(rows[:limit], more=len(rows) > limit)


def _page_of(rows: Iterable[Any], limit: int) -> Page:
    """Return a page of rows of any size, reading no more of them than it holds and one."""
    found: list[Found] = []
    size = 0
    for row in rows:
        if len(found) == limit or size > PAGE_BYTES:
            return Page(found, more=True)
        key, record, expires = row
        if type(record) is not bytes or type(key) is not str or not (expires is None or type(expires) is int):
            raise unsound([row])
        found.append(row)
        size += len(record)
    return Page(found, more=False)


def _page_around_damage(rows: Iterable[Any], limit: int) -> Page:
    """Return a page of rows whose keys come as bytes, without those that are damaged."""
    found: list[Found] = []
    for raw, record, expires in rows:
        if len(found) == limit:
            return Page(found, more=True)
        if type(raw) is bytes and type(record) is bytes and type(expires) in (int, NoneType):
            with suppress(UnicodeDecodeError):
                found.append((raw.decode(), record, expires))
    return Page(found, more=False)
