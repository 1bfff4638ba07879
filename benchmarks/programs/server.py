"""A PostgreSQL server: rstore, its first release, and the least that does the same with bare psycopg."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any
from uuid import uuid4

from child import Figures, each, p50, seconds, serve


def measure(
    directory: Path, *, task: str, library: str, dsn: str, n: int, calls: int = 0, key: str | None = None
) -> Iterator[Figures]:
    """Do one task again and again, in a namespace or a table of one's own."""
    del directory  # all is on the server
    tasks: dict[str, Callable[..., Iterator[Figures]]] = {
        "speed": speed, "pairs": pairs, "many": many, "flat": flat,
    }  # fmt: skip
    return tasks[task](library, dsn, n, calls, key)


def _store(dsn: str, key: str | None, namespace: str) -> Any:
    return import_module("rstore").Store(dsn, namespace=namespace, key=key, frozen=False)


def speed(library: str, dsn: str, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Run the speed test of rlib-store 0.1: extend, range(freq=10), remove; each step opens the store."""
    del library, calls  # the interpreter tells which release it is
    namespace = f"speed{os.getpid()}"
    points = [(t, "abcdefg") for t in range(n)]
    while True:

        def extend() -> None:
            with _store(dsn, key, namespace) as store:
                store.extend("series", *points)

        def read() -> None:
            with _store(dsn, key, namespace) as store:
                if len(store.range("series", freq=10)) != (n + 9) // 10:
                    raise SystemExit("range(freq=10) returned something else")

        def drop() -> None:
            with _store(dsn, key, namespace) as store:
                store.remove("series")

        figures = {"extend": seconds(extend), "range": seconds(read), "remove": seconds(drop)}
        yield figures | {"total": sum(figures.values())}


def make_value(random: Random, i: int) -> dict[str, Any]:
    """Return a dict that takes about 100 bytes as a pickle."""
    return {"id": i, "name": f"user-{i}", "seen": random.getrandbits(40), "score": random.random(), "tags": ["a", "b"]}


def pairs(library: str, dsn: str, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Set and get one at a time, anywhere among `n` keys."""
    verbs = _verbs(library, dsn, key)
    random = Random(1)
    keys = [f"key:{i}" for i in range(n)]
    verbs["update"]({one: make_value(random, 0) for one in keys})
    while True:
        chosen = {one: make_value(random, i) for i, one in enumerate(random.sample(keys, calls))}
        taken = each(lambda pair: verbs["set"](*pair), chosen.items())
        if any(verbs["get"](one) != value for one, value in chosen.items()):
            raise SystemExit(f"{library} returned another value")
        yield {"set": p50(taken), "get": p50(each(verbs["get"], random.sample(keys, calls)))}


def many(library: str, dsn: str, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Set `n` keys at once, and read them all."""
    del calls
    verbs = _verbs(library, dsn, key)
    random = Random(1)
    while True:
        every = {f"key:{i:07}": make_value(random, i) for i in range(n)}
        begin = perf_counter()
        verbs["update"](every)
        updated = perf_counter()
        found = list(verbs["items"]())
        scanned = perf_counter()
        if dict(found) != every:
            raise SystemExit(f"{library} returned other values")
        yield {"update": n / (updated - begin), "scan": n / (scanned - updated)}


def _verbs(library: str, dsn: str, key: str | None) -> dict[str, Callable[..., Any]]:
    return _rstore_verbs(dsn, key) if library == "rstore" else _psycopg_verbs(dsn, library)


def _rstore_verbs(dsn: str, key: str | None) -> dict[str, Callable[..., Any]]:
    store = _store(dsn, key, f"pairs{os.getpid()}").open()
    return {"set": store.set, "get": store.get, "update": store.update, "items": store.items}


def _psycopg_verbs(dsn: str, bulk: str) -> dict[str, Callable[..., Any]]:
    """Return the least that stores pickles in a table; `bulk` is the way in which many are stored at once."""
    psycopg = import_module("psycopg")
    connection = psycopg.connect(dsn, autocommit=True)
    table = f"bare{os.getpid()}"
    connection.execute(f'CREATE TABLE {table} (key text COLLATE "C" PRIMARY KEY, value bytea)')
    put = f"INSERT INTO {table} VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"  # noqa: S608
    find = f"SELECT value FROM {table} WHERE key = %s"  # noqa: S608
    merge = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"

    def set_(key: str, value: Any) -> None:
        connection.execute(put, (key, pickle.dumps(value, 5)), prepare=True)

    def get(key: str) -> Any:
        row = connection.execute(find, (key,), prepare=True, binary=True).fetchone()
        return pickle.loads(row[0])  # noqa: S301 - its own

    def update(values: dict[str, Any]) -> None:
        dumped = [(key, pickle.dumps(value, 5)) for key, value in values.items()]
        with connection.transaction(), connection.cursor() as cursor:
            if bulk == "executemany":
                cursor.executemany(put, dumped)
            elif bulk == "unnest":
                all_keys, all_values = map(list, zip(*dumped, strict=True))
                sql = f"INSERT INTO {table} SELECT * FROM unnest(%b::text[], %b::bytea[]) {merge}"  # noqa: S608
                cursor.execute(sql, (all_keys, all_values))
            else:
                cursor.execute(f"CREATE TEMPORARY TABLE loaded (LIKE {table}) ON COMMIT DROP")
                with cursor.copy("COPY loaded FROM STDIN (FORMAT binary)") as copy:
                    copy.set_types(["text", "bytea"])
                    for row in dumped:
                        copy.write_row(row)
                cursor.execute(f"INSERT INTO {table} SELECT * FROM loaded {merge}")  # noqa: S608

    def items() -> Iterator[tuple[str, Any]]:
        cursor = connection.cursor(binary=True)
        rows = cursor.execute(f"SELECT key, value FROM {table} ORDER BY key").fetchall()  # noqa: S608
        return ((key, pickle.loads(value)) for key, value in rows)  # noqa: S301 - its own

    return {"set": set_, "get": get, "update": update, "items": items}


def flat(library: str, dsn: str, n: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Ask a sequence of `n` changes and a series of 100 times as many points for one state or one point."""
    del library
    store = _store(dsn, key, f"flat{uuid4().hex[:8]}").open()
    random = Random(1)
    store.extend_many("series", ((t, random.random()) for t in range(100 * n)))
    for i in range(n):
        store.apply("sequence", {f"item-{i % 20}": i})
    events = store.events("sequence")
    first, last = events[0].timestamp, events[-1].timestamp
    while True:
        yield {
            "current": p50(each(lambda _: store.current("sequence"), range(calls))),
            "past": p50(each(lambda t: store.past("sequence", t), [random.randint(first, last) for _ in range(calls)])),
            "last": p50(each(lambda _: store.last("series"), range(calls))),
        }


if __name__ == "__main__":
    serve(measure)
