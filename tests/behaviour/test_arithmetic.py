"""The operator table: what each operator computes, what it refuses, and that nothing grows absurdly large.

A case is a value, an operator and an operand, and their result or the cause of the refusal.
"""

from __future__ import annotations

import datetime as dt
import decimal
import operator as o
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from value_suite import ValueSuite

from rstore import ChangeRefusedError, Store, StoreError
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import EventOracle, Op, Oracle, same
from rstore.testing.suite import Opener, about, shown

_DAY, _HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
_NOON = dt.datetime(2024, 2, 28, 12, tzinfo=dt.UTC)

COMPUTED: tuple[tuple[Any, Op, Any, Any], ...] = (
    (1, o.setitem, "x", "x"), (1, o.setitem, None, None),
    (1, o.add, 2, 3), (1, o.add, 0.5, 1.5), (2**63 - 1, o.add, 1, 2**63), ("a", o.add, "b", "ab"),
    ([1], o.add, [2], [1, 2]),
    ((1,), o.add, (2, 3), (1, 2, 3)), (b"a", o.add, b"b", b"ab"),
    (Decimal("0.1"), o.add, Decimal("0.2"), Decimal("0.3")),
    (Decimal(1), o.add, 1, Decimal(2)), (Fraction(1, 3), o.add, Fraction(1, 6), Fraction(1, 2)),
    (Fraction(1, 2), o.add, 1, Fraction(3, 2)),
    (_NOON, o.add, _DAY, dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)),
    (dt.date(2024, 2, 28), o.add, _DAY, dt.date(2024, 2, 29)),
    (_DAY, o.add, _HOUR, dt.timedelta(hours=25)), (0.1, o.add, 0.2, 0.1 + 0.2), (-0.0, o.add, -0.0, -0.0),
    (1j, o.add, 1, 1 + 1j),
    (5, o.sub, 7, -2), (0.3, o.sub, 0.1, 0.3 - 0.1), (_NOON, o.sub, _HOUR, dt.datetime(2024, 2, 28, 11, tzinfo=dt.UTC)),
    (_NOON, o.sub, _NOON, dt.timedelta()), (Decimal(1), o.sub, Decimal("0.9"), Decimal("0.1")),
    (3, o.mul, 4, 12), (2**40, o.mul, 2**40, 2**80), ("ab", o.mul, 3, "ababab"), ([0], o.mul, 3, [0, 0, 0]),
    (3, o.mul, "ab", "ababab"),
    ("ab", o.mul, -5, ""), ((1, 2), o.mul, 2, (1, 2, 1, 2)), (b"x", o.mul, 4, b"xxxx"), (_HOUR, o.mul, 24, _DAY),
    (1.5, o.mul, 2, 3.0),
    ("x", o.mul, 1_000_000, "x" * 1_000_000), ("", o.mul, 2**40, ""), ([], o.mul, 2**40, []),
    (7, o.truediv, 2, 3.5), (Decimal(1), o.truediv, Decimal(8), Decimal("0.125")),
    (Fraction(1), o.truediv, 3, Fraction(1, 3)),
    (_DAY, o.truediv, _HOUR, 24.0), (_DAY, o.truediv, 24, _HOUR), (1, o.truediv, -3, -1 / 3),
    (7, o.floordiv, 2, 3), (-7, o.floordiv, 2, -4), (7.5, o.floordiv, 2, 3.0),
    (Decimal(-7), o.floordiv, 2, Decimal(-3)), (_DAY, o.floordiv, _HOUR, 24),
    (7, o.mod, 3, 1), (-7, o.mod, 3, 2), (7.5, o.mod, 2, 1.5),
    (_DAY, o.mod, dt.timedelta(hours=7), dt.timedelta(hours=3)), (Decimal(7), o.mod, 4, Decimal(3)),
    (2, o.pow, 10, 1024), (2, o.pow, -1, 0.5), (2.0, o.pow, 0.5, 2**0.5), (Fraction(2, 3), o.pow, 2, Fraction(4, 9)),
    (Fraction(2, 3), o.pow, -2, Fraction(9, 4)),
    (Decimal(2), o.pow, 3, Decimal(8)), (2, o.pow, 1000, 2**1000), (-3, o.pow, 3, -27), (0, o.pow, 0, 1),
    (1.0, o.pow, 10**9, 1.0),
    ("a", o.concat, "b", "ab"), ([1], o.concat, [[2]], [1, [2]]), ((), o.concat, (1,), (1,)),
    (b"", o.concat, b"x", b"x"),
    (5, o.neg, None, -5), (0.0, o.neg, None, -0.0), (_DAY, o.neg, None, -_DAY),
    (Decimal("1.5"), o.neg, None, Decimal("-1.5")),
    (-(2**63), o.neg, None, 2**63), (Fraction(1, 2), o.neg, None, Fraction(-1, 2)),
    (0, o.not_, None, True), (5, o.not_, None, False), ("", o.not_, None, True), (None, o.not_, None, True),
    ([0], o.not_, None, False),
    ({}, o.not_, None, True), (True, o.not_, None, False), (0.0, o.not_, None, True),
)  # fmt: skip

REFUSED: tuple[tuple[Any, Op, Any, type[Exception]], ...] = (
    (1, o.add, "a", TypeError), ("a", o.add, 1, TypeError), ([1], o.add, (1,), TypeError), (None, o.add, 1, TypeError),
    (1, o.add, None, TypeError),
    ({}, o.add, {}, TypeError), ("a", o.add, b"a", TypeError), (Decimal(1), o.add, 0.5, TypeError),
    (Decimal(1), o.add, Fraction(1), TypeError),
    (_NOON, o.add, 1, TypeError), (dt.date.max, o.add, _DAY, OverflowError), ({1}, o.sub, {1}, TypeError),
    ([1], o.sub, [1], TypeError),
    ("a", o.sub, "a", TypeError), (_NOON, o.sub, dt.datetime(2024, 1, 1), TypeError),  # noqa: DTZ001 - naive, on purpose
    ("a", o.mul, "a", TypeError), ("a", o.mul, 1.5, TypeError), ({}, o.mul, 2, TypeError), ([1], o.mul, [1], TypeError),
    (None, o.mul, 2, TypeError),
    (1, o.truediv, 0, ZeroDivisionError), (1.0, o.truediv, 0.0, ZeroDivisionError), ("a", o.truediv, "a", TypeError),
    (10**400, o.truediv, 3, OverflowError),
    (Decimal(1), o.truediv, 0, ZeroDivisionError), (Decimal(0), o.truediv, 0, ArithmeticError),
    (Fraction(1), o.truediv, 0, ZeroDivisionError),
    (1, o.floordiv, 0, ZeroDivisionError), ([1], o.floordiv, 2, TypeError), (1j, o.floordiv, 1, TypeError),
    (_DAY, o.floordiv, 0, ZeroDivisionError),
    (1, o.mod, 0, ZeroDivisionError), (1.5, o.mod, 0, ZeroDivisionError), ("%s", o.mod, "a", TypeError),
    ("%d", o.mod, 1, TypeError), (b"%d", o.mod, 1, TypeError),
    ("%99999999d", o.mod, 1, TypeError), ([1], o.mod, 2, TypeError),
    (0, o.pow, -1, ZeroDivisionError), (10.0, o.pow, 400, OverflowError), ("a", o.pow, 2, TypeError),
    (Fraction(0), o.pow, -1, ZeroDivisionError),
    (1, o.concat, 2, TypeError), ("a", o.concat, 1, TypeError), ([1], o.concat, (2,), TypeError),
    ({}, o.concat, {}, TypeError),
    ("a", o.neg, None, TypeError), ([1], o.neg, None, TypeError), (None, o.neg, None, TypeError),
    (_NOON, o.neg, None, TypeError),
)  # fmt: skip

ABSURD: tuple[tuple[Any, Op, Any], ...] = (
    (2, o.pow, 10**9), (2, o.pow, 10**30), (-7, o.pow, 10**9), (10**100, o.pow, 10**7), (Fraction(3, 7), o.pow, 10**9),
    (Fraction(3, 7), o.pow, -(10**9)),
    (Fraction(3), o.pow, Fraction(10**9)), (2, o.pow, Fraction(10**9)), (True + 1, o.pow, 2**62),
    ("x", o.mul, 10**9), (b"x", o.mul, 10**9), ([None], o.mul, 10**9), ((1,), o.mul, 10**9), (10**9, o.mul, "x"),
    (10**9, o.mul, [1]), ("x", o.mul, 2**62),
    ("x" * 10_000, o.mul, 100_000), (["x" * 10_000], o.mul, 100_000),
)  # fmt: skip


LABORIOUS: tuple[tuple[Any, Op, Any], ...] = (
    (Decimal("1" * 100_000), o.pow, Decimal("1.5")), (Decimal("1" * 100_000), o.pow, 3),
    (3**10_000, o.pow, Decimal("0.5")),
    (Decimal("1" * 100_000), o.mul, Decimal("7" * 100_000)),
)  # fmt: skip


GROWING: dict[str, tuple[Any, tuple[Op, Any]]] = {
    "int pow": (3, (o.pow, 2)),
    "int mul": (3, (o.mul, 3**20_000)),
    "Fraction pow": (Fraction(3, 7), (o.pow, 2)),
    "Fraction mul": (Fraction(1, 3), (o.mul, Fraction(7, 3**10_000))),
    "Fraction add": (Fraction(1, 3), (o.add, Fraction(1, 7**5000))),
    "str mul": ("x", (o.mul, 10)),
    "list mul": (["x"], (o.mul, 10)),
    "nested list mul": ([[]], (o.mul, 10)),
}


class _Custom:
    def __eq__(self, other: object) -> bool:
        return type(other) is _Custom

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: object) -> int:
        return pytest.fail("the operator of a class was called")

    __radd__ = __mul__ = __neg__ = __add__


class _Zone(dt.tzinfo):
    def utcoffset(self, when: dt.datetime | None, /) -> dt.timedelta:
        del when
        return _HOUR

    def dst(self, when: dt.datetime | None, /) -> dt.timedelta:
        del when
        return dt.timedelta()

    def tzname(self, when: dt.datetime | None, /) -> str:
        del when
        return "a zone of one's own"


class _Int(int):
    def __add__(self, other: object) -> int:
        return pytest.fail("the operator of a class was called")


def _name(case: tuple[Any, ...]) -> str:
    return f"{case[1].__name__} {shown(case[0])} {shown(case[2])}"


class TestArithmetic(ValueSuite):
    """The operators of event sequences."""

    @plain
    def test_computed(self, store: Store, oracle: Oracle) -> None:
        for case in COMPUTED:
            key, (value, op, operand, result) = _name(case), case
            with about(key):
                store.apply(key, {"a": (o.setitem, value), "b": 1}, 1)
                state = store.apply(key, {"a": (op, operand)}, 2) or {}
                assert same(state["a"], result)
                assert same((store.current(key) or {})["a"], result)
                assert same((store.past(key, 1) or {})["a"], value)
                assert (store.events(key) or [])[-1] == (2, "a", op, operand)
            log = oracle.events[key] = EventOracle()
            log.apply({"a": (o.setitem, value), "b": 1}, 1)
            log.apply({"a": (op, operand)}, 2)

    @plain
    def test_refused(self, store: Store, oracle: Oracle) -> None:
        for case in REFUSED:
            key, (value, op, operand, cause) = _name(case), case
            with about(key):
                store.apply(key, {"a": value, "b": 1}, 1)
                with pytest.raises(ChangeRefusedError) as refused:
                    store.apply(key, {"b": 2, "a": (op, operand)}, 2)
                assert isinstance(refused.value.__cause__, cause)
                assert (refused.value.key, refused.value.t, refused.value.item, refused.value.op) == (key, 2, "a", op)
            oracle.events[key] = EventOracle()
            oracle.events[key].apply({"a": value, "b": 1}, 1)

    @pickled
    def test_time_zones_of_ones_own_are_not_computed_with(self, store: Store) -> None:
        store.apply("k", {"at": dt.datetime(2024, 2, 28, tzinfo=_Zone())}, 1)
        for op, operand in ((o.sub, _NOON), (o.sub, _DAY), (o.add, _DAY)):
            with pytest.raises(ChangeRefusedError) as refused:
                store.apply("k", {"at": (op, operand)})
            assert isinstance(refused.value.__cause__, TypeError)
        assert len(store.events("k") or ()) == 1

    @plain
    def test_absurdly_large_results_are_refused(self, store: Store, oracle: Oracle) -> None:
        for case in ABSURD:
            key, (value, op, operand) = _name(case), case
            with about(key):
                store.apply(key, {"a": value}, 1)
                for t in (None, 2):
                    with pytest.raises(ChangeRefusedError) as refused:
                        store.apply(key, {"a": (op, operand)}, t)
                    assert refused.value.__cause__ is not None
            oracle.events[key] = EventOracle()
            oracle.events[key].apply({"a": value}, 1)

    @pytest.mark.parametrize("case", LABORIOUS, ids=lambda case: f"{type(case[0]).__name__} {case[1].__name__}")
    @plain
    @pytest.mark.timeout(20)
    def test_decimals_of_any_length_are_soon_computed(self, opener: Opener, case: tuple[Any, Op, Any]) -> None:
        value, op, operand = case
        with opener() as store:  # without the check at the end, whose plain Decimals take minutes
            store.apply("k", {"a": value}, 1)
            state = store.apply("k", {"a": (op, operand)}, 2)
            assert state == store.past("k", 2)
            assert [event.op for event in store.events("k") or ()] == [o.setitem, op]

    @pytest.mark.parametrize("growth", GROWING.values(), ids=GROWING)
    @plain
    def test_nothing_grows_absurdly_large_in_small_steps(self, opener: Opener, growth: tuple[Any, Any]) -> None:
        value, (op, operand) = growth
        with opener() as store:  # without the check at the end, which would fold it all again
            store.apply("k", {"a": value}, 0)
            for t in range(1, 100):
                try:
                    store.apply("k", {"a": (op, operand)}, t)
                except ChangeRefusedError:
                    break
                if op is o.add:
                    operand = Fraction(1, operand.denominator + 2)  # sums of other denominators get longer and longer
            else:
                pytest.fail("it grew on and on")
            assert len(store.events("k") or ()) == t

    @plain
    def test_decimals_do_not_depend_on_the_context_of_the_day(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        with decimal.localcontext(prec=3, rounding=decimal.ROUND_UP):
            third = store.apply("k", {"a": Decimal(1)}, 1)
            third = store.apply("k", {"a": (o.truediv, 3)}, 2)
            assert third == {"a": Decimal("0." + "3" * 28)}
        with decimal.localcontext(prec=5):
            assert store.current("k") == third
            assert store.past("k", 2) == third
        with decimal.localcontext() as context:
            context.traps[decimal.Inexact] = True
            assert store.apply("k", {"a": (o.mul, 2)}, 3) == {"a": Decimal("0." + "6" * 28)}
        log.apply({"a": Decimal(1)}, 1)
        log.apply({"a": (o.truediv, 3)}, 2)
        log.apply({"a": (o.mul, 2)}, 3)

    @plain
    def test_a_refusal_leaves_the_decimal_context_as_it_was(self, store: Store) -> None:
        before = decimal.getcontext().copy()
        store.apply("k", {"a": Decimal(1)}, 1)
        with pytest.raises(ChangeRefusedError):
            store.apply("k", {"a": (o.truediv, 0)}, 2)
        assert repr(decimal.getcontext()) == repr(before)

    @pytest.mark.parametrize(("value", "op", "operand"), [
        (_Custom(), o.add, 1), (1, o.add, _Custom()), (_Custom(), o.neg, None), (_Int(1), o.add, 1),
        (1, o.add, _Int(1)),
    ], ids=["custom", "custom operand", "custom neg", "subclass", "subclass operand"])  # fmt: skip
    @plain
    def test_only_builtin_types_are_computed_with(self, store: Store, value: Any, op: Op, operand: Any) -> None:
        store.apply("k", {"a": value}, 1)
        with pytest.raises(StoreError):
            store.apply("k", {"a": (op, operand)}, 2)
        assert len(store.events("k") or ()) == 1

    @pickled
    def test_a_chain_of_every_operator(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        changes: list[dict[str, Any]] = [
            {"n": 7, "s": "a", "flag": True}, {"n": (o.add, 3), "s": (o.add, "b")}, {"n": (o.mul, 4), "s": (o.mul, 2)},
            {"n": (o.sub, 1.5)}, {"n": (o.truediv, 7)}, {"n": (o.neg, None), "flag": (o.not_, None)},
            {"n": (o.floordiv, 2)},
            {"n": (o.mod, 5), "s": (o.concat, "!")}, {"n": (o.pow, 3)}, {"s": (o.delitem, None)}, {"s": [1]},
            {"s": (o.add, [2])},
        ]  # fmt: skip
        for t, state in enumerate(changes):
            log.apply(state, t)
            assert store.apply("k", state, t) == (log.current() or (0, None))[1]
        for t in range(len(changes)):
            assert store.past("k", t, withtimestamp=True) == log.past(t)
