"""The essential behaviours on PostgreSQL 15 as well, where its binaries are present, and TLS, which these have."""

from __future__ import annotations

import operator
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_proxy import Proxy
from postgresql import DEBIAN_15, PASSWORD, Server, check_schema
from redis_tls import certify

from rstore import ConflictError, Store, StoreNotAvailableError, generate_key

pytestmark = pytest.mark.skipif(
    not (DEBIAN_15 / "postgres").exists(), reason=f"there is no PostgreSQL 15 in {DEBIAN_15}"
)
KEYS = {"plain": None, "encrypted": generate_key()}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certify(tmp_path_factory.mktemp("tls"))[0]


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[Server]:
    with Server(DEBIAN_15, fsync="off") as server, server.role("somebody", "SUPERUSER"):
        files = {"ssl_cert_file": certificate, "ssl_key_file": certificate.with_name("key.pem")}
        for name, file in files.items():
            copy = server.data / file.name
            shutil.copy(file, copy)
            copy.chmod(0o600)
            os.chown(copy, server.data.stat().st_uid, server.data.stat().st_gid)
            server.execute(f"ALTER SYSTEM SET {name} = '{file.name}'")
        server.execute("ALTER SYSTEM SET ssl = on")
        server.stop()
        server.start()
        assert server.execute("SHOW server_version_num")[0][0].startswith("15")
        yield server
        if server.has_tables("rstore"):
            check_schema(server, "rstore")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.stop()


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_all_three_models(server: Server, key: str | None) -> None:
    pairs: dict[str, Any] = {f"{i:04}": i for i in range(2500)}
    points: dict[int, Any] = {t * 3: float(t) for t in range(20_000)}
    with Store(server.dsn(), frozen=False, key=key) as store:
        store.update(pairs)
        store.set("0007", "seven")
        assert store.delete("0003", "none") == 1
        assert (store.pop("0004"), store.add("0004", 4), store.add("0004", 5), store.incr("n", 2)) == (
            4,
            True,
            False,
            2,
        )
        store.set("gone", 1, ttl=0.001)
        pairs = {name: value for name, value in pairs.items() if name != "0003"} | {"0007": "seven", "n": 2}
        store.delete("gone")
        assert dict(store.items()) == pairs
        assert [entry.key for entry in store.scan("00", limit=1500)] == sorted(name for name in pairs if name < "01")
        assert [entry.key for entry in store.scan(reverse=True)] == sorted(pairs, reverse=True)

        store.extend_many("s", points.items())
        store.extend("s", (4, "between"), (3, "replaced"))
        store.remove("s", start=300, end=600)
        points = {t: v for t, v in points.items() if not 300 <= t <= 600} | {4: "between", 3: "replaced"}
        assert store.range("s") == sorted(points.items(), key=operator.itemgetter(0))
        assert store.range("s", 299, n=2) == [(603, 201.0), (606, 202.0)]
        assert (store.first("s"), store.last("s")) == ((0, 0.0), (59_997, 19_999.0))

        for i in range(300):
            store.apply("e", {"count": (operator.add, 1) if i else 0, f"{i % 7}": i}, i * 10)
        store.apply("e", {"early": 1}, 5)
        state = {"count": 299, "early": 1} | {f"{i % 7}": i for i in range(300)}
        assert (store.current("e"), store.past("e", 5)) == (state, {"count": 0, "0": 0, "early": 1})
        assert len(store.events("e") or ()) == 601
        assert store.check() == []
    with Store(server.dsn(), key=key) as store:
        assert (dict(store), dict(store.range("s")), store.current("e")) == (pairs, points, state)
    with Store(server.dsn(), frozen=False, key=key) as store:
        store.discard()
    assert server.left_in("rstore") == {}


def test_transactions_and_their_conflicts(server: Server) -> None:
    with Store(server.dsn(), frozen=False) as store, Store(server.dsn(), frozen=False) as other:
        store["n"] = 0

        def meet() -> None:
            with store.transaction() as tx:
                n = tx["n"]
                other["n"] = 10
                tx.extend("s", (1, 1))
                tx["n"] = n + 1

        with pytest.raises(ConflictError):
            meet()
        assert (store["n"], store.timeseries()) == (10, [])

        def add(mine: Store) -> None:
            for _ in range(20):
                mine.run(lambda tx: tx.set("n", tx["n"] + 1))

        threads = [threading.Thread(target=add, args=(mine,)) for mine in (store, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store["n"] == 50
        store.discard()


def test_a_lost_commit(server: Server, proxy: Proxy) -> None:
    with Store(server.tcp_dsn("somebody", PASSWORD, port=proxy.port), frozen=False) as store:
        store["k"] = 0
        store.apply("e", {"n": 0})
        proxy.answers_to_lose = 1
        store["k"] = 1
        with store.transaction() as tx:
            tx["k"] = 2
            tx.apply("e", {"n": (operator.add, 1)})
            proxy.answers_to_lose = 1
        assert proxy.answers_to_lose == 0
        assert (store["k"], store.current("e")) == (2, {"n": 1})
        store.discard()


def test_watching(server: Server) -> None:
    with Store(server.dsn(), frozen=False) as store, Store(server.dsn(), frozen=False) as other:
        with store.watch(prefix="k", timeout=10) as changes:
            other.update(k1=1, other=2)
            change = next(changes)
            assert (change.key, change.entry and change.entry.value) == ("k1", 1)
        store.discard()


def test_tls(server: Server, certificate: Path, tmp_path: Path) -> None:
    """Encrypted and with the server's name checked, as `sslmode` says."""
    checked: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": certificate}
    with Store(server.tcp_dsn("somebody", PASSWORD, **checked), frozen=False, timeout=5) as store:
        store["k"] = 1
        used = (
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rstore'"
        )
        assert server.execute(used) == [(True,)]
        store.discard()
    for refused in (
        server.tcp_dsn("somebody", PASSWORD, sslmode="verify-full", sslrootcert=certify(tmp_path)[0]),
        server.tcp_dsn("somebody", PASSWORD, **checked).replace("127.0.0.1", "elsewhere") + "&hostaddr=127.0.0.1",
    ):
        with pytest.raises(StoreNotAvailableError, match="check sslmode and the certificates"):
            Store(refused, timeout=5).open()


def test_tls_with_a_server_that_has_none(postgresql: Server) -> None:
    if postgresql.execute("SHOW ssl") == [("on",)]:
        pytest.skip("this server has TLS")
    with pytest.raises(StoreNotAvailableError, match="check sslmode and the certificates"):
        Store(postgresql.tcp_dsn("postgres", PASSWORD, sslmode="require"), timeout=5).open()
