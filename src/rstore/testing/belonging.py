"""A transaction belongs to one thread or task, and lasts until its `with` is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest

from rstore import (
    ConflictError,
    FrozenStoreError,
    NotSupportedError,
    Store,
    StoreBusyError,
    StoreClosedError,
    Transaction,
)
from rstore.testing.flavours import plain
from rstore.testing.opening import OF_STORES, READS, WRITES
from rstore.testing.oracle import Oracle
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.transactions import Left, undone


class BelongingSuite(Suite):
    """Transactions that another thread or task uses, or that do not end where they should."""

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_it_belongs_to_its_thread_and_its_time(self, store: Store, opener: Opener) -> None:
        iterators: list[Iterator[Any]] = []
        store.update({f"k{i:04}": i for i in range(2500)})
        with store.transaction() as tx, ThreadPoolExecutor(1) as pool:
            tx["k"] = 1
            here: tuple[Callable[[], Any], ...] = (
                lambda: tx["k"],
                lambda: tx.set("k", 2),
                lambda: tx.range("s"),
                lambda: tx.current("e"),
            )
            for verb in here:
                with pytest.raises(StoreClosedError, match="thread"):
                    pool.submit(verb).result()
            tx.extend_many("s", ((t, t) for t in range(2500)))
            iterators += iter(tx), tx.scan(), iter(tx.items()), iter(tx.values()), tx.batches("s", size=10)
            for iterator in iterators:
                next(iterator)
            refused: tuple[Callable[[], Any], ...] = (
                lambda: store["k"],
                lambda: store.set("k", 2),
                lambda: store.last("s"),
                lambda: store.apply("e", {"n": 1}),
                lambda: [*store.items()],
            )
            for verb in refused:
                with pytest.raises(NotSupportedError, match="use `tx`"):
                    verb()
            alone: dict[str, Callable[[], Any]] = {
                "discard": store.discard,
                "check": store.check,
                "watch": store.watch,
                "snapshot": lambda: store.snapshot().__enter__(),
                "stats": store.stats,
                "backup": lambda: store.backup("never"),
                "vacuum": store.vacuum,
                "namespaces": store.namespaces,
                "durability": store.durability,
            }
            for name, verb in alone.items():
                with pytest.raises(NotSupportedError, match=f"^{name} is a verb of the store alone"):
                    verb()
        for name, later in (READS | WRITES).items():
            if name not in OF_STORES:
                with about(name), pytest.raises(StoreClosedError, match="over"):
                    later(tx)
        for iterator in iterators:
            with pytest.raises(StoreClosedError, match="over"):
                next(iterator)
        with pytest.raises(StoreClosedError), tx.transaction():
            pytest.fail("a transaction has begun")
        with opener(frozen=True) as frozen, pytest.raises(FrozenStoreError), frozen.transaction():
            pytest.fail("a transaction has begun")
        with pytest.raises(StoreClosedError), opener().transaction():
            pytest.fail("a transaction has begun")
        with opener() as other:
            transaction = other.transaction()
            tx = transaction.__enter__()
            tx["k"] = 3
            other.close()
            with pytest.raises(StoreClosedError, match="nothing was applied"):
                transaction.__exit__(None, None, None)
        assert store["k"] == 1
        store.clear()
        store.remove("s")

    @plain
    @pytest.mark.usefixtures("_transactional")
    @pytest.mark.parametrize("new", ["before the inner end", "around the inner end", "after the inner end"])
    @pytest.mark.parametrize("begin", [lambda store, _: store.transaction(), lambda _, tx: tx.transaction()])
    def test_what_ends_before_its_part_is_undone_with_it(
        self,
        store: Store,
        oracle: Oracle,
        begin: Callable[[Store, Transaction], AbstractContextManager[Transaction]],
        new: str,
    ) -> None:
        store["before"] = oracle.values["before"] = 1
        outer = store.transaction()
        first = outer.__enter__()
        first["first"] = 1
        parts = [begin(store, first)]
        second = parts[0].__enter__()
        second.update(second=1, before=2)
        second.extend("s", (1, 1))
        parts.append(begin(store, second))
        third = parts[1].__enter__()
        third["third"] = 1

        def end_parts() -> None:
            with pytest.raises(StoreClosedError, match="reverse order"):
                parts[0].__exit__(None, None, None)
            error = Left()  # the exception that leaves the block goes on
            assert not parts[1].__exit__(Left, error, None)

        with pytest.raises(StoreClosedError, match=r"reverse order .* nothing was applied"):
            outer.__exit__(None, None, None)
        for tx in (first, second, third):
            with pytest.raises(StoreClosedError):
                tx["later"] = 1
        if new == "after the inner end":
            end_parts()
        with store.transaction() as tx:
            tx["new"] = 1
            if new == "around the inner end":
                end_parts()
            with tx.transaction() as part:
                part["part"] = 1
            assert store.run(lambda inner: inner.keys()) == ["before", "new", "part"]
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(store.get, "before").result() == 1
        if new == "before the inner end":
            end_parts()
        store["after"] = 1
        oracle.values |= {"new": 1, "part": 1, "after": 1}

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_generators_that_take_turns_inside_of_transactions(self, store: Store) -> None:
        def job(name: str) -> Iterator[None]:
            with store.transaction() as tx:
                tx[f"{name}1"] = 1
                yield
                tx[f"{name}2"] = 1

        jobs = [job("a"), job("b")]
        for one in jobs:
            next(one)
        for one in jobs:
            with pytest.raises(StoreClosedError):
                next(one)
        assert len(store) == 0
        # A transaction that is thrown away is undone, and with it those that are open inside of it.
        jobs = [job("a"), job("b")]
        assert [*map(next, jobs)] == [None, None]
        jobs.pop(0)
        with pytest.raises(StoreClosedError):
            next(jobs[0])
        assert [*job("c")] == [None]
        assert store.keys() == ["c1", "c2"]
        store.clear()

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_who_is_not_inside_waits_or_goes_on_and_sees_nothing(self, store: Store, opener: Opener) -> None:
        store["a"] = 0
        with (
            opener(timeout=0.3) as other,
            opener("another namespace", timeout=0.3) as another,
            opener(timeout=0.3) as mine,
            ThreadPoolExecutor(1) as pool,
        ):
            another["a"] = 0

            def elsewhere(write: Callable[[], Any]) -> bool:
                began = time.monotonic()
                try:
                    write()
                except (StoreBusyError, ConflictError):
                    assert time.monotonic() - began < 10
                    return False
                return True

            with undone(mine) as tx:
                tx["a"] = 1
                reads: tuple[Callable[[], Any], ...] = (
                    lambda: other["a"],
                    lambda: another["a"],
                    lambda: pool.submit(lambda: mine["a"]).result(),
                    lambda: pool.submit(lambda: other["a"]).result(),
                )
                assert [read() for read in reads] == [0, 0, 0, 0]
                # Another key than the one written inside: a backend that locks single keys lets this writer go on.
                kept = {
                    "other": elsewhere(lambda: other.set("other", 1)),
                    "thread": elsewhere(lambda: pool.submit(mine.set, "thread", 1).result()),
                }
                kept_there = elsewhere(lambda: another.set("b", 1))
            # Each acknowledged write is there.
            assert dict(store) == {"a": 0, **{key: 1 for key in kept if kept[key]}}
            assert another.get("b") == (1 if kept_there else None)
            other["last"] = 1
            assert pool.submit(lambda: mine["last"]).result() == 1
        store.clear()

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_a_thread_that_dies_inside_leaves_nothing_behind(self, store: Store, opener: Opener) -> None:
        with opener() as mine:

            def begin() -> None:
                transaction = mine.transaction()
                transaction.__enter__()["a"] = 1

            thread = threading.Thread(target=begin)
            thread.start()
            thread.join()
            gc.collect()
            with mine.transaction() as tx:
                tx["b"] = 1
        assert store.keys() == ["b"]
        store.clear()

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_it_belongs_to_its_task(self, store: Store) -> None:
        async def first() -> None:
            with suppress(Left), store.transaction() as tx:
                tx["a"] = 1
                await asyncio.sleep(0)
                assert store.run(lambda inner: inner["a"]) == 1  # of its own task
                tx["a"] = 2
                raise Left

        async def second() -> None:
            verbs: tuple[Callable[[], Any], ...] = (
                lambda: store.transaction().__enter__(),
                lambda: store.run(lambda tx: tx.set("b", 1)),
                lambda: store.set("b", 1),
                lambda: store.get_or_set("b", lambda: 1),
                lambda: store["a"],
            )
            for verb in verbs:
                with pytest.raises(NotSupportedError, match=r"await .* threads?"):
                    verb()
            assert await asyncio.to_thread(store.get, "a") is None

        async def both() -> None:
            await asyncio.gather(first(), second())
            with store.transaction() as tx:
                tx["c"] = 1

        asyncio.run(both())
        assert store.keys() == ["c"]
        store.clear()

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_one_that_ends_in_another_thread_is_undone_and_in_nobodys_way(self, store: Store, opener: Opener) -> None:
        with opener() as mine, ThreadPoolExecutor(1) as pool:
            transaction = mine.transaction()
            pool.submit(lambda: transaction.__enter__().set("inside", 1)).result()
            with pytest.raises(StoreClosedError, match="another thread"):
                transaction.__exit__(None, None, None)
            pool.submit(mine.set, "later", 1).result()
            assert mine.keys() == store.keys() == ["later"]
            with mine.transaction() as tx:
                tx["here"] = 1
            pool.submit(mine.discard).result()
        store["again"] = 1
        store.clear()
