"""Event sequences in a SQLite file, loaded in bulk: by rstore, by eventsourcing, and by bare INSERTs."""

from __future__ import annotations

import pickle
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from operator import add
from pathlib import Path
from random import Random
from typing import Any, Final

from child import Figures, remove, serve

ITEMS: Final = 20


def make_change(random: Random, i: int) -> dict[str, Any]:
    """Return a change of one item: every second one sets it, the others add to it."""
    return {f"item-{random.randrange(ITEMS)}": (add, random.randrange(100)) if i % 2 else random.randrange(10**6)}


def make_changes(n: int, sequences: int) -> list[tuple[str, int, dict[str, Any]]]:
    """Return `n` changes, those of each sequence in a row; each begins with all items."""
    random, changes = Random(1), []
    for i in range(sequences):
        changes.append((f"sequence-{i}", 0, dict.fromkeys((f"item-{j}" for j in range(ITEMS)), 0)))
        changes += [(f"sequence-{i}", 1 + t // 2, make_change(random, t)) for t in range(n // sequences - 1)]
    return changes


def measure(
    directory: Path, *, library: str, n: int, sequences: int, durability: str, key: str | None = None
) -> Iterator[Figures]:
    """Load the same changes into a new file each time; how many a second, by the wall clock and by the processor's."""
    load = {"rstore": _rstore, "eventsourcing": _eventsourcing, "bare": _bare}[library]
    changes, path = make_changes(n, sequences), directory / "loads.db"
    while True:
        work = load(path, key, durability)
        wall, cpu = time.perf_counter(), time.process_time()
        check = work(changes)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if not check():
            raise SystemExit("the state is another one")
        yield {"wall": len(changes) / wall, "cpu": len(changes) / cpu, "bytes": path.stat().st_size / len(changes)}
        remove(path)


def _state(changes: list[tuple[str, int, dict[str, Any]]], key: str) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, _, change in changes:
        if name == key:
            for item, value in change.items():
                state[item] = state[item] + value[1] if type(value) is tuple else value
    return state


def _rstore(path: Path, key: str | None, durability: str) -> Callable[[Any], Callable[[], bool]]:
    store = import_module("rstore").Store(path, key=key, frozen=False, durability=durability).open()

    def load(changes: Any) -> Callable[[], bool]:
        store.apply_many(changes)

        def check() -> bool:
            same: bool = store.current("sequence-0") == _state(changes, "sequence-0")
            store.close()
            return same

        return check

    return load


def _bare(path: Path, key: str | None, durability: str) -> Callable[[Any], Callable[[], bool]]:
    """Insert changes that nothing reads or checks, in one transaction."""
    del key
    connection = import_module("apsw").Connection(str(path))
    for option, value in (("journal_mode", "wal"), ("synchronous", durability), ("wal_autocheckpoint", 4000)):
        connection.pragma(option, value)
    connection.execute("CREATE TABLE changes (key TEXT, n INTEGER, body BLOB, PRIMARY KEY (key, n)) WITHOUT ROWID")

    def load(changes: Any) -> Callable[[], bool]:
        rows = ((name, n, pickle.dumps((t, change), 5)) for n, (name, t, change) in enumerate(changes))
        with connection:
            connection.executemany("INSERT INTO changes VALUES (?, ?, ?)", rows)

        def check() -> bool:
            (count,) = connection.execute("SELECT count(*) FROM changes").fetchone()
            connection.close()
            return bool(count == len(changes))

        return check

    return load


@cache
def _aggregate() -> Any:
    """Return the class of the aggregates, which eventsourcing refuses to have made twice."""
    domain: Any = import_module("eventsourcing.domain")
    aggregate: Any = domain.Aggregate

    class Sequence(aggregate):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items: dict[str, Any] = {}

        @domain.event("Changed")  # type: ignore[untyped-decorator]
        def change(self, item: str, op: str, value: Any) -> None:
            self.items[item] = self.items[item] + value if op == "add" else value

    return Sequence


def _eventsourcing(path: Path, key: str | None, durability: str) -> Callable[[Any], Callable[[], bool]]:
    """Save an aggregate with all of its events at once."""
    del key
    kind, application = _aggregate(), import_module("eventsourcing.application")
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA synchronous = {durability}")  # it leaves this as it is, which is FULL
        return connection

    sqlite3.connect = connected
    environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    app = application.Application(env=environment)

    def load(changes: Any) -> Callable[[], bool]:
        sequences: dict[str, Any] = {}
        for name, _, change in changes:
            if name not in sequences:
                sequences[name] = kind()
            for item, value in change.items():
                op, operand = ("add", value[1]) if type(value) is tuple else ("setitem", value)
                sequences[name].change(item, op, operand)
        for sequence in sequences.values():
            app.save(sequence)

        def check() -> bool:
            found = app.repository.get(sequences["sequence-0"].id)
            app.close()
            sqlite3.connect = connect
            return bool(found.items == _state(changes, "sequence-0"))

        return check

    return load


if __name__ == "__main__":
    serve(measure)
