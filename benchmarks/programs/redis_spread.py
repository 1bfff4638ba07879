"""How a namespace spreads over the masters of a Redis Cluster."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from child import Figures, serve
from keys import BATCH


def measure(
    directory: Path, *, dsn: str, ports: list[int], keys: int, series: int, key: str | None = None
) -> Iterator[Figures]:
    """Write keys and series, and count what each master holds of them."""
    del directory
    with import_module("rstore").Store(dsn, key=key, frozen=False) as store:
        store.discard()
        for begin in range(0, keys, BATCH):
            store.update({f"key:{i}": i for i in range(begin, min(keys, begin + BATCH))})
        for i in range(series):
            store.extend(f"series:{i}", (i, i))
        held: Figures = {}
        for master, port in enumerate(ports):
            client: Any = import_module("redis").Redis(port=port)
            for what, kind in (("keys", "v"), ("series", "h")):
                held[f"{what} {master}"] = sum(1 for _ in client.scan_iter(f"rs{{*}}{kind}*", count=10_000))
            client.close()
        if sum(held.values()) != keys + series:
            raise SystemExit("not everything was found")
        while True:
            yield held


if __name__ == "__main__":
    serve(measure)
