"""The layout of a SQLite file: its tables, the marks by which it is known, and whether its schema is still that one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, NamedTuple

import apsw

from rstore.errors import CorruptionError, StoreNotAvailableError

APPLICATION_ID: Final = 0x72737472
"""ASCII `rstr`, in bytes 68 to 71 of the file."""
FORMAT: Final = 1
_SMALLEST_DATABASE: Final = 512
_MARKS: Final = {"pragma_application_id": None, "pragma_user_version": None, "pragma_encoding": None}.keys()
_FIRST_RELEASE_TABLES: Final = {"_kv", "_ts", "_es"}

_TRIGGERS: Final = """
CREATE TRIGGER records_replaced AFTER UPDATE OF blob ON records WHEN old.blob IS NOT NULL
  BEGIN DELETE FROM blobs WHERE id = old.blob; END;
CREATE TRIGGER records_deleted AFTER DELETE ON records WHEN old.blob IS NOT NULL
  BEGIN DELETE FROM blobs WHERE id = old.blob; END;"""

# No CHECK of records: what could fail at the second of many rows would have to keep the pages of the first until then.
SCHEMA: Final = f"""
CREATE TABLE namespaces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: rows of a discarded namespace cannot come back
  name TEXT NOT NULL UNIQUE,
  birth BLOB NOT NULL                    -- its incarnation, random: tells it from a later one of its name
) STRICT;
CREATE TABLE facts (
  ns INTEGER NOT NULL, name TEXT NOT NULL, fact BLOB NOT NULL,
  PRIMARY KEY (ns, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE records (
  ns INTEGER NOT NULL, key TEXT NOT NULL,
  record BLOB, blob INTEGER,             -- one of them: a large record lies in blobs, so that lookups stay shallow
  expires_ms INTEGER,
  PRIMARY KEY (ns, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_expiry ON records (ns, expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE blobs (id INTEGER PRIMARY KEY, record BLOB NOT NULL) STRICT;
{_TRIGGERS}
CREATE TABLE logs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  ns INTEGER NOT NULL, model INTEGER NOT NULL, key TEXT NOT NULL,
  epoch BLOB NOT NULL, version BLOB NOT NULL, sealed INTEGER NOT NULL, facts BLOB NOT NULL,
  UNIQUE (ns, model, key)
) STRICT;
CREATE TABLE hot (
  log INTEGER NOT NULL, t INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (log, t, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE chunks (
  id INTEGER PRIMARY KEY,
  log INTEGER NOT NULL, first_t INTEGER NOT NULL, first_seq INTEGER NOT NULL,
  last_t INTEGER NOT NULL, last_seq INTEGER NOT NULL,
  n INTEGER NOT NULL CHECK (n BETWEEN 1 AND 2147483647), meta BLOB NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX chunks_first ON chunks (log, first_t, first_seq);
CREATE TABLE checkpoints (
  log INTEGER NOT NULL, t INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (log, t, seq)
) STRICT, WITHOUT ROWID;
"""

# The file's own triggers are for versions of this library that still run them. This one runs no trigger that a file
# brings along, since it could undo every write, and does the same by its own, which SQLite keeps with the connection.
# `advances` is no table: what is inserted there is a commit of one row, in one statement instead of six.
OWN_TRIGGERS: Final = (
    _TRIGGERS.replace("CREATE", "CREATE TEMP").replace("ON records", "ON main.records")
    + """
CREATE TEMP VIEW advances (name, birth, model, key, old, next, t, seq, body) AS
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;
CREATE TEMP TRIGGER advance INSTEAD OF INSERT ON advances
  BEGIN
    UPDATE logs SET version = new.next WHERE model = new.model AND key = new.key AND version = new.old
      AND ns = (SELECT id FROM namespaces WHERE name = new.name AND birth = new.birth);
    INSERT INTO hot VALUES (
      (SELECT id FROM logs WHERE ns = (SELECT id FROM namespaces WHERE name = new.name)
        AND model = new.model AND key = new.key AND version = new.next),  -- else NULL, which fails
      new.t, new.seq, new.body);
  END;
"""
)
_OLDER: Final = {
    "records": """CREATE TABLE records (
  ns INTEGER NOT NULL, key TEXT NOT NULL, record BLOB, blob INTEGER, expires_ms INTEGER, PRIMARY KEY (ns, key),
  CHECK ((record IS NULL) <> (blob IS NULL)) ) STRICT, WITHOUT ROWID"""
}
"""Tables as earlier versions made them."""
_SCHEMA: Final = "SELECT type, name, tbl_name, sql FROM main.sqlite_schema"
_LOOK: Final = f"{_SCHEMA} UNION ALL SELECT {', '.join(f'(SELECT * FROM {mark})' for mark in _MARKS)}, NULL"
_COMMENT: Final = re.compile(r"--[^\n]*")
_SPACE: Final = re.compile(r"[ \t\n\f\r]+")  # of SQLite: what else Python takes for space is part of a name there


class SchemaPart(NamedTuple):
    """One row of a schema."""

    kind: str
    name: str
    table: str
    sql: str | None
    """None for an index that a table brings along."""

    @property
    def decides(self) -> bool:
        """Whether statements depend on it: not on a trigger, which is not run, nor on a plain index."""
        return self.kind != "trigger" and not (self.sql or "CREATE INDEX ").startswith("CREATE INDEX ")


def lay_out(connection: apsw.Connection) -> None:
    """Make an empty database a store, inside a transaction that the caller has begun."""
    connection.execute(SCHEMA)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}")


def distrust(connection: apsw.Connection) -> None:
    """Let nothing run that a file brings along: no trigger, no view, no function that does more than compute."""
    for option, value in (
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
    ):
        connection.config(option, value)


def is_fresh(connection: apsw.Connection, path: str) -> bool:
    """Return whether the database is empty; refuse what is no store of this format.

    Raises `StoreNotAvailableError`, and `CorruptionError` if it is one whose tables were changed.
    """
    if 0 < os.stat(path).st_size < _SMALLEST_DATABASE:
        raise StoreNotAvailableError(f"{path!r} is not a database")  # SQLite would take it for an empty one
    # One statement, one moment: another process may be laying it out right now.
    try:
        rows = list(connection.execute(_LOOK))
    except apsw.NotADBError as error:
        raise StoreNotAvailableError(f"{path!r} is not a database") from error
    except UnicodeDecodeError as error:
        raise CorruptionError(f"{path!r}: a name in its schema is no UTF-8") from error
    application, version, encoding, _ = rows.pop()
    parts = [*map(SchemaPart._make, rows)]
    if not _MARKS.isdisjoint(part.name.lower() for part in parts):  # it is a table that was read in place of the marks
        application = None
    if application == APPLICATION_ID and version > FORMAT:
        raise StoreNotAvailableError(f"{path!r} is of format {version}, written by a newer version of rstore")
    if application != APPLICATION_ID:
        if {part.name for part in parts} >= _FIRST_RELEASE_TABLES:
            raise StoreNotAvailableError(f"{path!r} was written by rlib-store 0.1, whose format is not read here")
        if parts or application != 0:
            raise StoreNotAvailableError(f"{path!r} is a SQLite database of another application")
    if encoding != "UTF-8":
        raise StoreNotAvailableError(f"{path!r} is a database in {encoding}: a store is one in UTF-8")
    if application != APPLICATION_ID:
        return True
    refuse_changes(connection, path, parts)
    return False


def refuse_changes(connection: apsw.Connection, path: str, parts: Sequence[SchemaPart]) -> None:
    """Refuse a file whose tables were changed since it was made."""
    for difference in differences(connection, parts):
        raise CorruptionError(f"{path!r}: {difference}; undo that change, or restore a backup")


def schema_of(connection: apsw.Connection) -> list[SchemaPart]:
    """Return the schema of a file as it says itself."""
    return [*map(SchemaPart._make, connection.execute(_SCHEMA))]


def differences(connection: apsw.Connection, parts: Sequence[SchemaPart]) -> Iterator[str]:
    """Yield how a schema differs from the layout in what could change the meaning of a statement.

    A unique index of others does: it decides which row `ON CONFLICT` finds. Their tables, views, triggers and other
    indexes do not.
    """
    yield from _changes(parts, decide=True)
    for part in parts:
        if part.kind == "index" and part.name not in _layout() and part.decides:
            # As SQLite sees it: the column that names the table could say anything.
            for table in _tables():
                if part.name in {row[1] for row in connection.execute(f"PRAGMA main.index_list({table})")}:
                    yield f"its table {table!r} has another unique index, {part.name!r}"


def oddities(parts: Sequence[SchemaPart]) -> Iterator[str]:
    """Yield how a schema differs from the layout in what no statement depends on."""
    yield from _changes(parts, decide=False)
    for part in parts:
        if part.kind == "trigger" and part.table in _tables() and part.name not in _layout():
            yield f"its trigger {part.name!r} on {part.table!r} is another's, and is not run"


def _changes(parts: Sequence[SchemaPart], *, decide: bool) -> Iterator[str]:
    there = {part.name: part for part in parts}
    for known in _layout().values():
        found = there.get(known.name)
        if found == known or known.decides != decide:
            continue
        if found is None:
            yield f"its {known.kind} {known.name!r} is missing"
        elif found.kind != known.kind or _bare(found.sql or "") not in _accepted(known):
            yield f"its {known.kind} {known.name!r} was changed"


@cache
def _layout() -> dict[str, SchemaPart]:
    connection = apsw.Connection(":memory:")
    lay_out(connection)
    parts = schema_of(connection)
    connection.close()
    return {part.name: part for part in parts if not part.name.startswith("sqlite_")}


def _tables() -> list[str]:
    return [part.name for part in _layout().values() if part.kind == "table"]


@cache
def _accepted(known: SchemaPart) -> set[str]:
    return {_bare(text) for text in (known.sql, _OLDER.get(known.name)) if text is not None}


def _bare(sql: str) -> str:
    """Return SQL without comments and by how it is set: our own holds no quotes, in which these would count."""
    return _SPACE.sub(" ", _COMMENT.sub("", sql)).strip()
