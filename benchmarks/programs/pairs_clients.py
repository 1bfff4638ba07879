"""Several processes that read and write one store at once: how long calls take, what fails, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from random import Random
from time import monotonic, perf_counter_ns
from typing import Any, Final

from child import Figures, p50, p99, serve
from pair_stores import make_value, open_shelf

KEYS: Final = 1000
"""So many keys each process writes; it reads those of all."""


def work(directory: str, arguments: dict[str, Any], clients: int, who: int, duration_s: float, queue: Any) -> None:
    """Set and get in turns for some time; send what was acknowledged, how long calls took, and how many failed."""
    random, last = Random(who), dict[str, dict[str, Any]]()
    taken: dict[str, list[float]] = {"set": [], "get": []}
    failures, i = 0, 0
    shelf = open_shelf(directory=Path(directory), **arguments)
    deadline = monotonic() + duration_s
    while monotonic() < deadline:
        i += 1
        own, other = f"{who}:{random.randrange(KEYS)}", f"{random.randrange(clients)}:{random.randrange(KEYS)}"
        value = make_value(random, i)
        for verb, call in (("set", lambda: shelf.set(own, value)), ("get", lambda: shelf.get(other))):  # noqa: B023 - called here
            begin = perf_counter_ns()
            try:
                call()
            except Exception:  # noqa: BLE001 - whatever a library raises is what is counted
                failures += 1
                last.pop(own if verb == "set" else "", None)  # it may have been written, or not
            else:
                if verb == "set":
                    last[own] = value
            taken[verb].append((perf_counter_ns() - begin) / 1000)
    queue.put((last, taken, failures))


def measure(
    directory: Path, *, library: str, clients: int, duration_s: float, durability: str, key: str | None = None
) -> Iterator[Figures]:
    """Let the clients work; then look whether each still finds what it was told was written."""
    arguments: dict[str, Any] = {"library": library, "durability": durability, "key": key}
    context = get_context("spawn")  # not "fork": LMDB's environments do not come through one
    first = open_shelf(directory=directory, **arguments)
    while True:
        first.set_many({f"{who}:{i}": make_value(Random(i), i) for who in range(clients) for i in range(KEYS)})
        queue = context.Queue()
        children = [
            context.Process(target=work, args=(str(directory), arguments, clients, who, duration_s, queue))
            for who in range(clients)
        ]
        for child in children:
            child.start()
        said = [queue.get() for _ in children]
        for child in children:
            child.join()
        found = {one: value for last, _, _ in said for one, value in last.items()}
        sets, gets = ([one for _, taken, _ in said for one in taken[verb]] for verb in ("set", "get"))
        yield {
            "set_rate": len(sets) / duration_s,
            "get_rate": len(gets) / duration_s,
            "set_p50": p50(sets),
            "set_p99": p99(sets),
            "set_max": max(sets),
            "get_p50": p50(gets),
            "get_p99": p99(gets),
            "get_max": max(gets),
            "failures": sum(failures for _, _, failures in said),
            "lost": sum(first.get(one) != value for one, value in found.items()),
        }


if __name__ == "__main__":
    serve(measure)
