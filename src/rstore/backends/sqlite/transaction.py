"""A transaction on one namespace of a SQLite file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import apsw

from rstore.backends.contract import WriteTransaction
from rstore.backends.sqlite.logs import LogWrites
from rstore.backends.sqlite.records.writing import RecordWrites
from rstore.backends.sqlite.statements import INLINE_BYTES
from rstore.backends.sqlite.transport.transaction import TransactionConnection
from rstore.backends.types import Log, Ttl


class SqliteTransaction(RecordWrites, LogWrites):
    """Reads and writes one namespace, all or nothing."""

    def __init__(self, connection: TransactionConnection, namespace: str) -> None:
        super().__init__(connection, namespace)
        self._connection = connection

    def peek(self, key: Any) -> bytes | None:
        statements = self._connection.statements
        return None if statements is None else statements.get(key)

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        self._connection.check()
        statements = self._connection.statements
        if statements is not None and len(record) <= INLINE_BYTES:
            with suppress(apsw.Error):  # then the other way finds out what is wrong
                statements.put(incarnation, key, record, ttl_ms)
                return
        super().put(key, record, ttl_ms, incarnation)

    @contextmanager
    def transaction(self, *, create: bool = True, serializable: bool = True) -> Generator[WriteTransaction, None, None]:
        del create, serializable  # as the whole transaction
        with self._connection.part():
            yield self

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        return self.transaction()
