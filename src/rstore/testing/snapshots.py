"""Many reads as of one moment, while other writers go on."""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import pytest

from rstore import ConflictError, FrozenStoreError, NotSupportedError, Snapshot, Store, StoreClosedError
from rstore.testing.flavours import pickled, plain
from rstore.testing.integrity import check_oracle
from rstore.testing.opening import OF_STORES, READS, WRITES
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle
from rstore.testing.suite import Opener, Suite, about

MANY = 2500


def fill(store: Store, oracle: Oracle) -> None:
    """Write something of all three models: pages of records, chunks and hot rows."""
    oracle.values |= {f"k{i:04}": i for i in range(MANY)}
    oracle.series["s"] = SeriesOracle({t: t * 0.5 for t in range(MANY)} | {-5: "early"})
    log = oracle.events["e"] = EventOracle()
    store.update(oracle.values)
    store.extend_columns("s", range(MANY), [t * 0.5 for t in range(MANY)])
    store.extend("s", (-5, "early"))
    for t in range(3):
        store.apply("e", {"n": t}, t=t)
        log.apply({"n": t}, t)


def change_all(store: Store) -> None:
    """Change everything that `fill` wrote."""
    store.delete_prefix("k1")
    store.update({f"k{i:04}": "changed" for i in range(0, MANY, 7)}, new=1)
    store.extend("s", (3, "changed"), (MANY + 1, "new"))
    store.remove("s", start=100, end=2000)
    store.extend("t", (1, 1))
    store.apply("e", {"n": (operator.add, 100)})
    store.prune("e")


class SnapshotSuite(Suite):
    """The promises of `snapshot`."""

    @pickled
    def test_a_snapshot_is_of_one_moment(self, store: Store, oracle: Oracle, opener: Opener) -> None:
        if not self.snapshots:
            with pytest.raises(NotSupportedError), store.snapshot():
                pytest.fail("a snapshot has begun")
            return
        fill(store, oracle)
        with opener(frozen=True) as frozen, store.snapshot() as view, frozen.snapshot() as other:
            keys, points, batches = iter(view), view.range("s"), other.batches("s", size=100)
            assert (next(keys), len(next(batches)[0])) == ("k0000", 100)
            change_all(store)
            for moment in (view, other):
                check_oracle(moment, oracle)
                assert (len(moment), "new" in moment, moment.get("k0007"), moment.timeseries()) == (
                    MANY,
                    False,
                    7,
                    ["s"],
                )
                assert (moment.past("e", 1), moment.last("s")) == ({"n": 1}, points[-1])
            assert [*keys] == sorted(oracle.values)[1:]
            assert sum(len(times) for times, _ in batches) == MANY + 1 - 100
            assert (store["new"], store.last("s"), len(store) < MANY) == (1, (MANY + 1, "new"), True)
            store.discard()
            with suppress(ConflictError):  # the snapshot is lost or unchanged, and nothing between
                check_oracle(view, oracle)
        store["k"] = 1
        oracle.clear()
        oracle.values["k"] = 1

    @plain
    def test_a_snapshot_reads_only_and_ends(self, store: Store, opener: Opener) -> None:
        if not self.snapshots:
            return
        store.update({f"k{i:04}": i for i in range(MANY)})
        store.extend_many("s", ((t, t) for t in range(MANY)))
        keys_of = [f"k{i:04}" for i in range(0, MANY, 2)]
        with store.snapshot() as view, ThreadPoolExecutor(3) as pool:
            tasks = [pool.submit(lambda: [view[key] for key in keys_of]) for _ in range(3)]
            # The thread that began the snapshot reads as well: backends may serve it by a shorter path.
            for found in [[view[key] for key in keys_of], *(task.result() for task in tasks)]:
                assert found == [*range(0, MANY, 2)]
            for verb in (
                lambda: view.set("k", 1),
                lambda: view.pop("k0000"),
                lambda: view.extend("s", (1, 1)),
                lambda: view.apply("e", {"n": 1}),
                view.clear,
            ):
                with pytest.raises(FrozenStoreError, match="snapshot"):
                    verb()
            keys, entries, batches = iter(view), view.scan(), view.batches("s", size=10)
            assert (next(keys), next(entries).key, len(next(batches)[0])) == ("k0000", "k0000", 10)
        for iterator in (keys, entries, batches):
            with pytest.raises(StoreClosedError, match="over"):
                next(iterator)
        for name, read in READS.items():
            if name not in OF_STORES:
                with about(name), pytest.raises(StoreClosedError, match="over"):
                    read(view)
        for name, write in WRITES.items():
            if name not in OF_STORES:
                with about(name), pytest.raises(FrozenStoreError):
                    write(view)
        with pytest.raises(StoreClosedError), opener().snapshot():
            pytest.fail("a snapshot has begun")
        with opener() as other, store.transaction() as tx:
            tx["k0000"] = "before"
            with other.snapshot() as view:
                tx["k0000"] = "inside"
                assert (view["k0000"], tx["k0000"]) == (0, "inside")

    @plain
    def test_one_snapshot_after_another_while_others_write(self, store: Store, opener: Opener) -> None:
        if not self.snapshots:
            return
        store.update(a=0, b=0)

        def write() -> None:
            for i in range(1, 40):
                with store.transaction() as tx:
                    tx.update(a=i, b=i)
                    tx.extend("s", (i, i))

        def look(view: Snapshot) -> int:
            n = view["a"]
            last = view.last("s")
            assert (view["b"], view.get_many(["a", "b"]), last) == (n, {"a": n, "b": n}, (n, n) if n else None)
            return int(n)

        with opener() as other, ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            seen = []
            while not writing.done():
                with other.snapshot() as view:
                    seen += [look(view), look(view)]
            writing.result()
        assert all(before <= after for before, after in pairwise(seen))
        assert seen[::2] == seen[1::2]
