"""The past of event sequences: histories, states as they were known, states behind one commit."""

from __future__ import annotations

import operator
import random
import time
from itertools import islice
from typing import Any

import pytest

from rstore import (
    ABSENT,
    Change,
    HorizonError,
    InvalidArgumentError,
    InvalidTypeError,
    Store,
    StoreClosedError,
    StoreIntegrityError,
)
from rstore.testing.chronicle import Chronicle
from rstore.testing.flavours import pickled
from rstore.testing.oracle import same
from rstore.testing.suite import Opener, Suite, about

_VALUES: tuple[Any, ...] = (0, 1.5, "x", [1], (1, 2), None, True, b"y", {"a": [1]}, 2**70)
_TIMES = (-7, 0, 3, 40, 41, 250, 10**15)


def _change(chosen: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """Return a change of one or two items that a state allows, but for changes of the past that it cannot know of."""
    change: dict[str, Any] = {}
    for item in chosen.sample("abcd", chosen.choice((1, 1, 2))):
        value: Any = state.get(item)
        if item not in state or chosen.random() < 0.3:
            change[item] = chosen.choice(_VALUES)
        elif type(value) in (int, float):
            change[item] = chosen.choice((operator.add, operator.sub, operator.mul)), chosen.randrange(1, 5)
        elif type(value) in (str, list):
            change[item] = operator.concat, value[:0] + (["z"] if type(value) is list else "z")
        else:
            change[item] = chosen.choice((operator.delitem, operator.not_)), None
    return change


def grow(store: Store, n: int, *, seed: int = 1) -> Chronicle:
    """Apply changes now and in the past, and return all that were not refused."""
    chosen, chronicle = random.Random(seed), Chronicle()
    begin = int(time.time() * 1000)
    for i in range(n):
        t = chosen.choice((None, None, begin - chosen.randrange(3000), chosen.randrange(500)))
        try:
            chronicle.apply(store, "k", _change(chosen, store.current("k") or {}), t)
        except StoreIntegrityError:
            continue
        if i % 10 == 0:
            time.sleep(0.002)  # so that not all are recorded in one millisecond
    return chronicle


def told(changes: Any) -> list[tuple[Any, ...]]:
    """Return changes as plain tuples."""
    return [tuple(change) for change in changes]


def asked(store: Store, chronicle: Chronicle, *, seed: int = 2, n: int = 30) -> None:
    """Ask a store for the past of a sequence in every way, and compare all answers with its chronicle."""
    chosen, full = random.Random(seed), chronicle.history()
    assert same(told(store.history("k")), told(full))
    assert same(told(store.history("k", reverse=True)), told(full[::-1]))
    times = [None, *_TIMES, *(chosen.choice(full).t + chosen.choice((-1, 0, 1)) for _ in range(6))]
    for _ in range(n):
        start, end = chosen.choice(times), chosen.choice(times)
        item, limit = chosen.choice((None, "a", "b", "none")), chosen.choice((None, 0, 1, 5))
        for reverse in (False, True):
            with about((item, start, end, reverse, limit)):
                expected = chronicle.history(item, start, end)[:: -1 if reverse else 1][:limit]
                assert same(told(store.history("k", item, start, end, reverse, limit)), told(expected))
                events = store.events("k", start, end, item=item, limit=limit, reverse=reverse)
                assert same(told(events), [(one.t, one.item, one.op, one.value) for one in expected])
    known = [None, *(one.recorded + chosen.choice((-1, 0, 1)) for one in chosen.sample(full, 6))]
    some = [t for t in times if t is not None]
    for moment in known:
        with about(moment):
            assert store.past("k", some, True, known=moment) == [chronicle.past(t, moment) for t in some]
            for t in some[-4:]:
                assert store.past("k", t, True, known=moment) == chronicle.past(t, moment)
    for change in full[::5]:
        assert store.past("k", n=change.n, withtimestamp=True) == chronicle.behind(change.n)


class AskingSuite(Suite):
    """The past of event sequences."""

    @pickled
    def test_history_and_past_of_a_sequence_with_changes_of_the_past(self, store: Store) -> None:
        asked(store, grow(store, 60))

    @pickled
    def test_what_was_known_of_a_time_that_was_changed_later(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 1000)
        time.sleep(0.005)
        store.apply("k", {"a": (operator.add, 1)}, 3000)
        before = max(change.recorded for change in store.history("k"))
        time.sleep(0.005)
        store.apply("k", {"a": 10}, 2000)
        assert store.past("k", 3000) == {"a": 11}
        assert store.past("k", 3000, known=before) == {"a": 2}
        assert store.past("k", 2000, True, known=before) == (1000, {"a": 1})
        assert store.past("k", 3000, known=before - 5) in (None, {"a": 1})
        assert store.past("k", 3000, known=-(2**63)) is None
        assert store.past("k", 3000, known=2**63 - 1) == {"a": 11}

    @pickled
    def test_changes_of_one_millisecond_have_states_of_their_own(self, store: Store) -> None:
        for i in range(100):
            store.apply("k", {"i": i})
        assert [store.past("k", n=n) for n in range(1, 101)] == [{"i": i} for i in range(100)]
        assert [change.n for change in store.history("k")] == list(range(1, 101))
        for n in (0, -1, 101, 2**62):
            with pytest.raises(InvalidArgumentError):
                store.past("k", n=n)
        assert store.past("unknown", n=1) is None

    @pickled
    def test_diff(self, store: Store) -> None:
        assert store.diff("k", 0) is None
        store.apply("k", {"a": 1, "b": [1], "c": None}, 10)
        store.apply("k", {"a": 1.0, "c": (operator.delitem, None), "d": "x"}, 20)
        store.apply("k", {"a": 1}, 2**62)
        assert same(store.diff("k", 10, 20), {"a": (1, 1.0), "c": (None, ABSENT), "d": (ABSENT, "x")})
        assert store.diff("k", 20, 10) == {"a": (1.0, 1), "d": ("x", ABSENT), "c": (ABSENT, None)}
        assert store.diff("k", 10) == {"c": (None, ABSENT), "d": (ABSENT, "x")}
        assert store.diff("k", 5, 10) == {"a": (ABSENT, 1), "b": (ABSENT, [1]), "c": (ABSENT, None)}
        assert store.diff("k", 10, 19) == {} == store.diff("k", 1, 2)

    @pickled
    def test_what_history_yields_is_the_callers_own(self, store: Store) -> None:
        store.apply("k", {"a": [1]}, 1)
        store.apply("k", {"a": (operator.concat, [2])}, 2)
        for change, after in zip(store.history("k"), ([1], [1, 2]), strict=True):
            change.value.append(99)
            if change.before is not None:
                change.before.append(99)
            assert change.after == after
            change.after.append(99)
        assert [change.after for change in store.history("k")] == [[1], [1, 2]]
        [last] = store.history("k", "a", reverse=True, limit=1)
        assert last == Change(2, last.recorded, 2, "a", operator.concat, [2], [1], [1, 2])

    @pickled
    def test_history_is_of_one_moment(self, store: Store) -> None:
        for i in range(500):
            store.apply("k", {"a": i, f"b{i % 7}": [i]}, i * 10)
        expected = told(store.history("k"))
        for reverse in (False, True):
            history = store.history("k", reverse=reverse)
            found = [*islice(history, 3)]
            store.apply("k", {"a": -1}, 2005 + reverse)
            store.apply("k", {"a": -2}, 4985 + reverse)
            store.apply("k", {"a": -3})
            found += history
            assert same(told(found[:: -1 if reverse else 1]), expected)
            expected = told(store.history("k"))

    @pickled
    def test_the_history_of_a_pruned_sequence(self, store: Store) -> None:
        for i in range(10):
            store.apply("k", {"a": i, f"b{i % 3}": i}, i)
            time.sleep(0.002)
        recorded = [change.recorded for change in store.history("k", "a")]
        full = told(store.history("k"))
        store.prune("k")  # supersedes up to the last change
        store.apply("k", {"a": (operator.add, 1)}, 20)
        store.apply("k", {"b0": (operator.neg, None)}, 30)
        assert [(change.n, change.before, change.after) for change in store.history("k")] == [(11, 9, 10), (12, 9, -9)]
        assert [change.n for change in store.history("k", reverse=True)] == [12, 11]
        assert [change.n for change in store.history("k", start=10)] == [11, 12]
        assert [*store.history("k", end=9)] == []
        assert len(full) == 20
        for start in (-1, 5, 9):
            with pytest.raises(HorizonError):
                next(store.history("k", start=start))
            with pytest.raises(HorizonError):
                next(store.history("k", start=start, reverse=True))
        assert store.past("k", [9, 20, 30]) == [store.past("k", t) for t in (9, 20, 30)]
        assert store.past("k", 25, known=recorded[9]) == store.past("k", 9)
        for ask in (
            lambda: store.past("k", [8, 20]),
            lambda: store.past("k", 25, known=recorded[9] - 1),
            lambda: store.past("k", n=1),
            lambda: store.diff("k", 8),
            lambda: store.diff("k", 20, 8),
        ):
            with pytest.raises(HorizonError):
                ask()

    def test_questions_are_checked(self, store: Store) -> None:
        store.apply("k", {"a": 1}, 5)
        untyped: Any = store
        for arguments in ({}, {"t": 1, "n": 1}):
            with pytest.raises(InvalidTypeError):
                untyped.past("k", **arguments)
        for verb, args, options in (
            ("history", ("k", ""), {}),
            ("history", (5,), {}),
            ("history", ("k",), {"start": 1.5}),
            ("history", ("k",), {"limit": -1}),
            ("events", ("k",), {"limit": True}),
            ("events", ("k",), {"item": 5}),
            ("past", ("k", [1, "2"]), {}),
            ("past", ("k", "12"), {}),
            ("past", ("k", 1), {"known": 1.5}),
            ("past", ("k",), {"n": "1"}),
            ("diff", ("k", None), {}),
        ):
            with about((verb, args, options)), pytest.raises(InvalidArgumentError):
                getattr(store, verb)(*args, **options)
        assert store.past("k", []) == []
        assert store.past("unknown", [1, 2]) == [None, None]
        assert [*store.history("unknown")] == [*store.history("k", start=9, end=1)] == []
        assert store.events("unknown", item="a", limit=1) is None
        assert store.events("k", 9, 1, item="a", limit=1) == []

    @pickled
    def test_a_frozen_store_and_a_transaction_ask_the_same(self, opener: Opener) -> None:
        with opener() as store:
            chronicle = grow(store, 20)
            if self.transactional:
                with store.transaction() as tx:
                    assert same(told(tx.history("k")), told(chronicle.history()))
                    tx.apply("k", {"new": 1}, 2**62)
                    [last] = tx.history("k", "new")
                    assert (last.n, last.after) == (len(chronicle.changes) + 1, 1)
                    assert tx.past("k", n=last.n) == tx.past("k", [2**62])[0] == tx.current("k")
                    left = tx.history("k")
                    next(left)
                with pytest.raises(StoreClosedError):
                    list(left)
            expected = told(store.history("k"))
        with opener(frozen=True) as store:
            assert same(told(store.history("k")), expected)
            assert store.past("k", n=1) == chronicle.behind(1)[1]  # type: ignore[index]
            if self.snapshots:
                with store.snapshot() as snapshot:
                    assert same(told(snapshot.history("k", reverse=True)), expected[::-1])
