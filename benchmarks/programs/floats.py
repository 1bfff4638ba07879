"""A long series of numbers: its size on disk, a short range of it, its last point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, each, make_store, p50, seconds, serve

WINDOW = 1000


def make_points(random: Random, n: int) -> list[tuple[int, float]]:
    """Return a reading a second: POSIX milliseconds with some jitter, and a walk of two decimals."""
    points, value = [], 20.0
    for i in range(n):
        value += random.gauss(0, 0.05)
        points.append((1_700_000_000_000 + 1000 * i + round(random.gauss(0, 5)), round(value, 2)))
    return points


def measure(
    directory: Path, *, n: int, calls: int, key: str | None, first_release: bool, options: dict[str, Any]
) -> Iterator[Figures]:
    """Write `n` points once, then read in each repetition."""
    random = Random(1)
    file = directory / "floats.db"
    points = make_points(random, n)
    with make_store(file, key, options, first_release=first_release) as store:
        written = seconds(lambda: store.extend("series", *points))
    size = sum(one.stat().st_size for one in directory.glob(file.name + "*"))
    with make_store(file, key, options, first_release=first_release) as store:
        while True:
            begins = [random.randrange(n - WINDOW) for _ in range(calls)]

            def read(i: int) -> list[tuple[int, float]]:
                window: list[tuple[int, float]] = store.range("series", points[i][0], end=points[i + WINDOW - 1][0])
                return window

            if any(read(i) != points[i : i + WINDOW] for i in begins[:5]) or store.last("series") != points[-1]:
                raise SystemExit("range or last returned something else")
            yield {
                "extend": written,
                "bytes": size / n,
                "range": p50(each(read, begins)),
                "last": p50(each(lambda _: store.last("series"), range(calls))),
            }


if __name__ == "__main__":
    serve(measure)
