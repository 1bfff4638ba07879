"""Statements and their parameters.

Nouns: a *statement* (SQL, and the name under which a connection keeps it prepared) and a *call* (a statement and its
parameters, in PostgreSQL's binary format).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from psycopg import pq

from rstore.backends.postgres.sql.qualified import qualified


class Statement:
    """SQL with its name, which is made of the SQL: behind a pooler two programs may meet on one connection."""

    __slots__ = ("_as_written", "_written", "name", "sql")
    name: bytes
    sql: bytes

    def __init__(self, sql: str, *, as_written: bool = False) -> None:
        """Make one of SQL; `as_written` says that its names are qualified already."""
        self._written = sql
        self._as_written = as_written

    def __getattr__(self, name: str) -> bytes:
        # Not before it is used: to qualify all statements takes as long as to open the store.
        if name not in ("name", "sql"):
            raise AttributeError(name)
        self.sql = (self._written if self._as_written else qualified(self._written)).encode()
        self.name = b"rstore_" + sha256(self.sql).hexdigest()[:24].encode()
        return self.name if name == "name" else self.sql


Results: TypeAlias = "list[pq.abc.PGresult]"
Call: TypeAlias = tuple[Statement, Sequence[bytes | None]]


class Calls(Iterable[Call]):
    """Calls that are made while they are sent, anew each time: the server is at work on the first ones by then."""

    def __init__(self, make: Callable[[], Iterator[Call]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Call]:
        return self._make()


_SET_LOCAL: Final = Statement("SELECT set_config($1::text, $2::text, true)")


def set_local(name: str, value: str) -> Call:
    """Return the call that sets a parameter of the server up to the next sync, or to the end of the transaction.

    Nothing stays behind in the session, which behind a pooler is the next client's.
    """
    return _SET_LOCAL, (name.encode(), value.encode())
