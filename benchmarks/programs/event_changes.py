"""Event sequences in a SQLite file: one change of one of many, by rstore, by eventsourcing, and by a bare INSERT."""

from __future__ import annotations

import pickle
import sqlite3
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from operator import add
from pathlib import Path
from typing import Any

from child import Figures, each, p50, serve


def measure(
    directory: Path, *, library: str, n: int, calls: int, before: int, durability: str, key: str | None = None
) -> Iterator[Figures]:
    """Change one of `n` accounts at a time: load it, change it, and store the change; each had some changes `before`.

    The figures are in microseconds: the median of a call by the wall clock, and the mean by the processor's.
    """
    make = {"rstore": _rstore, "eventsourcing": _eventsourcing, "bare": _bare}[library]
    change = make(directory / "accounts.db", key, n, durability)
    accounts = count()
    for _ in range(n * before):
        change(next(accounts) % n)
    while True:
        begun = time.process_time()
        taken = each(lambda _: change(next(accounts) % n), range(calls))
        yield {"apply": p50(taken), "cpu": (time.process_time() - begun) / calls * 1e6}


def _rstore(path: Path, key: str | None, n: int, durability: str) -> Callable[[int], None]:
    store = import_module("rstore").Store(path, key=key, frozen=False, durability=durability).open()
    for i in range(n):
        store.apply(f"account-{i}", {"balance": 0})

    def change(i: int) -> None:
        store.apply(f"account-{i}", {"balance": (add, i)})

    return change


def _bare(path: Path, key: str | None, n: int, durability: str) -> Callable[[int], None]:
    """Insert changes that nothing reads or checks: what an engine takes for the writing alone."""
    del key
    connection = import_module("apsw").Connection(str(path))
    connection.execute(
        f"PRAGMA journal_mode = WAL; PRAGMA synchronous = {durability}; PRAGMA wal_autocheckpoint = 4000"
    )
    connection.execute("CREATE TABLE changes (key TEXT, n INTEGER, body BLOB, PRIMARY KEY (key, n)) WITHOUT ROWID")
    execute, number = connection.cursor().execute, [0] * n

    def change(i: int) -> None:
        number[i] += 1
        body = pickle.dumps({"balance": ("add", i)}, 5)
        execute("INSERT INTO changes VALUES (?, ?, ?)", (f"account-{i}", number[i], body))

    return change


def _eventsourcing(path: Path, key: str | None, n: int, durability: str) -> Callable[[int], None]:
    """Return its change with its cache of aggregates, which is off by default: without it, it reads all changes."""
    del key
    domain: Any
    domain, application = import_module("eventsourcing.domain"), import_module("eventsourcing.application")
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA synchronous = {durability}")  # it leaves this as it is, which is FULL
        return connection

    sqlite3.connect = connected
    aggregate: Any = domain.Aggregate

    class Account(aggregate):  # type: ignore[misc]
        def __init__(self) -> None:
            self.balance = 0

        @domain.event("Changed")  # type: ignore[untyped-decorator]
        def change(self, by: int) -> None:
            self.balance += by

    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(path),
        "AGGREGATE_CACHE_MAXSIZE": str(n),
    }
    app = application.Application(env=environment)
    accounts = [Account() for _ in range(n)]
    for account in accounts:
        app.save(account)
    ids = [account.id for account in accounts]

    def change(i: int) -> None:
        account = app.repository.get(ids[i])
        account.change(i)
        app.save(account)

    return change


if __name__ == "__main__":
    serve(measure)
