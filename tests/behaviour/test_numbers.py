"""Numbers that are not Python's own: NumPy's scalars, members of enums and subclasses, wherever a number is taken.

They are taken as exactly what they are, or refused by the name of their type; nothing is stored that cannot be read.
"""

from __future__ import annotations

import datetime as dt
import enum
import operator as o
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from value_suite import ValueSuite

from rstore import ChangeRefusedError, InvalidTypeError, InvalidValueError, Store
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Op, Oracle, SeriesOracle, same
from rstore.testing.suite import Opener, about


class Level(enum.IntEnum):
    """An enum of ints, with arithmetic of its own."""

    LOW = 1
    MINUTE = 60

    def __add__(self, other: object) -> int:
        return pytest.fail("the operator of a class was called")

    __int__ = __mul__ = __ge__ = __add__  # type: ignore[assignment]


class Mark(enum.StrEnum):
    """An enum of strings."""

    A = "a"


class Exact(Decimal):
    """A class of numbers with arithmetic of its own."""

    def __radd__(self, other: object) -> Decimal:
        return pytest.fail("the operator of a class was called")


TRUE = np.bool_(True)

# A value, an operator and an operand, and their result: computed with as Python's own, kept as they are where set.
COMPUTED: tuple[tuple[Any, Op, Any, Any], ...] = (
    (np.float64(1.5), o.add, 1, 2.5), (1, o.add, np.int64(2), 3), (Level.LOW, o.add, 1, 2), (1, o.sub, Level.LOW, 0),
    (np.int8(100), o.mul, np.int8(100), 10_000), (np.uint8(1), o.sub, 2, -1), (np.float32(0.5), o.truediv, 2, 0.25),
    (np.float16(0.5), o.neg, None, -0.5), (TRUE, o.not_, None, False), (np.int64(0), o.not_, None, True),
    (np.int64(2), o.pow, np.int64(100), 2**100), (np.str_("a"), o.add, Mark.A, "aa"), (Mark.A, o.mul, 3, "aaa"),
    ([1], o.mul, np.int64(2), [1, 1]), (np.complex64(1j), o.mul, 1j, -1 + 0j), (Level.LOW, o.not_, None, False),
    (Decimal(1), o.add, np.int64(1), Decimal(2)), (np.bytes_(b"a"), o.concat, b"b", b"ab"),
)  # fmt: skip
REFUSED: tuple[tuple[Any, Any, str], ...] = (
    (1, np.longdouble(1), "longdouble"), (1, np.arange(2), "ndarray"), (Decimal(1), Exact(1), "Exact"),
    (np.datetime64(0, "ns"), dt.timedelta(1), "datetime64"), (np.timedelta64(1, "ns"), 1, "timedelta64"),
)  # fmt: skip


def events(store: Store, key: str) -> list[tuple[Any, ...]]:
    """Return the events of a sequence as plain tuples."""
    return [tuple(event) for event in store.events(key) or ()]


class TestNumbers(ValueSuite):
    """Numbers of other libraries."""

    @pickled
    def test_foreign_numbers_are_computed_with(self, opener: Opener) -> None:
        with opener() as store:
            for i, (value, op, operand, result) in enumerate(COMPUTED):
                with about(COMPUTED[i]):
                    assert same(store.apply(f"{i}", {"a": value}, 1), {"a": value})
                    assert same(store.apply(f"{i}", {"a": (op, operand)}, 2), {"a": result})
        with opener(frozen=True) as store:
            for i, (value, op, operand, result) in enumerate(COMPUTED):
                with about(COMPUTED[i]):
                    assert same(store.current(f"{i}"), {"a": result})
                    assert same(store.past(f"{i}", 1), {"a": value})
                    assert same(events(store, f"{i}"), [(1, "a", o.setitem, value), (2, "a", op, operand)])

    @plain
    def test_others_are_refused_by_their_type(self, store: Store) -> None:
        for value, operand, name in REFUSED:
            store.apply(name, {"a": value}, 1)
            with pytest.raises(ChangeRefusedError, match=f"nothing was recorded: add does not take a {name}"):
                store.apply(name, {"a": (o.add, operand)}, 2)
            assert len(store.events(name) or ()) == 1

    @plain
    def test_counters(self, store: Store, oracle: Oracle) -> None:
        totals = {np.int64(2): 2, np.float64(0.5): 0.5, np.uint8(200): 200, np.float32(0.25): 0.25, Level.LOW: 1}
        for i, (delta, total) in enumerate(totals.items()):
            assert same(store.incr(f"{i}", delta), total)  # type: ignore[arg-type]
            assert same(store.incr(f"{i}", delta, default=np.int64(5)), 2 * total)  # type: ignore[arg-type]
            assert same(store.get(f"{i}"), 2 * total)
            assert same(store.incr(f"new {i}", 1, default=delta), total + 1)  # type: ignore[arg-type]
            store.set("stored", delta)
            assert same(store.incr("stored"), total + 1)
            oracle.values.update({f"{i}": 2 * total, f"new {i}": total + 1, "stored": total + 1})
        numbers: tuple[Any, ...] = (TRUE, np.longdouble(1), Exact(1), Fraction(1), np.arange(1), "1")
        for number in numbers:
            with pytest.raises(InvalidTypeError, match="delta is no int or float"):
                store.incr("stored", number)

    @plain
    def test_seconds(self, store: Store, oracle: Oracle) -> None:
        seconds: tuple[Any, ...] = (np.int64(60), np.int8(60), np.float32(60), Fraction(60), Level.MINUTE)
        for ttl in seconds:
            before = time.time()
            store.set("k", 1, ttl=ttl)
            entry = store.entry("k")
            assert entry is not None
            assert entry.expires is not None
            assert 0 < entry.expires / 1000 - before < 120  # a server's clock may be another one
        none: tuple[Any, ...] = (TRUE, np.array([60]), Decimal(60), "60", dt.timedelta(minutes=1))
        for ttl in none:
            with pytest.raises(InvalidTypeError, match="ttl is a number of seconds, not"):
                store.set("k", 2, ttl=ttl)
        large: tuple[Any, ...] = (Fraction(10**400), 10**400, np.float64("inf"), np.float64("nan"), np.int64(-1))
        for ttl in large:
            with pytest.raises(InvalidValueError, match="ttl is a number of seconds above zero"):
                store.set("k", 2, ttl=ttl)
        oracle.values["k"] = 1

    @plain
    def test_timestamps_and_counts(self, store: Store) -> None:
        ask: Any = store
        kinds: tuple[Any, ...] = (np.int64, np.int8, np.uint64, np.array, lambda _: Level.LOW)
        for i, kind in enumerate(kinds):
            one, key = kind(1), f"{i}"
            ask.extend(key, (one, "a"), (2, "b"))
            assert same(ask.range(key, one, n=one, end=one), [(1, "a")])
            assert same(ask.at(key, one), (1, "a"))
            assert ask.tail(key, one) == [(2, "b")]
            assert ask.missing(key, one, 3, freq=one) == [3]
            assert ask.gaps(key, freq=one) == []
            ask.apply(key, {"a": 1}, one)
            assert same(events(store, key), [(1, "a", o.setitem, 1)])
            assert len(ask.events(key, one, one)) == 1
            assert ask.past(key, one) == {"a": 1}
            ask.set(key, one)
            assert [entry.key for entry in ask.scan(limit=one)] == ["0"]
        no: tuple[Any, ...] = (TRUE, np.float64(1), np.array([1]), np.datetime64(1, "s"), Exact(1), Mark.A)
        for t in no:
            verbs: tuple[Callable[[Any], Any], ...] = (
                lambda t: ask.extend("k", (t, 1)), lambda t: ask.range("0", t), lambda t: ask.tail("0", t),
                lambda t: ask.apply("0", {"a": 2}, t), lambda t: ask.scan(limit=t), lambda t: ask.missing("0", 1, t, 1),
            )  # fmt: skip
            for verb in verbs:
                with pytest.raises(InvalidTypeError, match="is an int, not"):
                    verb(t)

    @pickled
    def test_values(self, store: Store, oracle: Oracle) -> None:
        values = [
            np.float64(1.5),
            np.int8(1),
            TRUE,
            Level.LOW,
            Mark.A,
            Exact("1.10"),
            np.datetime64(1, "ns"),
            np.str_("x"),
        ]
        for i, value in enumerate(values):
            store.set(f"{i}", value)
            assert same(store.modify(f"m{i}", lambda x: x, default=value), value)
            store.extend("k", (i, value))
            oracle.values.update({f"{i}": value, f"m{i}": value})
        assert same(store.range("k"), [*enumerate(values)])
        oracle.series["k"] = SeriesOracle(enumerate(values))
