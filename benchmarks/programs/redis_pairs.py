"""Key/value pairs on a Redis server: one at a time and a thousand at once, in rstore and in bare redis-py."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from child import Figures, each, p50, seconds, serve
from pair_stores import make_value
from redis_server import start

Set: TypeAlias = Callable[[str, Any], object]
Get: TypeAlias = Callable[[str], Any]


def open_rstore(port: int, key: str | None) -> tuple[Set, Get, Callable[[Mapping[str, Any]], object]]:
    """Return set, get and update of a store."""
    store: Any = import_module("rstore").Store(f"redis://127.0.0.1:{port}", key=key, frozen=False).open()
    return store.set, store.get, store.update


def open_bare(port: int) -> tuple[Set, Get, Callable[[Mapping[str, Any]], object]]:
    """Return the least that stores pickles with redis-py, on one connection."""
    client: Any = import_module("redis").Redis(port=port, protocol=2, single_connection_client=True)

    def set_many(pairs: Mapping[str, Any]) -> None:
        pipeline = client.pipeline(transaction=False)
        for key, value in pairs.items():
            pipeline.set(key, pickle.dumps(value, 5))
        pipeline.execute()

    def set_(key: str, value: Any) -> None:
        client.set(key, pickle.dumps(value, 5))

    def get(key: str) -> Any:
        return pickle.loads(client.get(key))  # noqa: S301 - its own

    return set_, get, set_many


def measure(
    directory: Path, *, library: str, n: int, calls: int, executable: str, key: str | None = None
) -> Iterator[Figures]:
    """Set `n` keys; then change the values of some and get some, anywhere among them, in each repetition."""
    port = start(directory, executable)
    set_, get, set_many = open_rstore(port, key) if library == "rstore" else open_bare(port)
    random = Random(1)
    keys = [f"key:{i}" for i in range(n)]
    set_many({one: make_value(random, 0) for one in keys})
    while True:
        pairs = {one: make_value(random, i) for i, one in enumerate(random.sample(keys, calls))}
        taken = each(lambda pair: set_(*pair), pairs.items())
        if any(get(one) != value for one, value in pairs.items()):
            raise SystemExit(f"{library} returned another value")
        got = each(get, random.sample(keys, calls))
        many = {one: make_value(random, i) for i, one in enumerate(random.sample(keys, min(n, 1000)))}
        yield {
            "set": p50(taken),
            "get": p50(got),
            "set_many": seconds(lambda: set_many(many)) * 1e6 / len(many),  # noqa: B023 - called here
        }


if __name__ == "__main__":
    serve(measure)
