"""Several processes count, compute and discard the same keys at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rstore import ConflictError, Store, StoreBusyError
from rstore.testing.atomic import push
from rstore.testing.flavours import Flavour, pickled
from rstore.testing.oracle import Oracle
from rstore.testing.suite import Opener, Suite
from rstore.testing.worker import Worker

THREADS = 4
RENEWER = "rstore lease"


def count_up(store: Store, n: int) -> None:
    """Count in three ways, while other writers do the same."""
    for i in range(n):
        store.incr("hits")
        store.incr("seconds", 0.5)
        store.modify("list", lambda items: push(items, 1), default=[])
        if store.add(f"first to come {i}", "me"):
            store.incr("winners")


def compute_once(store: Store, n: int) -> list[Any]:
    """Read or compute values that are slow to compute, while others do the same; count each computation."""

    def slow() -> Any:
        store.incr("computations")
        time.sleep(0.002)
        return [1, 2]

    return [store.get_or_set(f"slow {i}", slow) for i in range(n)]


class RacingSuite(Suite):
    """Verbs that depend on the value in place, while other processes change it."""

    @pickled
    def test_all_who_count_are_counted(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        n, tasks = 8, THREADS

        def own(_: int) -> None:
            with opener() as handle:
                count_up(handle, n)

        with ThreadPoolExecutor(THREADS) as pool:
            futures = [pool.submit(own, i) for i in range(THREADS - 1)]
            futures.append(pool.submit(count_up, store, n))
            if self.persistent:
                with Worker() as worker:
                    worker.open(flavour, opener.dsn, durability="normal")
                    worker.run(count_up, n)
                tasks += 1
            for future in futures:
                future.result()
        assert (store["hits"], store["seconds"], len(store["list"])) == (tasks * n, tasks * n * 0.5, tasks * n)
        assert (store["winners"], store.count("first")) == (n, n)

    @pickled
    def test_one_computes_and_the_others_wait(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        n = 5
        with ThreadPoolExecutor(THREADS) as pool:
            found = [pool.submit(compute_once, store, n) for _ in range(THREADS)]
            if self.persistent:
                with Worker() as worker:
                    worker.open(flavour, opener.dsn, durability="normal")
                    assert worker.run(compute_once, n) == [[1, 2]] * n
            assert [one.result() for one in found] == [[[1, 2]] * n] * THREADS
        assert store["computations"] == n
        assert sorted(store.keys()) == sorted(["computations", *(f"slow {i}" for i in range(n))])

    @pickled
    def test_who_waits_goes_on_when_the_other_gives_up(self, store: Store, opener: Opener) -> None:
        begun, give_up = threading.Event(), threading.Event()

        def fails() -> Any:
            begun.set()
            assert give_up.wait(30)
            raise LookupError

        # Its time-out is shorter than the lease, after which others take the computing process for dead.
        with opener(timeout=3) as patient, ThreadPoolExecutor(2) as pool:
            failing = pool.submit(store.get_or_set, "k", fails)
            assert begun.wait(30)
            with opener(timeout=0) as hasty, pytest.raises(StoreBusyError, match=r"compute .* died"):
                hasty.get_or_set("k", lambda: 1)
            waiting = pool.submit(patient.get_or_set, "k", lambda: None)
            assert "k" not in store
            assert len(store) == 0
            give_up.set()
            with pytest.raises(LookupError):
                failing.result()
            assert waiting.result() is None
        assert store["k"] is None
        assert store.get_or_set("k", lambda: 1) is None
        assert (store.timeseries(), store.eventsources(), store.keys()) == ([], [], ["k"])

    @pickled
    def test_who_is_interrupted_keeps_nobody_waiting(
        self, store: Store, opener: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start

        def interrupted(thread: threading.Thread) -> None:
            start(thread)
            if thread.name == RENEWER:
                raise KeyboardInterrupt

        def interrupted_before(thread: threading.Thread) -> None:
            if thread.name == RENEWER:
                raise KeyboardInterrupt
            start(thread)

        def leaves() -> None:
            raise SystemExit

        with opener(timeout=1) as hasty:
            for i, begin in enumerate((interrupted, interrupted_before)):
                with monkeypatch.context() as patch:
                    patch.setattr(threading.Thread, "start", begin)
                    with pytest.raises(KeyboardInterrupt):
                        store.get_or_set(f"k{i}", lambda: "never")
                assert hasty.get_or_set(f"k{i}", lambda: "at once") == "at once"
            with pytest.raises(SystemExit):
                store.get_or_set("k2", leaves)
            assert hasty.get_or_set("k2", lambda: "at once") == "at once"
        end = time.monotonic() + 5
        while any(thread.name == RENEWER for thread in threading.enumerate()):  # also one that is about to start
            assert time.monotonic() < end
            time.sleep(0.001)

    @pickled
    def test_a_namespace_that_is_discarded_meanwhile(self, store: Store, opener: Opener, oracle: Oracle) -> None:
        version = store.set("k", 1)
        with opener() as other:

            def two(*_: Any) -> int:
                other.discard()
                return 2

            verbs: tuple[Callable[[], Any], ...] = (
                lambda: store.get_or_set("k", two),
                lambda: store.modify("k", two, default=1),
                lambda: store.add("k", 2),
                lambda: store.incr("k", default=1),
                lambda: store.set_many({"k": 2}),
                lambda: store.set("k", 2, if_version=None),
            )
            for verb in verbs:
                other.discard()
                verb()
                assert store["k"] == 2
            other.discard()
            with pytest.raises(ConflictError):
                store.set("k", 1, if_version=version)
            assert (store.touch("k", 1), store.delete_prefix("k"), store.get_many(["k"])) == (False, 0, {})
            assert (store.count(), [*store.scan()], store.entry("k")) == (0, [], None)
        oracle.values["k"] = store.setdefault("k", 3)
