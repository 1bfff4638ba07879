"""The memory that a key and a point take on a Redis server, in rstore and in bare Redis."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, serve
from keys import BATCH
from pair_stores import make_value
from redis_server import start


def measure(
    directory: Path, *, library: str, keys: int, points: int, executable: str, key: str | None = None
) -> Iterator[Figures]:
    """Write keys, points a thousand at a time to many series, and as many at once to one; say what each takes."""
    while True:
        port, random = start(directory, executable), Random(1)
        client: Any = import_module("redis").Redis(port=port)
        store: Any = None
        if library == "rstore":
            store = import_module("rstore").Store(f"redis://127.0.0.1:{port}", key=key, frozen=False).open()
        used = [client.info("memory")["used_memory"]]
        for begin in range(0, keys, BATCH):
            pairs = {f"key:{i}": make_value(random, i) for i in range(begin, min(keys, begin + BATCH))}
            if store:
                store.update(pairs)
            else:
                client.mset({name: pickle.dumps(value, 5) for name, value in pairs.items()})
        used.append(client.info("memory")["used_memory"])
        times = list(accumulate((random.randrange(900, 1100) for _ in range(points)), initial=1_700_000_000_000))
        walk = accumulate((random.randrange(-5, 6) for _ in range(points)), initial=2000)
        series = [(t, value / 100) for t, value in zip(times, walk, strict=True)][:points]
        for begin in range(0, points, 1000):
            some, name = series[begin : begin + 1000], f"series:{begin}"
            if store:
                store.extend(name, *some)
            else:
                client.zadd(name, {struct.pack(">Q", t) + pickle.dumps(value, 5): 0 for t, value in some})
        used.append(client.info("memory")["used_memory"])
        if store:
            store.extend_many("series", series)
        used.append(client.info("memory")["used_memory"])
        yield {
            "key": (used[1] - used[0]) / keys,
            "hot": (used[2] - used[1]) / points,
            "sealed": (used[3] - used[2]) / points,
        }
        if store:
            store.close()


if __name__ == "__main__":
    serve(measure)
