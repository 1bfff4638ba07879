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
from typing import Any, NamedTuple

from child import Figures, each, p50, serve


class Bank(NamedTuple):
    """The accounts of one library; a change of account i adds i to its balance."""

    change: Callable[[int], None]
    balance: Callable[[int], int]


def measure(
    directory: Path, *, library: str, n: int, calls: int, before: int, durability: str, key: str | None = None
) -> Iterator[Figures]:
    """Change one of `n` accounts at a time: load it, change it, and store the change; each had some changes `before`.

    The figures are in microseconds: the median of a call by the wall clock, and the mean by the processor's.
    """
    make = {"rstore": _rstore, "eventsourcing": _eventsourcing, "bare": _bare}[library]
    bank = make(directory / "accounts.db", key, n, durability)
    accounts = (i % n for i in count())
    changes = n * before
    for _ in range(changes):
        bank.change(next(accounts))
    while True:
        begun = time.process_time()
        taken = each(lambda _: bank.change(next(accounts)), range(calls))
        cpu = time.process_time() - begun
        changes += calls
        if bank.balance(1) != (changes + n - 2) // n:
            raise SystemExit("the balance is another one")
        yield {"apply": p50(taken), "cpu": cpu / calls * 1e6}


def _rstore(path: Path, key: str | None, n: int, durability: str) -> Bank:
    store = import_module("rstore").Store(path, key=key, frozen=False, durability=durability).open()
    for i in range(n):
        store.apply(f"account-{i}", {"balance": 0})

    def change(i: int) -> None:
        store.apply(f"account-{i}", {"balance": (add, i)})

    return Bank(change, lambda i: store.current(f"account-{i}")["balance"])


def _bare(path: Path, key: str | None, n: int, durability: str) -> Bank:
    """Insert changes that nothing reads or checks: what an engine takes for the writing alone."""
    del key
    connection = import_module("apsw").Connection(str(path))
    for option, value in (("journal_mode", "wal"), ("synchronous", durability), ("wal_autocheckpoint", 4000)):
        connection.pragma(option, value)
    connection.execute("CREATE TABLE changes (key TEXT, n INTEGER, body BLOB, PRIMARY KEY (key, n)) WITHOUT ROWID")
    execute, number = connection.cursor().execute, [0] * n

    def change(i: int) -> None:
        number[i] += 1
        body = pickle.dumps({"balance": ("add", i)}, 5)
        execute("INSERT INTO changes VALUES (?, ?, ?)", (f"account-{i}", number[i], body))

    def balance(i: int) -> int:
        bodies = execute("SELECT body FROM changes WHERE key = ?", (f"account-{i}",)).fetchall()
        return sum(pickle.loads(body)["balance"][1] for (body,) in bodies)  # noqa: S301 - its own

    return Bank(change, balance)


def _eventsourcing(path: Path, key: str | None, n: int, durability: str) -> Bank:
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

    return Bank(change, lambda i: app.repository.get(ids[i]).balance)


if __name__ == "__main__":
    serve(measure)
