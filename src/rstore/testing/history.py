"""Long event sequences: many and large changes, changes in the past, and reads at any time."""

from __future__ import annotations

import operator
import random
from typing import Any

import pytest

from rstore import ChangeRefusedError, Store, StoreIntegrityError
from rstore.testing.flavours import pickled, sealed
from rstore.testing.oracle import EventOracle, ExpectedChange, Oracle, change_of, fold_one, same
from rstore.testing.suite import Opener, Suite


def _random_change(chosen: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """Return a change of one to three of the items a to f, whose values are ints."""
    change: dict[str, Any] = {}
    for item in chosen.sample("abcdef", chosen.randrange(1, 4)):
        if item not in state or chosen.random() < 0.3:
            change[item] = chosen.randrange(1000)
        else:
            change[item] = chosen.choice(
                [
                    (operator.add, chosen.randrange(1000)),
                    (operator.sub, chosen.randrange(1000)),
                    (operator.mod, chosen.randrange(1, 1000)),
                    (operator.neg, None),
                    (operator.delitem, None),
                ]
            )
    return change


def _grow(store: Store, log: EventOracle, n: int, *, step: int = 10, seed: int = 1) -> None:
    """Apply `n` changes at 0, step, 2 * step, …; the oracle gets them directly, without a fold of all for each."""
    chosen = random.Random(seed)
    state: dict[str, Any] = {}
    for t in range(0, n * step, step):
        change = change_of(_random_change(chosen, state))
        for item, (op, value) in change.items():
            fold_one(state, item, op, value)
        assert store.apply("k", change, t) == state
        log.changes.append(ExpectedChange(t, 0, change))


class HistorySuite(Suite):
    """Event sequences of many changes."""

    @pickled
    def test_many_changes(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        _grow(store, log, 1200)
        assert store.current("k", withtimestamp=True) == log.current()
        for t in (-1, 0, 5, 1270, 1280, 1285, 1290, 2560, 5000, 6001, 11_989, 11_990, 20_000):
            assert store.past("k", t, withtimestamp=True) == log.past(t)
        assert store.events("k", 3000, 3100) == log.events(3000, 3100)
        assert store.events("k", ops=operator.neg) == log.events(ops=[operator.neg])

    @pickled
    def test_changes_of_the_past_among_many(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        _grow(store, log, 600)
        for t in (5, 1275, 1281, 3005, 5995, 1283, -5, 6005, 1279):
            for state in ({"new": t}, {f"n{t}": t}, {"a": 1, "b": 2}):
                try:
                    log.check(state, t)
                except Exception:  # noqa: BLE001 - any error of Python, and a taken timestamp
                    with pytest.raises(StoreIntegrityError):
                        store.apply("k", state, t)
                else:
                    log.apply(state, t)
                    assert store.apply("k", state, t) == (log.current() or (0, None))[1]
        for t in (-6, -5, 4, 5, 1274, 1275, 1279, 1280, 1281, 1283, 1290, 2570, 3004, 3005, 3010, 5994, 6005):
            assert store.past("k", t, withtimestamp=True) == log.past(t)

    @pickled
    def test_a_refused_change_of_the_past_among_many(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        log.apply({"a": 1, "b": 1}, 0)
        store.apply("k", {"a": 1, "b": 1}, 0)
        for t in range(10, 4000, 10):
            store.apply("k", {"a": (operator.add, 1)}, t)
            log.apply({"a": (operator.add, 1)}, t)
        for broken in ("text", None, (operator.delitem, None)):
            with pytest.raises(ChangeRefusedError):
                store.apply("k", {"b": 5, "a": broken}, 15)
        assert store.past("k", 15) == {"a": 2, "b": 1}
        assert store.current("k") == {"a": 400, "b": 1}
        store.apply("k", {"b": 5, "a": (operator.mul, 100)}, 15)
        log.apply({"b": 5, "a": (operator.mul, 100)}, 15)
        for t in (10, 15, 20, 1280, 1300, 2000, 3990):
            assert store.past("k", t, withtimestamp=True) == log.past(t)

    @sealed
    def test_large_changes(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        chosen = random.Random(5)
        for t in range(1500):
            state: dict[str, Any] = {f"item {t % 20}": chosen.randbytes(chosen.choice((10, 1000, 2000)))}
            store.apply("k", state, t)
            log.changes.append(ExpectedChange(t, 0, change_of(state)))
        state = {f"wide {i}": i for i in range(5000)} | {"large": chosen.randbytes(1_000_000)}
        store.apply("k", state, 1500)
        log.changes.append(ExpectedChange(1500, 0, change_of(state)))
        store.apply("k", {"late": 1}, -5)
        log.changes.insert(0, ExpectedChange(-5, 0, change_of({"late": 1})))
        for t in (-5, 0, 700, 1400, 1499, 1500):
            assert store.past("k", t, withtimestamp=True) == log.past(t)
        assert same([tuple(event) for event in store.events("k", 100, 110) or ()], log.events(100, 110))

    @sealed
    def test_so_many_changes_that_most_are_packed(self, opener: Opener) -> None:
        log = EventOracle()
        with opener() as store:
            _grow(store, log, 6000, step=2)
            assert store.current("k", withtimestamp=True) == log.current()
            times = (-1, 0, 1, 255, 256, 2046, 2048, 2049, 4095, 4096, 6001, 8190, 8192, 11_998, 50_000)
            for t in times:
                assert store.past("k", t, withtimestamp=True) == log.past(t)
            assert store.events("k", 1000, 1100) == log.events(1000, 1100)
            for t in (-7, 1001, 7001):
                store.apply("k", {"late": t}, t)
                log.apply({"late": t}, t)
            with pytest.raises(StoreIntegrityError):
                store.apply("k", {"late": 5}, 2000)
            assert store.events("k") == log.events()
            for t in (*times, -7, 1000, 1001, 1002, 7001):
                assert store.past("k", t, withtimestamp=True) == log.past(t)
            before = store.current("k", withtimestamp=True)
            assert store.prune("k") == log.prune()
            assert store.current("k", withtimestamp=True) == before
        with opener(frozen=True) as store:
            assert store.events("k") == log.events()
            assert store.current("k", withtimestamp=True) == log.current()
