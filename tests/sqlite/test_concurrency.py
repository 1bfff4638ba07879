"""Threads and processes at once: everything that was acknowledged counts, once."""

from __future__ import annotations

import json
import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import programs
import pytest
from processes import Program, check_file

from rstore import Store, StoreError

POINTS = 12_000  # each of two processes: together they are sealed at least once


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store.db"
    check_file(tmp_path / "store.db")


def at_once(*works: Callable[[], object]) -> None:
    """Do works in threads that begin together; what one of them raises is raised here."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def together(program: Callable[..., None], *arguments: tuple[object, ...]) -> list[list[str]]:
    """Run programs that begin together, one for each tuple of arguments; return what each said."""
    with ExitStack() as stack:
        running = [stack.enter_context(Program(program, *one)) for one in arguments]
        for one in running:
            assert one.hear() == "ready"
        for one in running:
            one.tell()
        return [one.end() for one in running]


@pytest.mark.parametrize("handles", ["one handle", "a handle each"])
def test_threads_write_the_same_key_series_and_sequence(path: Path, handles: str) -> None:
    rounds, threads = 40, 4

    def work(store: Store, name: int) -> None:
        for i in range(rounds):
            store.set("same", (name, i))
            store.extend("same", (0, (name, i)), (name * 1000 + i + 1, i))
            store.apply("same", {"count": (operator.add, 1)})
            store.apply("same", {f"own {name}": i})

    with ExitStack() as stack:
        one = stack.enter_context(Store(path, frozen=False, durability="normal"))
        one.apply("same", {"count": 0})
        stores = [
            one if handles == "one handle" else stack.enter_context(Store(path, frozen=False, durability="normal"))
            for _ in range(threads)
        ]
        at_once(*(partial(work, store, name) for name, store in enumerate(stores)))
    last = [(name, rounds - 1) for name in range(threads)]
    with Store(path) as store:
        assert store["same"] in last
        points = dict(store.range("same"))
        assert points.pop(0) in last
        assert points == {name * 1000 + i + 1: i for name in range(threads) for i in range(rounds)}
        assert store.current("same") == {"count": rounds * threads} | {
            f"own {name}": rounds - 1 for name in range(threads)
        }
        events = store.events("same") or []
        assert len(events) == 1 + 2 * rounds * threads
        for name in range(threads):  # what one thread did is in the order in which it did it
            assert [event.value for event in events if event.item == f"own {name}"] == list(range(rounds))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "rounds"), [(2, 40), (8, 10)])
def test_processes_write_the_same_key_series_and_sequence(path: Path, processes: int, rounds: int) -> None:
    with Store(path, frozen=False) as store:
        store.apply("same", {"count": 0})
    assert together(programs.contend, *((path, name, rounds) for name in range(processes))) == [["done"]] * processes
    last = [[f"{name}", rounds - 1] for name in range(processes)]
    with Store(path) as store:
        assert (store["incremented"], len(store["modified"])) == (processes * rounds, processes * rounds)
        assert store["same"] in last
        assert store["large"] in [[*one, "x" * 2000] for one in last]
        points = dict(store.range("same"))
        expected = {i * 100 + name: [f"{name}", i] for name in range(processes) for i in range(rounds)}
        assert points.pop(0) in [*last, expected.pop(0)]
        assert points == expected
        state = {"count": processes * rounds}
        for name in range(processes):
            state |= {f"{name}": rounds - 1, f"own {name}": rounds - 1}
        assert store.current("same") == state
        assert len(store.events("same") or ()) == 1 + 3 * processes * rounds


@pytest.mark.slow
def test_eight_processes_open_a_fresh_path_at_once(path: Path) -> None:
    assert together(programs.open_at_once, *((path, f"{name}") for name in range(8))) == [["done"]] * 8
    with Store(path) as store:
        assert dict(store.items()) == {f"{name}": f"{name}" for name in range(8)}
        assert store.current("log") == {f"{name}": 1 for name in range(8)}


def test_threads_open_a_fresh_path_at_once(tmp_path: Path) -> None:
    for round_ in range(10):
        path = tmp_path / f"{round_}.db"

        def enter(name: str, path: Path = path) -> None:
            with Store(path, frozen=False) as store:
                store.set(name, 1)

        at_once(*(partial(enter, f"{name}") for name in range(4)))
        with Store(path) as store:
            assert store.keys() == [f"{name}" for name in range(4)]
        check_file(path)


@pytest.mark.slow
def test_a_series_is_sealed_by_two_processes_at_once(path: Path) -> None:
    together(programs.grow, (path, 0, POINTS), (path, 1, POINTS))
    with Store(path) as store:
        assert store.range("s") == [(t, [f"{t % 2}", t]) for t in range(2 * POINTS)]


@pytest.mark.slow
def test_a_series_is_sealed_while_another_process_overwrites_and_removes(path: Path) -> None:
    grown, (said,) = together_different(path)
    assert grown == ["done"]
    left = dict(json.loads(said))
    assert len(left) == POINTS - POINTS // 500
    with Store(path) as store:
        points = store.range("s")
        assert [point for point in points if point[0] % 2 == 0] == [(t, ["0", t]) for t in range(0, 2 * POINTS, 2)]
        assert {t: value for t, value in points if t % 2} == left
        assert [t for t, _ in points] == sorted({t for t, _ in points})


def together_different(path: Path) -> tuple[list[str], list[str]]:
    with Program(programs.grow, path, 0, POINTS) as grower, Program(programs.rework, path, 1, POINTS) as reworker:
        for one in (grower, reworker):
            assert one.hear() == "ready"
        for one in (grower, reworker):
            one.tell()
        return grower.end(), reworker.end()


def test_each_value_is_popped_once(path: Path) -> None:
    taken: list[tuple[str, Any]] = []
    with Store(path, frozen=False, durability="normal") as store:
        store.update({f"{i:03}": i for i in range(120)})

        def pop_last() -> None:
            while True:
                try:
                    taken.append(store.popitem())
                except KeyError:
                    return

        def pop_each() -> None:
            for i in range(120):
                value = store.pop(f"{i:03}", None)
                if value is not None:
                    taken.append((f"{i:03}", value))

        at_once(pop_last, pop_last, pop_each, pop_each)
        assert sorted(taken) == [(f"{i:03}", i) for i in range(120)]
        assert len(store) == 0


def test_one_default_is_set(path: Path) -> None:
    with Store(path, frozen=False, durability="normal") as store:
        for i in range(20):
            told: list[int] = []
            at_once(*(lambda name=name: told.append(store.setdefault(f"{i}", name)) for name in range(4)))  # noqa: B023 - called in this round
            assert told == [store[f"{i}"]] * 4


def test_readers_see_whole_batches(path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        for i in range(1, 60):
            store.update({f"{j}": i for j in range(50)})
            store.extend("few", *((t, i) for t in range(50)))
            if i % 10 == 0:
                store.extend_many("many", ((t, i) for t in range(20_000)))
            store.apply("log", {f"{j}": i for j in range(20)})
        stop.set()

    def read(reader: Store) -> None:
        while not stop.is_set():
            assert len(set(reader.values())) == 1
            assert len({value for _, value in reader.range("few")}) == 1
            assert len({value for _, value in reader.range("many")}) == 1
            assert len(set((reader.current("log") or {}).values())) == 1

    with Store(path, frozen=False, durability="normal") as store:
        store.update({f"{j}": 0 for j in range(50)})
        store.extend("few", *((t, 0) for t in range(50)))
        store.extend_many("many", ((t, 0) for t in range(20_000)))
        store.apply("log", {f"{j}": 0 for j in range(20)})
        with Store(path) as frozen:
            at_once(write, lambda: read(store), lambda: read(frozen))


@pytest.mark.slow
def test_a_snapshot_is_read_while_its_owner_is_in_a_statement(path: Path) -> None:
    slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000000) SELECT max(i) FROM n"
    with Store(path, frozen=False) as store:
        store["k"] = 1
        with store.snapshot() as view:
            assert view["k"] == 1
            snapshot: Any = view._reader.backend  # noqa: SLF001
            execute = snapshot._connection.slot.statements.execute  # noqa: SLF001
            found: list[object] = []

            def read() -> None:
                time.sleep(0.1)  # until the statement is running
                found.append((len(view), view["k"], view.has("k")))

            thread = threading.Thread(target=read)
            thread.start()
            assert execute(slow).get == 6_000_000  # without the slot's lock, as a lookup is
            thread.join()
            assert found == [(1, 1, True)]


def test_closing_ends_the_verbs_of_other_threads_with_one_error_only(path: Path) -> None:
    works: list[Callable[[Store, int], object]] = [
        lambda store, i: store.set("k", i),
        lambda store, _: store.get("k"),
        lambda store, i: store.extend("s", (i, i)),
        lambda store, i: store.range("s", i - 5),
        lambda store, i: store.apply("e", {"i": i}),
        lambda store, _: store.update({f"{j}": "x" * 2000 for j in range(50)}),
        lambda store, _: list(store.items()),
        lambda store, _: store.current("e"),
    ]
    for _ in range(5):
        store = Store(path, frozen=False, durability="normal").open()
        ends: list[str] = []
        begun = threading.Barrier(len(works) + 1)

        def work(one: Callable[[Store, int], object], ends: list[str] = ends, begun: Any = begun) -> None:
            try:
                one(store, 0)  # noqa: B023 - ended in this round
                begun.wait()
                for i in range(1, 10**9):
                    one(store, i)  # noqa: B023 - ended in this round
            except StoreError as error:
                ends.append(type(error).__name__)
            except BaseException as error:  # noqa: BLE001 - told below
                ends.append(repr(error))

        threads = [threading.Thread(target=work, args=(one,)) for one in works]
        for thread in threads:
            thread.start()
        begun.wait()
        store.close()
        for thread in threads:
            thread.join()
        assert ends == ["StoreClosedError"] * len(works)
