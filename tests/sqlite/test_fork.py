"""Forks with an open store: nothing that either side acknowledged is lost, and no lock is left behind."""

from __future__ import annotations

import multiprocessing
import operator
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from processes import check_file, descriptors, forked, linux

from rstore import ConflictError, Store, StoreClosedError, StoreNotAvailableError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")]

ROUNDS = 15


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "store.db"
    check_file(tmp_path / "store.db")


def write(store: Store, who: str, rounds: range = range(ROUNDS)) -> None:
    for i in rounds:
        store.set(f"{who} {i}", i)
        store.extend(who, (i, i))
        store.extend("same", (i, 0))
        store.apply("same", {"count": (operator.add, 1)})


def check(path: Path, *writers: str) -> None:
    with Store(path) as store:
        assert dict(store.items()) == {f"{who} {i}": i for who in writers for i in range(ROUNDS)}
        for who in writers:
            assert store.range(who) == [(i, i) for i in range(ROUNDS)]
        assert store.range("same") == [(i, 0) for i in range(ROUNDS)]
        assert store.current("same") == {"count": len(writers) * ROUNDS}


def opened(path: Path) -> Store:
    store = Store(path, frozen=False).open()
    store.apply("same", {"count": 0}, 0)
    return store


@contextmanager
def busy(*works: Callable[[], object]) -> Generator[None, None, None]:
    """Repeat each work in a thread of its own meanwhile, at least once; what they raise is raised here."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        try:
            work()
            while not stop.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("first_to_close", ["parent", "child", "nobody"])
def test_both_write_before_and_after_the_other_closes(path: Path, first_to_close: str) -> None:
    store = opened(path)
    half, rest = range(ROUNDS // 2), range(ROUNDS // 2, ROUNDS)
    turn, pass_on = os.pipe()

    def child() -> None:
        write(store, "child", half)
        if first_to_close == "parent":
            os.read(turn, 1)
        write(store, "child", rest)
        store.close()

    wait = forked(child)
    write(store, "parent", half)
    if first_to_close == "child":
        wait()
    write(store, "parent", rest)
    if first_to_close != "nobody":
        store.close()
    os.write(pass_on, b"!")
    if first_to_close != "child":
        wait()
    store.close()
    check(path, "parent", "child")
    os.close(turn)
    os.close(pass_on)


def test_a_child_that_ends_without_closing_after_its_parent_has_closed(path: Path) -> None:
    # Whoever closes last moves the log into the file; here nobody does, so that the log must be where others find it.
    store = opened(path)
    turn, pass_on = os.pipe()

    def child() -> None:
        write(store, "child", range(ROUNDS - 1))
        os.read(turn, 1)
        write(store, "child", range(ROUNDS - 1, ROUNDS))
        os._exit(0)

    wait = forked(child)
    write(store, "parent")
    store.close()
    os.write(pass_on, b"!")
    wait()
    check(path, "parent", "child")
    os.close(turn)
    os.close(pass_on)


@pytest.mark.skipif(not linux, reason="looks into /proc")
def test_a_child_inherits_nothing_of_the_file(path: Path) -> None:
    with opened(path) as store, Store(path) as frozen, Store(path, "other", frozen=False) as other:
        other.set("k", 1)
        store.set("large", "x" * 1_000_000)

        def child() -> None:
            assert descriptors(path) == []

        with busy(
            lambda: frozen.get("large"), lambda: store.get("large"), lambda: other.set("k", 2), lambda: list(store)
        ):
            for _ in range(5):
                forked(child)()


def test_forks_while_threads_read_and_write(path: Path) -> None:
    store = opened(path)
    writes = count()

    def writer() -> None:
        i = next(writes)
        store.set(f"thread {i}", i)
        store.extend("thread", (i, i))
        store.apply("thread", {str(i): i})
        acknowledged.append(i)

    acknowledged: list[int] = []
    readers = [lambda: store.get("thread 0"), lambda: store.range("thread", n=100), lambda: store.current("thread")]
    with busy(writer, writer, *readers):
        for i in range(5):
            forked(partial(write, store, "child", range(i, i + 1)))()
    store.close()
    with Store(path) as frozen:
        assert [frozen.get(f"child {i}") for i in range(5)] == list(range(5))
        assert [frozen.get(f"thread {i}") for i in acknowledged] == acknowledged
        assert {t for t, _ in frozen.range("thread")} >= set(acknowledged)
        assert (frozen.current("thread") or {}).keys() >= {str(i) for i in acknowledged}
        assert frozen.current("same") == {"count": 5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one value", "many values", "points"])
def test_a_fork_in_the_middle_of_a_write_of_another_thread(path: Path, kind: str) -> None:
    writes: dict[str, Callable[[Store, int], object]] = {
        "one value": lambda store, i: store.set("k", [i, "x" * 3_000_000]),
        "many values": lambda store, i: store.update({f"{j}": [i, "x" * 2000] for j in range(1000)}),
        "points": lambda store, i: store.extend_many("s", ((t, [i]) for t in range(20_000))),
    }
    rounds = count(1)

    def seen(store: Store) -> set[int]:
        return {value[0] for value in store.values()} | {value[0] for _, value in store.range("s")}

    def child() -> None:
        assert len(seen(store)) == 1  # all of a write or nothing of it
        store.apply("same", {"count": (operator.add, 1)})

    with opened(path) as store:
        write_one = writes[kind]
        write_one(store, 0)
        with busy(lambda: write_one(store, next(rounds))):
            for _ in range(5):
                forked(child)()
        assert seen(store) == {next(rounds) - 1}
        assert store.current("same") == {"count": 5}


def test_no_version_is_given_on_both_sides(path: Path) -> None:
    with opened(path) as store:
        store.set("before", 0)
        wait = forked(lambda: store.update({f"child {i}": store.set("k", i) for i in range(200)}))
        given = {store.set("k", i) for i in range(200)}
        wait()
        of_child = {store[f"child {i}"] for i in range(200)}
        assert (len(given), len(of_child), given & of_child) == (200, 200, set())


def test_a_thread_forks(path: Path) -> None:
    store = opened(path)
    store.set("main 0", 0)

    def work() -> None:
        write(store, "thread")
        wait = forked(lambda: write(store, "child"))
        write(store, "later")
        wait()

    with busy(lambda: store.get("main 0")):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    store.delete("main 0")
    store.close()
    check(path, "thread", "child", "later")


def test_a_grandchild(path: Path) -> None:
    store = opened(path)

    def child() -> None:
        wait = forked(lambda: write(store, "grandchild"))
        write(store, "child")
        store.close()
        wait()

    wait = forked(child)
    write(store, "parent")
    wait()
    store.close()
    check(path, "parent", "child", "grandchild")


def test_threads_that_end_meanwhile(path: Path) -> None:
    store = opened(path)
    numbers = count()

    def in_a_thread_of_its_own() -> None:
        i = next(numbers)
        thread = threading.Thread(target=store.set, args=(f"short {i}", i))
        thread.start()
        thread.join()

    with busy(in_a_thread_of_its_own):
        for i in range(8):
            forked(partial(write, store, "child", range(i, i + 1)))()
    with Store(path) as frozen:
        assert sorted(value for _, value in frozen.find("short *")) == list(range(next(numbers)))
        assert frozen.current("same") == {"count": 8}
    store.close()


def test_a_child_opens_and_closes_what_a_thread_was_opening_and_closing(path: Path) -> None:
    store = Store(path, frozen=False)

    def enter() -> None:
        with store:
            store.set("thread", 1)

    def child(i: int) -> None:
        with store:
            store.set(f"child {i}", i)

    with busy(enter):
        for i in range(5):
            forked(partial(child, i))()
    with Store(path) as frozen:
        assert frozen.keys() == [f"child {i}" for i in range(5)] + ["thread"]


def test_threads_that_open_other_stores_meanwhile(path: Path, tmp_path: Path) -> None:
    store = opened(path)
    names = count()

    def make() -> None:
        with Store(tmp_path / f"{next(names) % 3}.db", f"{next(names)}", frozen=False) as other:
            other.set("k", 1)

    with busy(make, make, lambda: store.set("thread", 1)):
        for i in range(5):
            forked(partial(write, store, "child", range(i, i + 1)))()
    with Store(path) as frozen:
        assert frozen.current("same") == {"count": 5}
    store.close()


def test_a_frozen_store_reads_on_both_sides(path: Path) -> None:
    with opened(path) as store:
        store.set("k", 0)
        with Store(path) as frozen:

            def child() -> None:
                assert frozen["k"] in (0, 1)
                store.set("k", 2)
                assert frozen["k"] == 2

            assert frozen["k"] == 0
            wait = forked(child)
            wait()
            assert frozen["k"] == store["k"] == 2


def use_inherited(rounds: int) -> None:
    assert shared is not None
    write(shared, "process", range(rounds))


def use_its_own(path: str, rounds: int) -> None:
    with Store(path, frozen=False) as store:
        write(store, "process", range(rounds))


shared: Store | None = None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(path: Path, method: str) -> None:
    global shared  # noqa: PLW0603 - how a function that is started by name gets at it
    context = multiprocessing.get_context(method)
    shared = opened(path)
    process = (
        context.Process(target=use_inherited, args=(ROUNDS,))  # type: ignore[attr-defined]
        if method == "fork"
        else context.Process(target=use_its_own, args=(str(path), ROUNDS))  # type: ignore[attr-defined]
    )
    process.start()
    write(shared, "parent")
    process.join()
    assert process.exitcode == 0
    shared.close()
    check(path, "parent", "process")


def test_a_transaction_stays_with_the_parent(path: Path) -> None:
    with opened(path) as store, Store(path) as frozen, store.transaction() as tx:
        tx["k"] = "before"
        tx.update({f"{i}": "x" * 3000 for i in range(8000)})  # more than the cache holds: some of it is in the log

        def child() -> None:
            with pytest.raises(StoreClosedError, match="process"):
                tx["k"] = "child"
            for verb in (lambda: store["k"], lambda: store.set("k", 1), lambda: frozen["k"], Store(path).open):
                with pytest.raises(StoreNotAvailableError, match="forked inside a transaction"):
                    verb()
            with Store(path.with_name("other.db"), frozen=False) as other:
                other["k"] = "child"

        forked(child)()
        assert (tx["k"], frozen.get("k")) == ("before", None)
        tx["k"] = "after"
    forked(partial(check_value, path, "k", "after"))()
    check_value(path.with_name("other.db"), "k", "child")


def test_a_fork_waits_for_the_transaction_of_another_thread(path: Path) -> None:
    begun, forking = threading.Event(), threading.Event()
    with opened(path) as store:

        def transact() -> None:
            with store.transaction() as tx:
                tx["k"] = 1
                begun.set()
                forking.wait(30)
                tx["k"] = 2

        thread = threading.Thread(target=transact)
        thread.start()
        begun.wait(30)
        threading.Timer(0.02, forking.set).start()
        forked(partial(check_value, path, "k", 2))()
        thread.join()
        assert store["k"] == 2


def test_a_snapshot_that_is_forked_says_so(path: Path) -> None:
    with opened(path) as store:
        store.set("k", 1)
        with store.snapshot() as view:
            assert view["k"] == 1
            forked(partial(check_value, path, "k", 1))()
            with pytest.raises(ConflictError, match="forked"):
                view["k"]


def check_value(path: Path, key: str, value: object) -> None:
    with Store(path) as store:
        assert store[key] == value
