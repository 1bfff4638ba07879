"""One large value in and out: how much memory that takes, in multiples of its size, and how long.

Linux only: memory is the most that `/proc` saw of a process that does nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from child import Figures, seconds, serve


def measure(directory: Path, *, dsn: str, size: int, kind: str, key: str | None = None) -> Iterator[Figures]:
    """Write a value of `size` bytes, of another content in each repetition, and read it back, in a process each.

    `kind` is `bytes` or `array`. A store in memory is written and read by the same process, and is part of what that
    takes.
    """
    dsn = dsn.format(directory=directory)
    while True:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            figures, wrote = pool.apply(_work, (dsn, size, kind, key, True, dsn.startswith("memory:")))
            if "get" not in figures:
                read, wrote_then = pool.apply(_work, (dsn, size, kind, key, False, True))
                figures |= read
                if wrote_then != wrote:
                    raise SystemExit("another value came back")
        yield figures


def _work(dsn: str, size: int, kind: str, key: str | None, write: bool, read: bool) -> tuple[Figures, int]:
    """Return what was measured, and a checksum of the value."""
    found: list[Any] = []
    with import_module("rstore").Store(dsn, key=key, frozen=False, durability="normal") as store:
        store.set("small", {"array": np.arange(9), "size": size})  # loads what is loaded at first use
        store.get("small")
        figures: Figures = {}
        checks: list[int] = []
        before = resident()
        if write:
            value: Any = os.urandom(size)
            if kind == "array":
                value = np.frombuffer(value, np.uint8).copy()  # owns its memory, and can change
            checks.append(crc32(value))
            figures["set"], figures["set_memory"] = _most(lambda: store.set("large", value), before, size)
            del value
        if read:
            figures["get"], figures["get_memory"] = _most(lambda: found.append(store["large"]), before, size)
            checks.append(crc32(found[0]))
    if len(set(checks)) > 1:
        raise SystemExit("another value came back")
    return figures, checks[0]


def _most(call: Callable[[], object], before: int, size: int) -> tuple[float, float]:
    """Return the seconds that a call takes, and the most memory meanwhile, in multiples of `size`."""
    Path("/proc/self/clear_refs").write_text("5")  # the most begins anew
    taken = seconds(call)
    return taken, (resident("VmHWM") - before) / size


def resident(line: str = "VmRSS") -> int:
    """Return how much memory this process has, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) * 1024 for one in lines if one.startswith(line))


if __name__ == "__main__":
    serve(measure)
