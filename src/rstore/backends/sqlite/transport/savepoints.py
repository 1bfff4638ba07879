"""Several statements as one step of a connection: a transaction, or a savepoint where one is open."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import apsw

from rstore.backends.sqlite.transport.errors import CommitInDoubtError, is_in_doubt


def in_transaction(connection: apsw.Connection) -> bool:
    """Return whether a connection is inside a transaction; one that a signal handler has closed just now is not."""
    try:
        return connection.in_transaction
    except apsw.ConnectionClosedError:
        return False


@contextmanager
def atomic(
    connection: apsw.Connection,
    kind: str = "IMMEDIATE",
    *,
    begin: Callable[[Callable[[], object]], object] = lambda attempt: attempt(),
    owns: Callable[[], bool] = lambda: True,
) -> Generator[None, None, None]:
    """Run statements as one transaction, or as one step of the transaction that is open: all of them or none.

    `begin` tries to begin it, more than once if need be. A step that does not own the connection any more ends without
    touching it.
    """
    nested = connection.in_transaction
    end, undo = ("RELEASE step", "ROLLBACK TO step; RELEASE step") if nested else ("COMMIT", "ROLLBACK")
    if nested:
        connection.execute("SAVEPOINT step")
    try:
        if not nested:  # inside, since an interrupt while it waits may come when it has just begun
            begin(lambda: connection.execute(f"BEGIN {kind}"))
        yield
        if owns():
            commit(connection, end)
    except BaseException:
        if owns() and not connection.get_autocommit():  # a full disk has rolled all of it back already
            connection.execute(undo)
        raise


def commit(connection: apsw.Connection, sql: str, bindings: Any = None) -> None:
    """Execute a statement that ends a transaction, or is one itself where none is open.

    Raises `CommitInDoubtError` if it failed when it may have been committed.
    """
    commits = sql == "COMMIT" or connection.get_autocommit()
    try:
        connection.execute(sql, bindings)
    except apsw.Error as error:
        if commits and is_in_doubt(error):
            raise CommitInDoubtError(str(error)) from error
        raise
