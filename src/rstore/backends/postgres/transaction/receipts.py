"""Receipts: they show that a transaction was committed, when the answer to its COMMIT is lost.

A receipt is a row that goes along with the COMMIT: one for each connection, replaced by the next transaction there.
`docs/decisions/postgresql-receipts.md` says why the server's own word is not enough.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from rstore.backends.postgres.errors import IN_THE_FUTURE
from rstore.backends.postgres.sql.schema import NOW, quoted
from rstore.backends.postgres.transaction.executor import StatementReader
from rstore.backends.postgres.transport.binary import truth
from rstore.backends.postgres.transport.protocol import PostgresConnection
from rstore.backends.postgres.transport.statements import Call, Statement
from rstore.errors import StoreError

STALE_MS: Final = 24 * 3600 * 1000
"""A receipt is looked for within seconds. The rows of connections that are gone are removed after a day."""
REMOVE_EVERY: Final = 16
"""How many new rows there are, on average, between two looks for stale ones: at random, since most programs open few
connections in their life."""
_STATUS: Final = Statement("SELECT pg_xact_status($1::text::xid8)")
_STANDBY: Final[Call] = (Statement("SELECT pg_is_in_recovery()"), ())


class Receipt(NamedTuple):
    """The statement that leaves a row in a transaction, and the one that finds it later."""

    leave: Call
    find: Call
    is_new: bool
    """Whether the connection had left none before."""

    def was_committed(self, xid: bytes, reader: StatementReader) -> bool | None:
        """Look whether the transaction of that number was committed."""
        (found,) = reader.read(self.find)
        if found.ntuples:
            return True
        try:
            (told,) = reader.read((_STATUS, (xid,)))
        except StoreError as error:
            if getattr(error.__cause__, "sqlstate", None) != IN_THE_FUTURE:
                raise
            # A server that crashed has not given this number to any transaction yet. A standby may not know of it.
            (standby,) = reader.read(_STANDBY)
            return None if truth(standby, 0) else False
        # If that number was undone, so was this transaction, or it was lost. If it is committed, and was not a moment
        # ago, the next look finds the receipt.
        return False if told.get_value(0, 0) == b"aborted" else None


class Receipts:
    """The receipts of one namespace."""

    def __init__(self, schema: str, namespace: bytes) -> None:
        s = quoted(schema)
        ns = f"SELECT ns FROM {s}.namespaces WHERE name = $1"
        alive = f"({ns} FOR KEY SHARE SKIP LOCKED) AS alive"
        self._namespace = namespace
        self.remove_stale: Call = (
            Statement(f"DELETE FROM {s}.receipts WHERE ns = ({ns}) AND left_ms < ({NOW} - {STALE_MS})"),
            (namespace,),
        )
        """Removes the rows of connections that are gone."""
        # Under the lock of the namespace, for which `discard` waits before it removes receipts: a transaction whose
        # writes were refused, or undone with a part of it, holds no lock by then. A `discard` that is under way is not
        # waited for, since it may wait for the lock of a head that is held here. It would take the receipt along.
        self._leave = Statement(f"""
INSERT INTO {s}.receipts (ns, connection, receipt, left_ms) SELECT ns, $2::bytea, $3::bytea, {NOW} FROM {alive}
ON CONFLICT (ns, connection) DO UPDATE SET receipt = excluded.receipt, left_ms = excluded.left_ms""")
        self._find = Statement(f"""
SELECT FROM {s}.receipts WHERE ns = ({ns}) AND connection = $2 AND receipt = $3::bytea""")

    def make(self, connection: PostgresConnection) -> Receipt:
        """Return a receipt for a transaction on a connection."""
        is_new = connection.mark == b""
        if is_new:
            connection.mark = os.urandom(16)
        this = self._namespace, connection.mark, os.urandom(16)
        return Receipt((self._leave, this), (self._find, this), is_new)
