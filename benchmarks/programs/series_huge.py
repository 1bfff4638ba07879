"""A series of up to a hundred million points: what depends on its length, and what does not."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

from child import Figures, each, make_store, p50, seconds, serve
from series import WINDOW, make_columns

PIECE = 1_000_000


def measure(directory: Path, *, n: int, calls: int, key: str | None = None) -> Iterator[Figures]:
    """Write `n` points once, then read in each repetition."""
    random, file = Random(1), directory / "huge.db"
    with make_store(file, key, {"durability": "normal"}) as store:
        begin = 0
        for seed in range(max(1, n // PIECE)):
            t, v = make_columns(min(n, PIECE), seed)
            store.extend_columns("s", t + begin, v)
            begin += 1000 * len(t)
    since = 1_700_000_000_000
    with make_store(file, key, {"durability": "normal"}) as store:
        while True:
            times = [since + random.randrange(1000 * (n - WINDOW)) for _ in range(calls)]
            every = 1000 * n // 1000
            buckets: list[object] = []
            figures = {
                "last": p50(each(lambda _: store.last("s"), times)),
                "at": p50(each(lambda t: store.at("s", t, "previous"), times)),
                "range": p50(each(lambda t: store.range("s", t, end=t + 1000 * WINDOW), times)),
                "resample": seconds(lambda: buckets.extend(store.resample("s", every, origin=since))),  # noqa: B023
            }
            if not 1000 <= len(buckets) <= 1002:
                raise SystemExit("resample returned something else")
            yield figures | dict(zip(("memory", "batches"), _apart(file, key, n), strict=True))


def _apart(file: Path, key: str | None, n: int) -> tuple[float, float]:
    """Return the memory, in MB, of a process that reads all batches and does nothing else, and the seconds it takes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_read_all, (str(file), key, n))


def _read_all(file: str, key: str | None, n: int) -> tuple[float, float]:
    with make_store(Path(file), key, {"durability": "normal"}) as store:
        found: list[int] = []
        taken = seconds(lambda: found.append(sum(len(t) for t, _ in store.batches("s"))))
    if found != [n]:
        raise SystemExit("batches returned something else")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, taken


if __name__ == "__main__":
    serve(measure)
