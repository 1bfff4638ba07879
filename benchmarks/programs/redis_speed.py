"""The speed test of rlib-store 0.1 on a Redis server, and an event sequence of some hundred changes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from time import sleep
from typing import Any

from child import Figures, each, p50, seconds, serve
from redis_server import start


def measure(
    directory: Path, *, n: int, changes: int, calls: int, executable: str, first_release: bool, key: str | None
) -> Iterator[Figures]:
    """Write, read and remove `n` points `(int, str)`; apply changes, and ask for the current state."""
    port = start(directory, executable)
    kind: Any = import_module("rstore").Store
    if first_release == hasattr(kind, "extend_many"):
        raise SystemExit("this process has the wrong one of the two releases")
    points = [(t, "abcdefg") for t in range(n)]
    with kind(f"redis://127.0.0.1:{port}", namespace="benchmark", key=key, frozen=False) as store:
        store.set("key", "value")
        while True:

            def read() -> None:
                if len(store.range("series", freq=10)) != (n + 9) // 10:
                    raise SystemExit("range(freq=10) returned something else")

            figures = {
                "extend": seconds(lambda: store.extend("series", *points)),
                "range": seconds(read),
                "remove": seconds(lambda: store.remove("series")),
            }
            figures["total"] = sum(figures.values())
            for i in range(changes - calls):
                store.apply("sequence", {f"item-{i % 20}": i})
                if first_release:
                    sleep(0.001)  # it refuses two changes in one millisecond
            # One of them a millisecond at most, without the waiting: the first release refuses more.
            figures["apply"] = p50(each(lambda i: store.apply("sequence", {f"item-{i % 20}": -i}), range(calls)))
            figures["current"] = p50(each(lambda _: store.current("sequence"), range(calls)))
            if len(store.current("sequence")) != min(20, changes):
                raise SystemExit("the current state is another one")
            store.prune("sequence")
            for i in range(20):
                store.apply("sequence", {f"item-{i}": 0})
                if first_release:
                    sleep(0.001)
            yield figures


if __name__ == "__main__":
    serve(measure)
