"""Followers of sequences in tiny chunks that are pruned meanwhile, or have changes in the past; and what that takes."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from small import shrink

from rstore import HorizonError, Store
from rstore.events.state import State


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    shrink(monkeypatch.setattr)
    with Store(f"memory://{uuid.uuid4()}", frozen=False) as store:
        yield store
        assert store.check() == []


def test_a_second_prune_while_what_the_first_one_left_is_told(store: Store) -> None:
    for t in range(1, 11):
        store.apply("k", {"a": (operator.add, 1) if t > 2 else 1}, t)
    assert store.prune("k") == 1
    with store.follow("k", after="", timeout=0) as changes:
        [*_, last] = islice(changes, 3)
        assert (last.n, last.after) == (4, 3)
    store.prune("k", before=9)  # no commit came between: the last one is the same
    with store.follow("k", after=last.cursor, timeout=0) as changes:
        with pytest.raises(HorizonError):
            next(changes)
        store.apply("k", {"a": (operator.add, 1)})
        assert [(change.n, change.before, change.after) for change in changes] == [(11, 9, 10)]


def test_another_prune_of_what_was_told_is_not_seen(store: Store) -> None:
    for t in range(1, 6):
        store.apply("k", {"a": t, "b": t}, t)
    store.apply("k", {"b": (operator.delitem, None)}, 6)
    store.apply("k", {"a": 1}, 0)  # commit 7, of which nothing is left
    assert store.prune("k")
    with store.follow("k", after="", timeout=0) as changes:
        assert [change.n for change in changes] == [5, 6]
        cursor = changes.cursor
    assert store.prune("k", before=7)
    assert [*store.follow("k", after=cursor, timeout=0)] == []


def test_what_pruning_left_is_told_from_any_cursor(store: Store) -> None:
    for t in range(1, 60):
        store.apply("k", {"a": (operator.add, 1), "b": t} if t > 1 else {"a": 0}, t)
    store.apply("k", {"c": 1}, -5)
    store.prune("k")
    store.apply("k", {"a": (operator.add, 1)}, 58_000)
    store.apply("k", {"c": 2}, 57_000)
    told = [*store.follow("k", after="", timeout=0)]
    assert [change.n for change in told] == [*range(1, 59), 59, 59, 60, 61, 62]
    for i, change in enumerate(told):
        assert [*store.follow("k", after=change.cursor, timeout=0)] == told[i + 1 :]


def test_one_change_in_the_past_costs_no_fold_of_all_for_each_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, folded = 300, 0
    store.apply_many(("k", 10 * t, {"a": (operator.add, 1) if t else 0}) for t in range(n))
    store.apply("k", {"a": (operator.add, 5)}, 15)
    store.apply_many(("k", 10 * t, {"a": (operator.add, 1)}) for t in range(n, 2 * n))
    fold = State.fold

    def counted(state: State, *args: Any) -> None:
        nonlocal folded
        folded += 1
        fold(state, *args)

    monkeypatch.setattr(State, "fold", counted)
    values = [change.after for change in store.follow("k", after="", timeout=0)]
    assert values == [*range(n), *range(n + 4, 2 * n + 5)]
    assert folded < 10 * n
