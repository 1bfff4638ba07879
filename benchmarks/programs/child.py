"""The frame of a measured program: it runs as a process of its own, one repetition for each line it is sent.

Nouns: a *program* (a generator whose every item is one repetition) and *figures* (what one repetition measured).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, perf_counter_ns
from typing import Any, TypeAlias, TypeVar

Figures: TypeAlias = dict[str, float]
Program: TypeAlias = Callable[..., Iterator[Figures]]
T = TypeVar("T")


def serve(program: Program) -> None:
    """Run a program with the arguments in `sys.argv[1]`, and send the figures of each repetition as a line of JSON."""
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    with TemporaryDirectory(dir=arguments.pop("directory"), prefix="run-") as directory:
        repetitions = program(Path(directory), **arguments)
        for _ in sys.stdin:
            print(json.dumps(next(repetitions)), flush=True)


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    begin = perf_counter()
    call()
    return perf_counter() - begin


def each(call: Callable[[T], object], arguments: Iterable[T]) -> list[float]:
    """Return how long each call takes, in microseconds, without the time it takes to read the clock."""
    clock, taken = perf_counter_ns, []
    reading = median([-(clock() - clock()) for _ in range(101)])
    for argument in arguments:
        begin = clock()
        call(argument)
        taken.append(clock() - begin - reading)
    return [one / 1000 for one in taken]


def p50(taken: list[float]) -> float:
    """Return the median."""
    return median(taken)


def p99(taken: list[float]) -> float:
    """Return what 99 of 100 do not exceed."""
    return quantiles(taken, n=100, method="inclusive")[98]


def make_store(path: Path, key: str | None, options: dict[str, Any], *, first_release: bool = False) -> Any:
    """Return a writable store of whichever `rstore` this process has; both releases share the import name."""
    kind = import_module("rstore").Store
    if first_release == hasattr(kind, "extend_many"):
        raise SystemExit("this process has the wrong one of the two releases")
    return kind(f"sqlite://{path}", namespace="benchmark", key=key, frozen=False, **options)


def remove(path: Path) -> None:
    """Delete a store's files."""
    for one in path.parent.glob(path.name + "*"):
        one.unlink()
