"""Whether a key is there, and how many there are, in a small store and in a large one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from child import Figures, each, make_store, p50, serve

BATCH = 50_000


def measure(directory: Path, *, n: int, calls: int) -> Iterator[Figures]:
    """Fill a store with `n` keys, then ask for some that are there and some that are not, in random order."""
    random = Random(1)
    with make_store(directory / "keys.db", None, {"durability": "normal"}) as store:
        for start in range(0, n, BATCH):
            store.update({f"key:{i}": {"id": i, "name": f"user-{i}"} for i in range(start, min(n, start + BATCH))})
        while True:
            there = [f"key:{random.randrange(n)}" for _ in range(calls)]
            missing = [f"key:{random.randrange(n)}!" for _ in range(calls)]
            if not all(map(store.has, there)) or any(map(store.has, missing)) or len(store) != n:
                raise SystemExit("has or len returned something else")
            yield {
                "there": p50(each(store.has, there)),
                "missing": p50(each(store.has, missing)),
                "len": p50(each(lambda _: len(store), range(9))),
            }


if __name__ == "__main__":
    serve(measure)
