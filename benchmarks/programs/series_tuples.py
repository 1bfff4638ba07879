"""A million Python tuples in and out, and the worst that can be done to packed history: random single points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import process_time

from child import Figures, make_store, remove, seconds, serve
from series import make_columns


def measure(
    directory: Path, *, n: int, overwrites: int, key: str | None = None, durability: str = "normal"
) -> Iterator[Figures]:
    """Write and read `n` tuples, then overwrite some of them one by one; each repetition in a new file."""
    random, file, seed = Random(1), directory / "tuples.db", 0
    while True:
        seed += 1
        t, v = make_columns(n, seed)
        points = list(zip(t.tolist(), v.tolist(), strict=True))
        with make_store(file, key, {"durability": durability}) as store:
            figures = {"extend": seconds(lambda: store.extend("s", *points))}  # noqa: B023 - called before the next one
            found: list[tuple[int, float]] = []
            begin = process_time()
            figures["range"] = seconds(lambda: found.extend(store.range("s")))  # noqa: B023 - the same
            figures["range_cpu"] = process_time() - begin
            if found != points:
                raise SystemExit("range returned something else")
            del found
            changed = [(points[random.randrange(n)][0], float(i)) for i in range(overwrites)]

            def overwrite() -> None:
                for point in changed:  # noqa: B023 - the same
                    store.extend("s", point)

            before = _written()
            figures["overwrite"] = seconds(overwrite) / overwrites * 1e6
            figures["written"] = (_written() - before) / overwrites
            if dict(changed).items() - dict(store.range("s")).items():
                raise SystemExit("what was overwritten came back")
        remove(file)
        yield figures


def _written() -> int:
    """Return the bytes that this process has handed to the file system so far; 0 where the system does not count."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        return 0
    return int(dict(line.split(": ") for line in counters.read_text(encoding="ascii").splitlines())["wchar"])


if __name__ == "__main__":
    serve(measure)
