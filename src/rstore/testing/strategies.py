"""The values that the state machine draws: few keys and times, so that rules meet, and values of every kind."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from rstore import Store
from rstore.testing.oracle import Point

KEYS = st.sampled_from(["a", "ab", "b", "\uffff", "\U0001f600"])
SEQUENCES = st.sampled_from(["a", "\U0001f600"])  # fewer, so that each gets a history
ITEMS = st.sampled_from(["x", "y", "z"])
TIMES = st.sampled_from([-(2**63), -7, *range(10), 100, 2**63 - 1])
BOUNDS = st.none() | TIMES
EVENT_TIMES = st.none() | st.sampled_from([-5, *range(12), 10**15])
TEXTS = st.text(st.sampled_from("a\u00e9\U0001f600\0"), max_size=3)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | TEXTS
VALUES = SCALARS | st.binary(max_size=70) | st.lists(SCALARS, max_size=3) | st.tuples(st.integers(), SCALARS)
SMALL = st.integers(-3, 3) | st.sampled_from([0.5, -0.0, 2.0]) | st.booleans()
OPERANDS = SMALL | TEXTS | st.lists(SMALL, max_size=2)
CHANGES = (
    OPERANDS
    | st.tuples(st.sampled_from([operator.add, operator.sub, operator.truediv, operator.concat]), OPERANDS)
    | st.tuples(st.sampled_from([operator.mul, operator.floordiv, operator.mod]), SMALL)
    | st.tuples(st.sampled_from([operator.neg, operator.not_, operator.delitem]), st.none())
)
KINDS: dict[str, Callable[[int], Any]] = {
    "ints": lambda i: i * 7,
    "floats": lambda i: i / 4,
    "strs": lambda i: f"{i % 100}",
    "bools": lambda i: i % 3 == 0,
    "mixed": lambda i: (i, "x", None, i / 4, True)[i % 5],
}
COLUMNS: dict[str, Callable[[int], npt.NDArray[Any]]] = {
    "ints": lambda n: np.arange(n) * 3,
    "small ints": lambda n: (np.arange(n) % 100).astype(np.int8),
    "floats": lambda n: np.arange(n) / 8,
    "bools": lambda n: np.arange(n) % 3 == 0,
}
WRITERS = st.sampled_from(["first", "second", "process"])
READERS = st.sampled_from(["first", "second", "process", "frozen"])


def bulk_points(start: int, n: int, step: int, kind: str) -> list[Point]:
    """Return many points with values of one kind."""
    return [(start + i * step, KINDS[kind](i)) for i in range(n)]


def extend_bulk(store: Store, key: str, *spec: Any) -> int:
    """Extend a series by bulk points; a second process makes them itself, so that they need not be sent."""
    return store.extend_many(key, bulk_points(*spec))
