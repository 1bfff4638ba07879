"""A writer that is killed at any moment: what it acknowledged is there, and what it was writing whole or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import programs
import pytest
from processes import Program, check_file
from waiting import until

from rstore import Store

KILLS = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def newest_values(store: Store) -> int:
    a, b, c = store["a"], store["b"], store["c"]
    assert b in ([*a, "x" * 3000], a)
    assert a == c
    return int(a[0])


def newest_points(store: Store) -> int:
    points = store.range("s")
    assert points == [(t, t // 3) for t in range(len(points))]
    assert len(points) % 3 == 0
    return len(points) // 3 - 1


def newest_chunks(store: Store) -> int:
    points = store.range("s")
    assert [t for t, _ in points] == list(range(5000))
    (newest,) = {value for _, value in points}
    return int(newest)


def newest_changes(store: Store) -> int:
    state = store.current("e") or {}
    assert state == {"a": state["a"], "b": state["a"]}
    events = store.events("e") or []
    assert len(events) == 2 * state["a"]
    return int(state["a"])


def newest_once(store: Store) -> int:
    events = store._reader.events  # noqa: SLF001 - no verb tells the ids
    ids = [change.id for change in events.changes("e", events.view("e"))]
    assert ids == ["first", *map(str, range(1, len(ids)))]
    assert store.current("e") == {"n": len(ids) - 1}
    return len(ids) - 1


def newest_prunings(store: Store) -> int:
    state = store.current("e") or {}
    assert state["a"] == state["b"]
    assert state.get("n", 0) == state["a"] // 3 * 3
    events = [event for event in store.events("e") or [] if event.item == "a"]
    assert [event.value for event in events] == list(range(events[0].value, state["a"] + 1))
    return int(state["a"])


@pytest.mark.parametrize(
    ("program", "newest"),
    [
        (programs.write_values, newest_values),
        (programs.write_points, newest_points),
        (programs.write_chunks, newest_chunks),
        (programs.write_changes, newest_changes),
        (programs.apply_once, newest_once),
        (programs.prune_changes, newest_prunings),
    ],
    ids=["values", "points", "chunks", "changes", "changes with ids", "prunings"],
)
def test_a_writer_is_killed(path: Path, program: Callable[..., None], newest: Callable[[Store], int]) -> None:
    chosen = random.Random(program.__name__)
    last = -1
    for _ in range(KILLS):
        with Program(program, path) as writer:
            acknowledged = int(writer.hear())
            assert acknowledged > last  # it went on where the one before was killed
            for _ in range(chosen.randrange(20)):
                acknowledged = int(writer.hear())
            time.sleep(chosen.random() * 0.01)
            said = [line for line in writer.kill() if line]  # it may be killed between a number and its line end
        if said:
            acknowledged = int(said[-1])
        with Store(path) as store:  # the log that was left is read, and no writer has mended anything before
            last = newest(store)
        assert last in (acknowledged, acknowledged + 1)
        check_file(path)
        with Store(path) as store:
            assert newest(store) == last


def test_a_writer_is_killed_while_it_makes_the_file(path: Path) -> None:
    chosen = random.Random(1)
    for i in range(5):
        one = path.with_name(f"{i}.db")
        with Program(programs.open_at_once, one, "k") as writer:
            assert writer.hear() == "ready"
            writer.tell()
            until(one.exists, "the file is not made", pause_s=0.001)
            time.sleep(chosen.random() * 0.02)
            done = writer.kill() == ["done"]
        with Store(one, frozen=False) as store:
            assert store.get("k", "k") == "k"
            assert not done or (store["k"], store.current("log")) == ("k", {"k": 1})
            store.set("after", 1)
        with Store(one) as store:
            assert store["after"] == 1
        check_file(one)


def test_others_go_on_when_one_is_killed(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path) as frozen:
        for i in range(3):
            with Program(programs.write_points, path) as writer:
                for _ in range(5):
                    writer.hear()
                writer.kill()
            store.set("k", i)
            assert frozen["k"] == i
            assert newest_points(frozen) >= 5 * i
            newest_points(store)
    check_file(path)
