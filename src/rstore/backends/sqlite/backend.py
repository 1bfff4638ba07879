"""The SQLite backend: one file, write-ahead log, several processes and threads at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from time import monotonic
from typing import Any, Final

import apsw

from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.maintenance import no_namespace
from rstore.backends.sqlite.logs import ADVANCE, LogWrites, advances
from rstore.backends.sqlite.maintenance import SqliteMaintenance
from rstore.backends.sqlite.records.writing import RecordWrites
from rstore.backends.sqlite.snapshot import SqliteLogSnapshot, SqliteSnapshot
from rstore.backends.sqlite.statements import INLINE_BYTES, NS
from rstore.backends.sqlite.transaction import SqliteTransaction
from rstore.backends.sqlite.transport.errors import CommitInDoubtError, is_in_doubt
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.savepoints import atomic
from rstore.backends.sqlite.transport.snapshot import own_snapshot, spare_snapshot
from rstore.backends.sqlite.transport.transaction import begin
from rstore.backends.sqlite.transport.watcher import SqliteWatcher
from rstore.backends.types import FIRST, LAST, Commit, Log, LogSnapshot, Model, Options, Position, Ttl

_ITS_LOGS: Final = f"(SELECT id FROM logs WHERE ns = {NS})"
_DISCARD: Final = f"""
DELETE FROM hot WHERE log IN {_ITS_LOGS}; DELETE FROM chunks WHERE log IN {_ITS_LOGS};
DELETE FROM checkpoints WHERE log IN {_ITS_LOGS}; DELETE FROM logs WHERE ns = {NS};
DELETE FROM records WHERE ns = {NS}; DELETE FROM facts WHERE ns = {NS}; DELETE FROM namespaces WHERE name = :ns"""


class SqliteBackend(RecordWrites, LogWrites, SqliteMaintenance, Backend):
    """One namespace of one SQLite file."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        self._file = SqliteFile(path, options)
        self._frozen = options.frozen
        super().__init__(self._file, namespace)

    def open(self) -> None:
        self._file.open()
        if self._frozen and self._file.read(self._number) is None:
            raise no_namespace(self, self._namespace, f"in {self._file.path!r}")

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        def work(connection: apsw.Connection) -> bool:
            with atomic(connection):
                connection.execute(_DISCARD, {"ns": self._namespace})
                return _is_unused(connection)

        if self._file.write(work, create=False):
            self._file.remove_if_unused(_is_unused)

    def peek(self, key: Any) -> bytes | None:
        # `Statements.get`, without its frame and the slot's lock: a thread that closes connections waits for a
        # statement that runs, and any failure is nothing found. `pairs` in benchmarks/README.md shows this path.
        slot = self._file.local.slot
        statements = slot.statements
        if statements is not None and type(key) is str and monotonic() < slot.check_at:
            try:
                record: Any = statements.execute(statements.lookup, (key,)).get
            except (apsw.Error, UnicodeError):
                return None
            return record if type(record) is bytes else None
        return None

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        # `_write_many` for one record, by one statement and without the frames around it (`pairs` in
        # benchmarks/README.md). That one does the rest: others hold the lock, there is another incarnation or file, or
        # a record in its place that is large or expires.
        slot, failed, strayed = self._file.local.slot, None, None
        with slot.lock:
            connection, statements = slot.connection, slot.statements
            if connection is not None and statements is not None and len(record) <= INLINE_BYTES:
                try:
                    statements.put(incarnation, key, record, ttl_ms)
                    if slot.is_in_place(connection):
                        return
                    strayed = slot.whereabouts()
                except apsw.Error as error:
                    if is_in_doubt(error):
                        failed = CommitInDoubtError(str(error))
                        failed.__cause__ = error
        if failed is not None:
            raise self._file.distrusted(failed) from failed
        if strayed is None or not self._file.stays(strayed):
            super().put(key, record, ttl_ms, incarnation)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        # As `put`: by one statement that is its own transaction, which takes half as long as the six of the general
        # way (`paths` in benchmarks/README.md). That one does the rest.
        slot, failed, strayed = self._file.local.slot, None, None
        if advances(commit):
            place = self._namespace, incarnation, int(log.model), log.key, commit.if_version, commit.version
            with slot.lock:
                connection = slot.connection
                if connection is not None and slot.armed and slot.transaction is None:
                    try:
                        connection.execute(ADVANCE, (*place, *commit.put_rows[0]))
                        if slot.is_in_place(connection):
                            return True
                        strayed = slot.whereabouts()
                    except apsw.Error as error:
                        if is_in_doubt(error):
                            failed = CommitInDoubtError(str(error))
                            failed.__cause__ = error
        if failed is not None:
            raise self._file.distrusted(failed) from failed
        return (strayed is not None and self._file.stays(strayed)) or super().commit(log, commit, incarnation)

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        del serializable  # one at a time: other writers wait for its end
        with begin(self._file, create=create) as opened:
            yield SqliteTransaction(opened, self._namespace)

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()

    @contextmanager
    def snapshot(self) -> Generator[ReadTransaction, None, None]:
        with own_snapshot(self._file) as connection:
            yield SqliteSnapshot(connection, self._namespace)

    @contextmanager
    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[LogSnapshot, None, None]:
        with spare_snapshot(self._file) as connection:
            yield SqliteLogSnapshot(SqliteSnapshot(connection, self._namespace), log, lo, hi)

    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[SqliteWatcher]:
        return closing(SqliteWatcher(self._file))

    def log_watcher(self, model: Model) -> AbstractContextManager[SqliteWatcher]:
        return closing(SqliteWatcher(self._file))


def _is_unused(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM namespaces LIMIT 1").fetchone() is None
