"""Forgotten sequences are nowhere in the file and in its write-ahead log, however their bytes came there."""

from __future__ import annotations

import operator
import random
from pathlib import Path

import pytest
from small import shrink

from rstore import Store, StoreBusyError

MARK = "recognisable"


def traces(path: Path) -> int:
    """Return how often the mark is in any file that belongs to a store."""
    return sum(found.read_bytes().count(MARK.encode()) for found in path.parent.iterdir())


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shrink(monkeypatch.setattr)  # so that rows become chunks, and chunks other chunks
    return tmp_path / "store.db"


def fill(store: Store) -> None:
    chosen = random.Random(1)
    for t in range(300):
        for key in ("secret", "open"):
            text = MARK if key == "secret" else "another"
            padding = "x" * chosen.choice((0, 30, 300, 5000))
            store.apply(key, {f"item {t % 9}": f"{text} {padding}", "runs": (operator.add, text) if t else text}, t)
        if t % 100 == 50:
            store.prune("secret", before=t - 20)
    store.prune("secret")
    store.apply(f"{MARK}, too", {"a": 1})


def test_no_byte_of_a_forgotten_sequence_is_left(path: Path) -> None:
    with Store(path, frozen=False, durability="normal") as store:
        fill(store)
        current = store.current("open")
        assert traces(path) > 0
        assert store.forget("secret", f"{MARK}, too") == 2
        assert traces(path) == 0
        assert (store.current("open"), store.eventsources(), store.check()) == (current, ["open"], [])
        store.apply("open", {"a": 1})
    assert traces(path) == 0


def test_pruned_rows_go_with_the_sequence_and_not_before(path: Path) -> None:
    with Store(path, frozen=False) as store:
        for t in range(50):
            store.apply("k", {"a": f"{MARK} {t}"}, t)
        store.prune("k", before=40)
        store.apply("k", {"a": "else"})
        store.prune("k")
        assert traces(path) > 0
        assert store.forget("k") == 1
        assert traces(path) == 0


def test_readers_of_an_older_moment_are_in_the_way(path: Path) -> None:
    with Store(path, frozen=False, timeout=0.3) as store, Store(path) as reader:
        store.apply("k", {"a": MARK})
        with reader.snapshot() as view:
            assert view.current("k") == {"a": MARK}
            with pytest.raises(StoreBusyError, match="older state"):
                store.forget("k")
            assert store.current("k") is None
            assert view.current("k") == {"a": MARK}
        assert store.forget("k") == 0
        assert traces(path) == 0
