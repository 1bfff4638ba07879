"""A namespace in a SQLite file: whether it is there, which incarnation it is, and its facts."""

from __future__ import annotations

import os
from typing import Any, Final

import apsw

from rstore.backends.contract import ReadTransaction, WriteTransaction
from rstore.backends.sqlite.cells import bytes_of
from rstore.backends.sqlite.transport.file import SqliteFile
from rstore.backends.sqlite.transport.savepoints import atomic
from rstore.backends.sqlite.transport.snapshot import SnapshotConnection
from rstore.backends.sqlite.transport.transaction import TransactionConnection
from rstore.backends.types import ANY, KEYS_BYTES, ExpectedIncarnation, NamespaceGone, identity_of
from rstore.errors import CorruptionError

_INCARNATION_BYTES: Final = 16 + KEYS_BYTES
_FIND: Final = "SELECT birth FROM namespaces WHERE name = ?"
_FACTS: Final = """
SELECT birth, facts.name, fact FROM namespaces LEFT JOIN facts ON facts.ns = namespaces.id
WHERE namespaces.name = ?"""


class NamespaceReads(ReadTransaction):
    """Reads one namespace through its file, a transaction or a snapshot."""

    around_damage = False

    def __init__(self, reader: SqliteFile | TransactionConnection | SnapshotConnection, namespace: str) -> None:
        self._reader = reader
        self._namespace = namespace

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        rows: list[Any] = self._reader.read(lambda connection: [*connection.execute(_FACTS, (self._namespace,))])
        if not rows:
            return None, {}
        facts = {name: self._bytes_of_fact(fact, name) for _, name, fact in rows if name is not None}
        if not {*map(type, facts)} <= {str}:
            raise CorruptionError(f"the name of a fact of the namespace {self._namespace!r} is damaged, it is no text")
        return bytes_of(rows[0][0], self._place()), facts

    def _place(self) -> str:
        return f"the namespace {self._namespace!r} in {self._reader.path!r}"

    def _bytes_of_fact(self, fact: Any, name: str) -> bytes:
        return bytes_of(fact, f"the fact {name!r} of {self._place()}")

    def _number(self, connection: apsw.Connection) -> int | None:
        found: int | None = connection.execute("SELECT id FROM namespaces WHERE name = ?", (self._namespace,)).get
        return found


class NamespaceWrites(NamespaceReads, WriteTransaction):
    """Creates the namespace and adds facts."""

    def __init__(self, writer: SqliteFile | TransactionConnection, namespace: str) -> None:
        super().__init__(writer, namespace)
        self._writer = writer

    def create(self) -> bytes:
        def work(connection: apsw.Connection) -> bytes:
            incarnation = connection.execute(_FIND, (self._namespace,)).get
            if incarnation is None:  # mostly it is there, and no lock is taken
                with atomic(connection):
                    insert = "INSERT OR IGNORE INTO namespaces (name, birth) VALUES (?, ?)"
                    connection.execute(insert, (self._namespace, os.urandom(_INCARNATION_BYTES)))
                    incarnation = connection.execute(_FIND, (self._namespace,)).get
            return bytes_of(incarnation, self._place())

        return self._writer.write(work, arm=False)

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        identity = identity_of(incarnation)

        def work(connection: apsw.Connection) -> bytes:
            with atomic(connection):
                number = self._number(connection)
                found = connection.execute(_FIND, (self._namespace,)).get
                if number is None or identity_of(bytes_of(found, self._place())) != identity:
                    raise NamespaceGone
                find = "SELECT fact FROM facts WHERE ns = ? AND name = ?"
                if (kept := connection.execute(find, (number, name)).get) is not None:
                    return self._bytes_of_fact(kept, name)
                connection.execute("INSERT INTO facts VALUES (?, ?, ?)", (number, name, fact))
                birth = identity + os.urandom(KEYS_BYTES)
                connection.execute("UPDATE namespaces SET birth = ? WHERE id = ?", (birth, number))
                return fact

        return self._writer.write(work)

    def _expect(self, connection: apsw.Connection, incarnation: bytes) -> int:
        """Return the number of the namespace.

        Raises `NamespaceGone` if it is not there, or of another incarnation.
        """
        find = "SELECT id FROM namespaces WHERE name = ? AND birth = ?"
        found: int | None = connection.execute(find, (self._namespace, incarnation)).get
        if found is None:
            raise NamespaceGone
        return found

    def _check_incarnation(self, connection: apsw.Connection, incarnation: ExpectedIncarnation) -> None:
        """Raise `NamespaceGone` if the namespace is there, and of another incarnation."""
        if incarnation is not ANY and connection.execute(_FIND, (self._namespace,)).get not in (None, incarnation):
            raise NamespaceGone
