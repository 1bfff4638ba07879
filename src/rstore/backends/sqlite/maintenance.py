"""A SQLite file as a whole: its namespaces, what it holds and promises, whether it is sound, and a copy of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final

import apsw

from rstore.backends.common.names import is_name
from rstore.backends.maintenance import MODELS, RECORDS, BackendMaintenance, Durability, Finding, Stats, stats_of
from rstore.backends.sqlite.cells import damaged_names, names_of
from rstore.backends.sqlite.schema import differences, oddities, schema_of
from rstore.backends.sqlite.statements import LIVE, NS, RECORD, now_ms
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.filesystem import status, wal_names
from rstore.backends.sqlite.transport.lockwait import LockWait
from rstore.backends.sqlite.transport.opening import KEEP_IN_MEMORY
from rstore.backends.sqlite.transport.snapshot import spare_snapshot
from rstore.backends.types import Log, Model
from rstore.errors import NotSupportedError, StoreBusyError, StoreFullError

# One statement, one moment. `length` reads the header of a large value, and not the value.
_STATS: Final = f"""
SELECT model, sum(logs), sum(n), coalesce(sum(size), 0) FROM (
  SELECT {RECORDS} AS model, 1 AS logs, 0 AS n,
    coalesce(length(record), (SELECT length(record) FROM blobs WHERE id = blob)) AS size
  FROM records WHERE ns = {NS} AND {LIVE}
  UNION ALL SELECT model, 1, 0, 0 FROM logs WHERE ns = {NS}
  UNION ALL SELECT model, 0, 1, length(body) FROM logs JOIN hot ON log = logs.id WHERE ns = {NS}
  UNION ALL SELECT model, 0, n, length(meta) + length(body) FROM logs JOIN chunks ON log = logs.id WHERE ns = {NS}
  UNION ALL SELECT model, 0, 0, length(body) FROM logs JOIN checkpoints ON log = logs.id WHERE ns = {NS}
) GROUP BY model"""

# Which rows of a table belong to nothing. A row that belongs to no namespace is found in none of them, so the whole
# file is checked.
_ORPHANS: Final = (
    *((table, f"FROM {table} WHERE ns NOT IN (SELECT id FROM namespaces)") for table in ("facts", "records", "logs")),
    *((table, f"FROM {table} WHERE log NOT IN (SELECT id FROM logs)") for table in ("hot", "chunks", "checkpoints")),
    ("blobs", "FROM blobs WHERE id NOT IN (SELECT blob FROM records WHERE blob IS NOT NULL)"),
)
_KEYS: Final = f"SELECT CAST(key AS BLOB) FROM records WHERE ns = {NS} AND "
_PROBLEMS: Final = (
    (
        f"{_KEYS} (typeof({RECORD}) <> 'blob' OR typeof(expires_ms) NOT IN ('integer', 'null'))",
        "its value is missing, or damaged",
    ),
    (f"{_KEYS} record IS NOT NULL AND blob IS NOT NULL", "it has two values, of which the smaller one is read"),
)
_MAX_COMPLAINTS: Final = 100
_PAGES_A_STEP: Final = 1024
_SYNCHRONOUS: Final = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}


class SqliteMaintenance(BackendMaintenance):
    """Answers questions about the file as a whole."""

    _file: SqliteFile
    _namespace: str
    _frozen: bool

    def namespaces(self) -> list[str]:
        column, what = "name FROM namespaces ORDER BY name", f"a namespace in {self._file.path!r}"
        return self._file.read(lambda connection: names_of(connection, column, {}, what))

    def ping(self) -> None:
        # By the file itself, not by the cache: a read transaction checks whether it is still the same one.
        self._file.read(lambda connection: connection.pragma("data_version"))

    def stats(self) -> Stats:
        named = {"ns": self._namespace, "now": now_ms()}
        return stats_of(self._file.read(lambda connection: [*connection.execute(_STATS, named)]))

    def durability(self) -> Durability:
        def work(connection: apsw.Connection) -> dict[str, str]:
            return {name: f"{connection.pragma(name)}" for name in ("journal_mode", "synchronous")}

        settings = self._file.read(work)
        level = settings["synchronous"] = _SYNCHRONOUS.get(settings["synchronous"], settings["synchronous"])
        if self._frozen:
            return Durability(
                True, None, None, False, "this store writes nothing, and how others write is theirs to know", settings
            )
        if level in ("FULL", "EXTRA"):
            meaning = "what a call has stored is on the disk, as far as the disk keeps its promises"
        elif level == "NORMAL":
            meaning = "a power cut may undo the newest calls; the file is intact all the same"
        else:
            meaning = "a power cut may undo the newest calls, and damage the file"
        return Durability(True, level in ("FULL", "EXTRA"), level != "OFF", False, meaning, settings)

    def findings(self) -> Iterator[Finding]:
        for complaint in self._column(f"PRAGMA integrity_check({_MAX_COMPLAINTS})"):
            if complaint != "ok":
                yield Finding("store", None, f"SQLite says of the file: {complaint}")
        for difference in self._file.read(_of_schema):
            yield Finding("store", None, difference)
        for model, name in self._file.read(self._damaged_names):
            yield Finding(model, None, f"a name is damaged, it is no text: {name!r}")
        for table, orphans in _ORPHANS:
            [n] = self._column(f"SELECT count(*) {orphans}")
            if n:
                yield Finding("store", None, f"{n} rows of the table {table} belong to nothing")
        for sql, problem in _PROBLEMS:
            for raw in self._column(sql, {"ns": self._namespace}):
                if type(raw) is bytes and is_name(raw):
                    yield Finding(MODELS[RECORDS], raw.decode(), problem)

    def _column(self, sql: str, named: dict[str, Any] | None = None) -> list[Any]:
        return self._file.read(lambda connection: [cell for (cell,) in connection.execute(sql, named)])

    def _damaged_names(self, connection: apsw.Connection) -> list[tuple[str, bytes]]:
        named = {"ns": self._namespace}
        logs = f"key FROM logs WHERE ns = {NS} AND model = "
        asked = (
            ("store", "name FROM namespaces", {}),
            (MODELS[RECORDS], f"key FROM records WHERE ns = {NS}", named),
            *((MODELS[model], f"{logs}{int(model)}", named) for model in (Model.SERIES, Model.EVENTS)),
        )
        return [
            (model, raw)
            for model, what, bindings in asked
            for raw in islice(damaged_names(connection, what, bindings), _MAX_COMPLAINTS)
        ]

    def save(self, path: str) -> bool:
        # At one moment, on a connection of its own: without a transaction that stays there, SQLite would begin anew
        # at every write of others, and never end where they always write.
        try:
            with closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as target:
                # The caller makes it durable when it is whole.
                target.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
                with spare_snapshot(self._file) as snapshot:
                    copy = snapshot.read(lambda connection: target.backup("main", connection, "main"))
                    try:
                        while not copy.done:
                            snapshot.read(lambda _: copy.step(_PAGES_A_STEP))
                    finally:
                        copy.close(force=True)
        except StoreFullError as error:  # names the source, which is only read
            raise StoreFullError(f"there is no room for the backup {path!r}") from error.__cause__
        except apsw.Error as error:
            raise self._file.translated(error) from error
        return True

    def erase(self, logs: Sequence[Log]) -> None:
        # Not `secure_delete` alone: it leaves copies of rows in pages that were balanced, and says nothing of rows that
        # were deleted before, such as those that became chunks.
        self.reclaim()

    def reclaim(self) -> int:
        slot = self._file.local.slot

        def work(connection: apsw.Connection) -> int:
            if connection.in_transaction:
                raise NotSupportedError("SQLite gives no space back inside a transaction: call vacuum outside of it")
            before, wait = self._size(), self._file.new_wait()
            # Once before: while others read from the write-ahead log, it would only grow by the whole file.
            self._empty_wal(connection, wait)
            connection.execute("PRAGMA temp_store = FILE")  # or it would make the whole file anew in memory
            connection.pragma("secure_delete", "ON")  # no part of a new page is what the memory held before
            try:
                wait.until_done(lambda: connection.execute("VACUUM"))
            except apsw.BusyError as error:  # and not all over again
                raise self._file.translated(error) from error
            finally:
                connection.pragma("secure_delete", "OFF")
                connection.execute(KEEP_IN_MEMORY)
                slot.armed = False  # changing it drops temporary triggers
            self._empty_wal(connection, wait)
            return before - self._size()

        return self._file.write(work, create=False)

    def _empty_wal(self, connection: apsw.Connection, wait: LockWait) -> None:
        while next(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))[0]:
            if wait.is_over:
                raise StoreBusyError(
                    f"{self._file.path!r}: others read an older state of it for longer than the time-out; nothing is "
                    "lost, and the space is given back, wiped, when this is called again without them"
                )
            wait.pause()

    def _size(self) -> int:
        real_path = os.path.realpath(self._file.path)
        paths = real_path, wal_names(real_path)[0]
        return sum(found.st_size for path in paths if (found := status(path)) is not None)


def _of_schema(connection: apsw.Connection) -> list[str]:
    parts = schema_of(connection)
    return [*differences(connection, parts), *oddities(parts)]
