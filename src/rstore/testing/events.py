"""Event sequences of a few changes: applying them, reading the past, and refusals."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from rstore import (
    ChangeRefusedError,
    Event,
    Store,
    StoreIntegrityError,
)
from rstore.testing.flavours import pickled
from rstore.testing.oracle import EventOracle, Oracle
from rstore.testing.suite import Suite

MIN, MAX = -(2**63), 2**63 - 1


class Size(NamedTuple):
    """A tuple that is a plain value, although it has two items."""

    width: int
    height: int


class EventSuite(Suite):
    """Event sequences of a few changes."""

    def test_the_documented_example(self, store: Store) -> None:
        assert store.apply("k", {"item": 1}) == {"item": 1}
        assert store.apply("k", {"item": (operator.add, 1)}) == {"item": 2}
        assert store.current("k") == {"item": 2}
        events = store.events("k")
        assert events is not None
        t1, t2 = events[0].timestamp, events[1].timestamp
        assert events == [(t1, "item", operator.setitem, 1), (t2, "item", operator.add, 1)]
        assert t1 <= t2

    def test_an_event_is_a_named_tuple(self, store: Store) -> None:
        store.apply("k", {"item": 1}, 5)
        store.apply("k", {"item": (operator.neg, None)}, 6)
        events = store.events("k")
        assert events is not None
        first, second = events
        assert type(first) is Event
        assert issubclass(Event, tuple)
        assert (first.timestamp, first.item, first.op, first.value) == (5, "item", operator.setitem, 1)
        assert second.op is operator.neg
        assert second == (6, "item", operator.neg, None)
        assert Event._fields == ("timestamp", "item", "op", "value")

    def test_explicit_timestamps_in_any_order(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in (
            (100, {"a": 1, "b": "x"}),
            (200, {"a": (operator.add, 5)}),
            (150, {"a": (operator.mul, 2), "c": None}),
            (50, {"z": [1]}),
            (-(10**15), {"a": 5}),
            (10**15, {"a": (operator.sub, 1)}),
            (175, {"c": (operator.delitem, None), "b": (operator.add, "y")}),
            (MIN, {"z": 0}),
            (MAX, {"end": True}),
            (0, {"zero": 0.5}),
        ):
            log.apply(state, t)
            assert store.apply("k", state, t) == (log.current() or (0, None))[1]
            assert store.current("k", withtimestamp=True) == log.current()
        for t in (MIN, -5, 49, 50, 99, 100, 101, 149, 150, 174, 175, 199, 200, 10**15 - 1, 10**15, MAX):
            assert store.past("k", t, withtimestamp=True) == log.past(t)
            assert store.past("k", t) == (log.past(t) or (0, None))[1]

    def test_unknown_sequences_and_times(self, store: Store) -> None:
        assert store.current("k") is None
        assert store.current("k", withtimestamp=True) is None
        assert store.past("k", 5) is None
        assert store.events("k") is None
        assert store.apply("k", {}) is None
        assert store.apply("k", {}, 5) is None
        assert store.eventsources() == store.eventsequences() == []
        store.apply("k", {"a": 1}, 10)
        assert store.past("k", 9) is None
        assert store.past("k", 9, withtimestamp=True) is None
        assert store.past("k", 10) == {"a": 1}
        assert store.events("k", 11) == []
        assert store.events("k", end=9) == []

    def test_applying_nothing_records_nothing(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"a": 1}, 10)
        assert store.apply("k", {}) == {"a": 1}
        assert store.apply("k", {}, 5) == {"a": 1}
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 10)

    def test_sequences_are_apart_from_each_other_and_from_all_else(self, store: Store, oracle: Oracle) -> None:
        store.set("a", 1)
        store.extend("a", (1, 1))
        for i, key in enumerate(("b", "a", "\U0001f600", "\uffff")):
            store.apply(key, {"i": i}, i)
            oracle.events[key] = EventOracle()
            oracle.events[key].apply({"i": i}, i)
        assert store.eventsources() == store.eventsequences() == ["a", "b", "\uffff", "\U0001f600"]
        store.delete("a")
        store.remove("a")

    def test_a_state_can_become_empty(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 1)
        assert store.apply("k", {"a": (operator.delitem, None)}, 2) == {}
        assert store.current("k") == {}
        assert store.current("k", withtimestamp=True) == (2, {})
        assert store.eventsources() == ["k"]
        assert store.apply("k", {"a": 3}, 3) == {"a": 3}
        assert store.past("k", 2) == {}

    @pickled
    def test_events_by_time_and_operator(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in (
            (10, {"a": 1, "b": 2}),
            (20, {"a": (operator.add, 1), "b": (operator.mul, 2)}),
            (30, {"b": (operator.delitem, None)}),
            (40, {"a": 5, "c": 1}),
        ):
            store.apply("k", state, t)
            log.apply(state, t)
        bounds = (None, MIN, 9, 10, 25, 30, 40, 41, MAX)
        filters: tuple[tuple[Any, ...] | None, ...] = (
            None,
            (operator.setitem,),
            (operator.add, operator.mul),
            (operator.delitem,),
            (operator.pow,),
        )
        for start in bounds:
            for end in bounds:
                for ops in filters:
                    assert store.events("k", start, end, ops) == log.events(start, end, ops)
        assert store.events("k", ops=operator.add) == log.events(ops=[operator.add])
        assert store.events("k", ops=[operator.add]) == log.events(ops=[operator.add])
        assert store.events("k", ops={operator.add, operator.setitem}) == log.events(
            ops=[operator.add, operator.setitem]
        )  # fmt: skip

    def test_now_is_the_clock(self, store: Store) -> None:
        before = int(time.time() * 1000) - 60_000
        store.apply("k", {"a": 1})
        t, state = store.current("k", withtimestamp=True) or (0, None)
        assert state == {"a": 1}
        assert before <= t <= before + 120_000

    def test_now_is_after_everything_even_the_future(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        log.apply({"a": 1}, 10**15)
        store.apply("k", {"a": 1}, 10**15)
        for i in range(5):
            state = {"a": (operator.add, 1), f"{i}": i}
            assert store.apply("k", state)["a"] == i + 2  # type: ignore[index]
            log.apply(state, 10**15, last=True)
            assert store.current("k", withtimestamp=True) == log.current()
        assert store.past("k", 10**15) == store.current("k")
        with pytest.raises(StoreIntegrityError):
            store.apply("k", {"a": 0}, 10**15)

    def test_several_changes_in_one_millisecond_stay_in_order(self, store: Store) -> None:
        for i in range(50):
            store.apply("k", {"a": [i] if i == 0 else (operator.add, [i])})
        assert store.current("k") == {"a": list(range(50))}
        assert [event.value for event in store.events("k") or ()] == [[i] for i in range(50)]

    def test_a_clock_that_steps_back(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        if not self.local_clock:
            pytest.skip("the backend's clock is its own")
        for seconds in (2_000_000_000, 1_900_000_000, 1_900_000_001, 2_000_000_002):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: float(seconds))
            store.apply("k", {f"{seconds}": seconds})
        assert [(event.timestamp, event.value) for event in store.events("k") or ()] == [
            (2_000_000_000_000, 2_000_000_000),
            (2_000_000_000_000, 1_900_000_000),
            (2_000_000_000_000, 1_900_000_001),
            (2_000_000_002_000, 2_000_000_002),
        ]

    def test_a_taken_timestamp_is_refused(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"a": 1}, 10)
        store.apply("k", {"a": 2}, 20)
        for t in (10, 20):
            with pytest.raises(StoreIntegrityError):
                store.apply("k", {"b": 1}, t)
        oracle.events["k"] = log = EventOracle()
        log.apply({"a": 1}, 10)
        log.apply({"a": 2}, 20)

    def test_a_timestamp_that_now_took_is_taken(self, store: Store) -> None:
        store.apply("k", {"a": 1})
        t, _ = store.current("k", withtimestamp=True) or (0, None)
        with pytest.raises(StoreIntegrityError):
            store.apply("k", {"a": 2}, t)
        assert store.current("k") == {"a": 1}

    def test_a_returned_dict_is_the_callers(self, store: Store) -> None:
        returned: list[Callable[[], dict[str, Any] | None]] = [
            lambda: store.apply("k", {"a": [1]}, 1),
            lambda: store.apply("k", {}),
            lambda: store.current("k"),
            lambda: store.past("k", 1),
            lambda: (store.current("k", withtimestamp=True) or (0, {}))[1],
            lambda: (store.past("k", 1, withtimestamp=True) or (0, {}))[1],
        ]
        for read in returned:
            state = read()
            assert state is not None
            assert state == {"a": [1]}
            state["a"].append(2)
            state["b"] = 3
        assert store.current("k") == {"a": [1]}

    @pickled
    def test_tuples_are_values_unless_they_begin_with_an_operator(self, store: Store) -> None:
        state = {
            "pair": (1, 2),
            "empty": (),
            "one": (1,),
            "three": (operator.add, 1, 2),
            "callable alone": (len,),
            "strs": ("plus", 1),
            "size": Size(3, 4),
            "list": [operator.add, 1],
            "named": ("a", operator.add),
        }
        assert store.apply("k", state, 1) == state
        assert store.current("k") == state
        assert type((store.current("k") or {})["size"]) is Size
        assert [event.op for event in store.events("k") or ()] == [operator.setitem] * len(state)

    @pickled
    def test_an_explicit_setitem_takes_any_tuple(self, store: Store) -> None:
        state: dict[str, Any] = {"a": (operator.setitem, (operator.add, 1)), "b": (operator.setitem, (len, 3))}
        assert store.apply("k", state, 1) == {"a": (operator.add, 1), "b": (len, 3)}
        assert store.events("k") == [
            (1, "a", operator.setitem, (operator.add, 1)),
            (1, "b", operator.setitem, (len, 3)),
        ]

    def test_a_retroactive_change_takes_part_from_there_on(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in (
            (10, {"a": 1}),
            (30, {"a": (operator.mul, 10)}),
            (20, {"a": (operator.add, 1)}),
            (5, {"b": 1}),
        ):
            log.apply(state, t)
            assert store.apply("k", state, t) == (log.current() or (0, None))[1]
        assert store.current("k", withtimestamp=True) == (30, {"a": 20, "b": 1})
        assert [store.past("k", t) for t in (4, 5, 10, 20, 30)] == [
            None, {"b": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 20, "b": 1},
        ]  # fmt: skip

    def test_a_retroactive_change_before_a_later_setitem_is_free(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in ((10, {"a": 1}), (30, {"a": "text"}), (40, {"a": (operator.add, "!")}), (20, {"a": [5]})):
            store.apply("k", state, t)
            log.apply(state, t)
        assert store.past("k", 20) == {"a": [5]}
        assert store.current("k") == {"a": "text!"}

    def test_a_refused_item_refuses_the_whole_change(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"a": 1, "b": "x"}, 1)
        with pytest.raises(ChangeRefusedError) as refused:
            store.apply("k", {"new": 1, "a": (operator.add, 1), "b": (operator.add, 1), "z": 5}, 7)
        assert (refused.value.key, refused.value.t, refused.value.item) == ("k", 7, "b")
        assert refused.value.op is operator.add
        assert isinstance(refused.value.__cause__, TypeError)
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1, "b": "x"}, 1)

    def test_an_operator_on_a_missing_item_is_refused(self, store: Store) -> None:
        for op, operand in ((operator.add, 1), (operator.delitem, None), (operator.not_, None), (operator.concat, "x")):
            with pytest.raises(ChangeRefusedError) as refused:
                store.apply("k", {"a": (op, operand)}, 1)
            assert isinstance(refused.value.__cause__, KeyError)
            assert (refused.value.key, refused.value.t, refused.value.item, refused.value.op) == ("k", 1, "a", op)
            assert "'a' is not there; set it first" in str(refused.value)
        assert store.eventsources() == []
        assert store.current("k") is None

    @pytest.mark.parametrize(
        "broken", [(operator.delitem, None), "text", [], None], ids=["delitem", "str", "list", "None"]
    )
    def test_a_retroactive_change_that_breaks_a_later_one_is_refused(
        self, store: Store, oracle: Oracle, broken: Any
    ) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, change in (
            (10, {"a": 2, "b": 1}),
            (30, {"b": (operator.add, 1)}),
            (40, {"a": (operator.floordiv, 3)}),
            (60, {"a": 5}),
        ):
            store.apply("k", change, t)
            log.apply(change, t)
        with pytest.raises(ChangeRefusedError) as refused:
            store.apply("k", {"ok": 1, "a": broken}, 20)
        # The error names the change that was asked for, not the later one that it would break.
        assert (refused.value.key, refused.value.t, refused.value.item) == ("k", 20, "a")
        assert refused.value.op is (operator.delitem if isinstance(broken, tuple) else operator.setitem)
        assert isinstance(refused.value.__cause__, KeyError if isinstance(broken, tuple) else TypeError)

    def test_a_retroactive_divisor_of_zero_is_refused(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, change in ((10, {"a": 2}), (30, {"a": (operator.pow, -1)})):
            store.apply("k", change, t)
            log.apply(change, t)
        with pytest.raises(ChangeRefusedError) as refused:
            store.apply("k", {"a": (operator.mul, 0)}, 20)
        assert isinstance(refused.value.__cause__, ZeroDivisionError)
