"""Series that transactions empty while others append: what was acknowledged stays, and what was removed stays away."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from postgresql import Server

from rstore import (
    ConflictError,
    InvalidArgumentError,
    NotSupportedError,
    Store,
    StoreBusyError,
    StoreNotAvailableError,
    Transaction,
)
from rstore.backends.postgres.logs.tombstones import Tombstones

KEY = bytes(range(32))
MANY = [(t, t) for t in range(3000)]
"""So many that they go into chunks at once."""


def read_and_remove(tx: Transaction) -> None:
    tx.range("s")
    tx.remove("s")


def begin_anew(points: list[tuple[int, int]], tx: Transaction) -> None:
    tx.remove("s")
    tx.extend_many("s", points)


REMOVALS: dict[str, Callable[[Transaction], object]] = {
    "remove": lambda tx: tx.remove("s"),
    "remove after reading": read_and_remove,
    "remove several": lambda tx: tx.remove("s", "t"),
    "remove a range": lambda tx: tx.remove("s", start=0, end=2999),
    "replace a range": lambda tx: tx.replace_range("s", [], 0, 2999),
}


@pytest.fixture
def dsn(postgresql: Server, postgresql_schema: str) -> str:
    return postgresql.dsn(schema=postgresql_schema)


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with Store(dsn, frozen=False, durability="normal") as store:
        yield store
        assert store.check() == []


@pytest.fixture
def other(dsn: str) -> Iterator[Store]:
    with Store(dsn, frozen=False, durability="normal") as other:
        yield other


@pytest.fixture
def _left_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series whose head was left behind by a process that died when it had committed."""
    store.extend("s", (1, "old"))
    with monkeypatch.context() as dying:
        dying.setattr(Tombstones, "remove_behind", lambda *_: None)
        store.run(lambda tx: tx.remove("s"))


def heads(server: Server, schema: str) -> int:
    return server.left_in(schema).get("logs", 0)


# -- others append meanwhile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [[(1, 1)], MANY], ids=["rows", "chunks"])
@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
def test_what_others_appended_since_it_began_stays(
    store: Store, other: Store, remove: Callable[[Transaction], object], points: list[tuple[int, int]]
) -> None:
    """It cannot be seen there; it was acknowledged, and nothing that was removed comes back with it."""
    store.extend_many("s", points)
    with store.transaction() as tx:
        assert tx.get("k") is None
        other.extend("s", (5000, 1))
        remove(tx)
        other.extend("s", (5001, 1))  # nor does anybody have to wait
    assert (store.range("s"), store.timeseries()) == ([(5000, 1), (5001, 1)], ["s"])
    assert store.check() == []
    store.remove("s")
    store.extend("s", (5002, 1))
    assert store.range("s") == [(5002, 1)]


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
def test_nothing_is_left_where_nobody_appended(
    postgresql: Server, postgresql_schema: str, store: Store, remove: Callable[[Transaction], object]
) -> None:
    store.extend("s", (1, 1))
    store.extend("t", (1, 1))
    store.run(remove)
    assert store.timeseries() in ([], ["t"])
    assert heads(postgresql, postgresql_schema) == len(store.timeseries())


def test_who_overwrites_what_is_removed_is_a_conflict(store: Store, other: Store) -> None:
    store.extend("s", (1, 1))

    def remove(tx: Transaction) -> None:
        assert tx.get("k") is None
        other.extend("s", (1, 2))
        tx.remove("s")

    with pytest.raises(ConflictError), store.transaction() as tx:
        remove(tx)
    assert store.range("s") == [(1, 2)]


def test_a_rewrite_of_others_does_not_bring_back_what_was_removed(store: Store, other: Store) -> None:
    """It has read the points, and encodes them while they are removed."""
    store.extend("s", (1, 1), (2, 2))
    backend: Any = other._writer.backend  # noqa: SLF001 - between what it reads and its commit
    real = backend.commit
    removed: list[bool] = []

    def commit(*arguments: Any) -> Any:
        if not removed:
            removed.append(True)
            store.run(partial(begin_anew, [(3, 3)]))
        return real(*arguments)

    backend.commit = commit
    other.compact("s")
    assert (removed, store.range("s")) == ([True], [(3, 3)])


def test_each_point_is_taken_once_whoever_appends_and_rewrites(store: Store, other: Store) -> None:
    """Transactions take all that there is while others append and pack: nothing is lost, nothing comes twice."""
    done = threading.Event()
    taken: list[int] = []
    errors: list[BaseException] = []
    acknowledged: list[int] = []

    rounds = 0

    def append() -> None:
        for i in count():
            if i >= 100 and rounds >= 5:
                return
            batch = range(i * 2000, i * 2000 + (1100 if i % 10 == 0 else 1 + i % 3))
            other.extend_many("s", ((t, t) for t in batch))
            acknowledged.extend(batch)
            time.sleep(0.002)  # else, on a busy machine, no transaction ever gets to its end before the next one

    def pack() -> None:
        while not done.is_set():
            other.compact("s")

    def take(tx: Transaction) -> list[int]:
        points = [t for t, _ in tx.range("s")]
        tx.remove("s")
        tx["times"] = tx.get("times", 0) + 1
        return points

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    appending, packing = (threading.Thread(target=guarded, args=(work,)) for work in (append, pack))
    for thread in (appending, packing):
        thread.start()
    while appending.is_alive():
        taken += store.run(take)
        rounds += 1
    done.set()
    packing.join()
    taken += store.run(take)
    assert errors == []
    assert sorted(taken) == sorted(acknowledged)
    assert (store["times"], store.timeseries()) == (rounds + 1, [])


def test_an_event_sequence_that_others_change_is_a_conflict(store: Store, other: Store) -> None:
    """A change moves the head, so that the head may go."""
    store.apply("e", {"a": 1})
    store.apply("e", {"a": (operator.delitem, None)})

    def prune(tx: Transaction) -> None:
        assert tx.get("k") is None
        other.apply("e", {"b": 1})
        tx.prune("e")

    with pytest.raises(ConflictError), store.transaction() as tx:
        prune(tx)
    assert store.current("e") == {"b": 1}


# -- within the transaction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [[(1, 2)], MANY], ids=["rows", "chunks"])
def test_a_series_is_removed_and_begun_anew_in_one_transaction(
    store: Store, other: Store, points: list[tuple[int, int]]
) -> None:
    store.extend("s", (-1, 1))
    with store.transaction() as tx:
        for _ in range(3):
            tx.remove("s")
            assert (tx.range("s"), tx.timeseries(), tx.last("s")) == ([], [], None)
            with pytest.raises(InvalidArgumentError, match="no series"):
                tx.resample("s", 10)
            tx.extend_many("s", points)
            assert (tx.range("s"), tx.timeseries()) == (points, ["s"])
        assert other.range("s") == [(-1, 1)]
    assert store.range("s") == points


def test_a_part_that_removed_a_series_and_is_undone(store: Store) -> None:
    store.extend("s", (1, 1))
    with store.transaction() as tx:
        with suppress(ZeroDivisionError), tx.transaction() as part:
            part.remove("s")
            raise ZeroDivisionError
        assert tx.range("s") == [(1, 1)]
    assert (store.range("s"), store.timeseries()) == ([(1, 1)], ["s"])


def test_a_series_that_is_to_be_encrypted_from_now_on(dsn: str, store: Store) -> None:
    """One appended meanwhile, as it is, could not be seen: this is refused, and in two steps it is possible."""
    store.extend("s", (1, 1))
    with Store(dsn, key=KEY, frozen=False) as sealed:
        for points in ([(2, 2)], MANY):
            with pytest.raises(NotSupportedError, match="remove it before"):
                sealed.run(partial(begin_anew, points))
        sealed.run(lambda tx: tx.remove("s"))
        sealed.run(lambda tx: tx.extend("s", (2, 2)))
        assert sealed.range("s") == [(2, 2)]
        sealed.discard()


# -- what is behind it ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_left_behind")
def test_a_head_that_was_left_behind_is_no_series(
    postgresql: Server, postgresql_schema: str, store: Store, other: Store, tmp_path: Path
) -> None:
    assert heads(postgresql, postgresql_schema) == 1
    assert (other.timeseries(), other.range("s"), other.first("s"), other.span("s")) == ([], [], None, None)
    assert (other.stats().series, other.check(), other.latest("s"), other.compact("s").series) == (0, [], {}, 0)
    with pytest.raises(InvalidArgumentError, match="no series"):
        other.resample("s", 10)
    with other.snapshot() as view:
        assert (view.timeseries(), view.range("s")) == ([], [])
    other.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert copy.timeseries() == []
    store.remove("s")
    assert heads(postgresql, postgresql_schema) == 0


ANEW: dict[str, tuple[Callable[[Store | Transaction], object], list[tuple[int, int]]]] = {
    "extend": (lambda s: s.extend("s", (2, 2)), [(2, 2)]),
    "extend by some": (lambda s: s.extend("s", (2, 2), (3, 3)), [(2, 2), (3, 3)]),
    "extend by many": (lambda s: s.extend_many("s", MANY), MANY),
    "replace_range": (lambda s: s.replace_range("s", [(2, 2)], 0, 9), [(2, 2)]),
    "extend unless it is there": (lambda s: s.extend("s", (2, 2), on_duplicate="error"), [(2, 2)]),
}


@pytest.mark.usefixtures("_left_behind")
@pytest.mark.parametrize("key", [None, KEY], ids=["as it was", "encrypted"])
@pytest.mark.parametrize("how", ["alone", "in a transaction"])
@pytest.mark.parametrize(("write", "points"), ANEW.values(), ids=ANEW)
def test_a_series_begins_anew_over_a_head_that_was_left_behind(
    dsn: str,
    store: Store,
    key: bytes | None,
    how: str,
    write: Callable[[Store | Transaction], object],
    points: list[tuple[int, int]],
) -> None:
    with Store(dsn, key=key, frozen=False) as other:
        if how == "alone":
            write(other)
        else:
            other.run(write)
        assert (other.range("s"), other.timeseries(), other.check()) == (points, ["s"], [])
        other.remove("s")
    assert store.timeseries() == []


def test_many_series_are_listed_as_fast_where_some_are_empty(
    postgresql: Server, postgresql_schema: str, store: Store
) -> None:
    """Only heads that were emptied are looked into, and by an index."""
    for i in range(300):
        store.extend(f"{i:03}", (i, i), (i + 1, i))
    s = f'"{postgresql_schema}"'
    postgresql.execute(f"UPDATE {s}.logs SET epoch = epoch || epoch WHERE key < '100'")
    postgresql.execute(f"DELETE FROM {s}.hot WHERE key < '050'")
    postgresql.execute(f"ANALYZE {s}.logs; ANALYZE {s}.hot; ANALYZE {s}.chunks")
    assert store.timeseries() == [f"{i:03}" for i in range(50, 300)]
    assert store.stats().series == 250
    sql = store._reader.backend._logs.keys.sql.decode()  # type: ignore[attr-defined]  # noqa: SLF001
    sql = sql.replace("$1", "'default'").replace("$2", "1")
    plan = "\n".join(line for (line,) in postgresql.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}"))
    assert "hashed" not in plan
    (hot,) = (line for line in plan.splitlines() if "on hot" in line)
    assert "loops=100" in hot
    store.discard()


@pytest.mark.parametrize("trouble", ["a lock", "an error"])
def test_what_is_left_undone_behind_a_transaction_does_not_say_that_it_failed(
    postgresql: Server, postgresql_schema: str, store: Store, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreNotAvailableError

    store.extend("s", (1, 1))
    with psycopg.connect(postgresql.conninfo()) as appending, monkeypatch.context() as failing:
        if trouble == "a lock":
            appending.execute(f'SELECT FROM "{postgresql_schema}".logs FOR KEY SHARE'.encode())
        else:
            failing.setattr(Tombstones, "_removal", fail)
        began = monotonic()
        with store.transaction() as tx:
            tx.remove("s", start=0, end=1)
        assert monotonic() - began < 5
    assert (store.timeseries(), heads(postgresql, postgresql_schema)) == ([], 1)
    with store.transaction() as tx:  # what is left of one goes with another
        tx.remove("s")
    assert heads(postgresql, postgresql_schema) == 0


@pytest.mark.parametrize("verb", ["extend", "extend_many"])
def test_an_emptied_head_that_cannot_be_removed(postgresql: Server, postgresql_schema: str, verb: str) -> None:
    """By a trigger, or by rows that a policy hides: what begins the series anew ends when the time-out is over."""
    s = f'"{postgresql_schema}"'
    points = [(t, t) for t in range(1 if verb == "extend" else 3000)]
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False, timeout=0.5) as store:
        store.extend("s", (1, 1))
        postgresql.execute(f"""
DELETE FROM {s}.hot; UPDATE {s}.logs SET epoch = decode(repeat('ab', 32), 'hex'), sealed = true;
CREATE FUNCTION {s}.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON {s}.logs FOR EACH ROW EXECUTE FUNCTION {s}.keep()""")
        began = monotonic()
        with pytest.raises(StoreBusyError, match="nothing was stored"):
            store.extend_many("s", points) if verb == "extend_many" else store.extend("s", *points)
        assert monotonic() - began < 5
