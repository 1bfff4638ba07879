"""Concurrent writers to the same keys: threads of one store, several handles, and a second process."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rstore import ChangeRefusedError, Store, StoreError, StoreIntegrityError
from rstore.testing.flavours import Flavour, pickled, sealed
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle
from rstore.testing.suite import Opener, Suite
from rstore.testing.worker import Worker

THREADS = 4


def _all_at_once(*tasks: Callable[[], Any]) -> None:
    """Begin all tasks at one moment; an error of any of them is raised."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> None:
        barrier.wait(30)
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for future in [pool.submit(run, task) for task in tasks]:
            future.result()


def write_all(store: Store, who: int, n: int) -> None:
    """Write to a shared key, series and sequence, and to some that no other writer touches."""
    for i in range(n):
        store.set("shared", (who, i))
        store.set(f"{who} {i:04}", i)
        store.extend("shared", (i, who), (1_000_000 * who + i, who))
        store.apply("shared", {"count": (operator.add, 1), f"{who}": i})


def count_up(store: Store, n: int) -> int:
    """Apply one addition after another; return how many were acknowledged."""
    for _ in range(n):
        store.apply("shared", {"count": (operator.add, 1)})
    return n


def bulk(store: Store, who: int, n: int) -> None:
    """Extend the shared series by many points, piece by piece; every second piece is a bulk load."""
    for i, start in enumerate(range(0, n, 1500)):
        points = [(t * THREADS + who, t) for t in range(start, min(start + 1500, n))]
        if i % 2:
            store.extend_many("bulk", points)
        else:
            for j in range(0, len(points), 100):
                store.extend("bulk", *points[j : j + 100])


def write_plainly(store: Store, n: int) -> None:
    """Make writes that succeed whatever other writers delete."""
    for i in range(n):
        store.set(f"{i}", i)
        store.extend("k", (i, i))
        store.extend_many("many", [(t, i) for t in range(5000)] if i % 10 == 0 else [(5000 + i, i)])
        store.apply("k", {"a": i})


def write_of_each(store: Store) -> None:
    """Write the same of each model again."""
    store.set("k", 1)
    store.extend_many("k", [(t, t) for t in range(2000)])
    store.apply("k", {"a": 1}, 1)
    store.apply("k", {"a": 2}, 2)


_READS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("k"),
    "get_many": lambda store: store.get_many(["k"]),
    "entry": lambda store: store.entry("k"),
    "find": lambda store: store.find(),
    "modify": lambda store: store.modify("k", lambda value: value, default=0),
    "pop": lambda store: store.pop("k", None),
    "range": lambda store: store.range("k"),
    "last": lambda store: store.last("k"),
    "range_many": lambda store: store.range_many(["k"]),
    "resample": lambda store: store.resample("k", 100),
    "extend_many": lambda store: store.extend_many("k", [(t, t) for t in range(3000)]),
    "remove": lambda store: store.remove("k", start=100, end=200),
    "current": lambda store: store.current("k"),
    "past": lambda store: store.past("k", 1),
    "events": lambda store: store.events("k"),
    "apply": lambda store: store.apply("k", {"b": 1}),
    "apply in the past": lambda store: store.apply("k", {"b": 1}, 0),
    "revert": lambda store: store.revert("k", 0, ["b"]),
    "apply_many": lambda store: store.apply_many([("k", 10**15, {"b": 1}), ("new", 0, {"b": 1})]),
    "prune": lambda store: store.prune("k"),
}


class SharingSuite(Suite):
    """Concurrent writers."""

    @pickled
    def test_what_another_handle_has_just_changed_counts(self, store: Store, opener: Opener, oracle: Oracle) -> None:
        # Each handle has cached the state of a moment ago.
        log = oracle.events["e"] = EventOracle()
        with opener() as other:
            changes: list[tuple[Store, dict[str, Any]]] = [
                (store, {"x": 1}),
                (other, {"x": (operator.delitem, None), "y": 5}),
                (store, {"y": (operator.add, 1)}),  # it has seen no y
                (store, {"y": (operator.add, 1)}),
                (other, {"x": 7}),
                (store, {"x": (operator.add, 1)}),
            ]
            for t, (handle, change) in enumerate(changes):
                log.apply(change, t)
                assert handle.apply("e", change, t) == log.current()[1]  # type: ignore[index]
            other.apply("e", {"x": (operator.delitem, None)}, 10)
            log.apply({"x": (operator.delitem, None)}, 10)
            with pytest.raises(ChangeRefusedError):
                store.apply("e", {"x": (operator.add, 1)}, 11)
            other.apply("e", {"z": 1}, 20)
            log.apply({"z": 1}, 20)
            with pytest.raises(StoreIntegrityError):
                store.apply("e", {"z": 2}, 20)
            store.apply("e", {"z": 3}, 15)  # in the past, beside the cached present
            log.apply({"z": 3}, 15)
            other.discard()
            assert store.apply("e", {"x": 1}, 1) == {"x": 1}
        log.changes.clear()
        log.apply({"x": 1}, 1)

    @pickled
    def test_threads_of_one_store(self, store: Store) -> None:
        store.apply("shared", {"count": 0})
        _all_at_once(*(lambda who=who: write_all(store, who, 60) for who in range(THREADS)))
        self._everything_was_kept(store, THREADS, 60)

    @pickled
    def test_threads_with_handles_of_their_own(self, store: Store, opener: Opener) -> None:
        def task(who: int) -> None:
            with opener() as own:
                write_all(own, who, 60)

        store.apply("shared", {"count": 0})
        _all_at_once(*(lambda who=who: task(who) for who in range(THREADS)))
        self._everything_was_kept(store, THREADS, 60)

    @pickled
    def test_processes(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        if not self.persistent:
            pytest.skip("the store is this process's own")
        store.apply("shared", {"count": 0})
        with Worker() as worker:
            worker.open(flavour, opener.dsn)
            worker.start(write_all, 1, 60)
            write_all(store, 0, 60)
            worker.wait()
            self._everything_was_kept(store, 2, 60)
            assert worker.call("current", "shared") == store.current("shared")
            assert worker.call("range", "shared") == store.range("shared")
            assert worker.call("items") == store.find()

    @sealed
    def test_threads_that_load_in_bulk(self, store: Store, oracle: Oracle) -> None:
        n = 6_000
        _all_at_once(*(lambda who=who: bulk(store, who, n) for who in range(THREADS)))
        oracle.series["bulk"] = SeriesOracle((t * THREADS + who, t) for who in range(THREADS) for t in range(n))

    @sealed
    def test_processes_that_load_in_bulk(self, store: Store, oracle: Oracle, opener: Opener, flavour: Flavour) -> None:
        if not self.persistent:
            pytest.skip("the store is this process's own")
        n = 12_000
        with Worker() as worker:
            worker.open(flavour, opener.dsn)
            worker.start(bulk, 1, n)
            bulk(store, 0, n)
            worker.wait()
        oracle.series["bulk"] = SeriesOracle((t * THREADS + who, t) for who in range(2) for t in range(n))

    @pickled
    def test_a_reader_sees_whole_batches_only(self, store: Store) -> None:
        """Each batch writes one value to all points; a reader must never see two values."""
        size = 5000
        store.extend_many("k", ((t, 0) for t in range(size)))
        done = threading.Event()

        def write() -> None:
            try:
                for value in range(1, 15):
                    store.extend_many("k", ((t, value) for t in range(size)))
                    store.apply("e", {"a": value, "b": -value})
            finally:
                done.set()

        def read() -> None:
            seen = 0
            while not done.is_set():
                points = store.range("k")
                assert len(points) == size
                values = {value for _, value in points}
                assert len(values) == 1
                assert min(values) >= seen
                seen = min(values)
                state = store.current("e")
                assert state is None or state["a"] == -state["b"]

        _all_at_once(write, read, read)

    @pickled
    def test_appending_while_history_is_rewritten(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle((t, "old") for t in range(20_000))
        store.extend_many("k", points.items())

        def rewrite() -> None:
            for i in range(8):
                store.extend_many("k", [(t, f"new {i}") for t in range(i * 1000, 20_000, 2)])
                store.remove("k", start=i * 100, end=i * 100 + 9)

        def append() -> None:
            for t in range(20_000, 20_300):
                store.extend("k", (t, "hot"), (t - 10_001 - (t % 2), "late"))

        _all_at_once(rewrite, append)
        # `rewrite` owns the even timestamps, `append` the odd ones and the end: the result depends on no race.
        for i in range(8):
            points.update((t, f"new {i}") for t in range(i * 1000, 20_000, 2))
            points.remove(i * 100, i * 100 + 9)
        for t in range(20_000, 20_300):
            points[t] = "hot"
            points[t - 10_001 - (t % 2)] = "late"

    @pickled
    def test_pruning_while_others_apply(self, store: Store) -> None:
        store.apply("shared", {"count": 0})

        def prune() -> None:
            for i in range(30):
                store.apply("shared", {"other": i})
                store.prune("shared")

        _all_at_once(prune, lambda: count_up(store, 80), lambda: count_up(store, 80))
        assert store.current("shared") == {"count": 160, "other": 29}

    @pickled
    def test_explicit_timestamps_are_taken_once(self, store: Store, oracle: Oracle) -> None:
        taken: list[tuple[int, int]] = []

        def task(who: int) -> None:
            for t in range(60):
                try:
                    store.apply("k", {f"{t}": who}, t)
                except StoreError:
                    continue
                taken.append((t, who))

        _all_at_once(*(lambda who=who: task(who) for who in range(THREADS)))
        assert sorted(t for t, _ in taken) == list(range(60))
        log = oracle.events["k"] = EventOracle()
        for t, who in sorted(taken):
            log.apply({f"{t}": who}, t)

    @pickled
    def test_discarding_while_others_write(self, opener: Opener) -> None:
        with opener() as one, opener() as two, opener() as three:
            _all_at_once(
                lambda: write_plainly(one, 60), lambda: write_plainly(two, 60), lambda: self._discard_often(three)
            )  # fmt: skip
            self._agree(one, two, three)

    @sealed
    def test_discarding_while_a_key_is_registered(self, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fact that tells of the key is made for one incarnation: in the next one it would shut out every store."""
        with opener() as store, opener(flavour=Flavour("plain"), allow_plaintext=True) as other:
            backend = store._writer.backend  # noqa: SLF001 - there is no other place between two of its calls
            find = backend.facts

            def replaced() -> tuple[bytes | None, dict[str, bytes]]:
                found = find()
                monkeypatch.undo()
                other.discard()
                other.set("plain", 1)
                return found

            other.discard()
            monkeypatch.setattr(backend, "facts", replaced)
            store.set("k", 1)
            assert backend.facts == find  # else nothing came in between
            assert (store["k"], store.keys()) == (1, ["k", "plain"])
        with opener() as store:
            assert store["k"] == 1

    @sealed
    @pytest.mark.parametrize("verb", _READS, ids=str)
    def test_discarding_twice_while_a_verb_reads(
        self, opener: Opener, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It knows the keys of one incarnation, reads bytes of the next one, and finds the keys of the third one."""
        with opener() as store, opener() as other:

            def replace() -> None:
                other.discard()
                write_of_each(other)

            write_of_each(other)
            _READS[verb](store)
            replace()
            backend = store._writer.backend  # noqa: SLF001 - there is no other place between two of its calls
            with monkeypatch.context() as patched:

                def behind(call: Callable[..., Any]) -> Callable[..., Any]:
                    def answer(*args: Any, **kwargs: Any) -> Any:
                        found = call(*args, **kwargs)
                        if found is not None:
                            patched.undo()
                            replaced.append(True)
                            replace()
                        return found

                    return answer

                replaced: list[bool] = []
                for name in ("peek", "get", "fetch", "scan", "view", "views", "log_snapshot"):
                    patched.setattr(backend, name, behind(getattr(backend, name)))
                _READS[verb](store)
                assert replaced

    @pickled
    def test_discarding_while_another_process_writes(self, opener: Opener, flavour: Flavour) -> None:
        if not self.persistent:
            pytest.skip("the store is this process's own")
        with opener() as store, Worker() as worker:
            worker.open(flavour, opener.dsn)
            worker.start(write_plainly, 60)
            self._discard_often(store)
            worker.wait()
            worker.call("set", "after", 1)
            assert store["after"] == 1
            assert store.find() == worker.call("items")
            assert store.range("many") == worker.call("range", "many")
            store.discard()
            assert worker.call("keys") == []

    @staticmethod
    def _discard_often(store: Store) -> None:
        for _ in range(15):
            store.discard()
            store.set("between", 1)

    @staticmethod
    def _agree(one: Store, two: Store, three: Store) -> None:
        one.set("after", 1)
        assert two["after"] == 1
        assert one.find() == two.find() == three.find()
        assert one.range("many") == two.range("many")
        assert one.events("k") == two.events("k")
        one.discard()
        assert two.keys() == []

    @staticmethod
    def _everything_was_kept(store: Store, writers: int, n: int) -> None:
        state = store.current("shared")
        assert state == {"count": writers * n} | {f"{who}": n - 1 for who in range(writers)}
        assert len(store.events("shared") or ()) == 2 * writers * n + 1
        who, i = store["shared"]
        assert who in range(writers)
        assert i == n - 1
        assert len(store) == writers * n + 1
        assert store.find("? *") == [(f"{who} {i:04}", i) for who in range(writers) for i in range(n)]
        points = dict(store.range("shared"))
        assert set(points) == {1_000_000 * who + i for who in range(writers) for i in range(n)}
        assert all(points[1_000_000 * who + i] == who for who in range(1, writers) for i in range(n))
