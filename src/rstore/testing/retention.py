"""Which history is kept: folded before a time, put into an archive, erased; and no state that is kept changes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rstore import (
    FrozenStoreError,
    HorizonError,
    InvalidArgumentError,
    NotSupportedError,
    Store,
    StoreIntegrityError,
)
from rstore.testing.flavours import pickled
from rstore.testing.oracle import EventOracle, Oracle, PrunedError, TakenError, same_state
from rstore.testing.suite import Opener, Suite

_ADD: Final = operator.add
_DELETE: Final = (operator.delitem, None)
_ITEMS: Final = st.sampled_from("abc")
_VALUES: Final = st.integers(0, 3) | st.tuples(st.just(_ADD), st.integers(0, 3)) | st.just(_DELETE)
_CHANGES: Final = st.tuples(st.integers(0, 60), st.dictionaries(_ITEMS, _VALUES, min_size=1, max_size=2))
_PRUNES: Final = st.tuples(st.just("prune"), st.none() | st.integers(-1, 61))
_STEPS: Final = st.lists(_CHANGES | _PRUNES, min_size=5, max_size=25)


def _fill(store: Store, key: str = "k") -> EventOracle:
    log = EventOracle()
    changes: list[tuple[int, dict[str, Any]]] = [
        (10, {"a": 1, "b": 1}),
        (20, {"a": (_ADD, 1)}),
        (30, {"a": 5, "b": _DELETE, "d": "x"}),
        (40, {"a": (operator.mul, 2)}),
        (50, {"d": (_ADD, "y")}),
        (25, {"late": 1, "a": (_ADD, 1)}),
    ]
    for t, state in changes:
        store.apply(key, state, t)
        log.apply(state, t)
    return log


def _states(store: Store, key: str, times: Sequence[int]) -> list[Any]:
    return [store.past(key, t, withtimestamp=True) for t in times]


class _Undone(Exception):  # noqa: N818 - leaves a transaction, and reports no error
    pass


class RetentionSuite(Suite):
    """`prune(before=…)`, archives and `forget`."""

    def test_what_lies_before_a_time_becomes_one_change(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = _fill(store)
        before, current = _states(store, "k", range(25, 60)), store.current("k", withtimestamp=True)
        assert store.prune("k", before=30, dry_run=True) == 4
        assert store.events("k") == log.events()
        assert store.prune("k", before=30) == log.prune_before(30) == 4
        assert store.events("k", end=29) == [
            (25, "a", operator.setitem, 3),
            (25, "b", operator.setitem, 1),
            (25, "late", operator.setitem, 1),
        ]
        assert store.events("k") == log.events()
        assert _states(store, "k", range(25, 60)) == before
        assert store.current("k", withtimestamp=True) == current
        for t in (-(2**63), 9, 24):
            with pytest.raises(HorizonError) as refused:
                store.past("k", t)
            assert (refused.value.key, refused.value.horizon) == ("k", 25)
            with pytest.raises(HorizonError):
                store.apply("k", {"a": 1}, t)
        with pytest.raises(HorizonError):
            store.apply("k", {"a": 1}, 25)
        for t in (26, 29, 35):
            assert store.apply("k", {f"at {t}": t}, t)
            log.apply({f"at {t}": t}, t)
        assert store.prune("k", before=27) == log.prune_before(27)
        assert store.prune("k", before=27) == store.prune("k", before=-5) == 0

    def test_all_of_it_may_be_folded(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = _fill(store)
        current = store.current("k", withtimestamp=True)
        assert store.prune("k", before=2**63 - 1) == log.prune_before(2**63 - 1)
        assert store.current("k", withtimestamp=True) == current == store.past("k", 50, withtimestamp=True)
        store.apply("k", {"a": (_ADD, 1)}, 51)
        log.apply({"a": (_ADD, 1)}, 51)

    def test_an_empty_baseline_is_an_empty_state(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = EventOracle()
        for t, state in ((1, {"a": 1}), (2, {"a": _DELETE}), (9, {"b": 1}), (10, {"b": _DELETE})):
            store.apply("k", state, t)
            log.apply(state, t)
        assert store.prune("k", before=5, remove=True) == log.prune_before(5) == 2  # later changes keep the key
        assert _states(store, "k", (2, 5, 9, 10)) == [(2, {}), (2, {}), (9, {"b": 1}), (10, {})]
        assert store.prune("k", before=11, remove=False) == log.prune_before(11) == 2
        assert store.current("k", withtimestamp=True) == store.past("k", 12, withtimestamp=True) == (10, {})
        assert (store.events("k"), store.eventsources()) == ([], ["k"])
        assert store.past("k", [10, 11]) == [{}, {}]
        assert store.past("k", 11, known=2**63 - 1) == {}
        assert (store.diff("k", 10, 12), store.revert("k", 10), [*store.history("k")]) == ({}, {}, [])
        assert store.verify("k") == store.digest("k")
        assert store.check() == []
        with pytest.raises(HorizonError):
            store.past("k", 9)
        assert store.apply("k", {"c": 3}, 11) == {"c": 3}
        log.apply({"c": 3}, 11)

    @pickled
    def test_an_empty_sequence_is_removed(self, store: Store) -> None:
        for remove, left in ((False, ["k"]), (True, [])):
            store.apply("k", {"a": 1}, 1)
            store.apply("k", {"a": _DELETE}, 2)
            assert store.prune("k", before=5, remove=remove, dry_run=True) == 2
            assert store.prune("k", before=5, remove=remove) == 2
            assert store.eventsources() == left
            store.prune("k")
            assert store.current("k") is None

    def test_a_dry_run_writes_nothing(self, opener: Opener) -> None:
        with opener() as store:
            log = _fill(store)
        with opener(frozen=True) as frozen:
            for before, n in ((None, log.prune()), (30, 4)):
                assert frozen.prune("k", before=before, dry_run=True) == n
                with pytest.raises(FrozenStoreError):
                    frozen.prune("k", before=before)
            assert frozen.prune("nothing", dry_run=True) == 0
            if self.snapshots:
                with frozen.snapshot() as view:
                    assert view.prune("k", before=30, dry_run=True) == 4
            wrong: Any
            for wrong in ({"dry_run": 1}, {"remove": None}, {"before": 1.5}, {"before": 2**63}, {"archive": 5}):
                arguments: dict[str, Any] = {"dry_run": True, **wrong}
                with pytest.raises(InvalidArgumentError):
                    frozen.prune("k", **arguments)

    def test_no_state_that_is_kept_changes(self, opener: Opener) -> None:
        count = 0
        with opener() as store:

            @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
            @given(steps=_STEPS)
            def check(steps: list[tuple[Any, Any]]) -> None:
                nonlocal count
                count += 1
                _run(store, f"{count}", steps)

            check()
            assert store.check() == []

    def test_an_archive_tells_what_went(self, opener: Opener, tmp_path: Path) -> None:
        archive = tmp_path / "archive.db"
        with opener() as store:
            log = _fill(store)
            whole = store.events("k")
            states = _states(store, "k", range(5, 60))
            assert store.prune("k", before=22, archive=archive) == 3
            assert store.prune("k", before=22, archive=archive) == 0
            assert store.prune("k", archive=archive, dry_run=True) == 3
            store.prune("k", before=35, archive=archive)
            store.prune("k", before=45, archive=f"{archive}")
            assert store.prune("k", "nothing", archive=archive) == 0
            store.prune("k", before=99, archive=archive)
        with opener.flavour.make(f"{archive}") as kept:
            assert kept.events("k") == whole == log.events()
            assert _states(kept, "k", range(5, 60)) == states
            assert kept.verify("k", kept.digest("k")) == kept.digest("k")
            assert kept.check() == []

    def test_superseded_events_go_into_an_archive(self, opener: Opener, tmp_path: Path) -> None:
        archive = tmp_path / "archive.db"
        with opener() as store:
            log = _fill(store)
            whole = log.events()
            assert store.prune("k", archive=archive) == log.prune()
            later: list[tuple[int, dict[str, Any]]] = [(60, {"a": 1, "d": 2}), (55, {"late": 2}), (70, {"d": _DELETE})]
            for t, state in later:
                store.apply("k", state, t)
                whole += [(t, item, operator.setitem, value) for item, value in state.items()]
            store.prune("k", archive=archive)
            rest = store.events("k") or []
        with opener.flavour.make(f"{archive}") as kept:
            events = kept.events("k") or []
            assert sorted(event[:2] for event in [*events, *rest]) == sorted(event[:2] for event in whole)
            assert (kept.verify("k"), kept.check()) == (kept.digest("k"), [])

    @pickled
    def test_what_is_removed_goes_into_an_archive(self, opener: Opener, tmp_path: Path) -> None:
        with opener() as store:
            store.apply("k", {"a": 1}, 1)
            store.apply("k", {"a": _DELETE}, 2)
            assert store.prune("k", archive=tmp_path / "archive.db") == 2
            assert store.eventsources() == []
            for t in (2, 1, 3):  # another life of the same name
                store.apply("k", {"a": t}, t)
            with pytest.raises(StoreIntegrityError, match="begun anew"):
                store.prune("k", before=9, archive=tmp_path / "archive.db")
            assert store.prune("k", before=9, archive=tmp_path / "another.db", dry_run=True) == 2
            assert store.events("k", end=2) == [(t, "a", operator.setitem, t) for t in (1, 2)]
        with opener.flavour.make(f"{tmp_path}/archive.db") as kept:
            assert kept.past("k", 1) == {"a": 1}

    def test_what_no_archive_can_be(self, opener: Opener, tmp_path: Path) -> None:
        with opener() as store:
            _fill(store)
            for wrong in ("redis://localhost", b"path", 5):
                with pytest.raises(InvalidArgumentError):
                    store.prune("k", archive=wrong)  # type: ignore[arg-type]
            if self.transactional:
                with store.transaction() as tx, pytest.raises(NotSupportedError):
                    tx.prune("k", archive=tmp_path / "archive.db")
            if opener.dsn.startswith("sqlite://"):
                with pytest.raises(InvalidArgumentError, match="itself"):
                    store.prune("k", archive=opener.dsn)

    def test_ids_are_forgotten_with_their_sequence(self, store: Store) -> None:
        store.apply("k", {"x": 1}, id="once")
        assert store.forget("k") == 1
        assert store.apply("k", {"x": 2}, id="once") == {"x": 2}

    def test_forgetting(self, opener: Opener) -> None:
        with opener() as store:
            for key in "abc":
                _fill(store, key)
            store.extend("a", (1, 1))
            store["a"] = 1
            assert store.forget("a", "c", "nothing", "a") == 2
            assert store.eventsources() == ["b"]
            assert (store.current("a"), store.events("a"), store.past("a", 30), store.digest("a")) == (None,) * 4
            assert (store["a"], store.range("a")) == (1, [(1, 1)])
            assert store.forget("a") == 0
            assert store.apply("a", {"new": 1}, 1) == {"new": 1}
            with pytest.raises(InvalidArgumentError):
                store.forget()
            if self.transactional:
                with store.transaction(), pytest.raises(NotSupportedError):
                    store.forget("b")
        with opener(frozen=True) as frozen, pytest.raises(FrozenStoreError):
            frozen.forget("b")

    @pytest.mark.usefixtures("_transactional")
    def test_transactions_prune_too(self, store: Store, oracle: Oracle) -> None:
        log = oracle.events["k"] = _fill(store)
        with store.transaction() as tx:
            assert tx.prune("k", before=30, dry_run=True) == 4
            assert tx.prune("k", before=30) == log.prune_before(30)
            assert tx.past("k", 27) == {"a": 3, "b": 1, "late": 1}
            assert tx.verify("k") == tx.digest("k")
        with suppress(_Undone), store.transaction() as tx:
            tx.prune("k", before=45)
            raise _Undone
        assert store.past("k", 30, withtimestamp=True) == log.past(30)


def _run(store: Store, key: str, steps: list[tuple[Any, Any]]) -> None:
    """Apply and prune, and compare every state that is kept."""
    log = EventOracle()
    for first, second in steps:
        if first != "prune":
            try:
                log.apply(second, first)
            except (KeyError, TypeError, TakenError, PrunedError):
                with pytest.raises(StoreIntegrityError):
                    store.apply(key, second, first)
            else:
                store.apply(key, second, first)
            continue
        if not log.exists:
            continue
        before = [(t, store.past(key, t, withtimestamp=True)) for t in range(log.horizon or -1, 62)]
        current = store.current(key, withtimestamp=True)
        gone = log.prune() if second is None else log.prune_before(second)
        assert store.prune(key, before=second, remove=False, dry_run=True) == gone
        assert store.prune(key, before=second, remove=False) == gone
        after = store.current(key, withtimestamp=True)
        assert (current and current[0]) == (after and after[0])
        assert same_state(current and current[1], after and after[1])
        for t, state in before:
            if log.horizon is not None and t < log.horizon:
                with pytest.raises(HorizonError):
                    store.past(key, t)
            else:
                assert store.past(key, t, withtimestamp=True) == state
        assert store.verify(key) == store.digest(key)
    assert store.events(key) == (log.events() if log.exists else None)
