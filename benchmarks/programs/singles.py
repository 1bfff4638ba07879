"""One point a call: what a logger does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, each, make_store, p50, serve


def measure(
    directory: Path, *, calls: int, key: str | None, first_release: bool, options: dict[str, Any]
) -> Iterator[Figures]:
    """Extend a series by one point at a time, `calls` times in each repetition; the series goes on growing."""
    random = Random(1)
    with make_store(directory / "singles.db", key, options, first_release=first_release) as store:
        t = 1_700_000_000_000
        while True:
            points = [(t + 1000 * i, round(random.gauss(20, 1), 2)) for i in range(calls)]
            t += 1000 * calls
            taken = each(lambda point: store.extend("series", point), points)
            yield {"extend": sum(taken) / calls, "extend_p50": p50(taken)}


if __name__ == "__main__":
    serve(measure)
