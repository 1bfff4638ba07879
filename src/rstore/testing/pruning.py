"""Pruning: superseded events go, all others stay, and states before the horizon are unknown."""

from __future__ import annotations

import operator
import random
from typing import Any

import pytest

from rstore import HorizonError, InvalidArgumentError, Store, StoreIntegrityError
from rstore.testing.flavours import pickled
from rstore.testing.oracle import EventOracle, Oracle, PrunedError, TakenError
from rstore.testing.suite import Opener, Suite

_CHANGES: tuple[tuple[int, dict[str, Any]], ...] = (
    (10, {"a": 1, "b": 1, "c": 1}),
    (20, {"a": (operator.add, 1), "b": 2}),
    (30, {"a": 5, "d": "x"}),
    (40, {"a": (operator.mul, 2), "c": (operator.delitem, None)}),
    (50, {"d": (operator.add, "y")}),
)


def _fill(store: Store, oracle: Oracle, key: str = "k") -> EventOracle:
    log = oracle.events[key] = EventOracle()
    for t, state in _CHANGES:
        store.apply(key, state, t)
        log.apply(state, t)
    return log


class PruningSuite(Suite):
    """`prune` and the horizon."""

    def test_what_a_later_setitem_or_delitem_supersedes_goes(self, store: Store, oracle: Oracle) -> None:
        log = _fill(store, oracle)
        before = [store.past("k", t, withtimestamp=True) for t in range(40, 60)]
        assert store.prune("k") == 4
        assert log.prune() == 4
        assert store.events("k") == log.events()
        assert store.events("k") == [
            (20, "b", operator.setitem, 2),
            (30, "a", operator.setitem, 5),
            (30, "d", operator.setitem, "x"),
            (40, "a", operator.mul, 2),
            (40, "c", operator.delitem, None),
            (50, "d", operator.add, "y"),
        ]
        assert store.current("k", withtimestamp=True) == (50, {"a": 10, "b": 2, "d": "xy"})
        assert [store.past("k", t, withtimestamp=True) for t in range(40, 60)] == before
        for t in (-(2**63), 9, 10, 30, 39):
            with pytest.raises(HorizonError) as refused:
                store.past("k", t)
            assert (refused.value.key, refused.value.horizon) == ("k", 40)

    def test_nothing_obsolete_nothing_changed(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in ((1, {"a": 1}), (2, {"a": (operator.add, 1)}), (3, {"b": 1})):
            store.apply("k", state, t)
            log.apply(state, t)
        assert store.prune("k") == 0
        assert store.past("k", 0) is None
        assert store.past("k", 1) == {"a": 1}
        store.apply("k", {"z": 1}, 0)
        log.apply({"z": 1}, 0)

    def test_pruning_twice(self, store: Store, oracle: Oracle) -> None:
        log = _fill(store, oracle)
        log.prune()
        assert store.prune("k") == 4
        assert store.prune("k") == 0
        with pytest.raises(HorizonError):
            store.past("k", 39)
        store.apply("k", {"a": 0, "b": (operator.add, 1)}, 60)
        log.apply({"a": 0, "b": (operator.add, 1)}, 60)
        assert store.prune("k") == log.prune() == 2
        with pytest.raises(HorizonError):
            store.past("k", 59)
        assert store.past("k", 60) == {"a": 0, "b": 3, "d": "xy"}

    def test_applying_around_the_horizon(self, store: Store, oracle: Oracle) -> None:
        log = _fill(store, oracle)
        store.prune("k")
        log.prune()
        for t in (-(2**63), 5, 25, 39, 40):
            with pytest.raises(HorizonError):
                store.apply("k", {"a": 1}, t)
        for t, state in ((41, {"a": (operator.add, 1)}), (45, {"c": 7}), (55, {"d": (operator.mul, 2)})):
            assert store.apply("k", state, t)
            log.apply(state, t)
        for t in (40, 41, 45, 50, 55):
            assert store.past("k", t, withtimestamp=True) == log.past(t)
        with pytest.raises(StoreIntegrityError):
            store.apply("k", {"c": (operator.delitem, None)}, 42)  # deleted at the horizon, and not set before 45
        assert store.current("k") == {"a": 11, "b": 2, "c": 7, "d": "xyxy"}

    @pickled
    def test_now_may_be_at_the_horizon(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        far = 10**15
        for t in (far - 1, far):
            store.apply("k", {"a": t}, t)
            log.apply({"a": t}, t)
        assert store.prune("k") == log.prune() == 1
        store.apply("k", {"a": (operator.add, 1)})
        log.apply({"a": (operator.add, 1)}, far, last=True)
        assert store.current("k", withtimestamp=True) == (far, {"a": far + 1})
        with pytest.raises(StoreIntegrityError):
            store.apply("k", {"b": (operator.delitem, None)})
        assert store.past("k", far) == {"a": far + 1}
        with pytest.raises(HorizonError):
            store.past("k", far - 1)

    @pickled
    def test_a_sequence_whose_state_is_empty(self, store: Store, oracle: Oracle) -> None:
        for key in ("kept", "removed", "default"):
            store.apply(key, {"a": 1, "b": 2}, 1)
            store.apply(key, {"a": (operator.delitem, None)}, 2)
            store.apply(key, {"b": (operator.delitem, None)}, 3)
        assert store.prune("kept", remove=False) == 2
        store.prune("removed", remove=True)
        store.prune("default")
        assert store.eventsources() == ["kept"]
        assert store.current("kept", withtimestamp=True) == (3, {})
        assert store.past("kept", 3) == {}
        assert store.events("kept") == [(2, "a", operator.delitem, None), (3, "b", operator.delitem, None)]
        assert store.current("removed") is None
        assert store.past("removed", 1) is None
        assert store.apply("removed", {"new": 1}, 1) == {"new": 1}
        store.prune("kept")
        assert store.eventsources() == ["removed"]
        oracle.events["removed"] = EventOracle()
        oracle.events["removed"].apply({"new": 1}, 1)

    def test_several_sequences(self, store: Store, oracle: Oracle) -> None:
        for key in "abc":
            _fill(store, oracle, key)
        assert store.prune("a", "nothing", "c") == 8
        oracle.events["a"].prune()
        oracle.events["c"].prune()
        assert store.past("b", 10) == {"a": 1, "b": 1, "c": 1}

    def test_pruning_nothing_in_particular_is_refused(self, store: Store, oracle: Oracle) -> None:
        _fill(store, oracle)
        for remove in (True, False):
            with pytest.raises(InvalidArgumentError):
                store.prune(remove=remove)

    @pickled
    def test_other_models_are_left_alone(self, store: Store) -> None:
        store.set("k", 1)
        store.extend("k", (1, 1), (1, 2))
        store.apply("k", {"a": 1}, 1)
        store.apply("k", {"a": (operator.delitem, None)}, 2)
        store.prune("k")
        assert store.eventsources() == []
        assert (store["k"], store.range("k")) == (1, [(1, 2)])

    @pickled
    def test_random_histories(self, opener: Opener) -> None:
        for seed in range(12):
            chosen = random.Random(seed)
            log = EventOracle()
            with opener() as store:
                key = f"{seed}"
                for _ in range(80):
                    item = chosen.choice("abc")
                    given: Any = chosen.choice([1, 2, (operator.add, 1), (operator.mul, 2), (operator.delitem, None)])
                    t = chosen.randrange(100)
                    if chosen.random() < 0.05:
                        assert store.prune(key, remove=False) == log.prune()
                        continue
                    try:
                        log.apply({item: given}, t)
                    except (KeyError, TakenError, PrunedError):
                        with pytest.raises(StoreIntegrityError):
                            store.apply(key, {item: given}, t)
                    else:
                        assert store.apply(key, {item: given}, t) == (log.current() or (0, None))[1]
                for t in range(-1, 101):
                    try:
                        expected = log.past(t)
                    except PrunedError:
                        with pytest.raises(HorizonError):
                            store.past(key, t)
                    else:
                        assert store.past(key, t, withtimestamp=True) == expected
                assert store.events(key) == (log.events() or None)
