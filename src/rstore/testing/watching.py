"""Watches: which changes they tell, in which state, of which writers, and until when."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rstore import (
    EncryptionError,
    InvalidTypeError,
    InvalidValueError,
    NotSupportedError,
    Store,
    StoreClosedError,
    Watch,
    Watched,
)
from rstore.testing.flavours import KEY, OTHER_KEY, Flavour, pickled, plain, sealed
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.worker import Worker

PATIENCE_S = 10.0
"""The awaited change comes in milliseconds; a busy machine may take longer."""


def told(changes: Iterable[Watched]) -> list[tuple[str, Any]]:
    """Return the keys that a watch tells of until it ends, with their values, None for deleted ones."""
    return [(key, None if entry is None else entry.value) for key, entry in changes]


def follow(changes: Iterator[Watched], state: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Apply changes to a state until it is the one that is wanted."""
    while state != wanted:
        try:
            key, entry = next(changes)
        except StopIteration:
            pytest.fail(f"the watch ended before all changes were told; {len(state)} keys are {state!r:.200}")
        if entry is None:
            del state[key]  # a key that was not there is never told to be gone
        else:
            assert entry.key == key
            state[key] = entry.value


def write_in_turn(store: Store, who: str, n: int) -> None:
    """Write, delete and let expire keys that other threads write, too, and count up a key of its own."""
    for i in range(n):
        store.set(who, i)
        time.sleep(0.001)
        if i % 5 == 0:
            store.delete("shared")
        elif i % 5 == 1:
            store.update({f"{j}": (who, i) for j in range(20)})
        elif i % 5 == 2:
            store.delete_prefix("1")
        else:
            store.set("shared", (who, i), ttl=None if i % 2 else 0.01)


@contextmanager
def waiting(changes: Watch) -> Generator[list[Any]]:
    """Wait for a change in another thread; yield a list that gets the outcome and its time."""
    outcome: list[Any] = []

    def wait() -> None:
        try:
            outcome.append(next(changes, None))
        except StoreClosedError as error:
            outcome.append(error)
        outcome.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.03)
    yield outcome
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def open_files() -> int:
    """Return how many files and sockets this process has open; 0 where the system does not tell."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.exists() else 0


class WatchingSuite(Suite):
    """Changes as they happen."""

    @pickled
    def test_the_latest_state_of_what_changed_since_the_call(self, store: Store) -> None:
        store.update(a=1, b=2, c=3, d=4)
        with store.watch(timeout=0) as changes:
            store["a"] = 0
            store["a"] = 10
            del store["b"]
            store["new"] = [1]
            store["brief"] = 1
            del store["brief"]
            store.touch("d", 1000)
            entries = {key: store.entry(key) for key in ("a", "b", "new")}
            assert {change.key: change.entry for change in changes} == entries
        assert told(changes) == []  # a watch that has ended stays so
        assert told(store.watch(timeout=0)) == []

    @pickled
    def test_which_keys(self, store: Store) -> None:
        store.update({"a": 0, "a.1": 0, "b": 0, "b.1": 0})
        asked: list[tuple[tuple[str, ...], str | None]] = [
            ((), None), ((), ""), (("a",), None), (("b", "nothing", "b"), None), ((), "a"), ((), "a."), (("b",), "a"),
            (("a", "a.1"), "a."), (("é", "b.1"), None), ((), "é"), ((), "nothing"),
        ]  # fmt: skip
        watches = [store.watch(*keys, prefix=prefix, timeout=0) for keys, prefix in asked]
        new = {"a": 1, "a.1": 2, "a.2": 3, "b": 4, "é": 5}
        store.update(new)
        store.delete("b.1")
        for (keys, prefix), changes in zip(asked, watches, strict=True):
            with about((keys, prefix)):
                everything = not keys and prefix is None
                wanted = {
                    key: new.get(key)
                    for key in [*new, "b.1"]
                    if everything or key in keys or (prefix is not None and key.startswith(prefix))
                }
                assert dict(told(changes)) == wanted

    @pickled
    def test_by_every_verb_that_writes(self, store: Store) -> None:
        store.update(there=1, gone=2, popped=3)
        state = dict(store)
        with store.watch(timeout=PATIENCE_S) as changes:
            verbs: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
                ("set", ("a", 1), {}), ("set", ("a", 2), {"ttl": 1000}), ("add", ("added", 1), {}),
                ("incr", ("n",), {}), ("incr", ("n",), {}), ("modify", ("n", str), {}),
                ("get_or_set", ("computed", list), {}), ("setdefault", ("default", 5), {}), ("pop", ("popped",), {}),
                ("delete", ("gone",), {}),
                ("set_many", ({"p1": 1, "p2": 2},), {"atomic": False}), ("set_many", ({"x": 3},), {"ttl": 1000}),
                ("update", ({f"p{i}": i for i in range(3, 300)},), {}), ("delete_prefix", ("p1",), {}),
                ("clear", (), {}),
                ("update", ({f"{i}": i for i in range(2500)},), {}), ("set", ("0", "alone"), {}),
            ]  # fmt: skip
            for verb, args, more in verbs:
                with about((verb, *args)):
                    getattr(store, verb)(*args, **more)
                    follow(changes, state, dict(store))

    @pickled
    def test_a_key_that_expires_has_changed(self, store: Store) -> None:
        store.set("known", 1, ttl=0.3)
        store["b"] = 1
        with store.watch(timeout=PATIENCE_S) as changes:
            began = time.monotonic()
            assert next(changes) == Watched("known", None)
            assert time.monotonic() - began < 2
            store.set("new", 1, ttl=1000)
            assert told([next(changes)]) == [("new", 1)]
            for key in ("new", "b"):
                began = time.monotonic()
                store.touch(key, 0.05)
                assert next(changes) == Watched(key, None)
                assert 0.045 <= time.monotonic() - began < 2  # the clock of expiry counts milliseconds
                assert not store.has(key)

    @pickled
    def test_large_values_that_change(self, store: Store) -> None:
        with store.watch(timeout=PATIENCE_S) as changes:
            for value in ("a" * 100_000, "b" * 300_000, "c"):
                store.update({f"{i}": value for i in range(3)})
                assert [next(changes)[1] for _ in range(3)] == [store.entry(f"{i}") for i in range(3)]
            store.clear()
            assert [next(changes) for _ in range(3)] == [Watched(f"{i}", None) for i in range(3)]

    @pickled
    def test_a_frozen_store_watches(self, store: Store, opener: Opener) -> None:
        with opener(frozen=True) as frozen, frozen.watch("k", timeout=PATIENCE_S) as changes:
            for i in range(3):
                store["k"] = i
                assert told([next(changes)]) == [("k", i)]

    @plain
    def test_other_models_and_namespaces_are_no_changes(self, store: Store, opener: Opener) -> None:
        store["k"] = 1
        with opener("other") as other, store.watch(timeout=0) as changes:
            other["k"] = 2
            store.extend("k", (1, 1))
            store.apply("k", {"a": 1})
            assert told(changes) == []

    @pickled
    def test_a_namespace_is_discarded_and_made_again(self, store: Store) -> None:
        store.update(a=1, b=2)
        with store.watch(timeout=PATIENCE_S) as changes:
            store.discard()
            assert told(next(changes) for _ in range(2)) == [("a", None), ("b", None)]
            store["b"] = 3
            assert told([next(changes)]) == [("b", 3)]
            store["c"] = 4
            assert told([next(changes)]) == [("c", 4)]

    @sealed
    def test_what_is_told_at_last_is_what_is_there_at_last(
        self, store: Store, opener: Opener, flavour: Flavour
    ) -> None:
        n, state = 30, dict[str, Any]()
        counted: dict[str, list[int]] = {"one": [], "two": []}
        with ExitStack() as stack:
            worker = stack.enter_context(Worker()) if self.persistent else None  # another process, beside this one
            if worker is not None:
                worker.open(flavour, opener.dsn, durability="normal")

            def other() -> None:
                write_in_turn(store, "two", n) if worker is None else worker.run(write_in_turn, "two", n)

            changes = stack.enter_context(store.watch(timeout=PATIENCE_S))
            pool = stack.enter_context(ThreadPoolExecutor(2))
            writers = [pool.submit(other), pool.submit(write_in_turn, store, "one", n)]
            while [values[-1:] for values in counted.values()] != [[n - 1], [n - 1]]:
                key, entry = next(changes)
                if entry is None:
                    del state[key]
                else:
                    state[key] = entry.value
                    counted.get(key, []).append(entry.value)
            for writer in writers:
                writer.result()
            follow(changes, state, dict(store))
        for values in counted.values():
            assert values == sorted(values)  # never an older state after a newer one

    @plain
    def test_several_watch_at_once(self, store: Store) -> None:
        watches = [store.watch(prefix=f"{i % 2}", timeout=PATIENCE_S) for i in range(4)]
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(next, changes) for changes in watches]
            time.sleep(0.02)
            store.update({"0": "even", "1": "odd"})
            told_of = told(future.result() for future in futures)
        assert told_of == [("0", "even"), ("1", "odd")] * 2

    @plain
    def test_it_ends_when_nothing_changes_for_so_long(self, store: Store) -> None:
        with store.watch(timeout=0.1) as changes:
            for i in range(3):
                time.sleep(0.05)  # the caller's own time does not count
                store["k"] = i
                assert told([next(changes)]) == [("k", i)]
            began = time.monotonic()
            assert next(changes, None) is None
            assert 0.1 <= time.monotonic() - began < 1

    @plain
    def test_the_store_is_closed_meanwhile(self, opener: Opener) -> None:
        with opener() as store:
            changes = store.watch()
            with waiting(changes) as outcome:
                closed_at = time.monotonic()
                store.close()
            error, ended_at = outcome
            assert isinstance(error, StoreClosedError)
            assert ended_at - closed_at < 0.3  # 0.05, on a machine that does nothing else
            store.open()
            with pytest.raises(StoreClosedError):  # the watch belongs to the earlier opening
                next(changes)

    @plain
    def test_it_is_closed_meanwhile(self, store: Store) -> None:
        changes = store.watch()
        with waiting(changes) as outcome:
            closed_at = time.monotonic()
            changes.close()
        assert outcome[0] is None
        assert outcome[1] - closed_at < 0.3
        changes.close()
        store["k"] = 1
        assert told(changes) == []

    @plain
    def test_nothing_is_left_behind(self, store: Store) -> None:
        kept: list[Watch] = []  # watches that have ended hold no resources, though they are referenced

        def leave_off() -> None:
            changes = store.watch()
            store.incr("n")
            for _ in changes:
                break

        def end() -> None:
            kept.append(store.watch(timeout=0))
            assert told(kept[-1]) == []

        def close() -> None:
            kept.append(store.watch(prefix="k"))
            kept[-1].close()

        def throw_away() -> None:
            store.watch("k")

        for leave in (leave_off, end, close, throw_away):
            leave()  # the store itself may open a connection that it keeps
            gc.collect()  # objects that earlier tests threw away
            before = open_files(), threading.active_count()
            for _ in range(3):
                leave()
            after = open_files(), threading.active_count()
            assert after == before, leave.__name__

    @sealed
    def test_what_cannot_be_read_is_told_once(self, store: Store, opener: Opener) -> None:
        with opener(key=[OTHER_KEY, KEY]) as stranger, store.watch(timeout=PATIENCE_S) as changes:
            stranger["a"] = 1
            with pytest.raises(EncryptionError):
                next(changes)
            store["b"] = 2
            assert told([next(changes)]) == [("b", 2)]
            store["b"] = 3
            assert told([next(changes)]) == [("b", 3)]
            stranger.delete("a")

    @plain
    def test_what_cannot_be_watched(self, store: Store, opener: Opener) -> None:
        store["k"] = 1
        no_keys: list[tuple[Any, ...]] = [(1,), (None,), (["k"],), (b"k",), ("k", 2.5)]
        for keys in no_keys:
            with pytest.raises(InvalidTypeError):
                store.watch(*keys)
        for name in ("", "k" * 2049, "a\0b", "\ud800"):
            with pytest.raises(InvalidValueError):
                store.watch(name)
        options: Any
        for options in ({"prefix": 1}, {"prefix": b"k"}, {"timeout": True}, {"timeout": "1"}, {"timeout": 1j}):
            with pytest.raises(InvalidTypeError):
                store.watch(**options)
        for prefix in ("a\0", "\ud800"):
            with pytest.raises(InvalidValueError):
                store.watch(prefix=prefix)
        for timeout in (-0.1, float("nan"), float("inf"), 10**5000, -(10**5000)):
            with pytest.raises(InvalidValueError):
                store.watch(timeout=timeout)
        with pytest.raises(StoreClosedError):
            opener().watch()

    @plain
    def test_a_transaction_is_one_change_and_sees_none(self, store: Store) -> None:
        with store.watch(timeout=0) as changes:
            try:
                with store.transaction() as tx:
                    tx.update(a=1, b=2)
                    for watch in (lambda: next(changes), store.watch):
                        with pytest.raises(NotSupportedError):
                            watch()
                    assert not hasattr(tx, "watch")
            except NotSupportedError:
                pytest.skip("the backend has no transactions")
            assert told(changes) == [("a", 1), ("b", 2)]
