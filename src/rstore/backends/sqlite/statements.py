"""SQL that several files share, with the clock of expiry, and the statements for the most frequent calls on one key."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, Final

import apsw

from rstore.backends.types import KEEP, Ttl

NS: Final = "(SELECT id FROM namespaces WHERE name = :ns)"
NS_OF_INCARNATION: Final = "(SELECT id FROM namespaces WHERE name = :ns AND birth = :incarnation)"
LIVE: Final = "(expires_ms IS NULL OR expires_ms > :now)"
RECORD: Final = "coalesce(record, (SELECT record FROM blobs WHERE id = blob), 0)"
"""0 where a large record is missing: the key must not look absent."""

INLINE_BYTES: Final = 1024
"""A larger record lies in a table of its own. Past about a quarter of a page SQLite would spill it anyway, and the rest
of it would still widen the tree that every lookup descends."""

# Finds inline, non-expiring records only; NULL means to take the slow path. One positional parameter: SQLite binds it
# fastest.
_LOOKUP: Final = "SELECT record FROM records WHERE ns = {0} AND key = ? AND expires_ms IS NULL"
# An update that leaves `blob` alone runs no trigger, and one that leaves `expires_ms` alone no index. Where either is
# set it fails: 0 is no BLOB. Not a look at the number of changed rows: a signal handler may have changed some since.
OVER_PLAIN: Final = "ON CONFLICT DO UPDATE SET record = iif(blob IS NULL AND expires_ms IS NULL, excluded.record, 0)"
OVER_SMALL: Final = """
ON CONFLICT DO UPDATE SET record = iif(blob IS NULL, excluded.record, 0), expires_ms = excluded.expires_ms"""
# By its number: to find the namespace by its name would take as long as half of the rest. With another incarnation it
# is NULL, and the statement fails.
_NUMBER: Final = "(SELECT id FROM namespaces WHERE id = {0} AND birth = ?)"
_INSERT: Final = f"INSERT INTO records (ns, key, record) VALUES ({_NUMBER}, ?, ?) {OVER_PLAIN}"
_INSERT_EXPIRING: Final = f"INSERT INTO records (ns, key, record, expires_ms) VALUES ({_NUMBER}, ?, ?, ?) {OVER_SMALL}"


def now_ms() -> int:
    """Return the clock by which records expire, POSIX milliseconds."""
    return int(time.time() * 1000)


def expires_ms(ttl_ms: Ttl) -> int | None:
    """Return the expiry of a record with this time to live from now on."""
    return None if ttl_ms is None or ttl_ms is KEEP else now_ms() + ttl_ms


class Statements:
    """The statements on one key of a namespace, and a cursor that is kept, on one connection."""

    __slots__ = ("_insert", "_insert_expiring", "execute", "lookup", "number")

    def __init__(self, connection: apsw.Connection, number: int) -> None:
        self.number = number
        self.execute = connection.cursor().execute
        self.lookup, self._insert, self._insert_expiring = _of_namespace(number)

    def get(self, key: Any) -> bytes | None:
        """Return the record of a key if it is small and does not expire; None says nothing.

        Whatever is found is right: no other namespace of the file is given the same number, a discarded one has no
        rows, and no row has a key that cannot be one.
        """
        if type(key) is not str:  # SQLite would make a text of it
            return None
        try:
            # `get` also ends the statement, which would keep the write-ahead log from being moved into the file.
            record: Any = self.execute(self.lookup, (key,)).get
        except (apsw.Error, UnicodeError):
            return None
        return record if type(record) is bytes else None

    def put(self, incarnation: bytes, key: str, record: bytes, ttl_ms: Ttl) -> None:
        """Put a small record over nothing, or over another small one.

        Raises an error of the driver where that is not all: another incarnation, a large record in its place …
        """
        if ttl_ms is None:
            self.execute(self._insert, (incarnation, key, record))
        else:
            self.execute(self._insert_expiring, (incarnation, key, record, expires_ms(ttl_ms)))


class KeptStatements:
    """Keeps the statements on one key of a namespace, on one connection, once the number of the namespace is known."""

    statements: Statements | None = None

    def know(self, connection: apsw.Connection, number: int) -> None:
        """Keep the statements of that namespace."""
        if self.statements is None or self.statements.number != number:
            self.statements = Statements(connection, number)


@cache  # a few namespaces
def _of_namespace(number: int) -> tuple[str, str, str]:
    return _LOOKUP.format(number), _INSERT.format(number), _INSERT_EXPIRING.format(number)
