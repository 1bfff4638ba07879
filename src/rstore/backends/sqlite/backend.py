"""The SQLite backend: one file, write-ahead log, several processes and threads at once."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from copy import copy
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final

import apsw

from rstore.backends.contract import Backend
from rstore.backends.maintenance import no_namespace
from rstore.backends.sqlite import logs, records
from rstore.backends.sqlite.cells import bytes_of, damaged_names, found_of, head_of, is_name, names_of
from rstore.backends.sqlite.errors import CommitInDoubtError, is_in_doubt
from rstore.backends.sqlite.file import SqliteFile
from rstore.backends.sqlite.link import execute_alone, transaction
from rstore.backends.sqlite.maintenance import SqliteMaintenance
from rstore.backends.sqlite.pinned import Pinned
from rstore.backends.sqlite.records import INLINE_BYTES, LIVE, NS, NS_OF_INCARNATION, now_ms
from rstore.backends.sqlite.snapshot import SqliteSnapshot
from rstore.backends.sqlite.watcher import SqliteWatcher
from rstore.backends.types import (
    ANY,
    FIRST,
    KEYS_BYTES,
    LAST,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    HeldSnapshot,
    Log,
    Model,
    NamespaceGone,
    Options,
    Page,
    Position,
    Row,
    Snapshot,
    Ttl,
    View,
    Write,
    Writes,
    identity_of,
)
from rstore.errors import CorruptionError

_INCARNATION_BYTES: Final = 16 + KEYS_BYTES
_LOG: Final = f"(SELECT id FROM logs WHERE ns = {NS} AND model = :model AND key = :key)"
# Not INSERT OR REPLACE: it deletes the row first.
_APPEND: Final = """
INSERT INTO hot (log, t, seq, body) VALUES (
  (SELECT logs.id FROM namespaces JOIN logs ON logs.ns = namespaces.id
  WHERE namespaces.name = ? AND incarnation = ? AND model = ? AND logs.key = ? AND sealed = ?), ?, ?, ?)
ON CONFLICT DO UPDATE SET body = excluded.body"""


class SqliteBackend(SqliteMaintenance):
    """One namespace of one SQLite file."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        self._file = SqliteFile(path, options)
        self._reads: SqliteFile | Pinned = self._file
        self._namespace = namespace
        self._frozen = options.frozen

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._file.open()
        if self._frozen and self._reads.read(self._namespace_id) is None:
            raise no_namespace(self, self._namespace, f"in {self._file.path!r}")

    def create(self) -> bytes:
        def work(connection: apsw.Connection) -> bytes:
            find = "SELECT incarnation FROM namespaces WHERE name = ?"
            if (incarnation := connection.execute(find, (self._namespace,)).get) is None:  # mostly it is there: no lock
                with transaction(connection):
                    insert = "INSERT OR IGNORE INTO namespaces (name, incarnation) VALUES (?, ?)"
                    connection.execute(insert, (self._namespace, os.urandom(_INCARNATION_BYTES)))
                    incarnation = connection.execute(find, (self._namespace,)).get
            return bytes_of(incarnation, f"the namespace {self._namespace!r} in {self._file.path!r}")

        return self._file.write(work, arm=False)

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        def work(connection: apsw.Connection) -> bool:
            with transaction(connection):
                ns = self._namespace_id(connection)
                if ns is not None:
                    for table in ("hot", "chunks", "checkpoints"):
                        connection.execute(
                            f"DELETE FROM {table} WHERE log IN (SELECT id FROM logs WHERE ns = ?)", (ns,)
                        )
                    for table in ("logs", "records", "facts"):
                        connection.execute(f"DELETE FROM {table} WHERE ns = ?", (ns,))
                    connection.execute("DELETE FROM namespaces WHERE id = ?", (ns,))
                return _is_unused(connection)

        if self._file.delete(work):
            self._file.remove_if_unused(_is_unused)

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        sql = (
            "SELECT incarnation, facts.name, fact FROM namespaces LEFT JOIN facts ON facts.ns = namespaces.id "
            "WHERE namespaces.name = ?"
        )
        rows: list[Any] = self._reads.read(lambda connection: [*connection.execute(sql, (self._namespace,))])
        if not rows:
            return None, {}
        incarnation = bytes_of(rows[0][0], f"the namespace {self._namespace!r} in {self._file.path!r}")
        facts = {name: self._bytes_of_fact(fact, name) for _, name, fact in rows if name is not None}
        if not {*map(type, facts)} <= {str}:
            raise CorruptionError(f"the name of a fact of the namespace {self._namespace!r} is damaged, it is no text")
        return incarnation, facts

    def add_fact(self, name: str, fact: bytes) -> bytes:
        def work(connection: apsw.Connection) -> bytes:
            with transaction(connection):
                if (ns := self._namespace_id(connection)) is None:
                    raise NamespaceGone
                find = "SELECT fact FROM facts WHERE ns = ? AND name = ?"
                if (kept := connection.execute(find, (ns, name)).get) is not None:
                    return self._bytes_of_fact(kept, name)
                connection.execute("INSERT INTO facts VALUES (?, ?, ?)", (ns, name, fact))
                incarnation: Any = connection.execute("SELECT incarnation FROM namespaces WHERE id = ?", (ns,)).get
                incarnation = bytes_of(incarnation, f"the namespace {self._namespace!r} in {self._file.path!r}")
                incarnation = identity_of(incarnation) + os.urandom(KEYS_BYTES)
                connection.execute("UPDATE namespaces SET incarnation = ? WHERE id = ?", (incarnation, ns))
                return fact

        return self._file.write(work)

    def _bytes_of_fact(self, fact: Any, name: str) -> bytes:
        return bytes_of(fact, f"the fact {name!r} of the namespace {self._namespace!r} in {self._file.path!r}")

    def _namespace_id(self, connection: apsw.Connection) -> int | None:
        found: int | None = connection.execute("SELECT id FROM namespaces WHERE name = ?", (self._namespace,)).get
        return found

    def _expect(self, connection: apsw.Connection, incarnation: bytes) -> int:
        found: int | None = connection.execute(
            "SELECT id FROM namespaces WHERE name = ? AND incarnation = ?", (self._namespace, incarnation)
        ).get
        if found is None:
            raise NamespaceGone
        return found

    def _check_incarnation(self, connection: apsw.Connection, incarnation: ExpectedIncarnation) -> None:
        """Raise `NamespaceGone` if the namespace is there, and of another incarnation."""
        find = "SELECT incarnation FROM namespaces WHERE name = ?"
        if incarnation is not ANY and connection.execute(find, (self._namespace,)).get not in (None, incarnation):
            raise NamespaceGone

    # -- key/value ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        link = self._reads.local.link

        def work(connection: apsw.Connection) -> bytes | None:
            if (found := self._namespace_id(connection)) is not None:
                records.know(link, connection, found)
            return records.get(connection, self._namespace, key)

        return self._reads.read(work)

    def peek(self, key: Any) -> bytes | None:
        # Without the lock, the closure, their frames and the look at the namespace's name that `get` takes, together a
        # third of a lookup. A thread that closes connections waits for a statement that runs; whatever goes wrong
        # between two is nothing found. Whatever is found is right: no other namespace of the file is given the same
        # number, a discarded one has no rows, and no row has a key that cannot be one. Of what is no str, SQLite would
        # make one.
        link = self._reads.local.link
        execute, owner = link.execute, link.owner
        if execute is not None and type(key) is str and (owner == get_ident() if owner else monotonic() < link.look_at):
            try:
                # `get` also ends the statement, which would keep the log from being moved into the file.
                record: Any = execute(link.lookup, (key,)).get
            except (apsw.Error, UnicodeError):
                return None
            return record if type(record) is bytes else None
        return None

    def has(self, key: str) -> bool:
        sql = f"SELECT 1 FROM records WHERE ns = {NS} AND key = :key AND {LIVE}"
        named = {"ns": self._namespace, "key": key, "now": now_ms()}
        return self._reads.read(lambda connection: connection.execute(sql, named).fetchone() is not None)

    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        named = {"ns": self._namespace, "now": now_ms(), "keys": json.dumps([*keys])}
        if heads:
            sql = records.FETCH_HEADS
            return self._reads.read(
                lambda connection: found_of(records.heads(connection, connection.execute(sql, named)))
            )
        return self._reads.read(lambda connection: found_of(connection.execute(records.FETCH, named).fetchall()))

    def count(self, start: str = "", stop: str | None = None) -> int:
        sql, named = records.of_range("SELECT count(*)", stop), self._range(start, stop)
        return self._reads.read(lambda connection: int(connection.execute(sql, named).get))

    def write(self, writes: Writes, incarnation: bytes) -> None:
        if len(writes) == 1 and (record := writes[0][1]) is not None:
            key, _, ttl_ms = writes[0]
            self.put(key, record, ttl_ms, incarnation)
        else:
            self._write(writes, incarnation)

    def _write(self, writes: Writes, incarnation: bytes) -> None:
        def work(connection: apsw.Connection) -> None:
            with transaction(connection):
                number = self._expect(connection, incarnation)
                records.know(self._file.local.link, connection, number)
                records.put_many(connection, writes, number, self._namespace)

        self._file.write(work)

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        # Most of what `_write` does for one record, by one statement and without the frames around it, which would take
        # a fifth of the time. What it did not do is for that: somebody else writes, there is another incarnation or file,
        # or something large or that expires in its place.
        link, failed = self._file.local.link, None
        with link.lock:
            connection, execute, bound = link.connection, link.execute, link.bound
            done = False
            if bound is not None and (bound is not connection or bound.get_autocommit()):
                execute = None  # the transaction is not there any more
            if connection is not None and execute is not None and len(record) <= INLINE_BYTES:
                try:
                    if ttl_ms is None:
                        execute(link.insert, (incarnation, key, record))
                    else:
                        execute(link.insert_expiring, (incarnation, key, record, records.expires_ms(ttl_ms)))
                    if bound is not None or link.is_in_place(connection):
                        return
                    done = True
                except apsw.Error as error:
                    link.forget_undone()
                    if bound is None and is_in_doubt(error):
                        failed = CommitInDoubtError(str(error))
                        failed.__cause__ = error
        if failed is not None:
            raise self._file.distrusted(failed) from failed
        if not (done and self._file.settle()):
            self._write(((key, record, ttl_ms),), incarnation)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with transaction(connection):
                number = self._expect(connection, incarnation)
                if version != records.version(connection, self._namespace, write.key):
                    return False
                records.put(connection, write, number, self._namespace)
                return True

        return self._file.write(work)

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        named = {"ns": self._namespace, "now": now_ms(), "key": key, "expires": records.expires_ms(ttl_ms)}
        return self._delete(records.TOUCH, named, if_incarnation) > 0

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        sql = f"DELETE FROM records WHERE ns = {NS} AND {LIVE} AND key "
        named: dict[str, Any] = {"ns": self._namespace, "now": now_ms()}
        if len(keys) == 1:
            sql, named["key"] = sql + "= :key", keys[0]
        else:
            sql, named["keys"] = sql + "IN (SELECT value FROM json_each(:keys))", json.dumps(keys)

        return self._delete(sql, named, if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        return self._delete(records.of_range("DELETE", stop), self._range(start, stop), if_incarnation)

    def sweep(self, limit: int) -> int:
        named = {"ns": self._namespace, "now": now_ms(), "limit": limit}
        if not self._reads.read(lambda connection: connection.execute(records.ANY_EXPIRED, named).get):
            return 0  # without a lock, which others might wait for
        return self._delete(records.SWEEP, named)

    def _delete(self, sql: str, named: dict[str, Any], if_incarnation: ExpectedIncarnation = ANY) -> int:
        if if_incarnation is not ANY:
            sql, named["incarnation"] = sql.replace(NS, NS_OF_INCARNATION), if_incarnation

        def work(connection: apsw.Connection) -> int:
            execute_alone(connection, sql, named)
            n = connection.changes()
            if (
                n == 0 and if_incarnation is not ANY
            ):  # incarnations never come back: the one of now was that of the statement
                self._check_incarnation(connection, if_incarnation)
            return n

        return self._file.delete(work)

    def _range(self, start: str, stop: str | None) -> dict[str, Any]:
        return {"ns": self._namespace, "now": now_ms(), "start": start, "stop": stop}

    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> Page:
        # One bound on either side: by one SQLite finds the place, and by another it would go through all before it.
        if after is not None and reverse:
            stop = after if stop is None else min(stop, after)
        elif after is not None:
            start = max(start, after + "\0")  # what comes next
        query = partial(records.scan_query, stop=stop is not None, reverse=reverse)
        named = {**self._range(start, stop), "more": limit + 1}

        def work(connection: apsw.Connection) -> Page:
            if self.around_damage:
                around = query(records.WHOLE).replace("SELECT key", "SELECT CAST(key AS BLOB)").rpartition(" LIMIT")[0]
                return records.around_damage(connection.execute(around, named), limit)
            try:
                if heads:
                    found = records.heads(connection, connection.execute(query(records.HEADS), named))
                    return records.page(found, limit)
                some = records.KEYS if keys_only else records.SMALL
                small = records.page_of_small(connection.execute(query(some), named).fetchall(), limit)
                return small or records.page(connection.execute(query(records.WHOLE), named), limit)
            except UnicodeDecodeError as error:
                raise records.damaged_key(connection, self._namespace) from error

        return self._reads.read(work)

    def clear(self) -> None:
        sql, named = f"DELETE FROM records WHERE ns = {NS}", {"ns": self._namespace}
        self._file.delete(lambda connection: execute_alone(connection, sql, named))

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[SqliteWatcher]:
        return closing(SqliteWatcher(self._file))

    # -- logs ---------------------------------------------------------------------------------------------------------

    def logs(self, model: Model) -> list[str]:
        rest = f"FROM logs WHERE ns = {NS} AND model = :model ORDER BY key"
        named = {"ns": self._namespace, "model": int(model)}

        def work(connection: apsw.Connection) -> list[str]:
            if self.around_damage:
                raws = [raw for (raw,) in connection.execute(f"SELECT CAST(key AS BLOB) {rest}", named)]
                return [raw.decode() for raw in raws if type(raw) is bytes and is_name(raw)]
            try:
                return names_of(connection.execute(f"SELECT key {rest}", named).fetchall())
            except (CorruptionError, UnicodeDecodeError) as error:
                for raw in damaged_names(connection, f"key {rest}", named):
                    what = f"the name {raw!r} of a log in namespace {self._namespace!r} is damaged, it is no text"
                    raise CorruptionError(what) from error
                raise

        return self._reads.read(work)

    def _find(self, connection: apsw.Connection, log: Log) -> tuple[int, Head] | None:
        sql = (
            "SELECT logs.id, epoch, version, sealed, facts FROM namespaces JOIN logs ON logs.ns = namespaces.id "
            "WHERE name = ? AND model = ? AND key = ?"
        )
        row: Any = connection.execute(sql, (self._namespace, int(log.model), log.key)).fetchone()
        return None if row is None else (row[0], head_of(row[1:]))

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        def work(connection: apsw.Connection) -> View:
            if unless_version is not None:
                found = self._find(connection, log)  # on its own first: one statement is a moment, too
                if found is not None and found[1].version == unless_version:
                    return View(now_ms(), found[1])
            with transaction(connection, "DEFERRED"):
                found = self._find(connection, log)
                if found is None:
                    return View(now_ms(), None)
                number, head = found
                checkpoint, begin = None, lo
                if from_checkpoint is not None:
                    checkpoint = logs.newest_checkpoint(connection, number, from_checkpoint)
                    begin = lo if checkpoint is None else (checkpoint.t, checkpoint.seq + 1)
                hot = logs.rows(connection, number, begin, hi, limit, reverse=reverse) if rows else []
                chunks = logs.chunks(
                    connection, number, begin, hi, limit, reverse=reverse, bodies=bodies, neighbours=neighbours
                )
                return View(now_ms(), head, hot, chunks, checkpoint)

        return self._reads.read(work)

    @contextmanager
    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[Snapshot, None, None]:
        if self._file.local.link.bound is not None:  # another connection would not see what is done inside
            yield HeldSnapshot(self.view(log, lo, hi))
            return
        with self._reads.pinned() as pinned:
            yield SqliteSnapshot(pinned, self._find, log, lo, hi)

    @contextmanager
    def moment(self) -> Generator[Backend, None, None]:
        other = copy(self)
        with self._file.moment() as pinned:
            other._reads = pinned  # noqa: SLF001 - of its own class
            yield other

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        place = self._namespace, incarnation, int(log.model), log.key, head.sealed

        def work(connection: apsw.Connection) -> bool:
            if len(rows) == 1:
                with suppress(apsw.ConstraintError):  # there is no such log
                    execute_alone(connection, _APPEND, (*place, *rows[0]))  # one statement is a transaction of its own
                    return True
            with transaction(connection):
                number, known = self._find(connection, log) or (None, head)
                ns = self._expect(connection, incarnation)
                if known.sealed != head.sealed:
                    return False
                if number is None:
                    number = logs.insert_log(connection, ns, log, head)
                connection.executemany(logs.PUT_ROW, ((number, t, seq, body) for t, seq, body in rows))
                return True

        return self._file.write(work)

    def hot(self, log: Log) -> tuple[int, int]:
        sql = f"SELECT count(*), coalesce(sum(length(body)), 0) FROM hot WHERE log = {_LOG}"
        named = {"ns": self._namespace, "model": int(log.model), "key": log.key}

        def work(connection: apsw.Connection) -> tuple[int, int]:
            row: Any = connection.execute(sql, named).fetchone()
            return int(row[0]), int(row[1])

        return self._reads.read(work)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with transaction(connection):
                ns = self._expect(connection, incarnation)
                number, head = self._find(connection, log) or (None, None)
                if commit.if_epoch is not ANY and commit.if_epoch != (head and head.epoch):
                    return False
                if commit.if_version is not ANY and commit.if_version != (head and head.version):
                    return False
                if number is None:
                    if commit.create is None:
                        return False
                    number = logs.insert_log(connection, ns, log, commit.create)
                logs.apply(connection, number, commit)
                return True

        return self._file.write(work)

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        def work(connection: apsw.Connection) -> bool:
            with transaction(connection):
                self._check_incarnation(connection, if_incarnation)
                found = self._find(connection, log)
                if found is None or if_version not in (ANY, found[1].version):
                    return False
                logs.delete_log(connection, found[0])
                return True

        return self._file.delete(work)

    def exclusive(self, log: Log) -> AbstractContextManager[None]:
        return self.transaction()

    def transaction(self, *, create: bool = True, serializable: bool = True) -> AbstractContextManager[None]:
        return self._file.transaction(create=create)  # one at a time: others who write wait for its end


def _is_unused(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM namespaces LIMIT 1").fetchone() is None
