"""Key/value pairs one at a time: set and get of small dicts, in rstore, diskcache and bare apsw."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

from child import Figures, each, make_store, p50, seconds, serve

Set: TypeAlias = Callable[[str, Any], object]
Get: TypeAlias = Callable[[str], Any]
NORMAL: Final = {"durability": "normal"}


def open_rstore(directory: Path, key: str | None) -> tuple[Set, Get]:
    """Return set and get of a store."""
    store = make_store(directory / "pairs.db", key, NORMAL).open()
    return store.set, store.get


def open_diskcache(directory: Path) -> tuple[Set, Get]:
    """Return set and get of a cache with its default settings: WAL, `synchronous=NORMAL`, pickles."""
    cache = import_module("diskcache").Cache(str(directory / "cache"))
    return cache.set, cache.get


def open_apsw(directory: Path) -> tuple[Set, Get]:
    """Return the least that stores a pickle in a table with apsw and finds it again: no checks, no namespaces."""
    connection = import_module("apsw").Connection(str(directory / "bare.db"))
    for sql in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        "CREATE TABLE pairs (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",
    ):
        connection.execute(sql).fetchall()
    execute = connection.execute
    put = "INSERT INTO pairs VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"

    def set_(key: str, value: Any) -> None:
        execute(put, (key, pickle.dumps(value, 5)))

    def get(key: str) -> Any:
        return pickle.loads(execute("SELECT value FROM pairs WHERE key = ?", (key,)).fetchone()[0])  # noqa: S301

    return set_, get


def make_value(random: Random, i: int) -> dict[str, Any]:
    """Return a dict that takes about 100 bytes as a pickle."""
    return {"id": i, "name": f"user-{i}", "seen": random.getrandbits(40), "score": random.random(), "tags": ["a", "b"]}


def measure(directory: Path, *, library: str, n: int, calls: int, key: str | None = None) -> Iterator[Figures]:
    """Set `n` keys; then change the values of some and get some, anywhere among them, in each repetition."""
    if library == "rstore":
        set_, get = open_rstore(directory, key)
    else:
        set_, get = (open_diskcache if library == "diskcache" else open_apsw)(directory)
    random = Random(1)
    keys = [f"key:{i}" for i in range(n)]
    for one in keys:
        set_(one, make_value(random, 0))

    while True:
        pairs = {one: make_value(random, i) for i, one in enumerate(random.sample(keys, calls))}
        taken = each(lambda pair: set_(*pair), pairs.items())
        if any(get(one) != value for one, value in pairs.items()):
            raise SystemExit(f"{library} returned another value")
        asked = random.sample(keys, calls)

        def get_all() -> None:
            for one in asked:  # noqa: B023 - called before the next repetition
                get(one)

        yield {
            "set": sum(taken) / calls,
            "set_p50": p50(taken),
            "get": seconds(get_all) * 1e6 / calls,  # without a look at the clock for each: they are short
            "get_p50": p50(each(get, asked)),
        }


if __name__ == "__main__":
    serve(measure)
