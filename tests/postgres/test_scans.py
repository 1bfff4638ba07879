"""Scans of PostgreSQL, page by page, while other things happen."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from postgresql import PASSWORD, Server
from processes import forked
from waiting import until

from rstore import Store, StoreClosedError

N = 6500
KEYS = [f"{i:05}" for i in range(N)]


@pytest.fixture
def store(postgresql_dsn: str) -> Iterator[Store]:
    with Store(postgresql_dsn, frozen=False) as store:
        store.update({key: int(key) for key in KEYS})
        yield store


def test_a_scan_comes_in_the_order_that_was_asked_for(store: Store, postgresql_dsn: str) -> None:
    assert list(store.items()) == [(key, int(key)) for key in KEYS]
    assert [one.key for one in store.scan(reverse=True)] == KEYS[::-1]
    assert [one.key for one in store.scan(start="00010", stop="04000", limit=3500)] == KEYS[10:3510]
    assert [one.key for one in store.scan(limit=3000)] == KEYS[:3000]
    with Store(postgresql_dsn) as frozen:
        assert list(frozen) == KEYS


def test_a_slow_scan_keeps_nothing_at_the_server(store: Store, postgresql: Server) -> None:
    store.set_many(dict.fromkeys(KEYS, "x" * 1500))
    for i, _ in enumerate(store.items()):
        if i in (3500, 5200):
            time.sleep(0.05)
            held = postgresql.execute(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'rstore' AND backend_xmin IS NOT NULL"
            )
            assert held == []


def test_large_ones_among_them(store: Store) -> None:
    every = {key: key * (10_000 if i % 700 == 0 else 1) for i, key in enumerate(KEYS)}
    store.set_many(every)
    assert dict(store.items()) == every


def test_what_one_writes_oneself_is_seen_behind_the_keys_at_hand(store: Store) -> None:
    found = []
    for key, value in store.items():
        if key == "02100":
            store["03500"] = -1
        if key == "03100":
            store.delete("04500")
        if key == "04100":
            with store.transaction() as tx:
                tx["05500"] = -2
        found.append((key, value))
    written = {"03500": -1, "05500": -2}
    assert found == [(key, written.get(key, int(key))) for key in KEYS if key != "04500"]


def test_who_turns_slow_is_given_what_others_have_written_meanwhile(store: Store, postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as other:
        for key, value in store.items():
            if key == "02100":
                other["03500"] = -1
                time.sleep(0.15)
            if key == "03500":
                assert value == -1


def test_a_loop_that_writes_where_one_connection_is_all_there_is(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store.update(dict.fromkeys(KEYS, 0))
    with postgresql.role("somebody", "CONNECTION LIMIT 1"):
        tables = f'ALL TABLES IN SCHEMA "{postgresql_schema}"'
        postgresql.execute(f'GRANT USAGE ON SCHEMA "{postgresql_schema}" TO somebody')
        postgresql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO somebody")
        dsn = postgresql.tcp_dsn("somebody", PASSWORD, schema=postgresql_schema)
        with Store(dsn, frozen=False, timeout=5) as store:
            for key in store:
                if int(key) % 100 == 0:
                    store[key] = int(key)
            assert sum(store.values()) == sum(range(0, N, 100))


def test_a_scan_that_is_left_leaves_nothing_behind(store: Store, postgresql: Server) -> None:
    for _ in range(30):
        scan = iter(store.items())
        for _ in range(2100):
            next(scan)
        del scan
        assert len(store) == N
    until(lambda: len(postgresql.sessions()) <= 3, "sessions that nobody wants are left")


def test_sessions_that_end_meanwhile(store: Store, postgresql: Server) -> None:
    found = []
    for i, key in enumerate(store):
        if i in (1500, 2500, 3999):
            postgresql.terminate()
        found.append(key)
    assert found == KEYS


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("pool", [1, 2, 4])
def test_scans_inside_of_scans(postgresql_dsn: str, pool: int) -> None:
    """However few connections there are, none of them waits for another one."""
    with Store(f"{postgresql_dsn}&pool={pool}", timeout=2) as frozen:
        scans = [iter(frozen) for _ in range(4)]
        assert [[next(scan) for scan in scans] for _ in KEYS] == [[key] * 4 for key in KEYS]


def test_a_fork_in_the_middle(store: Store) -> None:
    scan = iter(store)
    for _ in range(2500):
        next(scan)

    def child() -> None:
        assert list(scan) == KEYS[2500:]
        assert len(store) == N

    forked(child)()
    assert list(scan) == KEYS[2500:]


def test_a_store_that_is_closed_in_the_middle(store: Store) -> None:
    scan = iter(store)
    for _ in range(2500):
        next(scan)
    store.close()
    with pytest.raises(StoreClosedError):
        list(scan)


def test_inside_a_transaction_its_own_connection_is_asked(store: Store) -> None:
    with store.transaction() as tx:
        tx["00000"] = -1
        assert [*tx.values()] == [-1, *range(1, N)]
    with store.snapshot() as view:
        assert list(view) == KEYS
