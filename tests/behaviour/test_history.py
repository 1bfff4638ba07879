"""The past of event sequences in tiny chunks, while others write, and what it takes to read it."""

from __future__ import annotations

import operator
import random
import struct
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from small import shrink

from rstore import Change, ConflictError, CorruptionError, HorizonError, Store
from rstore.backends.types import Chunk, Head, View, ViewQuery
from rstore.codec.change_meta import pack_commits, unpack_commits
from rstore.codec.segments import Segment
from rstore.events import telling
from rstore.log.reader import LogReader
from rstore.testing.asking import asked, grow, told
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.oracle import same


@pytest.fixture(params=PICKLED, ids=str)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    flavour: Flavour = request.param
    return flavour


@pytest.fixture(params=["memory", "sqlite"])
def store(
    request: pytest.FixtureRequest, flavour: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    shrink(monkeypatch.setattr)
    dsn = f"memory://{uuid.uuid4()}" if request.param == "memory" else f"sqlite://{tmp_path}/store.db"
    with flavour.make(dsn, durability="normal") as store:
        yield store
        assert store.check() == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Chunk]:
    """Return the list of the chunks that are opened from now on."""
    chunks: list[Chunk] = []
    open_chunk = LogReader.open_chunk

    def noting(self: LogReader, key: str, chunk: Chunk, head: Head | None) -> Segment:
        chunks.append(chunk)
        return open_chunk(self, key, chunk, head)

    monkeypatch.setattr(LogReader, "open_chunk", noting)
    return chunks


def _view(store: Store) -> View:
    return store._writer.events.view("k", ViewQuery(bodies=False))  # noqa: SLF001 - of what it is made


def _pack(store: Store) -> None:
    store._writer.events.pack("k", _view(store))  # noqa: SLF001 - now, and not when it is due


def _steady(store: Store, n: int) -> None:
    """Apply changes of two items, a change every 10 ms, and pack all of them."""
    for i in range(n):
        store.apply("k", {"a": i, f"b{i % 5}": [i]} if i % 3 else {"a": i}, i * 10)
    while _view(store).rows:
        _pack(store)


@pytest.mark.parametrize("seed", range(3))
def test_every_question_in_tiny_chunks(store: Store, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    if seed == 2:  # values of which few may be held at once
        monkeypatch.setattr(telling, "_ENOUGH", 3)
    chronicle = grow(store, 90, seed=seed)
    assert len(_view(store).chunks) > 5
    asked(store, chronicle, seed=seed)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_history_is_of_one_moment_while_all_of_it_changes(store: Store, reverse: bool) -> None:
    _steady(store, 100)
    chosen = random.Random(1)
    for i in range(20):
        expected = told(store.history("k"))[:: -1 if reverse else 1]
        history = store.history("k", reverse=reverse)
        found: list[Change] = []
        for size in (1, 10, 40, 60):
            found += islice(history, size)
            store.apply("k", {"a": -i, "new": i}, chosen.choice([None, chosen.randrange(1000) * 10 + 1 + i % 8]))
            if i % 3 == 0:
                _pack(store)
        found += history
        assert same(told(found), expected)


@pytest.mark.parametrize("end", ["prune", "discard"])
def test_a_history_that_was_pruned_or_removed_meanwhile_is_a_named_error(store: Store, end: str) -> None:
    _steady(store, 100)
    history = store.history("k", reverse=True)
    next(history)
    if end == "prune":
        store.prune("k")
    else:
        store.discard()
    with pytest.raises(ConflictError):
        list(history)


def test_a_question_opens_few_chunks(store: Store, opened: list[Chunk]) -> None:
    _steady(store, 400)
    view = _view(store)
    assert len(view.chunks) > 40
    assert not view.rows
    time.sleep(0.002)
    before = [*store.history("k", "a")]
    questions: list[tuple[int, Any]] = [
        (2, lambda: next(store.history("k"))),
        (3, lambda: next(store.history("k", reverse=True))),
        (3, lambda: [*store.history("k", "a", reverse=True, limit=1)]),
        (3, lambda: next(store.history("k", start=2000))),
        (4, lambda: next(store.history("k", end=2000, reverse=True))),
        (3, lambda: store.past("k", n=1)),
        (3, lambda: store.past("k", n=200)),
        (3, lambda: store.past("k", n=400)),
        (4, lambda: store.past("k", [5, 1000, 1001])),
        (6, lambda: store.past("k", 2000, known=before[150].recorded)),
        (1, lambda: store.events("k", item="a", limit=1)),
        (1, lambda: store.events("k", item="a", limit=1, reverse=True)),
        (3, lambda: store.events("k", limit=2, reverse=True)),
    ]
    for i, (most, question) in enumerate(questions):
        opened.clear()
        question()
        assert len(opened) <= most, i


def test_changes_recorded_later_are_skipped_without_opening_their_chunks(store: Store, opened: list[Chunk]) -> None:
    store.apply("k", {"a": -1}, -10)
    [first] = store.history("k")
    time.sleep(0.005)
    _steady(store, 200)
    opened.clear()
    assert store.past("k", 10**6, known=first.recorded) == {"a": -1}
    assert len(opened) <= 3


def test_a_chunk_that_tells_nothing_of_its_commits_is_opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _steady(store, 100)
    monkeypatch.setattr(LogReader, "open_commits", lambda *_: None)
    assert [store.past("k", n=n)["a"] for n in range(1, 101)] == [*range(100)]  # type: ignore[index]
    recorded = [change.recorded for change in store.history("k", "a")]
    assert store.past("k", 10**6, known=recorded[-1]) == store.current("k")


def test_a_state_within_the_time_of_the_horizon_is_not_guessed(store: Store) -> None:
    store.apply_many([("k", 10, {"a": 0, "b": 0}), ("k", 10, {"a": 1}), ("k", 20, {"c": 2})])
    assert store.past("k", n=1) == {"a": 0, "b": 0}
    assert store.prune("k") == 1
    for known in (None, 2**62):
        with pytest.raises(HorizonError):
            store.past("k", n=1, known=known)
        assert store.past("k", n=2, known=known) == {"a": 1, "b": 0}
        assert store.past("k", n=3, known=known) == store.past("k", 20) == {"a": 1, "b": 0, "c": 2}


def test_the_state_behind_a_commit_that_is_in_the_baseline_is_not_guessed(store: Store) -> None:
    store.apply_many([("k", 10, {"a": 1}), ("k", 20, {"a": 2}), ("k", 5, {"b": 3}), ("k", 30, {"c": 4})])
    assert store.past("k", n=3) == {"b": 3}
    assert store.prune("k", before=25) > 0
    for n in (1, 2, 3):
        with pytest.raises(HorizonError):
            store.past("k", n=n)
    assert store.past("k", n=4) == {"a": 2, "b": 3, "c": 4}


def test_a_sequence_that_was_made_again_does_not_go_on_a_history_in_reverse(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rstore.events.reading._NEAR", 4)
    _steady(store, 100)
    backwards = store.history("k", reverse=True)
    assert next(backwards).n == 100
    store.apply("k", dict.fromkeys(store.current("k") or (), (operator.delitem, None)))
    store.prune("k")
    _steady(store, 120)
    with pytest.raises(ConflictError):
        list(backwards)


def test_a_summary_that_is_not_that_of_its_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    with Store(f"memory://{uuid.uuid4()}", frozen=False) as store:
        monkeypatch.setattr("rstore.log.writer.pack_commits", lambda segment: pack_commits(segment)[:-8] + b"\x7f" * 8)
        _steady(store, 20)
        [first, *_] = store.check()
        assert "summary" in first.problem


@pytest.mark.parametrize("numbers", [(0, 5, 1, 2), (1, 3, 1, 2), (5, 1, 1, 2), (1, 9, 3, 2)])
def test_a_summary_that_no_changes_can_have_is_refused(numbers: tuple[int, int, int, int]) -> None:
    meta = struct.pack(">BBQQqq", 1, 0x21, 1, 4, 7, 7)
    assert unpack_commits(meta, 4) == (1, 4, 7, 7)
    for wrong in (b"", meta[:-1], meta + b"\0", b"\2" + meta[1:], struct.pack(">BBQQqq", 1, 0x21, *numbers)):
        with pytest.raises(CorruptionError):
            unpack_commits(wrong, 4)
