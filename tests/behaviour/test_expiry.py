"""What no verb shows: that expired entries are reclaimed, and who computes when the one who computed has died."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import psycopg
import pytest
from postgresql import Server
from redis_servers import Server as RedisServer

from rstore import Store
from rstore.keyvalue import leases


def rows(path: Path) -> tuple[int, int]:
    connection = apsw.Connection(str(path))
    counts = [int(connection.execute(f"SELECT count(*) FROM {table}").get) for table in ("records", "blobs")]
    connection.close()
    return counts[0], counts[1]


def test_writing_reclaims_what_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    with Store(path, frozen=False, durability="normal") as store, Store(path, "other", frozen=False) as other:
        other.set_many({f"{i}": i for i in range(10)}, ttl=60)
        store.set_many({f"{i}": i for i in range(3000)}, ttl=60)
        store.set_many({f"large {i}": "x" * 5000 for i in range(10)}, ttl=60)
        store.set_many({f"{i}": "refreshed" for i in range(5)}, ttl=6000)
        clock = time.time
        monkeypatch.setattr("time.time", lambda: clock() + 61)
        for i in range(4):  # a sweep comes after 1,000 writes at the latest
            for _ in range(1001):
                store.set("k", i)
        assert rows(path) == (6 + 10, 0)
        store.delete("k")
        store.set_many({f"new {i}": i for i in range(1001)})
        assert len(store) == 1001 + 5


def test_many_that_expire_are_reclaimed_by_many_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    clock = time.time
    with Store(path, frozen=False, durability="normal") as store:
        for turn in range(5):
            monkeypatch.setattr("time.time", lambda turn=turn: clock() + 61 * turn)
            store.set_many({f"{turn} {i}": i for i in range(4000)}, ttl=60)
            assert rows(path)[0] <= 2 * 4000


def test_redis_forgets_the_names_of_what_has_expired(redis_dsn: str, redis_server: RedisServer) -> None:
    with Store(redis_dsn, frozen=False) as store:
        store.set_many({f"{i}": i for i in range(500)}, ttl=0.02)
        time.sleep(0.03)
        for _ in range(1001):
            store.set("k", 1)
        assert len(store) == 1
        names = redis_server.do("KEYS", "rs{*")
        assert sum(redis_server.do("ZCARD", name) for name in names if redis_server.do("TYPE", name) == b"zset") == 1


def test_redis_forgets_who_computes_when_the_namespace_is_discarded(redis_dsn: str, redis_server: RedisServer) -> None:
    with Store(redis_dsn, frozen=False) as store:
        assert leases.Lease(store._writer, "k").take()  # noqa: SLF001
        assert not leases.Lease(store._writer, "k").take()  # noqa: SLF001
        store.discard()
        assert all(name[:3] == b"rs:" or name[7:8] == b"m" for name in redis_server.do("KEYS", "*"))


def test_postgresql_reclaims_what_nobody_is_refreshing(postgresql: Server, postgresql_schema: str) -> None:
    table = f'"{postgresql_schema}".records'
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store.set_many({f"{i}": i for i in range(300)}, ttl=1)  # long: a sweep of its own must find nothing expired
        time.sleep(1.05)
        with psycopg.connect(postgresql.dsn(), autocommit=False) as other:
            other.execute(f"UPDATE {table} SET expires_ms = NULL WHERE key = '7'".encode())
            backend = store._writer.backend  # noqa: SLF001
            assert [backend.sweep(100) for _ in range(4)] == [100, 100, 99, 0]
            assert postgresql.execute(f"SELECT key FROM {table}") == [("7",)]
            other.commit()
        assert (backend.sweep(100), store.keys()) == (0, ["7"])
        store.set_many({f"{i}": i for i in range(300)}, ttl=0.02)
        time.sleep(0.03)
        for _ in range(1001):
            store.set("k", 1)
        assert postgresql.execute(f"SELECT key FROM {table}") == [("k",)]


COMPUTES = """
import sys, time
from rstore import Store
from rstore.keyvalue import leases
leases.LEASE_S = 0.5
with Store(sys.argv[1], frozen=False) as store:
    def factory():
        print("begun", flush=True)
        time.sleep(60)
    store.get_or_set("k", factory)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite", "postgresql_dsn", "redis_dsn", "redis_cluster_dsn"])
def test_another_one_computes_when_the_first_has_died(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dsn = str(tmp_path / "a.db") if name == "sqlite" else request.getfixturevalue(name)
    with Store(dsn, frozen=False) as store:
        with subprocess.Popen([sys.executable, "-c", COMPUTES, dsn], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"begun"
            process.kill()
        assert "k" not in store
        with ThreadPoolExecutor(2) as pool:
            computed = [pool.submit(store.get_or_set, "k", i.__int__) for i in (1, 2)]
            assert computed[0].result() == computed[1].result() == store["k"]
        store.discard()


def test_a_lease_is_renewed_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.06)
    begun = threading.Event()

    def slow() -> str:
        begun.set()
        time.sleep(0.3)
        return "slow"

    with Store(tmp_path / "a.db", frozen=False) as store, ThreadPoolExecutor(1) as pool:
        computed = pool.submit(store.get_or_set, "k", slow)
        assert begun.wait(30)
        assert store.get_or_set("k", lambda: "too early") == "slow" == computed.result()
        with apsw.Connection(str(tmp_path / "a.db")) as connection:
            assert connection.execute("SELECT count(*) FROM logs").get == 0


def test_of_two_who_compute_all_the_same_one_value_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a process was stopped for longer than its lease."""
    monkeypatch.setattr(leases, "LEASE_S", 0.001)
    monkeypatch.setattr(leases.Lease, "_renew", lambda _: None)
    with Store(tmp_path / "a.db", frozen=False) as store:

        def overtaken() -> str:
            time.sleep(0.003)
            return str(store.get_or_set("k", lambda: "second"))  # the value of somebody else

        assert store.get_or_set("k", lambda: "first, and late" + overtaken()[:0]) == "second"
