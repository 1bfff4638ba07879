"""`apply_many`: what `apply` makes of changes one by one, in bulk."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import zip_longest
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    FrozenStoreError,
    HorizonError,
    InvalidArgumentError,
    SerializationError,
    Store,
    StoreIntegrityError,
)
from rstore.testing.flavours import pickled
from rstore.testing.integrity import check_oracle
from rstore.testing.oracle import EventOracle, Oracle, same, same_state
from rstore.testing.suite import Opener, Suite

Change = tuple[str, int, dict[str, Any]]

_ITEMS = tuple(f"item-{i}" for i in range(7))


def make_changes(n: int, seed: int = 0, *, key: str = "k", start: int = 0, step: int = 2) -> list[Change]:
    """Return changes of all kinds, of which some have the same time; all can be replayed."""
    chance = random.Random(f"{seed}")
    kinds: dict[str, str] = {}
    changes: list[Change] = []
    for i in range(n):
        state: dict[str, Any] = {}
        for item in chance.sample(_ITEMS, 1 if chance.random() < 0.8 else 3):
            kind = kinds.get(item)
            if kind is None or chance.random() < 0.3:
                kinds[item], state[item] = chance.choice(
                    [("int", i * 7), ("float", i / 4), ("str", f"{i % 50}"), ("list", [i]), ("bool", i % 2 == 0)]
                )
            elif chance.random() < 0.05:
                del kinds[item]
                state[item] = operator.delitem, None
            elif kind in ("int", "float", "bool"):
                kinds[item] = "float" if kind == "float" else "int"
                op = chance.choice([operator.add, operator.sub, operator.mul])
                state[item] = op, chance.randrange(-2, 3)
            else:
                state[item] = operator.add, "x" if kind == "str" else [None]
        changes.append((key, start + i // 2 * step, state))
    return changes


def expect(oracle: Oracle, changes: list[Change]) -> None:
    """Load changes into an oracle."""
    keys = dict.fromkeys(key for key, _, _ in changes)
    for key in keys:
        log = oracle.events.setdefault(key, EventOracle())
        log.load((t, state) for other, t, state in changes if other == key)


class LoadingSuite(Suite):
    """`apply_many`."""

    @pytest.mark.parametrize("n", [1, 40, 1023, 1024, 3000])
    def test_it_is_what_apply_would_have_made(self, store: Store, opener: Opener, oracle: Oracle, n: int) -> None:
        changes = make_changes(n, n)
        assert store.apply_many(changes) == n
        expect(oracle, changes)
        check_oracle(store, oracle)
        assert store.verify("k")
        log = oracle.events["k"]
        with opener(frozen=True) as other:
            for t in range(0, n, 1 + n // 30):
                assert same_state(other.past("k", t), (log.past(t) or (0, None))[1])
        assert store.apply("k", {"more": 1}, n * 2) == {**(log.current() or (0, {}))[1], "more": 1}
        log.apply({"more": 1}, n * 2)

    def test_several_sequences_in_turns(self, store: Store, oracle: Oracle) -> None:
        each = [make_changes(50 + 300 * i, i, key=f"k{i}") for i in range(6)]
        turns = [change for turn in zip_longest(*each) for change in turn if change is not None]
        assert store.apply_many(iter(turns)) == len(turns)
        expect(oracle, turns)

    def test_many_short_sequences(self, store: Store, oracle: Oracle) -> None:
        store.apply("k3", {"a": 5}, 0)
        oracle.events["k3"] = EventOracle()
        oracle.events["k3"].apply({"a": 5}, 0)
        changes = [(f"k{i % 97}", 1 + i, {"a": i, f"b{i % 7}": f"{i}"}) for i in range(6000)]
        assert store.apply_many(changes) == len(changes)
        expect(oracle, changes)
        again: list[Change] = [(f"k{i}", 10**5, {"a": (operator.add, 1)}) for i in range(97)]
        with pytest.raises(ChangeRefusedError):
            store.apply_many([*again, ("k0", 10**5, {"nothing": (operator.add, 1)})])
        check_oracle(store, oracle)
        assert store.apply_many(again) == 97
        expect(oracle, again)

    @pytest.mark.parametrize("n", [30, 1500])
    def test_more_behind_what_is_there(self, store: Store, oracle: Oracle, n: int) -> None:
        changes = [("k", t, {"a": (operator.add, 1) if t else 0, "b": f"{t}"}) for t in range(2 * n)]
        for part in changes[:1], changes[1:20], changes[20:n], changes[n:]:
            assert store.apply_many(part) == len(part)
        expect(oracle, changes)
        assert store.past("k", n) == {"a": n, "b": f"{n}"}

    @pytest.mark.parametrize("n", [10, 2000])
    def test_changes_of_the_past_are_folded_with_later_ones(self, store: Store, oracle: Oracle, n: int) -> None:
        changes: list[Change] = [("k", 10 * t, {"a": (operator.add, 1) if t else 0, "b": t}) for t in range(400)]
        assert store.apply_many(changes) == 400
        expect(oracle, changes)
        late: list[Change] = [("k", 11 + (7 * t) // (n // 10 + 1) * 10, {"a": (operator.add, 1000)}) for t in range(n)]
        late += [("k", 10**6, {"c": 1}), ("k", 15, {"c": 0})]
        assert store.apply_many(late) == n + 2
        expect(oracle, late)
        check_oracle(store, oracle)
        assert store.verify("k")
        log = oracle.events["k"]
        for t in (*range(60), *range(60, 5000, 211), 10**6):
            assert same_state(store.past("k", t), (log.past(t) or (0, None))[1])

    def test_in_any_order_of_time(self, store: Store, oracle: Oracle) -> None:
        changes = [("k", t, {"a": (operator.add, t) if t else 0, "b": t}) for t in range(1100)]
        shuffled = random.Random(1).sample(changes, len(changes))
        assert store.apply_many(shuffled) == len(changes)
        expect(oracle, changes)

    @pickled
    def test_one_that_cannot_be_replayed_refuses_all_of_its_sequence(self, store: Store, oracle: Oracle) -> None:
        store.apply("old", {"a": 1, "s": "x"}, 100)
        store.apply("old", {"a": (operator.add, 1)}, 200)
        expect(oracle, [("old", 100, {"a": 1, "s": "x"}), ("old", 200, {"a": (operator.add, 1)})])
        good = make_changes(2000)
        for bad, told in (
            (("k", 5000, {"a": (operator.sub, 1)}), ("k", 5000, "a", operator.sub)),
            (("k", 5000, {"x": 1, "nothing": (operator.delitem, None)}), ("k", 5000, "nothing", operator.delitem)),
            (("old", 150, {"a": "text"}), ("old", 150, "a", operator.setitem)),
            (("old", 50, {"s": (operator.add, "y")}), ("old", 50, "s", operator.add)),
            (("old", 300, {"s": (operator.add, 1)}), ("old", 300, "s", operator.add)),
        ):
            several = [*good, bad] if bad[0] == "k" else [("old", 60, {"b": 1}), bad, ("old", 400, {"b": 2})]
            with pytest.raises(ChangeRefusedError) as refused:
                store.apply_many(several)
            error = refused.value
            assert (error.key, error.t, error.item, error.op) == told
            check_oracle(store, oracle)

    def test_a_time_that_is_taken(self, store: Store, oracle: Oracle) -> None:
        changes: list[Change] = [("k", 10, {"a": 1}), ("k", 20, {"a": 2})]
        store.apply_many(changes)
        expect(oracle, changes)
        for t in (10, 20):
            with pytest.raises(StoreIntegrityError):
                store.apply_many([("k", 5, {"b": 1}), ("k", t, {"b": 1}), ("k", 30, {"b": 1})])

    def test_loading_before_the_horizon(self, store: Store) -> None:
        store.apply_many([("k", t, {"a": t}) for t in range(10)])
        store.prune("k")
        with pytest.raises(HorizonError):
            store.apply_many([("k", 9, {"b": 1})])
        with pytest.raises(HorizonError):
            store.apply_many([("k", 3, {"b": 1}), ("k", 30, {"b": 1})])
        assert store.apply_many([("k", 10, {"a": (operator.add, 1)})]) == 1
        assert store.current("k") == {"a": 10}

    @pickled
    def test_bad_changes_to_load_are_refused_before_anything_is_written(self, store: Store) -> None:
        good = ("k", 1, {"a": 1})
        no_changes: list[Any] = [None, 1, "k", b"k", {"k": 1}]
        for bad in no_changes:
            with pytest.raises(InvalidArgumentError):
                store.apply_many(bad)
        bad_ones: list[Any] = [
            *(None, 1, "abc", ("k", 1), ("k", 1, {}, None, None), {"k": 1}),
            *((1, 1, {"a": 1}), ("", 1, {"a": 1}), ("k\0", 1, {"a": 1}), ([], 1, {"a": 1}), (None, 1, {"a": 1})),
            *(("k", None, {"a": 1}), ("k", 1.0, {"a": 1}), ("k", True, {"a": 1}), ("k", 2**63, {"a": 1})),
            *(("k", 1, None), ("k", 1, [("a", 1)]), ("k", 1, {1: 1}), ("k", 1, {"": 1}), ("k", 1, {"a\ud800": 1})),
            *(("k", 1, {"a": (max, 1)}), ("k", 1, {"a": ("add", 1)}), ("k", 1, {"a": (operator.neg, 1)})),
        ]
        for bad in bad_ones:
            with pytest.raises(InvalidArgumentError, match=r"change number 2 of those given"):
                store.apply_many([good, bad])
        for unknown in (("k", 1, {"a": lambda: 1}), ("k", 1, {"a": 1}, lambda: 1)):
            with pytest.raises(SerializationError, match=r"change number 2 of those given"):
                store.apply_many([good, unknown])
        assert store.eventsources() == []

    def test_an_iterable_that_fails_leaves_nothing(self, store: Store) -> None:
        def fails() -> Iterator[Change]:
            yield "k", 1, {"a": 1}
            raise LookupError

        with pytest.raises(LookupError):
            store.apply_many(fails())
        assert store.eventsources() == []

    def test_nothing_and_empty_changes(self, store: Store) -> None:
        assert store.apply_many([]) == 0
        assert store.apply_many([("k", 1, {}), ("k", 2, {})]) == 0
        assert store.eventsources() == []
        assert store.apply_many([("k", 1, {}), ("k", 2, {"a": 1}), ["k", 3, {"a": 2}]]) == 2  # type: ignore[list-item]
        assert store.current("k", withtimestamp=True) == (3, {"a": 2})

    def test_a_frozen_store_refuses_to_load(self, store: Store, opener: Opener) -> None:
        with opener(frozen=True) as frozen, pytest.raises(FrozenStoreError):
            frozen.apply_many([])
        assert store.eventsources() == []

    def test_values_may_be_changed_by_their_source(self, store: Store) -> None:
        def reuses() -> Iterator[Change]:
            value: list[int] = []
            state: dict[str, Any] = {"a": value}
            for i in range(3):
                value.append(i)
                yield "k", i, state

        store.apply_many(reuses())
        assert [store.past("k", i) for i in range(3)] == [{"a": [0]}, {"a": [0, 1]}, {"a": [0, 1, 2]}]

    @pickled
    def test_numbers_of_all_sizes(self, store: Store, oracle: Oracle) -> None:
        numbers: list[Any] = [0, 1, -1, 2**62, 2**63, -(2**63), 2**64, 10**30, 0.1, -0.0, 1e308, True, Decimal("0.1")]
        changes: list[Change] = []
        functions: list[Callable[..., Any]] = [operator.add, operator.sub, operator.mul]
        for op in functions:
            for one in numbers:
                for other in numbers:
                    t = len(changes)
                    if {type(one), type(other)} != {Decimal, float}:
                        changes += [("k", t, {"a": one}), ("k", t, {"a": (op, other)})]
        assert store.apply_many(changes) == len(changes)
        log = oracle.events["k"] = EventOracle()
        log.load((t, state) for _, t, state in changes)
        assert same(store.past("k", 40), (log.past(40) or (0, None))[1])

    @pytest.mark.usefixtures("_transactional")
    def test_changes_loaded_in_a_transaction(self, store: Store, oracle: Oracle) -> None:
        changes = make_changes(1500)
        with store.transaction() as tx:
            assert tx.apply_many(changes[:700]) == 700
            assert tx.apply_many([("k", 5000, {"a": 0}), ("k", 5001, {"a": (operator.add, 1)})]) == 2
            assert tx.current("k", withtimestamp=True)[0] == 5001  # type: ignore[index]
        expect(oracle, [*changes[:700], ("k", 5000, {"a": 0}), ("k", 5001, {"a": (operator.add, 1)})])
        with suppress(LookupError), store.transaction() as tx:
            tx.apply_many([("k", 6000, {"a": 1}), ("other", 1, {"a": 1})])
            raise LookupError

    def test_a_history_goes_into_another_sequence_as_it_was(self, store: Store) -> None:
        for i in range(50):
            store.apply("k", {"a": i} if i == 0 else {"a": (operator.add, 1)})
        events = store.events("k") or []
        assert store.apply_many(("copy", t, {item: (op, value)}) for t, item, op, value in events) == 50
        assert store.events("copy") == events
        assert store.current("copy", withtimestamp=True) == store.current("k", withtimestamp=True)
