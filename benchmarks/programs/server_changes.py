"""Event sequences on a PostgreSQL server: one change of one of many, by rstore and by eventsourcing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from operator import add
from pathlib import Path
from typing import Any

from child import Figures, each, p50, serve


def measure(
    directory: Path,
    *,
    library: str,
    dsn: str,
    n: int,
    calls: int,
    before: int,
    waiting: bool,
    cached: bool = False,
    key: str | None = None,
) -> Iterator[Figures]:
    """Change one of `n` accounts at a time: load it, change it, and store the change; each had some changes `before`.

    `waiting` for the disk of the server at each commit; `cached`: with eventsourcing's cache of aggregates.
    """
    del directory  # all is on the server
    if not waiting:
        os.environ["PGOPTIONS"] = "-c synchronous_commit=off"  # what libpq asks each server for, whoever calls it
    change = _rstore(dsn, key, n, before) if library == "rstore" else _eventsourcing(dsn, n, before, cached=cached)
    accounts = count()
    while True:
        yield {"apply": p50(each(lambda _: change(next(accounts) % n), range(calls)))}


def _rstore(dsn: str, key: str | None, n: int, before: int) -> Callable[[int], None]:
    store = import_module("rstore").Store(dsn, key=key, namespace=f"apply{os.getpid()}", frozen=False).open()

    def change(i: int) -> None:
        store.apply(f"account-{i}", {"balance": (add, i)})

    for i in range(n):
        store.apply(f"account-{i}", {"balance": 0})
        for _ in range(before):
            change(i)
    return change


def _eventsourcing(dsn: str, n: int, before: int, *, cached: bool) -> Callable[[int], None]:
    conninfo = import_module("psycopg.conninfo").conninfo_to_dict(dsn)
    domain: Any
    domain, application = import_module("eventsourcing.domain"), import_module("eventsourcing.application")

    aggregate: Any = domain.Aggregate

    class Account(aggregate):  # type: ignore[misc]
        def __init__(self) -> None:
            self.balance = 0

        @domain.event("Changed")  # type: ignore[untyped-decorator]
        def change(self, by: int) -> None:
            self.balance += by

    environment = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": conninfo["dbname"],
        "POSTGRES_HOST": conninfo["host"],
        "POSTGRES_PORT": conninfo["port"],
        "POSTGRES_USER": conninfo["user"],
        "POSTGRES_PASSWORD": "",
    }
    if cached:
        environment["AGGREGATE_CACHE_MAXSIZE"] = str(n)
    app = application.Application(env=environment)
    accounts = [Account() for _ in range(n)]
    for account in accounts:
        for i in range(before):
            account.change(i)
        app.save(account)
    ids = [account.id for account in accounts]

    def change(i: int) -> None:
        account = app.repository.get(ids[i])
        account.change(i)
        app.save(account)

    return change


if __name__ == "__main__":
    serve(measure)
