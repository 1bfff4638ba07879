"""What holds between a transaction on PostgreSQL and others: in transactions of their own, or with single verbs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rstore import ConflictError, Store, Transaction

Write = Callable[[Store | Transaction], object]

WRITTEN_BY_BOTH: dict[str, tuple[Write, Write]] = {
    "a key": (lambda s: s.set("k", "other"), lambda tx: tx.set("k", "mine")),
    "a key that stays what it is": (lambda s: s.set("k", "other"), lambda tx: tx.modify("k", lambda value: value)),
    "a new key": (lambda s: s.set("new", 1), lambda tx: tx.add("new", 2)),
    "a key that goes and stayed what it was": (lambda s: s.delete("k"), lambda tx: tx.modify("k", lambda value: value)),
    "a counter that goes": (lambda s: s.delete("n"), lambda tx: tx.incr("n")),
    "a version that goes": (lambda s: s.clear(), lambda tx: tx.set("k", "mine", if_version=tx.entry("k").version)),  # type: ignore[union-attr]
    "a key that both delete": (lambda s: s.pop("k"), lambda tx: tx.delete("k")),
    "a counter": (lambda s: s.incr("n"), lambda tx: tx.incr("n")),
    "an event sequence": (lambda s: s.apply("e", {"a": 2}), lambda tx: tx.apply("e", {"b": 1})),
    "a point": (lambda s: s.extend("s", (1, 2)), lambda tx: tx.extend("s", (1, 3))),
    "a point that goes": (lambda s: s.remove("s", end=1), lambda tx: tx.extend("s", (1, 3))),
    "a series that goes": (lambda s: s.remove("s"), lambda tx: tx.extend("s", (2, 2))),
    "a range": (lambda s: s.remove("s", start=1, end=1), lambda tx: tx.remove("s")),
}

ONLY_READ: dict[str, tuple[Write, Callable[[Transaction], object]]] = {
    "a count": (lambda s: s.delete_prefix("job/"), lambda tx: tx.count("job/")),
    "a key": (lambda s: s.set("k", "other"), lambda tx: tx["k"]),
    "an absent key": (lambda s: s.set("new", 1), lambda tx: tx.get("new")),
    "a series": (lambda s: s.extend("s", (2, 2)), lambda tx: tx.range("s")),
    "a state": (lambda s: s.apply("e", {"a": 2}), lambda tx: tx.current("e")),
}


@pytest.fixture
def stores(postgresql_dsn: str) -> tuple[Store, Store]:
    return Store(postgresql_dsn, frozen=False), Store(postgresql_dsn, frozen=False)


def fill(store: Store) -> None:
    store.update({"k": "old", "n": 0, "job/1": 1, "job/2": 2})
    store.extend("s", (1, 1), (9, 9))
    store.apply("e", {"a": 1})


def begun(tx: Transaction) -> None:
    """The moment of a transaction is that of its first read."""
    assert tx.get("nothing") is None


@pytest.mark.parametrize(("theirs", "mine"), WRITTEN_BY_BOTH.values(), ids=WRITTEN_BY_BOTH)
def test_whoever_writes_what_it_writes_is_a_conflict(stores: tuple[Store, Store], theirs: Write, mine: Write) -> None:
    store, other = stores
    with store, other:
        fill(store)

        def meanwhile(tx: Transaction) -> None:
            begun(tx)
            theirs(other)
            mine(tx)

        with pytest.raises(ConflictError, match="nothing was applied"), store.transaction() as tx:
            meanwhile(tx)


def test_what_others_delete_is_stored_again_by_who_only_stores(stores: tuple[Store, Store]) -> None:
    """As if it came behind the deletion."""
    store, other = stores
    with store, other:
        fill(store)
        with store.transaction() as tx:
            begun(tx)
            other.delete("k")
            tx["k"] = "mine"
        assert store["k"] == "mine"


def test_who_packs_a_series_is_in_nobodys_way(stores: tuple[Store, Store]) -> None:
    store, other = stores
    with store, other:
        fill(store)
        with store.transaction() as tx:
            begun(tx)
            other.compact("s")
            tx.extend("s", (1, 3))
        assert store.range("s") == [(1, 3), (9, 9)]


@pytest.mark.parametrize(("theirs", "read"), ONLY_READ.values(), ids=ONLY_READ)
def test_what_it_only_reads_is_of_one_moment_and_single_verbs_may_change_it(
    stores: tuple[Store, Store], theirs: Write, read: Callable[[Transaction], object]
) -> None:
    store, other = stores
    with store, other:
        fill(store)
        with store.transaction() as tx:
            before = read(tx)
            theirs(other)
            assert read(tx) == before
            tx["seen"] = 1
        assert store.run(read) != before


@pytest.mark.parametrize(("theirs", "read"), ONLY_READ.values(), ids=ONLY_READ)
def test_with_both_in_transactions_one_comes_first(
    stores: tuple[Store, Store], theirs: Write, read: Callable[[Transaction], object]
) -> None:
    """Each reads what the other one writes: not both can have been the first."""
    store, other = stores

    def their_work(tx: Transaction) -> None:
        theirs(tx)
        tx.get("seen")

    with store, other:
        fill(store)
        calls: list[object] = []

        def work(tx: Transaction) -> None:
            calls.append(read(tx))
            if len(calls) == 1:
                other.run(their_work)
            tx["seen"] = 1

        store.run(work)
        assert len(calls) == 2
        assert calls[0] != calls[1]
