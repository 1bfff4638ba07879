"""Discarding: the file goes when nobody is in it, and nothing that was acknowledged since goes with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
from processes import Program, Remote, check_file

from rstore import ConflictError, Store, StoreError, StoreNotAvailableError, TamperedError, generate_key

FIRST_WRITES: dict[str, Callable[[Store], object]] = {
    "set": lambda store: store.set("new", 1),
    "large": lambda store: store.set("new", "x" * 5000),
    "update": lambda store: store.update(new=1, newer=2),
    "setdefault": lambda store: store.setdefault("new", 1),
    "extend": lambda store: store.extend("new", (1, 1)),
    "many": lambda store: store.extend_many("new", ((t, t) for t in range(5000))),
    "apply": lambda store: store.apply("new", {"a": 1}),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def fill(store: Store) -> None:
    store.update(a=1, large="x" * 5000)
    store.extend("s", (1, 1))
    store.extend_many("s", ((t, t) for t in range(5000)))
    store.apply("e", {"a": 1})


def contents(store: Store) -> list[str]:
    return [*store.keys(), *store.timeseries(), *store.eventsources()]


def test_the_file_goes_with_its_last_namespace(path: Path) -> None:
    with Store(path, "one", frozen=False) as one, Store(path, "two", frozen=False) as two:
        fill(one)
        fill(two)
        one.discard()
        assert contents(two) == ["a", "large", "s", "e"]
    check_file(path)
    with Store(path, "two", frozen=False) as two:
        two.discard()
        assert list(path.parent.iterdir()) == []
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("first", FIRST_WRITES)
def test_a_discarded_store_is_empty_and_the_next_write_makes_it_again(path: Path, first: str, encrypted: bool) -> None:
    key = bytes(32) if encrypted else None
    with Store(path, key=key, frozen=False) as store:
        fill(store)
        store.discard()
        assert contents(store) == []
        assert (store.get("a"), len(store), store.range("s"), store.last("s")) == (None, 0, [], None)
        assert (store.current("e"), store.events("e"), list(store.items())) == (None, None, [])
        assert list(path.parent.iterdir()) == []
        FIRST_WRITES[first](store)
        with Store(path, key=key) as other:
            assert set(contents(other)) == {"new", "newer"} if first == "update" else {"new"}
    with Store(path, key=key) as store:
        assert contents(store)
    check_file(path)


@pytest.mark.parametrize(
    "take",
    [
        lambda store: store.delete("a", "b"),
        lambda store: store.clear(),
        lambda store: store.remove("s"),
        lambda store: store.remove("s", "t", start=1),
        lambda store: store.prune("e"),
        lambda store: store.pop("a", None),
        lambda store: store.discard(),
    ],
    ids=["delete", "clear", "remove", "range", "prune", "pop", "discard"],
)
def test_taking_away_from_a_discarded_store_does_not_make_it_again(path: Path, take: Callable[[Store], Any]) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        store.discard()
        assert not take(store)
    assert list(path.parent.iterdir()) == []


@pytest.mark.slow
def test_a_store_can_be_opened_while_others_discard_it(path: Path) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(Program(programs.discard_often, path)) for _ in range(2)]
        opened = 0
        for i in range(300):
            with suppress(StoreError), Store(path, frozen=False, durability="normal") as store:
                store.set("k", i)
                opened += 1
        assert opened > 200
        for other in others:
            other.tell()
        for other in others:
            assert other.hear() == "done"


def test_discarding_twice(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store.discard()
        store.discard()
        assert list(path.parent.iterdir()) == []
        store.set("k", 1)
        assert store["k"] == 1


def test_discarding_removes_nothing_while_another_process_has_it_open(path: Path) -> None:
    with Store(path, frozen=False) as store, Remote(path) as remote:
        fill(store)
        assert remote("get", "a") == 1
        store.discard()
        assert contents(store) == []
        assert path.exists()
        assert remote("keys") == remote("timeseries") == remote("eventsources") == []
        remote("set", "k", 1)
        remote("extend", "s", [1, 1])
        remote("apply", "e", {"a": 1})
        assert (store.get("k"), store.range("s"), store.current("e")) == (1, [(1, 1)], {"a": 1})
        store.set("l", 2)
        assert remote("get", "l") == 2
        assert remote("discard") is None
        assert path.exists()
        remote.end()
        store.discard()
        assert list(path.parent.iterdir()) == []


def test_a_frozen_handle_keeps_the_file(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path) as frozen:
        fill(store)
        assert len(frozen) == 2
        store.discard()
        assert path.exists()
        assert contents(frozen) == []
        store.set("k", 1)
        assert frozen["k"] == 1
    with Store(path) as frozen:
        assert frozen["k"] == 1


def test_a_discarded_namespace_is_not_there_for_a_frozen_handle(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path, "other", frozen=False):
        fill(store)
        store.discard()
        with pytest.raises(StoreNotAvailableError, match="default"), Store(path):
            pass
    check_file(path)


def test_all_threads_find_it_empty(path: Path) -> None:
    with Store(path, frozen=False) as store:
        fill(store)
        turn = threading.Barrier(2)
        found: list[object] = []

        def work() -> None:
            found.append(store["a"])  # opens the connection of this thread
            turn.wait()
            turn.wait()
            found.append(store.get("a"))
            found.append(path.exists())
            store.set("thread", 1)

        thread = threading.Thread(target=work)
        thread.start()
        turn.wait()
        store.discard()
        assert not path.exists()
        turn.wait()
        thread.join()
        assert found == [1, None, False]
        assert store.keys() == ["thread"]
    check_file(path)


def test_a_writer_in_another_thread_goes_on(path: Path) -> None:
    with Store(path, frozen=False, durability="normal") as store:
        stop = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            i = 0
            try:
                while not stop.is_set():
                    store.set("thread", i)
                    store.extend("thread", (i, i))
                    store.apply("thread", {"i": i})
                    i += 1
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        for i in range(15):
            store.set("main", i)
            store.discard()
            store.set("kept", i)
            assert store["kept"] == i
        stop.set()
        thread.join()
        assert errors == []
        store.set("last", 1)
    with Store(path) as store:
        assert store["kept"] == 14
        assert store["last"] == 1
    check_file(path)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "rounds"), [(2, 60), (4, 25)])
def test_what_is_written_after_a_discard_is_there(path: Path, processes: int, rounds: int) -> None:
    with ExitStack() as stack:
        running = [
            stack.enter_context(Program(programs.come_and_go, path, f"{name}", rounds)) for name in range(processes)
        ]
        for one in running:
            assert one.hear() == "ready"
        for one in running:
            one.tell()
        assert [one.end() for one in running] == [["done"]] * processes
    for name in range(processes):
        with Store(path, f"{name}") as store:
            assert (store["k"], store.range("s"), store.current("e")) == (-1, [(-1, -1)], {"i": -1})
    check_file(path)
    for name in range(processes):
        with Store(path, f"{name}", frozen=False) as store:
            store.discard()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("reads", [False, True])
def test_a_namespace_that_was_made_in_vain_is_not_mixed_up_with_the_next_one(path: Path, reads: bool) -> None:
    """The number that it had is given away again."""

    def undo(store: Store) -> None:
        with store.transaction() as tx:
            tx["k"] = 1
            if reads:
                assert tx["k"] == 1
            raise ZeroDivisionError

    with Store(path, "keeper", frozen=False) as keeper, Store(path, "one", frozen=False) as one:
        keeper["k"] = 0
        one["k"] = 1
        assert one["k"] == 1
        with Store(path, "one", frozen=False) as again:
            again.discard()
        with pytest.raises(ZeroDivisionError):
            undo(one)
        with Store(path, "other", frozen=False) as other:
            other["k"] = "of the other"
            assert one.get("k") is None
            one["k"] = 2
            assert (one["k"], other["k"]) == (2, "of the other")


@pytest.mark.parametrize("size", [8, 2 * 1024 * 1024], ids=["small", "large"])
@pytest.mark.parametrize("stream", [Store.scan, lambda store: iter(store.items())], ids=["scan", "items"])
def test_a_stream_goes_on_in_the_namespace_that_replaced_its_own(
    path: Path, stream: Callable[[Store], Iterator[Any]], size: int
) -> None:
    """The page at hand was sealed for an incarnation that is gone, and is no less sound for that."""
    key = generate_key()
    with Store(path, key=key, frozen=False) as store, Store(path, key=key, frozen=False) as other:
        store.update({"a": b"1", "b": b"2" * size, "c": b"3" * size})
        pairs = stream(store)
        assert next(pairs)[0] == "a"
        other.discard()
        other.update(c=b"new")
        store["d"] = b"4"  # so it seals for the new incarnation from here on
        rest = {pair[0]: pair[1] for pair in pairs}
        assert rest.get("b") in (None, b"2" * size)
        assert rest["c"] in (b"new", b"3" * size)


def test_a_stream_reports_bytes_that_were_altered(path: Path) -> None:
    with Store(path, key=generate_key(), frozen=False) as store:
        store.update(a=1, b=2)
        backend = store._session.backend  # type: ignore[union-attr]  # noqa: SLF001 - as another program would
        moved = backend.get("a")
        assert moved is not None
        backend.put("b", moved, None, store._session.incarnation)  # type: ignore[union-attr]  # noqa: SLF001 - as above
        for pairs in (store.scan(), iter(store.items())):
            next(pairs)
            with pytest.raises(TamperedError, match="'b'"):
                next(pairs)


def test_batches_of_a_discarded_series_end_with_a_conflict(path: Path) -> None:
    key = generate_key()
    with Store(path, key=key, frozen=False) as store, Store(path, key=key, frozen=False) as other:
        store.extend_columns("s", np.arange(400_000), np.random.default_rng(1).random(400_000))
        batches = store.batches("s", size=1000)
        next(batches)
        other.discard()
        store["a"] = 1
        with pytest.raises(ConflictError, match="'s' in namespace 'default' was discarded"):
            list(batches)
