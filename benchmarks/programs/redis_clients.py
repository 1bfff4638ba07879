"""What several client processes get out of a Redis server, or of a cluster, together."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from child import Figures, seconds, serve
from pair_stores import make_value


def work(dsn: str, key: str | None, who: int, calls: int, barrier: Any, results: Any) -> None:
    """Set some keys, then get them, each phase begun together with the others; send how long each took."""
    random = Random(who)
    with import_module("rstore").Store(dsn, key=key, frozen=False) as store:
        pairs = {f"key:{who}:{i}": make_value(random, i) for i in range(calls)}

        def set_all() -> None:
            for name, value in pairs.items():
                store.set(name, value)

        def get_all() -> None:
            if any(store.get(name) != value for name, value in pairs.items()):
                raise SystemExit("another value came back")

        for phase in (set_all, get_all):
            barrier.wait()
            results.put((phase.__name__, seconds(phase)))


def measure(directory: Path, *, dsn: str, clients: int, calls: int, key: str | None = None) -> Iterator[Figures]:
    """Return how many calls a second all clients together do."""
    del directory
    import_module("rstore")  # once for all clients
    context = get_context("fork")  # not "spawn": what the clients import would take longer than what they do
    while True:
        barrier, results = context.Barrier(clients), context.Queue()
        children = [
            context.Process(target=work, args=(dsn, key, who, calls, barrier, results)) for who in range(clients)
        ]
        for child in children:
            child.start()
        taken = [results.get() for _ in range(2 * clients)]
        for child in children:
            child.join()
        yield {
            verb: clients * calls / max(taken_s for name, taken_s in taken if name == f"{verb}_all")
            for verb in ("set", "get")
        }


if __name__ == "__main__":
    serve(measure)
