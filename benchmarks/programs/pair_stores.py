"""Stores of pairs, each with the four verbs that are measured, as the benchmarks open them.

Nouns: a *shelf* (set, get, set_many and scan of one of the libraries).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

_MAP_BYTES: Final = 16 * 1024**3


class Shelf(NamedTuple):
    """What one library is asked to do."""

    set: Callable[[str, Any], object]
    get: Callable[[str], Any]
    set_many: Callable[[Mapping[str, Any]], object]
    scan: Callable[[], Iterable[tuple[str, Any]]]
    snapshot: Callable[[], AbstractContextManager[Any]] | None = None
    """What gives a view with `get`, of one moment."""


def make_value(random: Random, i: int) -> dict[str, Any]:
    """Return a dict that takes about 100 bytes as a pickle."""
    return {"id": i, "name": f"user-{i}", "seen": random.getrandbits(40), "score": random.random(), "tags": ["a", "b"]}


def open_shelf(library: str, directory: Path, durability: str, key: str | None = None) -> Shelf:
    """Open one; only rstore has a key."""
    return {"rstore": _rstore, "diskcache": _diskcache, "sqlitedict": _sqlitedict, "lmdb": _lmdb, "apsw": _apsw}[
        library
    ](directory, durability, key)


def _rstore(directory: Path, durability: str, key: str | None) -> Shelf:
    path = f"sqlite://{directory}/pairs.db"
    store = import_module("rstore").Store(path, key=key, frozen=False, durability=durability).open()
    return Shelf(store.set, store.get, store.set_many, store.items, store.snapshot)


def _diskcache(directory: Path, durability: str, key: str | None) -> Shelf:
    """Return a cache with its default settings: WAL, `synchronous=NORMAL`, pickles."""
    del key
    if durability != "normal":
        raise SystemExit("diskcache is measured as it is by default")
    cache = import_module("diskcache").Cache(str(directory / "cache"), timeout=60)

    def set_many(pairs: Mapping[str, Any]) -> None:
        with cache.transact():
            for key, value in pairs.items():
                cache.set(key, value)

    return Shelf(cache.set, cache.get, set_many, lambda: ((key, cache[key]) for key in cache))


def _sqlitedict(directory: Path, durability: str, key: str | None) -> Shelf:
    """Return a dict that commits at each write, as far as it does: a thread of its own writes behind the call."""
    del key, durability
    pairs = import_module("sqlitedict").SqliteDict(str(directory / "pairs.sqlite"), autocommit=True)
    return Shelf(pairs.__setitem__, pairs.__getitem__, pairs.update, pairs.items)


def _lmdb(directory: Path, durability: str, key: str | None) -> Shelf:
    """Return an environment with a transaction a call."""
    del key
    sync = durability == "full"
    begin = import_module("lmdb").open(str(directory / "lmdb"), map_size=_MAP_BYTES, sync=sync, metasync=sync).begin

    def set_(key: str, value: Any) -> None:
        with begin(write=True) as transaction:
            transaction.put(key.encode(), pickle.dumps(value, 5))

    def get(key: str) -> Any:
        with begin() as transaction:
            return pickle.loads(transaction.get(key.encode()))  # noqa: S301 - its own

    def set_many(pairs: Mapping[str, Any]) -> None:
        with begin(write=True) as transaction:
            for key, value in pairs.items():
                transaction.put(key.encode(), pickle.dumps(value, 5))

    def scan() -> Iterable[tuple[str, Any]]:
        with begin() as transaction:
            for key, value in transaction.cursor():
                yield key.decode(), pickle.loads(value)  # noqa: S301 - its own

    return Shelf(set_, get, set_many, scan)


def _apsw(directory: Path, durability: str, key: str | None) -> Shelf:
    """Return the least that keeps pickles in a table with apsw: no checks, no namespaces."""
    del key
    connection = import_module("apsw").Connection(str(directory / "bare.db"))
    connection.set_busy_timeout(60_000)
    for sql in (
        "PRAGMA journal_mode = WAL",
        f"PRAGMA synchronous = {durability}",
        "CREATE TABLE IF NOT EXISTS pairs (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",
    ):
        connection.execute(sql).fetchall()
    execute = connection.execute
    put = "INSERT INTO pairs VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"

    def set_(key: str, value: Any) -> None:
        execute(put, (key, pickle.dumps(value, 5)))

    def get(key: str) -> Any:
        return pickle.loads(execute("SELECT value FROM pairs WHERE key = ?", (key,)).get)  # noqa: S301 - its own

    def set_many(pairs: Mapping[str, Any]) -> None:
        with connection:
            connection.executemany(put, ((key, pickle.dumps(value, 5)) for key, value in pairs.items()))

    def scan() -> Iterable[tuple[str, Any]]:
        for key, value in execute("SELECT key, value FROM pairs ORDER BY key"):
            yield key, pickle.loads(value)  # noqa: S301 - its own

    return Shelf(set_, get, set_many, scan)
