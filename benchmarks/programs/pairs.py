"""Key/value pairs one at a time and all at once: set, get, set_many and scan of small dicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, each, p50, p99, seconds, serve
from pair_stores import make_value, open_shelf


def measure(
    directory: Path, *, library: str, n: int, calls: int, durability: str = "normal", key: str | None = None
) -> Iterator[Figures]:
    """Set `n` keys; then change the values of some and get some, anywhere among them, in each repetition, and all."""
    shelf = open_shelf(library, directory, durability, key)
    random = Random(1)
    keys = [f"key:{i:07}" for i in range(n)]
    shelf.set_many({one: make_value(random, 0) for one in keys})
    while True:
        pairs = {one: make_value(random, i) for i, one in enumerate(random.sample(keys, calls))}
        taken = each(lambda pair: shelf.set(*pair), pairs.items())
        failures = sum(shelf.get(one) != value for one, value in pairs.items())
        asked = random.sample(keys, calls)

        def get_all() -> None:
            for one in asked:  # noqa: B023 - called before the next repetition
                shelf.get(one)

        got = each(shelf.get, asked)
        figures = {
            "set": sum(taken) / calls,
            "set_p50": p50(taken),
            "set_p99": p99(taken),
            "set_max": max(taken),
            "get": seconds(get_all) * 1e6 / calls,  # without a look at the clock for each: they are short
            "get_p50": p50(got),
            "get_p99": p99(got),
            "get_max": max(got),
        }
        if shelf.snapshot is not None:
            with shelf.snapshot() as view:
                figures["snapshot_p50"] = p50(each(view.get, asked))
        every = {one: make_value(random, i) for i, one in enumerate(keys)}
        figures["set_many"] = seconds(lambda: shelf.set_many(every)) * 1e6 / n  # noqa: B023 - the same
        read: list[tuple[str, Any]] = []
        figures["scan"] = seconds(lambda: read.extend(shelf.scan())) * 1e6 / n  # noqa: B023 - the same
        failures += dict(read) != every
        yield figures | {"failures": failures}


if __name__ == "__main__":
    serve(measure)
