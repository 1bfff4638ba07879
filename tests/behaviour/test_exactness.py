"""Every value comes back as it went in: to the type and to the bit, through every place that a value can be in."""

from __future__ import annotations

import collections
import datetime
import enum
import http
import math
import operator
import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from value_suite import ValueSuite

from rstore import Store
from rstore.testing.flavours import pickled, sealed
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle, same, same_state
from rstore.testing.suite import about


def _nan(bits: int) -> float:
    value: float = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    return value


class _Colour(enum.Enum):
    RED = 1


class _Level(enum.IntEnum):
    LOW = 1


class _Pair(NamedTuple):
    x: int
    y: int


class _Text(str):
    __slots__ = ()


class _Whole(int):
    pass


class _Real(float):
    pass


VALUES: tuple[Any, ...] = (
    0, 1, -1, True, False, 0.0, -0.0, 1.0, 1.5, -1e308, 5e-324, math.inf, -math.inf, math.nan,
    _nan(0x7FF8_0000_0000_0001), _nan(0xFFF8_0000_DEAD_BEEF), _nan(0x7FFF_FFFF_FFFF_FFFF),
    2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, -(10**400),
    None, "", "a", "\u00e9", "\U0001f600", "\ud800", "a\0b", "\udfff\ud800", "x" * 5000, "1", "None",
    b"", b"a", b"\0\xff", b"\xc1\x01" + bytes(61), b"\x80\x05N.", b"x" * 5000, bytearray(b"ab"),
    (), (1,), (1, 2), (1, 2, 3), [], [1, [2, [3.0, (True, None)]]], {}, {"a": 1, "b": {"c": [True, 1, 1.0]}},
    {1: "a", (1, 2): "b"},
    {None: -0.0}, {1, 2}, frozenset({"a"}), 1j, complex(-0.0, 0.0), Decimal("1.10"),
    Fraction(1, 3), datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC), datetime.date(1, 1, 1),
    datetime.timedelta(-1, 2, 3),
    _Colour.RED, _Level.LOW, http.HTTPStatus.OK, _Pair(1, 2), _Text("a"), _Whole(1), _Real(1.0), np.float64(1.5),
    np.int64(1), np.bool_(1),
    uuid.UUID(int=5), Ellipsis, int, len, range(3), collections.OrderedDict(a=1), collections.Counter("aab"),
    slice(1, 2),
)  # fmt: skip

_N = 10_000
_FLOATS = (0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324)
COLUMNS: dict[str, Callable[[int], Any]] = {
    "ints": lambda i: i * 37 - 5000,
    "extreme ints": lambda i: (2**63 - 1, -(2**63), 0, -1)[i % 4],
    "ints with one beyond 64 bits": lambda i: 2**63 if i == 9_001 else i,
    "ints with one bool": lambda i: True if i == 9_001 else i % 2,
    "ints with one float": lambda i: 1.0 if i == 9_001 else 1,
    "ints with one subclass": lambda i: _Level.LOW if i == 9_001 else 1,
    "floats": lambda i: i * 0.01,
    "floats of all kinds": lambda i: (*_FLOATS, _nan(0x7FF8_0000_0000_0000 + i))[i % 7],
    "floats with one int": lambda i: 1 if i == 9_001 else 1.0,
    "floats with one subclass": lambda i: np.float64(2.0) if i == 9_001 else 2.0,
    "bools": lambda i: i % 3 == 0,
    "one bool": lambda _: True,
    "bools with one int": lambda i: 1 if i == 9_001 else True,
    "strs": lambda i: f"value {i * 31 % 10_007}",
    "few strs": lambda i: ("sun", "rain", "", "\u00e9", "\U0001f600", "\ud800", "a\0b")[i % 7],
    "strs with a few others": lambda i: "b" if i % 1000 == 7 else "a",
    "strs with one subclass": lambda i: _Text("a") if i == 9_001 else "a",
    "nones": lambda _: None,
    "bytes": lambda i: bytes((i % 256, 0xC1)) * (i % 5),
    "tuples": lambda i: (i, float(i)),
    "dicts": lambda i: {"n": i},
    "everything": lambda i: VALUES[i % len(VALUES)],
}  # fmt: skip


class TestExactness(ValueSuite):
    """Values that only pickle can keep, and typed columns."""

    @pickled
    def test_pairs(self, store: Store, oracle: Oracle) -> None:
        pairs = {f"{i:03}": value for i, value in enumerate(VALUES)}
        store.update(pairs)
        for key, value in pairs.items():
            store[key + " alone"] = value
            assert same(store[key], value)
            assert same(store[key + " alone"], value)
        oracle.values.update(pairs)
        oracle.values.update({key + " alone": value for key, value in pairs.items()})

    @pickled
    def test_points_one_by_one(self, store: Store, oracle: Oracle) -> None:
        oracle.series["k"] = SeriesOracle(enumerate(VALUES))
        for t, value in enumerate(VALUES):
            store.extend("k", (t, value))
            assert same(store.last("k"), (t, value))

    @pickled
    def test_points_at_once(self, store: Store, oracle: Oracle) -> None:
        oracle.series["k"] = SeriesOracle(enumerate(VALUES))
        store.extend("k", *enumerate(VALUES))

    @pytest.mark.slow
    @pickled
    def test_columns(self, store: Store, oracle: Oracle) -> None:
        for name, value in COLUMNS.items():
            points = [(t * 10, value(t)) for t in range(_N)]
            oracle.series[name] = SeriesOracle(points)
            with about(name):
                assert store.extend_many(name, points) == _N
                assert same(store.first(name), points[0])
                assert same(store.last(name), points[-1])
                for start in (0, 1, 8191, 8192, 9_000, _N - 5):
                    assert same(store.range(name, start * 10, n=7), points[start : start + 7])
                    assert same(store.range(name, start * 10 + 1, end=(start + 7) * 10), points[start + 1 : start + 8])
                for start, each in ((0, 100), (1, 4099), (8191, 2)):
                    assert same(store.range(name, start * 10, freq=each * 10 - 3), points[start::each])

    @pytest.mark.slow
    @sealed
    def test_columns_written_in_small_batches_and_in_disorder(self, store: Store, oracle: Oracle) -> None:
        for name in ("ints with one beyond 64 bits", "floats of all kinds", "few strs", "everything"):
            value = COLUMNS[name]
            points = [(t * 7919 % _N, value(t * 7919 % _N)) for t in range(_N)]
            oracle.series[name] = SeriesOracle(points)
            with about(name):
                for i in range(0, _N, 1013):
                    store.extend(name, *points[i : i + 1013])
                assert same(store.range(name, 8_990, end=9_010), oracle.series[name].points(8_990, 9_010))

    @pickled
    def test_items_of_a_sequence(self, store: Store, oracle: Oracle) -> None:
        # A pair (operator, value) would be a change; none of the values here is one.
        state = {f"{i:03}": value for i, value in enumerate(VALUES)}
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply(state, 1)
        assert same_state(store.apply("k", state, 1), state)
        for t, (item, value) in enumerate(state.items(), 2):
            store.apply("k", {item: value}, t)
            oracle.events["k"].apply({item: value}, t)
        assert same_state(store.current("k"), state)
        assert same_state(store.past("k", 1), state)
        assert same([tuple(event) for event in store.events("k") or ()], oracle.events["k"].events())

    @pickled
    def test_what_is_stored_is_a_copy(self, store: Store) -> None:
        value = [1]
        store["k"] = value
        store.extend("k", (1, value))
        store.apply("k", {"a": value}, 1)
        value.append(2)
        for read in (store["k"], store.range("k")[0][1], (store.current("k") or {})["a"]):
            assert read == [1]
            read.append(3)
        assert store["k"] == [1]
        assert store.range("k") == [(1, [1])]
        assert store.current("k") == store.past("k", 1) == {"a": [1]}
        assert store.events("k") == [(1, "a", operator.setitem, [1])]
