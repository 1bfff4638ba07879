"""`has` and `len` on a Redis server, and the memory that a key takes there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, each, p50, serve
from keys import BATCH
from pair_stores import make_value
from redis_server import start


def measure(directory: Path, *, n: int, calls: int, executable: str, key: str | None) -> Iterator[Figures]:
    """Fill a store with `n` keys, then ask for some that are there and some that are not, in random order."""
    port, random = start(directory, executable), Random(1)
    client: Any = import_module("redis").Redis(port=port)
    before = client.info("memory")["used_memory"]
    with import_module("rstore").Store(f"redis://127.0.0.1:{port}", key=key, frozen=False) as store:
        for begin in range(0, n, BATCH):
            store.update({f"key:{i}": make_value(random, i) for i in range(begin, min(n, begin + BATCH))})
        size = (client.info("memory")["used_memory"] - before) / n
        while True:
            there = [f"key:{random.randrange(n)}" for _ in range(calls)]
            missing = [f"key:{random.randrange(n)}!" for _ in range(calls)]
            if not all(map(store.has, there)) or any(map(store.has, missing)) or len(store) != n:
                raise SystemExit("has or len returned something else")
            yield {
                "there": p50(each(store.has, there)),
                "missing": p50(each(store.has, missing)),
                "len": p50(each(lambda _: len(store), range(calls))),
                "bytes": size,
            }


if __name__ == "__main__":
    serve(measure)
