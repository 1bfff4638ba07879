"""Millions of keys: get, has and set in a small store and in a large one, and the memory of a scan (on Linux)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from random import Random

from child import Figures, each, make_store, p50, seconds, serve
from large import resident
from pair_stores import make_value

BATCH = 50_000


def measure(directory: Path, *, n: int, calls: int, key: str | None = None) -> Iterator[Figures]:
    """Fill a store with `n` keys once; then get, look for, and set some in each repetition, and scan all."""
    random, file = Random(1), directory / "huge.db"
    options = {"durability": "normal"}
    with make_store(file, key, options) as store:
        for start in range(0, n, BATCH):
            store.set_many({f"key:{i:08}": make_value(random, i) for i in range(start, min(n, start + BATCH))})
    with make_store(file, key, options) as store:
        while True:
            asked = [f"key:{random.randrange(n):08}" for _ in range(calls)]
            pairs = {one: make_value(random, i) for i, one in enumerate(asked)}
            figures = {
                "get": p50(each(store.get, asked)),
                "has": p50(each(store.has, asked)),
                "set": p50(each(lambda pair: store.set(*pair), pairs.items())),
            }
            if any(store.get(one) != value for one, value in pairs.items()):
                raise SystemExit("another value came back")
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures["memory"], figures["scan"] = pool.apply(_scan, (str(file), key, n))
            yield figures


def _scan(file: str, key: str | None, n: int) -> tuple[float, float]:
    """Return the memory, in MB, of a process that scans all and does nothing else, and the seconds it takes."""
    with make_store(Path(file), key, {"durability": "normal"}) as store:
        found: list[int] = []
        taken = seconds(lambda: found.append(sum(1 for _ in store.scan())))
    if found != [n]:
        raise SystemExit("scan returned something else")
    return resident("VmHWM") / 1e6, taken


if __name__ == "__main__":
    serve(measure)
