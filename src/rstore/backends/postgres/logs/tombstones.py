"""Tombstones: the heads of series that a transaction has emptied. They stay, unseen, until they are removed behind it.

A SERIALIZABLE transaction does not see what was appended since it began, so it cannot delete the head. It gives it an
epoch by whose length a tombstone is known. `docs/decisions/postgresql-tombstones.md` has the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.errors import Passed
from rstore.backends.postgres.sql.logs import LogSql
from rstore.backends.postgres.sql.schema import TOMBSTONE_BYTES
from rstore.backends.postgres.transaction.executor import Executor
from rstore.backends.postgres.transaction.sender import BEHIND_S, Sender
from rstore.backends.postgres.transport.binary import int4
from rstore.backends.postgres.transport.statements import Call
from rstore.backends.types import Log
from rstore.errors import NotSupportedError, StoreBusyError, StoreError


def draw_tombstone() -> bytes:
    """Return a new epoch that marks a tombstone."""
    return os.urandom(TOMBSTONE_BYTES)


class Tombstones:
    """The tombstones of one namespace. Threads may share it."""

    def __init__(self, sql: LogSql) -> None:
        self._sql = sql

    def is_in_the_way(self, executor: Executor, log: Log, incarnation: bytes) -> bool:
        """Return whether the head of a series is a tombstone; one that is not revived has another `sealed`."""
        (found,) = executor.read((self._sql.tombstone, _named(log, incarnation)))
        return found.ntuples > 0

    def remove(self, executor: Executor, log: Log, incarnation: bytes) -> None:
        """Remove a tombstone if it is empty still. Not in a transaction that cannot see whether it is.

        There it raises `RolledBack` and is done behind it, or `NotSupportedError` where that would not help.
        """
        if executor.tombstones is None:
            calls = [(self._sql.take_this, _named(log, incarnation)), *self._removal(log, incarnation)]
            executor.write(calls, lambda _: False)
            return
        if log in executor.tombstones:
            raise NotSupportedError(
                f"the series {log.key!r} was encrypted and is not to be, or the other way round: PostgreSQL cannot "
                "remove it and begin it anew in one transaction; remove it before"
            )
        executor.tombstones[log] = incarnation
        raise Passed(f"the series {log.key!r} was emptied by another transaction; nothing was applied")

    def remove_behind(self, sender: Sender, tombstones: Mapping[Log, bytes]) -> None:
        """Remove tombstones behind their transaction, as far as no other call holds their locks."""
        deadline = Deadline(BEHIND_S)
        with suppress(StoreError):  # the transaction is done, and an error here would say that it is not
            for log, incarnation in tombstones.items():
                if deadline.is_over:
                    break
                take = self._sql.take_this_now, _named(log, incarnation)
                with suppress(StoreBusyError):  # a call that holds the lock appends, or is about to remove it
                    sender.run_behind([take, *self._removal(log, incarnation)], deadline)

    def _removal(self, log: Log, incarnation: bytes) -> list[Call]:
        return [(one, (*_named(log, incarnation), None, None)) for one in self._sql.remove_if_empty]


def _named(log: Log, incarnation: bytes) -> tuple[bytes, bytes, bytes]:
    return incarnation[:8], int4(log.model), log.key.encode()
