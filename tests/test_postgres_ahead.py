"""Scans of PostgreSQL, whose next page the server finds while this one is used."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from postgresql import Server
from processes import forked

from rstore import Store, StoreClosedError
from rstore.backends.postgres.pool import Pool

N = 6500
KEYS = [f"{i:05}" for i in range(N)]


@pytest.fixture
def store(postgresql_dsn: str) -> Iterator[Store]:
    with Store(postgresql_dsn, frozen=False) as store:
        store.update({key: int(key) for key in KEYS})
        yield store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a connection could be spared, each time that a page was to be asked for ahead."""
    seen: list[bool] = []
    take = Pool.take_spare

    def spy(pool: Pool) -> object:
        link = take(pool)
        seen.append(link is not None)
        return link

    monkeypatch.setattr(Pool, "take_spare", spy)
    return seen


def test_pages_are_asked_for_ahead(store: Store, asked: list[bool]) -> None:
    assert list(store.items()) == [(key, int(key)) for key in KEYS]
    assert asked == [True] * 5
    assert [one.key for one in store.scan(reverse=True)] == KEYS[::-1]
    assert [one.key for one in store.scan(start="00010", stop="04000", limit=3500)] == KEYS[10:3510]
    assert [one.key for one in store.scan(limit=3000)] == KEYS[:3000]


@pytest.mark.usefixtures("store")
def test_a_frozen_store_asks_ahead_as_well(postgresql_dsn: str, asked: list[bool]) -> None:
    with Store(postgresql_dsn) as frozen:
        assert list(frozen) == KEYS
    assert asked == [True] * 5


def test_who_is_slow_is_not_waited_for(store: Store, postgresql: Server, asked: list[bool]) -> None:
    """A server that cannot send what it has found would keep its snapshot, and clean up nothing meanwhile."""
    for i, _ in enumerate(store):
        if i % 1000 == 500:
            time.sleep(0.15)
            held = postgresql.execute(
                "SELECT state FROM pg_stat_activity WHERE application_name = 'rstore' AND backend_xmin IS NOT NULL"
            )
            assert held == []
    assert asked == []


def test_a_scan_that_is_left_leaves_nothing_behind(store: Store, postgresql: Server) -> None:
    for _ in range(30):
        scan = iter(store.items())
        for _ in range(2100):
            next(scan)
        del scan
        assert len(store) == N
    assert len(postgresql.sessions()) <= 3


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


def test_inside_a_transaction_its_own_connection_is_asked(store: Store, asked: list[bool]) -> None:
    with store.transaction() as tx:
        tx["00000"] = -1
        assert [*tx.values()] == [-1, *range(1, N)]
    with store.snapshot() as view:
        assert list(view) == KEYS
    assert asked == []
