"""Transactions: all or nothing, reading their own writes, isolated from concurrent writers."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    ConflictError,
    InvalidArgumentError,
    InvalidTypeError,
    NotSupportedError,
    Store,
    StoreIntegrityError,
    Transaction,
)
from rstore.testing.flavours import Flavour, pickled, plain
from rstore.testing.integrity import check_oracle
from rstore.testing.oracle import EventOracle, ExpectedChange, Oracle, SeriesOracle, change_of
from rstore.testing.suite import Opener, Suite
from rstore.testing.worker import Worker

THREADS = 4
MANY = 3000


READS_AND_WRITES: tuple[tuple[Callable[[Transaction], Any], Callable[[Transaction], Any]], ...] = (
    (lambda tx: tx["a"] + tx["b"], lambda tx: tx.incr("b")),
    (len, lambda tx: tx.set(f"new {len(tx)}", 1)),
    (lambda tx: [entry.value for entry in tx.scan("b")], lambda tx: tx.set("b", tx["b"] + 1)),
    (lambda tx: tx.get("new"), lambda tx: tx.set("new", tx.get("new", 0) + 1)),
    (lambda tx: tx.range("s"), lambda tx: tx.extend("s", (len(tx.range("s")), 0))),
    (
        lambda tx: tx.last("s"),
        lambda tx: tx.extend_many("s", [(1000 * len(tx.range("s")) + i, 0) for i in range(1500)]),
    ),
    (lambda tx: tx.current("e"), lambda tx: tx.apply("e", {"n": (operator.add, 1)})),
    (lambda tx: tx.timeseries(), lambda tx: tx.extend(f"s{len(tx.timeseries())}", (1, 1))),
)
"""A reading inside a transaction, and a write of another one that changes its result."""


class Left(Exception):  # noqa: N818 - leaves a block, and reports no error
    """Raised inside a transaction to undo it."""


@contextmanager
def undone(store: Store | Transaction) -> Generator[Transaction]:
    """Begin a transaction that an exception undoes."""
    with suppress(Left), store.transaction() as tx:
        yield tx
        raise Left


def write_a_bit_of_all(store: Store | Transaction, oracle: Oracle | None = None) -> None:
    """Use the writing verbs of all three models."""
    points = [(t, t * 0.5) for t in range(MANY)]
    store.set("k", 1)
    store.update({f"k{i}": i for i in range(5)})
    assert (store.incr("k", 2), store.add("k", 9), store.modify("k1", lambda value: value + 10)) == (3, False, 11)
    assert (store.delete("k2", "none"), store.delete_prefix("k3"), store.pop("k4")) == (1, 1, 4)
    store.extend("late", (5, "e"), (1, "a"))
    store.extend("bulk", *points)
    store.extend("bulk", (7, -1.0))
    store.remove("bulk", start=10, end=19)
    store.apply("log", {"n": 1, "s": "x"}, t=100)
    store.apply("log", {"n": (operator.add, 4)}, t=200)
    store.apply("log", {"n": (operator.mul, 2)}, t=150)
    if oracle is not None:
        oracle.values |= {"k": 3, "k0": 0, "k1": 11}
        oracle.series["late"] = SeriesOracle({1: "a", 5: "e"})
        oracle.series["bulk"] = SeriesOracle({t: value for t, value in points if not 10 <= t <= 19} | {7: -1.0})
        log = oracle.events["log"] = EventOracle()
        log.apply({"n": 1, "s": "x"}, 100)
        log.apply({"n": (operator.add, 4)}, 200)
        log.apply({"n": (operator.mul, 2)}, 150)


def take_one(tx: Transaction) -> int:
    """Count down the first of two counters that is above zero; return which."""
    for i, key in enumerate(("left", "right")):
        if tx[key]:
            tx[key] -= 1
            tx.apply("taken", {key: (operator.add, 1)})
            tx.extend("times", (sum(tx.current("taken").values()), key))  # type: ignore[union-attr]
            return i
    return 2


def take_all(store: Store, _: Any = None) -> list[int]:
    """Take until nothing is left."""
    taken = []
    while (which := store.run(take_one)) < 2:
        taken.append(which)
    return taken


def read_and_write(
    both: threading.Barrier, read: Callable[..., Any], write: Callable[..., Any], tx: Transaction
) -> Any:
    """Read, wait until the other transaction has read, and write."""
    before = read(tx)
    with suppress(threading.BrokenBarrierError):  # where the other one waits for the end of this one
        both.wait(0.05)
    write(tx)
    return before


class TransactionSuite(Suite):
    """The promises of `transaction` and `run`."""

    @pickled
    def test_it_is_done_as_a_whole_or_not_at_all(self, store: Store, oracle: Oracle, opener: Opener) -> None:
        if not self.transactional:
            with pytest.raises(NotSupportedError, match="bucket"), store.transaction():
                pytest.fail("a transaction has begun")
            with pytest.raises(NotSupportedError):
                store.run(lambda tx: tx.set("k", 1))
            return
        with undone(store) as tx:
            write_a_bit_of_all(tx)
        assert (store.keys(), store.timeseries(), store.eventsources()) == ([], [], [])
        with store.transaction() as tx:
            write_a_bit_of_all(tx, oracle)
            check_oracle(tx, oracle)
        check_oracle(store, oracle)
        with opener() as other:
            check_oracle(other, oracle)
            with undone(other) as tx:
                tx.clear()
                tx.remove("bulk", "late")
                tx.prune("log")
                tx.compact()
                assert (len(tx), tx.timeseries(), tx.range("bulk"), tx.last("late")) == (0, [], [], None)
        check_oracle(store, oracle)

    @pickled
    @pytest.mark.usefixtures("_transactional")
    def test_it_begins_anew_in_a_namespace_that_was_discarded(
        self, store: Store, oracle: Oracle, opener: Opener
    ) -> None:
        """With an encryption key, its first write registers the key in the namespace that it has made."""
        with opener() as other:
            other["gone"] = 1
            store.discard()
            with other.transaction() as tx:
                assert tx.get("gone") is None
                tx["k"] = 1
                with tx.transaction() as part:
                    part["inner"] = 2
        oracle.values.update(k=1, inner=2)

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_it_reads_what_it_has_written(self, store: Store, oracle: Oracle) -> None:
        store.update({"a": 1, "b": 2, "d": 4})
        store.extend("s", (1, 1), (5, 5))
        with store.transaction() as tx:
            tx["c"] = 3
            del tx["a"]
            version = tx.set("b", 20)
            assert ("a" in tx, tx.get("a"), len(tx), [*tx], dict(tx)) == (
                False, None, 3, ["b", "c", "d"], {"b": 20, "c": 3, "d": 4}
            )  # fmt: skip
            assert tx.get_many(["a", "b"]) == {"b": 20}
            assert [entry.key for entry in tx.scan(reverse=True, limit=2)] == ["d", "c"]
            assert (tx.count("b"), tx.find("?"), tx.popitem()) == (1, [("b", 20), ("c", 3), ("d", 4)], ("d", 4))
            assert tx.set("b", 21, if_version=version) != version
            with pytest.raises(ConflictError):
                tx.set("b", 22, if_version=version)
            with pytest.raises(ConflictError):
                tx.delete("b", if_version=None)
            assert (tx.get_or_set("b", lambda: 0), tx.get_or_set("e", lambda: 5, ttl=100)) == (21, 5)
            assert (tx.touch("e", None), tx.touch("none", 5), tx.entry("e").expires) == (True, False, None)  # type: ignore[union-attr]
            tx.extend("s", (3, 3), (5, 50))
            assert (tx.range("s"), tx.last("s"), tx.span("s").n) == ([(1, 1), (3, 3), (5, 50)], (5, 50), 3)  # type: ignore[union-attr]
            assert tx.latest("s", "none") == {"s": (5, 50)}
            tx.replace_range("s", [(2, 2)], end=4)
            assert [*map(len, next(tx.batches("s")))] == [2, 2]
            for n in range(3):
                assert tx.apply("e", {"n": n}) == {"n": n}
            assert (tx.current("e"), len(tx.events("e") or [])) == ({"n": 2}, 3)
            assert (tx.prune("e"), len(tx.events("e") or [])) == (2, 1)
        oracle.values |= {"b": 21, "c": 3, "e": 5}
        oracle.series["s"] = SeriesOracle({2: 2, 5: 50})
        t, state = store.current("e", withtimestamp=True) or (0, {})
        oracle.events["e"] = EventOracle([ExpectedChange(t, 0, change_of({"n": 2}))], horizon=t)
        assert state == {"n": 2}

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_a_part_that_fails_leaves_the_rest(self, store: Store, oracle: Oracle) -> None:
        with store.transaction() as tx:
            tx["a"] = 1
            tx.apply("e", {"n": 1}, t=1)
            with undone(tx) as part:
                part["a"], part["b"] = 2, 2
                part.extend("s", (1, 1))
                part.apply("e", {"n": 2}, t=2)
                with store.transaction() as third:  # on the store itself it nests as well
                    third["c"] = 3
                    assert (tx["a"], third.current("e"), len(third)) == (2, {"n": 2}, 3)
            assert (tx["a"], len(tx), tx.timeseries(), tx.current("e")) == (1, 1, [], {"n": 1})
            with tx.transaction() as part:
                part["d"] = 4
            # A refused verb leaves nothing behind, and the transaction goes on.
            with pytest.raises(ChangeRefusedError):
                tx.apply("e", {"m": (operator.add, 1)}, t=3)
            with pytest.raises(StoreIntegrityError):
                tx.apply("e", {"n": 0}, t=1)
            with pytest.raises(InvalidArgumentError):
                tx.incr("d", "1")  # type: ignore[arg-type]
            with pytest.raises(KeyError):
                tx.update({"d": 5}, x=tx["none"])
        oracle.values |= {"a": 1, "d": 4}
        oracle.events["e"] = EventOracle()
        oracle.events["e"].apply({"n": 1}, 1)
        with undone(store) as tx, tx.transaction() as part:
            part["e"] = 5

    @pickled
    @pytest.mark.usefixtures("_transactional")
    def test_nobody_comes_in_between(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        n = 12
        store.update(left=n, right=n)
        store.apply("taken", {"left": 0, "right": 0})
        with ThreadPoolExecutor(THREADS) as pool, opener() as other:
            tasks = [pool.submit(take_all, one) for one in (store, store, other)]
            taken = []
            if self.persistent:
                with Worker() as worker:
                    worker.open(flavour, opener.dsn, durability="normal")
                    taken += worker.run(take_all)
            while not all(task.done() for task in tasks):
                found = store.get_many(["left", "right"])
                assert found["left"] == 0 or found["right"] == n
            for task in tasks:
                taken += task.result()
        assert sorted(taken) == [0] * n + [1] * n
        assert (store["left"], store["right"], store.current("taken")) == (0, 0, {"left": n, "right": n})
        assert store.range("times") == [(i + 1, "left" if i < n else "right") for i in range(2 * n)]

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_what_is_read_stays_true_or_it_is_a_conflict(self, store: Store, opener: Opener) -> None:
        # Two transactions read the same, and each writes what the other should have read: one has to come first.
        store.update(a=0, b=0)
        store.extend("s", (0, 1))
        store.apply("e", {"n": 0})
        with opener() as other, ThreadPoolExecutor(2) as pool:
            for read, write in READS_AND_WRITES:
                both = threading.Barrier(2)
                tasks = [
                    pool.submit(handle.run, partial(read_and_write, both, read, write)) for handle in (store, other)
                ]
                one, two = (task.result() for task in tasks)
                assert one != two, f"both have seen {one!r}"

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_run_returns_raises_and_retries_as_it_should(self, store: Store) -> None:
        calls: list[int] = []

        def fails(tx: Transaction) -> None:
            calls.append(1)
            tx["k"] = 1
            raise Left

        with pytest.raises(Left):
            store.run(fails)
        assert (calls, "k" in store) == ([1], False)
        assert store.run(lambda tx: (tx.set("k", 1), "done")[1]) == "done"
        with pytest.raises(ConflictError) as caught:
            store.run(lambda tx: tx.set("k", 2, if_version=b"\0" * 8))
        assert (caught.value.expected, store["k"]) == (b"\0" * 8, 1)
        with store.transaction() as tx:
            assert store.run(lambda inner: inner.incr("k")) == 2
            with pytest.raises(Left):
                store.run(fails)
            assert tx["k"] == 2
        assert store["k"] == 2
        for wrong in (None, 1, "fn"):
            with pytest.raises(InvalidArgumentError, match="function"):
                store.run(wrong)  # type: ignore[arg-type]

        async def waits(tx: Transaction) -> None:
            tx["k"] = 3

        def yields(tx: Transaction) -> Iterator[None]:
            yield
            tx.clear()

        class Waits:
            async def __call__(self, tx: Transaction) -> None:
                tx["k"] = 3

        for later in (waits, yields, partial(waits), Waits()):
            with pytest.raises(InvalidTypeError, match="generator or coroutine"):
                store.run(later)
        with pytest.raises(InvalidArgumentError), store.transaction() as tx:
            tx.get_or_set("k", 5)  # type: ignore[arg-type]

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_pairs_that_are_stored_together_expire_together(self, store: Store) -> None:
        with store.transaction() as tx:
            tx.set_many({f"k{n:03}": n for n in range(300)}, ttl=60)
            assert len({entry.expires for entry in tx.scan()}) == 1
            tx.clear()
        assert len(store) == 0

    @plain
    @pytest.mark.usefixtures("_transactional")
    def test_who_computes_a_value_inside_has_no_lease_on_it(self, store: Store, oracle: Oracle) -> None:
        # The thread that renews a lease would wait for the end of the transaction, which waits for the renewal.
        # A thread that an earlier test has left ends a moment later.
        earlier = threading.enumerate()

        def compute() -> int:
            others = [thread for thread in threading.enumerate() if thread not in earlier]
            assert [thread for thread in others if thread.name == "rstore lease"] == []
            return 1

        with store.transaction() as tx:
            assert (tx.get_or_set("a", compute), tx["a"]) == (1, 1)
        oracle.values["a"] = 1
