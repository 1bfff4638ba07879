"""Reading from replicas, where that is asked for: of a service of Sentinel, and of a cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis_sentinels import Service
from redis_servers import Cluster, Server
from waiting import until

from rstore import InvalidArgumentError, Store, StoreError


def calls(servers: list[Server]) -> int:
    """Return how many records they were asked for."""
    told = [server.client().info("commandstats") for server in servers]
    return sum(one.get(name, {"calls": 0})["calls"] for one in told for name in ("cmdstat_mget", "cmdstat_evalsha"))


def fill(store: Store) -> None:
    store.update({f"{i}": i for i in range(100)})
    store.extend_many("s", ((t, t) for t in range(20_000)))
    store.extend("hot", (1, 1))
    store.apply("e", {"a": 1})


def holds(store: Store) -> bool:
    return len(store) == 100 and "e" in store.eventsources()


def check_reading(store: Store) -> None:
    assert store.find() == sorted((f"{i}", i) for i in range(100))
    assert [store[f"{i}"] for i in range(100)] == list(range(100))
    assert store.range("s") == [(t, t) for t in range(20_000)]
    assert (store.range("hot"), store.last("s")) == ([(1, 1)], (19_999, 19_999))
    assert (store.current("e"), len(store), store.check()) == ({"a": 1}, 100, [])
    assert store.get_many(["1", "x"]) == {"1": 1}


def check_where(dsn: str, master: Callable[[], list[Server]], replicas: Callable[[], list[Server]]) -> None:
    with Store(dsn, frozen=False) as store:
        fill(store)
        with Store(f"{dsn}?read_from=replica") as frozen:
            until(lambda: holds(frozen), "the replicas do not get it")

        def is_read_from_replicas() -> bool:
            """A server that a busy machine holds up for a second is one that is lost, and the master stands in."""
            with Store(f"{dsn}?read_from=replica") as frozen:
                before = calls(master()), calls(replicas())
                check_reading(frozen)
                return calls(master()) == before[0] and calls(replicas()) > before[1] + 100

        until(is_read_from_replicas, "the master is read from")
        with Store(f"{dsn}?read_from=replica") as frozen:
            changes = frozen.watch("1", timeout=10)
            store["1"] = "new"
            assert next(changes).entry.value == "new"  # type: ignore[union-attr]
            changes.close()


def test_all_of_a_service_is_read_from_a_replica(service: Service) -> None:
    check_where(service.dsn, lambda: [service.master()], service.replicas)


def test_all_of_a_cluster_is_read_from_its_replicas(cluster: Cluster) -> None:
    masters = cluster.masters()
    check_where(cluster.dsn, lambda: masters, lambda: [one for one in cluster.servers if one not in masters])


def test_a_replica_that_is_lost_is_replaced(service: Service) -> None:
    """By the other one, and then by the master; and the readers stay when a replica becomes the master."""
    with Store(service.dsn, frozen=False) as store, Store(f"{service.dsn}?read_from=replica") as frozen:
        store["k"] = 1
        until(lambda: frozen.get("k") == 1, "the replicas do not get it")
        first, second = service.replicas()
        for one in (first, second):
            one.kill()
            assert frozen["k"] == 1
        service.mend()
        service.fail_over()
        store["k"] = 2
        until(lambda: frozen.get("k") == 2, "what the new master has got is not read")


def test_a_replica_of_a_cluster_that_is_lost_is_replaced(cluster: Cluster) -> None:
    with Store(cluster.dsn, frozen=False) as store, Store(f"{cluster.dsn}?read_from=replica") as frozen:
        store.clear()
        store.update({f"{i}": i for i in range(100)})
        until(lambda: len(frozen) == 100, "the replicas do not get it")
        masters = cluster.masters()
        replica = next(one for one in cluster.servers if one not in masters)
        replica.kill()
        assert dict(frozen) == {f"{i}": i for i in range(100)}
        replica.start()


def test_a_replica_that_is_cut_off_is_left(service: Service) -> None:
    """It would go on telling how it was."""
    with Store(service.dsn, frozen=False) as store:
        store["k"] = 1
        cut = service.replicas()
        for one in cut:
            until(lambda one=one: one.do("DBSIZE") > 0, "the replicas do not get it")  # type: ignore[misc]
        for one in cut:
            one.do("REPLICAOF", "127.0.0.1", 1)
        with Store(f"{service.dsn}?read_from=replica", timeout=10) as frozen:
            store["k"] = 2
            assert frozen["k"] == 2  # of the master


def test_a_writer_reads_what_it_writes(service: Service) -> None:
    for dsn in (service.dsn, "redis+cluster://127.0.0.1:1"):
        with pytest.raises(InvalidArgumentError, match="frozen"):
            Store(f"{dsn}?read_from=replica", frozen=False).open()
    with Store(service.dsn, frozen=False) as store:
        store["k"] = 1
    with Store(f"{service.dsn}?read_from=replica") as frozen, pytest.raises(StoreError):
        frozen["k"] = 2
