"""Reading from one moment on PostgreSQL, and how often the server is asked."""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from backends import make_backend
from postgres_proxy import Proxy
from postgresql import Server
from processes import forked

from rstore import ConflictError, Store, StoreNotAvailableError, UnsafeValueError
from rstore.backends.postgres.transaction import transaction
from rstore.backends.types import Chunk, Commit, Head, Log, Model, Options, ViewQuery
from rstore.keyvalue import record_store
from rstore.log import packing

POINTS = 200_000
"""More than the chunks that are fetched at once."""


@pytest.fixture
def store(postgresql_dsn: str) -> Iterator[Store]:
    with Store(f"{postgresql_dsn}&pool=4", frozen=False, durability="normal", timeout=2) as store:
        store.extend_columns("s", range(POINTS), [0.5] * POINTS)
        yield store


def rest_of(batches: Iterator[Any]) -> int:
    return sum(len(timestamps) for timestamps, _ in batches)


def test_batches_are_of_one_moment_however_many_are_under_way(postgresql: Server, store: Store) -> None:
    """Half of the connections are kept by those who iterate; the others fetch everything, and no call waits."""
    running = [store.batches("s") for _ in range(7)]
    read = [len(next(one)[0]) for one in running]
    assert postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in trans%'") == [(2,)]
    store.remove("s")
    store.extend("s", (0, 0))
    assert [n + rest_of(one) for n, one in zip(read, running, strict=True)] == [POINTS] * 7
    assert postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in trans%'") == [(0,)]


def test_an_iteration_that_is_given_up_ends_its_transaction(postgresql: Server, store: Store) -> None:
    next(store.batches("s"))
    gc.collect()
    assert postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in trans%'") == [(0,)]


def test_a_moment_that_is_lost_is_said_to_be(postgresql: Server, store: Store) -> None:
    batches = store.batches("s", size=1000)
    next(batches)
    postgresql.terminate()
    with pytest.raises(ConflictError, match="read again"):
        rest_of(batches)
    assert len(store.range("s", n=10)) == 10


def test_a_moment_does_not_outlive_a_fork(store: Store) -> None:
    batches = store.batches("s", size=1000)
    next(batches)

    def child() -> None:
        with pytest.raises(ConflictError, match="fork"):
            rest_of(batches)
        assert len(store.range("s", n=10)) == 10

    forked(child)()
    assert rest_of(batches) == POINTS - 1000


READS: dict[str, Callable[[Store], object]] = {
    "get": lambda s: s.get("k"),
    "keys": lambda s: s.keys(),
    "range": lambda s: s.range("s"),
    "current": lambda s: s.current("e"),
    "stats": lambda s: s.stats(),
    "batches": lambda s: next(s.batches("s")),
}


def test_a_frozen_store_reads_in_transactions_that_only_read(postgresql: Server, postgresql_schema: str) -> None:
    """With a table into which, were that possible, it would write whenever it looks at it."""
    dsn, s = postgresql.dsn(schema=postgresql_schema), f'"{postgresql_schema}"'
    with Store(dsn, frozen=False) as store, Store(dsn) as frozen:
        store["k"] = 1
        postgresql.execute(f"""
CREATE TABLE {s}.looks (n int);
CREATE FUNCTION {s}.look() RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO {s}.looks VALUES (1); RETURN true; END $$;
ALTER TABLE {s}.namespaces RENAME TO names;
CREATE VIEW {s}.namespaces AS SELECT * FROM {s}.names WHERE {s}.look()""")
        assert store.get("k") == 1
        assert postgresql.execute(f"SELECT count(*) FROM {s}.looks") == [(1,)]
        for read in READS.values():
            with pytest.raises(StoreNotAvailableError, match="only reads"):
                read(frozen)
        with pytest.raises(StoreNotAvailableError, match="only reads"), store.snapshot() as view:
            view.get("k")


VERBS: dict[str, tuple[int, Callable[[Store], object]]] = {
    "get": (1, lambda s: s.get("k")),
    "set": (1, lambda s: s.set("k", 2)),
    "update": (1, lambda s: s.update(k=2, l=3)),
    "setdefault": (2, lambda s: s.setdefault("new", 2)),
    "add": (1, lambda s: s.add("new", 2)),
    "incr": (2, lambda s: s.incr("k")),
    "modify": (2, lambda s: s.modify("k", lambda n: n + 1)),
    "extend": (1, lambda s: s.extend("s", (1, 1), (2, 2), (3, 3))),
    "apply": (2, lambda s: s.apply("e", {"n": 2})),  # one, unless the clock was asked for more than a second ago
    "current": (1, lambda s: s.current("e")),
    "range": (1, lambda s: s.range("s", 0, end=9)),
    "at": (1, lambda s: s.at("s", 0)),
    "latest": (1, lambda s: s.latest("s", "t", "u")),
    "range_many": (1, lambda s: s.range_many(["s", "t", "u"], 0, 9)),
    "prune": (2, lambda s: s.prune("e")),
    "remove": (3, lambda s: s.remove("t")),
}


@pytest.mark.parametrize(("most", "verb"), VERBS.values(), ids=VERBS)
def test_how_often_the_server_is_asked(
    proxied_dsn: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, most: int, verb: Callable[[Store], object]
) -> None:
    monkeypatch.setattr(record_store, "_SWEEP_EVERY", 10**9)  # which comes at random, and is one more
    monkeypatch.setattr(packing, "CHECK_EVERY", 10**9)
    monkeypatch.setattr(transaction, "REMOVE_EVERY", 10**9)
    with Store(proxied_dsn, frozen=False, durability="normal") as store:
        store.set("k", 1)
        for key in ("s", "t"):
            store.extend(key, (0, 0))
        store.apply("e", {"n": 1})
        store.apply("e", {"n": 1})
        proxy.round_trips = 0
        verb(store)
        assert proxy.round_trips <= most


def test_changing_many_sequences_in_turn_takes_one_round_trip_each(proxied_dsn: str, proxy: Proxy) -> None:
    with Store(proxied_dsn, frozen=False, durability="normal") as store:
        for i in range(300):
            store.apply(f"{i}", {"n": 0})
        proxy.round_trips = 0
        for i in range(300):
            assert store.apply(f"{i}", {"n": (operator.add, i)}) == {"n": i}
        assert proxy.round_trips <= 330


def test_a_sequence_that_others_change_is_asked_for_first(
    proxied_dsn: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more once they have stopped."""
    monkeypatch.setattr(packing, "CHECK_EVERY", 10**9)  # no look whether the log is due for packing
    with Store(proxied_dsn, frozen=False, durability="normal") as ours, Store(proxied_dsn, frozen=False) as theirs:
        for store in (ours, theirs) * 2:
            store.apply("k", {"n": 0})
        ours.apply("k", {"n": 0})
        ours.apply("k", {"n": 0})
        theirs.apply("k", {"n": 0})
        proxy.round_trips = 0
        ours.apply("k", {"n": 0})
        assert proxy.round_trips == 3  # in vain, to read it again, and once more
        proxy.round_trips = 0
        for i in range(20):
            assert theirs.apply("k", {"n": (operator.add, 1)}) == {"n": 2 * i + 1}
            assert ours.apply("k", {"n": (operator.add, 1)}) == {"n": 2 * i + 2}
        assert proxy.round_trips <= 2 * 20 * 2 + 5
        proxy.round_trips = 0
        for i in range(40):
            assert ours.apply("k", {"n": (operator.add, 1)}) == {"n": 41 + i}
        assert proxy.round_trips <= 45


def test_what_others_mended_is_not_refused_any_more(postgresql_dsn: str) -> None:
    """Though what is remembered of it cannot be loaded here."""
    with Store(postgresql_dsn, frozen=False) as theirs, Store(postgresql_dsn, frozen=False, serializer="json") as ours:
        ours.apply("k", {"a": 1})
        theirs.apply("k", {"b": {1}})
        with pytest.raises(UnsafeValueError):
            ours.current("k")
        with pytest.raises(UnsafeValueError):
            ours.apply("k", {"a": 2})
        theirs.apply("k", {"b": 2})
        assert ours.apply("k", {"a": 3}) == {"a": 3, "b": 2}


def test_dropping_a_chunk_costs_what_is_dropped(postgresql: Server, postgresql_schema: str) -> None:
    """Not a look at each chunk of the log."""
    log = Log(Model.SERIES, "s")
    options = Options(frozen=False, durability="normal", timeout_s=5)
    backend = make_backend(postgresql.dsn(schema=postgresql_schema), "default", options)
    backend.open()
    incarnation = backend.create()
    chunks = [Chunk((t, 0), (t, 0), 1, b"meta", b"body") for t in range(2000)]
    assert backend.commit(log, Commit(create=Head(b"1" * 16, b"v" * 16, sealed=False), put_chunks=chunks), incarnation)
    fetched = f"SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables WHERE schemaname = '{postgresql_schema}'"
    fetched += " AND relname = 'chunks'"
    backend.close()  # what a session did is counted for sure when it has ended
    ((before,),) = postgresql.execute(fetched)
    backend = make_backend(postgresql.dsn(schema=postgresql_schema), "default", options)
    backend.open()
    assert backend.commit(
        log, Commit(if_epoch=b"1" * 16, epoch=b"2" * 16, drop_chunks=[(1000, 0), (1001, 0)]), incarnation
    )
    assert len(backend.view(log, ViewQuery((990, 0), (1010, 0))).chunks) == 19
    backend.close()
    ((after,),) = postgresql.execute(fetched)
    assert after - before < 200
    backend = make_backend(postgresql.dsn(schema=postgresql_schema), "default", options)
    backend.open()
    backend.discard()
    backend.close()
