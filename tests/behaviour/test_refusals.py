"""Changes that are refused: what cannot be one, and what could not be replayed; the log stays as it was."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from value_suite import ValueSuite

from rstore import (
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    SerializationError,
    Store,
)
from rstore.testing.flavours import plain
from rstore.testing.oracle import EventOracle, Oracle
from rstore.testing.suite import shown


class TestRefusals(ValueSuite):
    """What an event sequence refuses."""

    @pytest.mark.parametrize("ops", ["add", len, [len], operator.iadd, 5, [None]], ids=shown)
    @plain
    def test_a_filter_of_what_is_no_operator_is_refused(self, store: Store, ops: Any) -> None:
        store.apply("k", {"a": 1}, 1)
        with pytest.raises(InvalidArgumentError):
            store.events("k", ops=ops)

    @pytest.mark.parametrize(
        "given",
        [(len, 3), (int, 3), (operator.iadd, 1), (operator.contains, 1), (lambda x: x, 1), (operator.xor, 1)],
        ids=shown,
    )
    @plain
    def test_a_pair_that_begins_with_any_other_callable_is_refused(
        self, store: Store, oracle: Oracle, given: Any
    ) -> None:
        store.apply("k", {"a": 1}, 1)
        for t in (None, 0, 5):
            with pytest.raises(InvalidArgumentError):
                store.apply("k", {"b": 1, "a": given}, t)
        with pytest.raises(InvalidArgumentError):
            store.apply("new", {"a": given})
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)

    @plain
    def test_the_name_of_an_operator_is_no_operator(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"a": 1}, 1)
        for name in (
            "setitem", "delitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "concat", "neg", "not_",
        ):  # fmt: skip
            with pytest.raises(InvalidTypeError, match=rf"^item 'a': .*write \(operator\.{name}, …\)") as refused:
                store.apply("k", {"b": 1, "a": (name, 2097)}, 2)
            assert "2097" not in str(refused.value)
        words: dict[str, Any] = {
            "pair": (operator.setitem, ("add", 20)),
            "list": ["add", 20],
            "three": ("add", 20, 1),
            "other": ("plus", 20),
            "one": ("add",),
        }
        state = store.apply("k", words, 2)
        assert state == {"a": 1, **words, "pair": ("add", 20)}
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)
        oracle.events["k"].apply(words, 2)

    @pytest.mark.parametrize("op", [operator.delitem, operator.neg, operator.not_])
    @plain
    def test_a_unary_operator_takes_no_operand(self, store: Store, oracle: Oracle, op: Any) -> None:
        store.apply("k", {"a": 1}, 1)
        with pytest.raises(InvalidArgumentError):
            store.apply("k", {"a": (op, 5)})
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)

    @pytest.mark.parametrize("item", [None, 42, b"a", "", "a\0b", "\ud800", "a" * 2049, ("a",)], ids=shown)
    @plain
    def test_what_cannot_be_an_item_is_refused(self, store: Store, item: Any) -> None:
        with pytest.raises(InvalidValueError if isinstance(item, str) else InvalidTypeError):
            store.apply("k", {"a": 1, item: 2})
        assert store.eventsources() == []

    @pytest.mark.parametrize("key", [None, 42, b"a", "", "a\0b", "\ud800", "a" * 2049], ids=shown)
    @plain
    def test_what_cannot_be_a_key_of_events_is_refused(self, store: Store, key: Any) -> None:
        for verb in (
            lambda: store.apply(key, {"a": 1}),
            lambda: store.apply(key, {}),
            lambda: store.current(key),
            lambda: store.past(key, 1),
            lambda: store.events(key),
            lambda: store.prune(key),
        ):
            with pytest.raises(InvalidValueError if isinstance(key, str) else InvalidTypeError):
                verb()
        assert store.eventsources() == []

    @pytest.mark.parametrize("t", [True, 1.0, float("nan"), "1", 2**63, -(2**63) - 1], ids=shown)
    @plain
    def test_what_is_no_timestamp_of_events_is_refused(self, store: Store, oracle: Oracle, t: Any) -> None:
        store.apply("k", {"a": 1}, 1)
        for verb in (
            lambda: store.apply("k", {"a": 2}, t),
            lambda: store.past("k", t),
            lambda: store.events("k", t),
            lambda: store.events("k", end=t),
        ):
            with pytest.raises(InvalidValueError if type(t) is int else InvalidTypeError):
                verb()
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)

    @pytest.mark.parametrize("state", [None, 5, "ab", [("a", 1)], {"a"}, [1]], ids=shown)
    @plain
    def test_a_state_is_a_mapping(self, store: Store, state: Any) -> None:
        with pytest.raises(InvalidArgumentError):
            store.apply("k", state)
        assert store.eventsources() == []

    @plain
    def test_a_value_that_cannot_be_dumped_records_nothing(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"a": 1}, 1)
        for t in (None, 0, 5):
            for key in ("k", "new"):
                with pytest.raises(SerializationError):
                    store.apply(key, {"b": 2, "c": lambda: None, "d": 3}, t)
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)
