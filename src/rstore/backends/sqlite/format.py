"""The layout of a SQLite file: its tables, and the marks by which it is known."""

from __future__ import annotations

import os
from typing import Final

import apsw

from rstore.errors import StoreNotAvailableError

APPLICATION_ID: Final = 0x72737472
"""ASCII `rstr`, in bytes 68 to 71 of the file."""
FORMAT: Final = 1
_SMALLEST_DATABASE: Final = 512
_FIRST_RELEASE_TABLES: Final = {"_kv", "_ts", "_es"}

# No CHECK of records: what could fail at the second of many rows would have to keep the pages of the first until then.
SCHEMA: Final = """
CREATE TABLE namespaces (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: rows of a discarded namespace cannot come back
  name TEXT NOT NULL UNIQUE,
  birth BLOB NOT NULL                    -- random: tells a namespace from another that takes its name later
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
CREATE TRIGGER records_replaced AFTER UPDATE OF blob ON records WHEN old.blob IS NOT NULL
  BEGIN DELETE FROM blobs WHERE id = old.blob; END;
CREATE TRIGGER records_deleted AFTER DELETE ON records WHEN old.blob IS NOT NULL
  BEGIN DELETE FROM blobs WHERE id = old.blob; END;
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


def lay_out(connection: apsw.Connection) -> None:
    """Make an empty database a store, inside a transaction that the caller has begun."""
    connection.execute(SCHEMA)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}")


def is_fresh(connection: apsw.Connection, path: str) -> bool:
    """Return whether the database is empty; refuse what is no store of this format.

    Raises `StoreNotAvailableError`.
    """
    if 0 < os.stat(path).st_size < _SMALLEST_DATABASE:
        raise StoreNotAvailableError(f"{path!r} is not a database")  # SQLite would take it for an empty one
    # One statement, one moment: another process may be laying it out right now.
    marks = "(SELECT * FROM pragma_application_id), (SELECT * FROM pragma_user_version)"
    try:
        rows = list(connection.execute(f"SELECT {marks}, name FROM sqlite_schema UNION ALL SELECT {marks}, NULL"))
    except apsw.NotADBError as error:
        raise StoreNotAvailableError(f"{path!r} is not a database") from error
    application, version, _ = rows[0]
    tables = {name for _, _, name in rows if name is not None}
    if application == APPLICATION_ID and version <= FORMAT:
        return False
    if application == APPLICATION_ID:
        raise StoreNotAvailableError(f"{path!r} is of format {version}, written by a newer version of rstore")
    if tables >= _FIRST_RELEASE_TABLES:
        raise StoreNotAvailableError(f"{path!r} was written by rlib-store 0.1, whose format is not read here")
    if tables or application:
        raise StoreNotAvailableError(f"{path!r} is a SQLite database of another application")
    return True
