"""Values to bytes and back by one serializer, as a store does it: arguments are its name and the value's."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Final

import numpy as np
from child import Figures, serve

from rstore import DataPickle
from rstore.codec.formats import make_serializer
from rstore.codec.serializers import Codec


@dataclass
class Point:
    """An object of a class that a program allows."""

    x: float
    y: float


VALUES: Final[dict[str, Callable[[], Any]]] = {
    "dict, 2 fields": lambda: {"name": "Ada Lovelace", "born": 1815},
    "dict, 10 fields": lambda: {f"field {i}": f"some text {i}" if i % 2 else i * 1.5 for i in range(10)},
    "list of 20 dicts": lambda: [{"name": f"user {i}", "mail": f"user{i}@example.org", "id": i} for i in range(20)],
    "100 floats": lambda: [i / 3 for i in range(100)],
    "dict with a datetime": lambda: {"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "value": 1.5},
    "a dataclass": lambda: Point(1.5, 2.5),
    "an array of 100": lambda: np.arange(100.0),
}


def measure(_: Path, *, serializer: str, value: str, calls: int) -> Iterator[Figures]:
    """Yield the CPU time of one dump and one load, in microseconds."""
    chosen = DataPickle(allow=[Point]) if serializer == "data" else make_serializer(serializer)
    codec, given = Codec(chosen), VALUES[value]()
    encoded = codec.encode(given)
    while True:
        yield {
            "dump": _cpu_us(lambda: codec.encode(given), calls),
            "load": _cpu_us(lambda: codec.decode(encoded), calls),
        }


def _cpu_us(work: Callable[[], object], calls: int) -> float:
    begun = process_time()
    for _ in range(calls):
        work()
    return (process_time() - begun) / calls * 1e6


if __name__ == "__main__":
    serve(measure)
