"""A million points at once, as the speed test of rlib-store 0.1 does it: extend, range(freq=10), remove."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from child import Figures, make_store, remove, seconds, serve


def measure(
    directory: Path, *, n: int, key: str | None, distinct: bool, first_release: bool, options: dict[str, Any]
) -> Iterator[Figures]:
    """Write, read and remove `n` points `(int, str)`; each step opens the store, and closes it again."""
    random = Random(1)

    def open_store(name: str) -> Any:
        return make_store(directory / name, key, options, first_release=first_release)

    with open_store("warm.db") as store:  # loads what is loaded at first use
        store.set("key", "value")

    file = directory / "points.db"
    points = [(t, "abcdefg") for t in range(n)]
    while True:
        if distinct:
            points = [(t, f"{random.getrandbits(28):07x}") for t in range(n)]

        def extend() -> None:
            with open_store(file.name) as store:
                store.extend("series", *points)  # noqa: B023 - called before the next repetition

        def read() -> None:
            with open_store(file.name) as store:
                if len(store.range("series", freq=10)) != (n + 9) // 10:
                    raise SystemExit("range(freq=10) returned something else")

        def drop() -> None:
            with open_store(file.name) as store:
                store.remove("series")

        begin = process_time()
        figures = {"extend": seconds(extend)}
        figures["bytes"] = sum(one.stat().st_size for one in directory.glob(file.name + "*"))
        figures |= {"range": seconds(read), "remove": seconds(drop)}
        figures["total"] = figures["extend"] + figures["range"] + figures["remove"]
        figures["cpu"] = process_time() - begin
        remove(file)
        yield figures


if __name__ == "__main__":
    serve(measure)
