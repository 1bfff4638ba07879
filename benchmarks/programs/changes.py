"""Event sequences: a long one is built by `apply`, then asked for its current and its past states."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add
from pathlib import Path
from random import Random
from typing import Any, Final

from child import Figures, each, make_store, p50, p99, serve

ITEMS: Final = 20
NORMAL: Final = {"durability": "normal"}


def make_change(random: Random, i: int) -> dict[str, Any]:
    """Return a change of one item: every second one sets it, the others add to it."""
    return {f"item-{random.randrange(ITEMS)}": (add, random.randrange(100)) if i % 2 else random.randrange(10**6)}


def measure(directory: Path, *, n: int, parts: int, calls: int, key: str | None) -> Iterator[Figures]:
    """Apply `n` changes to a dict of 20 items in `parts` repetitions; in each later one, ask `calls` times."""
    random = Random(1)
    file = directory / "changes.db"
    size = n // parts
    with make_store(file, key, NORMAL) as store:
        store.apply("sequence", {f"item-{i}": i for i in range(ITEMS)})
        for _ in range(parts):
            changes = [make_change(random, i) for i in range(size)]
            taken = each(lambda change: store.apply("sequence", change), changes)
            yield {"apply": sum(taken) / size, "apply_p50": p50(taken)}
    weight = file.stat().st_size / (parts * size)  # closing has moved the write-ahead log into the file

    with make_store(file, key, NORMAL) as reader, make_store(file, key, NORMAL) as writer:
        events = reader.events("sequence")
        expected: dict[str, Any] = {}
        for event in events:
            expected[event.item] = expected[event.item] + event.value if event.op is add else event.value
        if reader.current("sequence") != expected or len(events) != ITEMS + parts * size:
            raise SystemExit("the current state is another one")
        first, last = events[0].timestamp, events[-1].timestamp
        del events  # a large heap would make the garbage collector a part of what is measured
        while True:
            changed: list[float] = []
            for i in range(calls // 5):
                writer.apply("sequence", make_change(random, i))
                changed += each(lambda _: reader.current("sequence"), range(1))
            again = each(lambda _: reader.current("sequence"), range(calls))
            past = each(lambda t: reader.past("sequence", t), [random.randint(first, last) for _ in range(calls)])
            yield {
                "current": p50(changed), "current_p99": p99(changed), "again": p50(again),
                "past": p50(past), "past_p99": p99(past), "past_max": max(past),
                "bytes": weight,
            }  # fmt: skip


if __name__ == "__main__":
    serve(measure)
