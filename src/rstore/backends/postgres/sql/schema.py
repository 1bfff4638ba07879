"""A PostgreSQL schema: its tables, how they move to a newer format, and how statements on them take locks.

Every table but the small ones is keyed by namespace and key, and no other index is unique: so each can be partitioned
or distributed by these two.

In each statement that writes, the locks are taken in one order: the namespace, the head of a log, its rows. At READ
COMMITTED a statement sees all that was committed when it began, and a row that it had to wait for is looked at again as
it is then. So:

- A call that writes a record or creates a log locks the namespace FOR KEY SHARE, which only `discard` waits for and is
  waited for by: its DELETEs find everything that was committed before them, and a later call finds no namespace and
  writes nothing. A call that writes into a log that is there locks its head alone, of which the same is true: `discard`
  removes the heads before their rows. To lock the namespace as well would cost each `apply` a write to one row that all
  writers share. The price: a `discard` and a transaction that goes on to another log or to a record may wait for each
  other, and the server undoes one of them.
- An append locks the head FOR KEY SHARE: appends do not wait for one another, nor for rewrites and applies, which
  UPDATE the head without touching its key (FOR NO KEY UPDATE); these wait for each other. A call that may remove the
  head locks it FOR UPDATE first, in a statement of its own, so that the next one sees all rows that were appended until
  then. A SERIALIZABLE transaction leaves the head of a series in place: see `logs.tombstones`.
- The later statements of a commit ask whether the head carries the stamps that it now should. They are random and never
  come back, and the row is locked since the first statement: where that one changed nothing, the rest does nothing.

The rows that several calls may write at once are locked in the order of their keys or positions; a deadlock that is
left, such as with a DELETE whose plan goes another way, is undone by the server and tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.errors import READ_ONLY_HINT
from rstore.backends.postgres.transport.binary import number, truth
from rstore.backends.postgres.transport.protocol import Failed
from rstore.backends.postgres.transport.statements import Call, Results, Statement
from rstore.errors import StoreNotAvailableError

# The rows that change again and again, records and heads, leave room in their pages: a row whose new version fits
# beside the old one needs no new entry in the index. With half a page free, a rewrite of all records would be faster
# still, but every store would take twice the disk.
_FORMAT_1: Final = """
CREATE TABLE {s}.format (application {text} NOT NULL, version {int} NOT NULL);
INSERT INTO {s}.format VALUES ('rstore', 0);
CREATE TABLE {s}.namespaces (
  name {text} COLLATE {c} PRIMARY KEY,
  ns {bigint} NOT NULL UNIQUE,  -- random: no reader finds rows under a dead one
  birth {bytea} NOT NULL,  -- the incarnation, under the name it has in stored schemas: ns, and bytes that facts replace
  watched_until {timestamptz},  -- until then writers wake the watchers
  followed_until {timestamptz}  -- until then applies wake the followers
);
CREATE TABLE {s}.facts (
  ns {bigint}, name {text} COLLATE {c}, fact {bytea} NOT NULL,
  PRIMARY KEY (ns, name)
);
CREATE TABLE {s}.records (
  ns {bigint}, key {text} COLLATE {c}, record {bytea} NOT NULL, expires_ms {bigint},
  PRIMARY KEY (ns, key)
) WITH (fillfactor = 90);
CREATE INDEX records_expiry ON {s}.records (ns, expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE {s}.logs (
  ns {bigint}, model {int}, key {text} COLLATE {c},
  epoch {bytea} NOT NULL, version {bytea} NOT NULL, sealed {boolean} NOT NULL, facts {bytea} NOT NULL,
  PRIMARY KEY (ns, model, key)
) WITH (fillfactor = 90);
CREATE TABLE {s}.hot (
  ns {bigint}, model {int}, key {text} COLLATE {c}, t {bigint}, seq {int}, body {bytea} NOT NULL,
  PRIMARY KEY (ns, model, key, t, seq)
);
CREATE TABLE {s}.chunks (
  ns {bigint}, model {int}, key {text} COLLATE {c},
  first_t {bigint}, first_seq {int}, last_t {bigint} NOT NULL, last_seq {int} NOT NULL,
  n {int} NOT NULL CHECK (n OPERATOR({catalogue}.>) 0), meta {bytea} NOT NULL, body {bytea} NOT NULL,
  PRIMARY KEY (ns, model, key, first_t, first_seq)
);
CREATE TABLE {s}.checkpoints (
  ns {bigint}, model {int}, key {text} COLLATE {c}, t {bigint}, seq {int}, body {bytea} NOT NULL,
  PRIMARY KEY (ns, model, key, t, seq)
);
CREATE TABLE {s}.receipts (
  ns {bigint}, connection {bytea}, receipt {bytea} NOT NULL, left_ms {bigint} NOT NULL,
  PRIMARY KEY (ns, connection)
) WITH (fillfactor = 50);
-- Compressed already, or sealed: trying to compress them again would take longer than storing them.
ALTER TABLE {s}.chunks ALTER body SET STORAGE EXTERNAL;
ALTER TABLE {s}.checkpoints ALTER body SET STORAGE EXTERNAL;
"""

_CATALOGUE: Final = {
    "bigint": "pg_catalog.int8",
    "int": "pg_catalog.int4",
    "boolean": "pg_catalog.bool",
    "text": "pg_catalog.text",
    "bytea": "pg_catalog.bytea",
    "timestamptz": "pg_catalog.timestamptz",
    "c": 'pg_catalog."C"',
    "catalogue": "pg_catalog",
}

MIGRATIONS: Final = [_FORMAT_1]
"""The script at index n leads from format n to format n + 1."""

TABLES: Final = ("facts", "records", "logs", "hot", "chunks", "checkpoints", "receipts")
"""The tables with rows of a namespace, in the order in which it is emptied: heads of logs before rows, as above;
receipts last, since a transaction leaves its one while it holds the lock of what it wrote."""

NOW: Final = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
"""The server's clock at the beginning of the statement: the same for all of its rows."""
LIVE: Final = f"(expires_ms IS NULL OR expires_ms > {NOW})"
"""Whether a record has not expired."""
TOMBSTONE_BYTES: Final = 32
"""The length of the epoch of a tombstone; other epochs are shorter."""
_NO_COLUMN: Final = "42703"

BEGIN: Final = Statement("BEGIN ISOLATION LEVEL READ COMMITTED")
COMMIT: Final = Statement("COMMIT")
_ISOLATION: Final = Statement("SELECT current_setting('default_transaction_isolation')")
# The lock is the schema's name, so that stores in two schemas of one database do not wait for one another.
_LOCK: Final = Statement("SELECT pg_advisory_xact_lock(hashtextextended('rstore.' || $1::text, 0))")
# Not to_regclass and the like: until its next transaction a session remembers that these found nothing.
_LOOK: Final = Statement("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1),
  EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'format' AND relnamespace = (
    SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)),
  current_setting('transaction_read_only') = 'on'""")


def quoted(name: str) -> str:
    """Return a name as SQL holds it."""
    return '"' + name.replace('"', '""') + '"'


def is_seen(s: str) -> str:
    """Return the condition that a head is no tombstone, or has got rows since, at no cost for the others.

    Not EXISTS: for many heads the planner would read the whole of both tables.
    """
    inside = (
        f"(SELECT true FROM {s}.{table} AS one "
        "WHERE one.ns = logs.ns AND one.model = logs.model AND one.key = logs.key LIMIT 1)"
        for table in ("chunks", "hot")
    )
    return f"""
CASE WHEN octet_length(logs.epoch) < {TOMBSTONE_BYTES} THEN true ELSE coalesce({", ".join(inside)}, false) END"""


class SchemaSql:
    """The statements on the tables of one schema: the parts that those of records and of logs share.

    $1 is the name of the namespace, and $2 its incarnation in what puts a record, its ns in what writes into a log.
    """

    def __init__(self, schema: str) -> None:
        s = self._s = quoted(schema)
        # A write wakes the watchers, in a row that most writes read and lock anyway. Not a trigger, and not always:
        # each notification takes a lock of the whole database at the commit. Its payload is the namespace: a channel
        # each would need a name that is computed, and a statement each.
        self.channel = f"rstore_{sha256(schema.encode()).hexdigest()[:32]}"
        self.log_channel = f"{self.channel}_logs"
        self._ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1)"
        self._alive = f"""alive AS MATERIALIZED (
  SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR KEY SHARE)"""

    def _conditional(self, sql: str, then: str = "", told: str = "NULL") -> Statement:
        """Return a statement, FROM alive, that also tells whether the namespace is there, and whether it did anything.

        `then` follows if it was, FROM done. `told` wakes the followers.
        """
        return Statement(f"""
WITH {self._alive}, done AS ({sql} RETURNING 1){f", behind AS ({then})" if then else ""}
SELECT EXISTS (SELECT FROM alive), EXISTS (SELECT FROM done), {told}""")


def script(schema: str, version: int = 0) -> list[str]:
    """Return the statements that lead from a format to the newest one, without BEGIN and COMMIT."""
    s = quoted(schema)
    statements: list[str] = []
    for to, migration in enumerate(MIGRATIONS[version:], version + 1):
        lines = (line.partition("--")[0].rstrip() for line in migration.splitlines())
        # The name comes last: it may hold whatever ends a statement or begins a comment.
        statements += (one.strip().format(s=s, **_CATALOGUE) for one in "\n".join(lines).split(";") if one.strip())
        statements.append(f"UPDATE {s}.format SET version = {to}")
    return statements


def check_layout(run: Callable[[list[Call]], Results], encoding: str, place: PostgresPlace, *, frozen: bool) -> None:
    """Make sure that the schema has the layout that this version knows; create or migrate it if it is not frozen.

    Raises `StoreNotAvailableError`.
    """
    if encoding != "UTF8":
        raise StoreNotAvailableError(
            f"{place.show}: the encoding of the database is {encoding}; create one with ENCODING 'UTF8'"
        )
    (isolation,) = run([(_ISOLATION, ())])
    if not frozen and isolation.get_value(0, 0) != b"read committed":
        # Statements see what was committed while they waited for a lock; from an older snapshot they would undo it.
        raise StoreNotAvailableError(
            f"{place.show}: default_transaction_isolation is not 'read committed': set it so for this role or database"
        )
    version, _, read_only = _look(run, place)
    if read_only and not frozen:
        raise StoreNotAvailableError(f"{place.show}: {READ_ONLY_HINT}, or open the store frozen")
    if frozen and version < len(MIGRATIONS):
        state = f"is of the older format {version}" if version else "is not there"
        raise StoreNotAvailableError(f"{place.show} {state}; open it with frozen=False")
    if version < len(MIGRATIONS):
        _migrate(run, place)


def _migrate(run: Callable[[list[Call]], Results], place: PostgresPlace) -> None:
    run([(BEGIN, ())])
    run([(_LOCK, (place.schema.encode(),))])
    version, there, _ = _look(run, place)  # another client may have been faster
    if version < len(MIGRATIONS):
        # Not CREATE SCHEMA IF NOT EXISTS: it asks for the right to create one even where there is one.
        statements = ([] if there else [f"CREATE SCHEMA {quoted(place.schema)}"]) + script(place.schema, version)
        run([(Statement(one, as_written=True), ()) for one in statements])
    run([(COMMIT, ())])


def _look(run: Callable[[list[Call]], Results], place: PostgresPlace) -> tuple[int, bool, bool]:
    """Return (the format, 0 if there is none; whether there is the schema; whether the server only reads)."""
    (seen,) = run([(_LOOK, (place.schema.encode(),))])
    there, laid_out, read_only = (truth(seen, column) for column in range(3))
    if not laid_out:
        return 0, there, read_only
    table = f"{quoted(place.schema)}.format"
    sql = f"SELECT (SELECT max(version)::bigint FROM {table} WHERE application = 'rstore'), count(*) FROM {table}"
    try:
        (found,) = run([(Statement(sql), ())])
    except Failed as failure:
        if failure.sqlstate == _NO_COLUMN:
            raise _foreign(place) from failure.error
        raise
    if number(found, 1) == 0:
        raise StoreNotAvailableError(
            f"{place.show} has the tables of a store, and no row in the table format: it was restored without its "
            "rows; restore them too, or drop the schema"
        )
    if found.get_value(0, 0) is None:
        raise _foreign(place)
    version = number(found)
    if version > len(MIGRATIONS):
        raise StoreNotAvailableError(f"{place.show} is of format {version}, written by a newer version of rstore")
    return version, there, read_only


def _foreign(place: PostgresPlace) -> StoreNotAvailableError:
    return StoreNotAvailableError(
        f"{place.show} holds tables of another application; name another schema with ?schema="
    )
