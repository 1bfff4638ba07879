"""The order of locks, and the SQL that the statements on records and logs share.

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

from typing import Final

from rstore.backends.postgres.sql.schema import quoted
from rstore.backends.postgres.transport.statements import Statement

NOW: Final = "floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint"
"""The server's clock at the beginning of the statement: the same for all of its rows."""
LIVE: Final = f"(expires_ms IS NULL OR expires_ms > {NOW})"
"""Whether a record has not expired."""
TOMBSTONE_BYTES: Final = 32
"""The length of the epoch of a tombstone; other epochs are shorter."""


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
        self._ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1)"
        self._locked_ns = f"(SELECT ns FROM {s}.namespaces WHERE name = $1 FOR KEY SHARE)"
        self._alive = f"""alive AS MATERIALIZED (
  SELECT ns FROM {s}.namespaces WHERE name = $1 AND ns = $2 FOR KEY SHARE)"""

    def _conditional(self, sql: str, then: str = "") -> Statement:
        """Return a statement, FROM alive, that also tells whether the namespace is there, and whether it did anything.

        `then` follows if it was, FROM done.
        """
        return Statement(f"""
WITH {self._alive}, done AS ({sql} RETURNING 1){f", behind AS ({then})" if then else ""}
SELECT EXISTS (SELECT FROM alive), EXISTS (SELECT FROM done)""")
