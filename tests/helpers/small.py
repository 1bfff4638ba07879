"""Tiny chunks, so that packing, folding and checkpoints happen every few rows, and in the same places each time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import ModuleType
from typing import Any

from rstore.codec import segments
from rstore.events import checkpoints, loading, passage
from rstore.log import packing, writer
from rstore.series import points, writing

_SIZES: dict[str, int] = {
    "MIN_ROWS": 4,
    "MIN_CHANGES": 4,
    "DIRECT_ROWS": 16,
    "HOT_ROWS": 8,
    "HOT_CHANGES": 8,
    "CHECK_EVERY": 2,
    "MERGE_CHUNKS": 2,
    "CHECKPOINT_CHANGES": 3,
}


def shrink(setattr_: Callable[[ModuleType, str, Any], None]) -> None:
    """Set every size that decides when rows become chunks and states checkpoints, in whichever module it is read."""
    for name, size in _SIZES.items():
        where = [
            module
            for module in (checkpoints, loading, packing, passage, points, segments, writer, writing)
            if hasattr(module, name)
        ]
        assert where, name
        for module in where:
            setattr_(module, name, size)
    # The looks at whether a log is due come at random, and would not come again in the same places.
    setattr_(packing, "_random", Random(1))
