"""`revert` and `undo`: changes are taken back by further ones."""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    FrozenStoreError,
    HorizonError,
    InvalidArgumentError,
    InvalidValueError,
    Store,
)
from rstore.testing.flavours import pickled
from rstore.testing.oracle import same_state
from rstore.testing.suite import Opener, Suite

NEW: tuple[tuple[int, dict[str, Any]], ...] = (
    (10, {"a": 1, "b": "x"}),
    (20, {"a": (operator.add, 1), "c": [1]}),
    (30, {"b": (operator.delitem, None), "d": 1.5}),
    (40, {"a": 7, "d": (operator.mul, 2)}),
)


def fill(store: Store, key: str = "k") -> None:
    """Apply some changes."""
    for t, state in NEW:
        store.apply(key, state, t)


class ChangingSuite(Suite):
    """`revert`, `undo`, and the hints of other verbs."""

    def test_revert_to_each_time(self, store: Store, opener: Opener) -> None:
        fill(store)
        with opener() as other:
            for t in (40, 30, 20, 10, 9, 20, 9):
                then = store.past("k", t) or {}
                before = store.events("k") or []
                assert same_state(store.revert("k", t), then)
                assert same_state(other.current("k"), then)
                assert (store.events("k") or [])[: len(before)] == before
                assert (len(store.events("k") or []) > len(before)) is (
                    t != 45 and before[-1].timestamp >= 0 and t != 40
                )

    def test_revert_sets_and_deletes_what_differs(self, store: Store) -> None:
        fill(store)
        store.revert("k", 10)
        changes = {item: (op, value) for _, item, op, value in (store.events("k") or [])[8:]}
        assert changes == {
            "a": (operator.setitem, 1),
            "b": (operator.setitem, "x"),
            "c": (operator.delitem, None),
            "d": (operator.delitem, None),
        }

    def test_revert_of_some_items(self, store: Store) -> None:
        fill(store)
        assert store.revert("k", 10, ["b", "d", "unknown"]) == {"a": 7, "b": "x", "c": [1]}
        assert store.revert("k", 20, iter(["a"])) == {"a": 2, "b": "x", "c": [1]}
        assert store.revert("k", 20, []) == {"a": 2, "b": "x", "c": [1]}

    def test_revert_of_what_is_unknown(self, store: Store) -> None:
        assert store.revert("unknown", 5) is None
        assert store.eventsources() == []
        store.apply("k", {"a": 1}, 10)
        assert store.revert("k", 5) == {}
        assert store.current("k") == {}

    def test_revert_before_the_horizon(self, store: Store) -> None:
        fill(store)
        store.prune("k")
        for t in (-(2**63), 39):
            with pytest.raises(HorizonError):
                store.revert("k", t)
        assert store.revert("k", 40) == store.current("k")

    def test_bad_input_of_revert_and_undo(self, store: Store, opener: Opener) -> None:
        fill(store)
        unfit: Any
        for unfit in (None, 1.5, True, "10", 2**63):
            with pytest.raises(InvalidArgumentError):
                store.revert("k", unfit)
            with pytest.raises(InvalidArgumentError):
                store.undo("k", unfit)
        for unfit in ("a", 1, [1], [""], ["a\0"], [None]):
            with pytest.raises(InvalidArgumentError):
                store.revert("k", 10, unfit)
        for n in (0, -1, 5, 2**40):
            with pytest.raises(InvalidValueError):
                store.undo("k", n)
        with pytest.raises(InvalidValueError):
            store.undo("unknown", 1)
        for key in ("", 1, None):
            unfit = key
            with pytest.raises(InvalidArgumentError):
                store.undo(unfit, 1)
            with pytest.raises(InvalidArgumentError):
                store.revert(unfit, 1)
        with opener(frozen=True) as frozen:
            with pytest.raises(FrozenStoreError):
                frozen.undo("k", 1)
            with pytest.raises(FrozenStoreError):
                frozen.revert("k", 1)
        assert len(store.events("k") or []) == 8

    def test_del_of_a_sequence_says_what_to_call(self, store: Store) -> None:
        fill(store)
        assert store.delete("k") == 0
        store.remove("k")
        with pytest.raises(KeyError) as missing:
            del store["k"]
        assert "forget('k')" in "".join(missing.value.__notes__)
        assert missing.value.args == ("k",)
        with pytest.raises(KeyError) as missing:
            del store["unknown"]
        assert not hasattr(missing.value, "__notes__")
        assert len(store.events("k") or []) == 8

    # -- undo ---------------------------------------------------------------------------------------------------------

    def test_undo_all_from_the_last_one_back_and_redo(self, store: Store) -> None:
        fill(store)
        states = [{}, *(store.past("k", t) for t, _ in NEW)]
        for n in (4, 3, 2, 1):
            assert same_state(store.undo("k", n), states[n - 1])
        for i, n in enumerate((8, 7, 6, 5)):
            assert same_state(store.undo("k", n), states[i + 1])
        assert same_state(store.current("k"), states[4])
        assert same_state(store.undo("k", 4), states[3])

    def test_undo_is_refused_where_a_later_change_builds_upon_it(self, store: Store) -> None:
        fill(store)
        before = store.events("k")
        later: tuple[tuple[int, tuple[Any, ...]], ...] = (
            (1, (2, 20, "a", operator.add)),
            (2, (4, 40, "a", operator.setitem)),
            (3, (4, 40, "d", operator.mul)),
        )
        for n, told in later:
            with pytest.raises(ChangeRefusedError) as refused:
                store.undo("k", n)
            error = refused.value
            assert (error.n, error.t, error.item, error.op) == told
            assert f"commit {n} of" in str(error)
            assert f"in commit {told[0]} at t={told[1]}" in str(error)
        assert store.events("k") == before

    def test_undo_in_any_order_where_the_changes_commute(self, store: Store) -> None:
        store.apply("k", {"a": 10})
        store.apply("k", {"a": (operator.add, 5)})
        store.apply("k", {"a": (operator.sub, 2)})
        assert store.undo("k", 2) == {"a": 8}
        with pytest.raises(ChangeRefusedError):
            store.undo("k", 1)
        assert store.undo("k", 3) == {"a": 10}
        assert store.undo("k", 1) == {}
        assert store.revert("k", 2**40) == {}

    def test_undo_notes(self, store: Store) -> None:
        fill(store)
        with store.noting(by="ada"):
            store.undo("k", 4)
            store.revert("k", 10)
            store.apply_many([("k", 2**50, {"a": 1}), ("k", 2**50, {"a": 2}, {"why": "test"})])
        last = [change.note for change in store.history("k")]
        assert last[:8] == [None] * 8
        assert all(note == {"by": "ada"} for note in last[8:-1])
        assert last[-1] == {"by": "ada", "why": "test"}

    def test_undo_of_a_value_that_was_set_again(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 1)
        store.apply("k", {"a": 1}, 2)
        with pytest.raises(ChangeRefusedError):
            store.undo("k", 1)
        assert store.undo("k", 2) == {"a": 1}
        assert len(store.events("k") or []) == 2

    def test_later_is_by_time_not_by_commit(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 10)
        store.apply("k", {"a": 2}, 30)
        store.apply("k", {"a": 3, "b": 1}, 20)
        with pytest.raises(ChangeRefusedError) as refused:
            store.undo("k", 3)
        assert (refused.value.n, refused.value.t) == (2, 30)
        assert store.undo("k", 2) == {"a": 3, "b": 1}
        assert store.undo("k", 3) == {"a": 1}

    @pickled
    @pytest.mark.parametrize(
        ("value", "op", "operand"),
        [
            (10, operator.add, 5),
            (10, operator.sub, 5),
            (10, operator.mul, 5),
            (True, operator.add, 1),
            (Fraction(1, 3), operator.add, Fraction(1, 7)),
            (Fraction(1, 3), operator.mul, Fraction(2, 7)),
            (Decimal("10.50"), operator.add, Decimal("0.25")),
            (0.1, operator.add, 0.2),
            (datetime(2020, 1, 1), operator.add, timedelta(1)),  # noqa: DTZ001 - as users have them
            ("x", operator.add, "y"),
            ([1], operator.concat, [2]),
            (7, operator.pow, 2),
            (7, operator.mod, 2),
            (7, operator.truediv, 2),
            (7, operator.neg, None),
            (False, operator.not_, None),
            ([], operator.not_, None),
        ],
    )
    def test_undo_gives_back_the_value_to_the_type(
        self, store: Store, value: Any, op: Callable[..., Any], operand: Any
    ) -> None:
        store.apply("k", {"a": value})
        store.apply("k", {"a": (op, operand)})
        assert same_state(store.undo("k", 2), {"a": value})

    @pickled
    def test_arithmetic_is_taken_back_behind_other_arithmetic(self, store: Store) -> None:
        cases: list[tuple[Any, Any, Any, Any]] = [
            (10, (operator.add, 5), (operator.sub, 2), 8),
            (10, (operator.sub, 5), (operator.add, 2), 12),
            (10, (operator.mul, 3), (operator.mul, 5), 50),
            (Decimal("10.00"), (operator.add, Decimal("0.5")), (operator.add, Decimal(1)), Decimal("11.00")),
            (True, (operator.add, 1), (operator.add, 1), 2),
            (Fraction(1, 2), (operator.mul, 3), (operator.truediv, 5), Fraction(1, 10)),
            (3, (operator.neg, None), (operator.mul, 5), 15),
        ]
        for i, (value, first, second, expected) in enumerate(cases):
            store.apply(f"k{i}", {"a": value}, 1)
            store.apply(f"k{i}", {"a": first}, 2)
            store.apply(f"k{i}", {"a": second}, 3)
            assert store.undo(f"k{i}", 2) == {"a": expected}
            assert len(store.events(f"k{i}") or []) == 4

    @pickled
    def test_arithmetic_that_does_not_commute(self, store: Store) -> None:
        cases: list[tuple[Any, Any, Any, Any]] = [
            (10, (operator.add, 5), (operator.mul, 2), operator.mul),
            (10, (operator.mul, 2), (operator.add, 1), operator.add),
            (0.1, (operator.add, 0.2), (operator.add, 0.3), operator.add),
            (10, (operator.add, 5), 3, operator.setitem),
            (10, (operator.add, 5), (operator.delitem, None), operator.delitem),
            ("a", (operator.add, "b"), (operator.add, "c"), operator.add),
            (10, (operator.mul, 0), (operator.mul, 2), operator.mul),
        ]
        for i, (value, first, second, told) in enumerate(cases):
            store.apply(f"k{i}", {"a": value}, 1)
            store.apply(f"k{i}", {"a": first, "b": 1}, 2)
            store.apply(f"k{i}", {"a": second}, 3)
            with pytest.raises(ChangeRefusedError) as refused:
                store.undo(f"k{i}", 2)
            assert (refused.value.n, refused.value.t, refused.value.item, refused.value.op) == (3, 3, "a", told)

    def test_a_later_change_of_the_past_is_kept(self, store: Store) -> None:
        store.apply("k", {"a": 10}, 10)
        store.apply("k", {"a": (operator.add, 5)}, 20)
        assert store.undo("k", 2) == {"a": 10}
        assert store.apply("k", {"a": (operator.add, 100)}, 15) == {"a": 110}

    def test_undo_of_what_was_pruned(self, store: Store) -> None:
        fill(store)
        store.prune("k")
        for n in (1, 2, 3, 4):
            with pytest.raises(HorizonError):
                store.undo("k", n)
        store.apply("k", {"a": 8}, 50)
        assert (store.undo("k", 5) or {})["a"] == 7

    def test_undo_at_the_horizon_of_what_came_behind_the_prune(self, store: Store) -> None:
        for value in (1, 2):
            store.apply("k", {"a": value}, 10**15 + value)
        store.prune("k")
        for value in (3, 4):
            assert store.apply("k", {"a": value}) == {"a": value}
        assert [store.undo("k", n) for n in (4, 3)] == [{"a": 3}, {"a": 2}]
        with pytest.raises(HorizonError):
            store.undo("k", 2)

    def test_undo_in_a_long_history(self, store: Store) -> None:
        store.apply("k", {"x": 0, "y": 0}, 0)
        store.apply_many([("k", 1 + t, {"x": (operator.add, 1)}) for t in range(3000)])
        store.apply_many([("k", 5000 + t, {"z": t}) for t in range(500)])
        store.apply("k", {"y": 5, "new": 1}, 2**40)
        assert store.undo("k", 1000) == {"x": 2999, "y": 5, "z": 499, "new": 1}
        assert store.undo("k", 3502) == {"x": 2999, "y": 0, "z": 499}
        with pytest.raises(ChangeRefusedError):
            store.undo("k", 3500)

    @pytest.mark.usefixtures("_transactional")
    def test_taking_back_in_a_transaction(self, store: Store) -> None:
        fill(store)
        with store.transaction() as tx:
            assert (tx.undo("k", 4) or {})["a"] == 2
            assert tx.revert("k", 10) == {"a": 1, "b": "x"}
            assert tx.current("k") == {"a": 1, "b": "x"}
        assert store.current("k") == {"a": 1, "b": "x"}
        with suppress(LookupError), store.transaction() as tx:
            tx.undo("k", 6)
            raise LookupError
        assert store.current("k") == {"a": 1, "b": "x"}

    @pickled
    def test_concurrent_changes_are_not_lost(self, store: Store, opener: Opener) -> None:
        store.apply("k", {"a": 0, "b": 0}, 0)
        n = 8

        def adds() -> None:
            with opener() as own:
                for _ in range(n):
                    own.apply("k", {"a": (operator.add, 1)})

        def reverts() -> None:
            with opener() as own:
                for _ in range(n):
                    own.apply("k", {"b": 1})
                    own.revert("k", 0, ["b"])

        def loads() -> None:
            with opener() as own:
                for j in range(n):
                    own.apply_many([("k", j + 1, {"a": (operator.add, 1)})])

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(task) for task in (adds, reverts, loads)]:
                future.result()
        assert store.current("k") == {"a": 2 * n, "b": 0}
