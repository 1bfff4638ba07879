"""A Redis Cluster that is used while its slots move, a replica takes over, and a master is killed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis_load import after, writers
from redis_servers import Cluster, Server
from waiting import until

from rstore import OutcomeUnknownError, Store, StoreError, StoreNotAvailableError
from rstore.backends.redis.namespace.bucket import MAX_BUCKETS, TAGS
from rstore.backends.redis.transport.calls import SLOTS, slot_of
from rstore.backends.redis.transport.client import Client


@pytest.fixture
def dsn(cluster: Cluster) -> str:
    return cluster.dsn


def opened(dsn: str) -> Store:
    return Store(dsn, frozen=False, timeout=20)


def test_the_tags_fall_evenly_on_the_slots() -> None:
    assert [slot_of(b"rs{%b}v" % tag) for tag in TAGS] == list(range(0, SLOTS, SLOTS // MAX_BUCKETS))


def test_everything_of_a_namespace_spreads_evenly(redis_cluster: Cluster, redis_cluster_dsn: str) -> None:
    with opened(redis_cluster_dsn) as store:  # its slots never move, while those of this module's cluster do
        store.update({f"key {i}": i for i in range(6000)})
        for i in range(600):
            store.extend(f"series {i}", (i, i))
    held = Counter[str]()
    for server in redis_cluster.masters():
        for name in server.do("KEYS", "*"):
            held[f"{chr(name[7])} {server.port}"] += name.startswith(b"rs{")
    for kind, least, most in (("v", 1800, 2200), ("r", 150, 250)):
        of_kind = [n for where, n in held.items() if where.startswith(kind)]
        assert len(of_kind) == 3
        assert least < min(of_kind) <= max(of_kind) < most


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_server_tells_where_the_others_are(cluster: Cluster, dsn: str, seed: int) -> None:
    with opened(dsn) as store:
        store.update({f"{i}": i for i in range(300)})
    server = cluster.servers[seed + 3]
    with Store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{server.port}") as store:
        assert len(store) == len(store.find()) == 300


def test_what_is_no_cluster_and_what_is_one_are_told_apart(redis_dsn: str, cluster: Cluster) -> None:
    with (
        pytest.raises(StoreNotAvailableError, match="use redis://"),
        opened(redis_dsn.replace("redis:", "redis+cluster:")),
    ):
        pass
    with pytest.raises(StoreNotAvailableError, match="use redis\\+cluster://"), opened(cluster.servers[0].dsn):
        pass


def take_precedence(cluster: Cluster, server: Server) -> Server:
    """Return a server after making its word on slots weigh more than that of any other.

    Otherwise a message that is on the way, of one that had a slot just now, takes the slot back, and its keys are lost:
    redis-cli gives the servers time between two of its moves.
    """

    def epoch(of: Server) -> int:
        return int(of.cluster_info()["cluster_my_epoch"])

    def weighs_more() -> bool:
        server.do("CLUSTER", "BUMPEPOCH")
        return all(epoch(server) > epoch(other) for other in cluster.masters() if other is not server)

    until(weighs_more, "the epochs collide")
    return server


def move(cluster: Cluster, slot: int, to: Server, *, pause_s: float = 0.0) -> None:
    """Move a slot to another master, as redis-cli does it."""
    source = cluster.owner(slot)
    if source is to:
        return
    to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.do("CLUSTER", "MYID"))
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.do("CLUSTER", "MYID"))
    while keys := source.do("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        time.sleep(pause_s)
    for server in (to, *cluster.masters()):
        server.do("CLUSTER", "SETSLOT", slot, "NODE", to.do("CLUSTER", "MYID"))


def test_slots_that_move_while_they_are_written_to(cluster: Cluster, dsn: str) -> None:
    with writers(lambda: opened(dsn), expected=()) as results:
        after(results, 20)
        to = take_precedence(cluster, cluster.masters()[0])
        for slot in range(0, SLOTS, 5 * SLOTS // MAX_BUCKETS):
            move(cluster, slot, to, pause_s=0.005)
        after(results, 20)
    with opened(dsn) as store:
        for result in results:
            result.check(store)
        assert len(store) == sum(len(result.done) for result in results)


def test_reading_while_slots_move(cluster: Cluster, dsn: str) -> None:
    done = threading.Event()
    errors: list[BaseException] = []
    points = [(t, t) for t in range(20_000)]
    with opened(dsn) as store:
        store.update({f"{i:04}": i for i in range(1000)})
        store.extend_many("s", points)

        def read() -> None:
            try:
                while not done.is_set():
                    assert store.keys() == [f"{i:04}" for i in range(1000)]
                    assert len(store) == 1000
                    assert store.get("0500") == 500
                    assert store.get("missing") is None
                    assert store.range("s") == points
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        to = take_precedence(cluster, cluster.masters()[1])
        for slot in range(0, SLOTS, 7 * SLOTS // MAX_BUCKETS):
            move(cluster, slot, to)
        done.set()
        thread.join()
    if errors:
        raise errors[0]


def test_watching_while_slots_move_and_a_replica_takes_over(cluster: Cluster, dsn: str) -> None:
    with opened(dsn) as store, store.watch(timeout=10) as changes:
        state: dict[str, int] = {}

        def follow(n: int) -> None:
            store.update({f"{i}": n for i in range(50)})
            wanted = dict(store)
            while state != wanted:
                key, entry = next(changes)
                assert entry is not None
                state[key] = entry.value

        follow(0)
        to = take_precedence(cluster, cluster.masters()[0])
        for slot in range(0, SLOTS, 40 * SLOTS // MAX_BUCKETS):
            move(cluster, slot, to)
        follow(1)
        replica = next(server for server in cluster.servers if server not in cluster.masters())
        replica.do("CLUSTER", "FAILOVER")
        follow(2)
        cluster.until_ok()
        follow(3)


def test_a_replica_that_takes_over_under_load(cluster: Cluster, dsn: str) -> None:
    with writers(lambda: opened(dsn)) as results:
        after(results, 10)
        for replica in [server for server in cluster.servers if server not in cluster.masters()]:
            replica.do("CLUSTER", "FAILOVER")
            after(results, 10)
        cluster.until_ok()
        after(results, 10)
    with opened(dsn) as store:
        for result in results:
            result.check(store)


def replaceable(cluster: Cluster) -> Server:
    """Return a master whose replica was not elected itself a moment ago.

    Such a one would count the votes of that election once more, and take over in an epoch that nobody listens to.
    """

    def elections(master: Server) -> int:
        ((_, port, _), *_) = master.do("ROLE")[2]
        replica = next(server for server in cluster.servers if server.port == int(port))
        return (replica.directory / "log").read_text().count("election won")

    return min(cluster.masters(), key=elections)


def test_a_master_that_is_killed_is_replaced_by_its_replica(cluster: Cluster, dsn: str) -> None:
    """What a replica has confirmed is there afterwards; whatever else was acknowledged may be lost by a failover."""
    with writers(lambda: opened(f"{dsn}?wait_replicas=1")) as results:
        after(results, 10)
        killed = replaceable(cluster)
        killed.kill()
        with opened(dsn) as store:  # nobody serves a third of the slots, for a while
            assert store.keys() is not None
        until(lambda: len(cluster.masters()) == 3, "no replica takes over")
        killed.start()
        cluster.until_ok()
        after(results, 10)
    with opened(dsn) as store:
        for result in results:
            result.check(store)


def test_a_master_that_answers_nobody_is_replaced_by_its_replica(cluster: Cluster, dsn: str) -> None:
    """It does not refuse connections, as a dead process does: nothing but the time-out tells that it is gone."""
    with Store(dsn, frozen=False, timeout=1) as store:
        store.update({f"{i}": i for i in range(100)})
        gone = replaceable(cluster)
        others = [server for server in cluster.servers if server is not gone]
        gone.pause()
        try:
            until(lambda: sum(server.is_master() for server in others) == 3, "no replica takes over")

            def works() -> bool:
                try:
                    return len(store) == 100 and all(store[f"{i}"] == i for i in range(100))
                except StoreError:
                    return False

            until(works, "the store does not find the replica")
        finally:
            gone.resume()
        cluster.until_ok()


def test_a_slot_that_nobody_serves_is_waited_for(cluster: Cluster, dsn: str) -> None:
    with opened(dsn) as store:
        store.set("k", 1)
    slot = slot_of(b"rs:default")
    owner = cluster.owner(slot)
    owner.do("CLUSTER", "DELSLOTS", slot)
    served = threading.Timer(0.3, owner.do, args=("CLUSTER", "ADDSLOTS", slot))
    served.start()
    try:
        with opened(owner.dsn.replace("redis:", "redis+cluster:")) as store:
            assert store["k"] == 1
    finally:
        served.join()
        cluster.until_ok()


def test_discarding_while_the_slot_of_the_registry_moves(cluster: Cluster, dsn: str) -> None:
    slot = slot_of(b"rs:default")
    source = cluster.owner(slot)
    to = next(server for server in cluster.masters() if server is not source)
    with opened(dsn) as store:
        store.set("k", 1)
        take_precedence(cluster, to)
        to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.do("CLUSTER", "MYID"))
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.do("CLUSTER", "MYID"))
        store.discard()
        move(cluster, slot, to)
        assert store.keys() == []
        assert to.do("HGET", "rs:default", "alive") == b"0"


@pytest.mark.parametrize(
    "write",
    [lambda store: store.set("a", 2), lambda store: store.run(lambda tx: (tx.set("a", 2), tx.set("b", 2, ttl=100)))],
    ids=["set", "transaction"],
)
def test_what_ends_the_last_expiry_while_its_slot_moves_is_done_or_not(
    cluster: Cluster, dsn: str, write: Callable[[Store], object]
) -> None:
    """Where it was refused half-way, it would be visible, and sent again over what others write later."""
    with Store(f"{dsn}?buckets=1", frozen=False, timeout=1) as store:
        store.set("a", 1, ttl=100)
        store.set("b", 1)
        source = cluster.owner(0)
        to = next(server for server in cluster.masters() if server is not source)
        to.do("CLUSTER", "SETSLOT", 0, "IMPORTING", source.do("CLUSTER", "MYID"))
        source.do("CLUSTER", "SETSLOT", 0, "MIGRATING", to.do("CLUSTER", "MYID"))
        try:
            write(store)
        finally:
            for server in (source, to):
                server.do("CLUSTER", "SETSLOT", 0, "STABLE")
        assert store["a"] == 2
        assert list(store.check()) == []


def test_a_server_that_was_taken_out_of_the_cluster_is_not_asked(dsn: str, tmp_path: Path) -> None:
    with (
        Server(tmp_path, "--cluster-enabled", "yes") as lonely,
        opened(dsn.replace("//", f"//127.0.0.1:{lonely.port},")) as store,
    ):
        store.set("k", 1)
        assert store["k"] == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_a_thread_asks_who_serves_what(dsn: str) -> None:
    with opened(dsn) as store:
        store.set("k", 1)
        nodes = store._writer.backend._client._nodes  # type: ignore[attr-defined]  # noqa: SLF001
        with nodes._lock:  # noqa: SLF001 - as the thread has it, which the child has not
            child = multiprocessing.get_context("fork").Process(target=nodes.discover)
            child.start()
            child.join(10)
            try:
                assert child.exitcode == 0
            finally:
                child.kill()


def test_the_rights_that_the_documentation_names_are_enough(cluster: Cluster, dsn: str) -> None:
    rights = {
        "writer": "~rs* +@all -@admin -@dangerous +info +cluster|slots",
        "reader": "~rs* +@read +@connection +info +eval +evalsha +time +@transaction +cluster|slots",
    }
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
    for server in cluster.servers:
        for user, given in rights.items():
            assert given.removesuffix(" +cluster|slots") in text
            server.do("ACL", "SETUSER", user, "on", ">secret", *given.split())
    with opened(dsn.replace("//", "//writer:secret@")) as store:
        store.update({f"{i}": i for i in range(3000)})
        store.extend_many("s", [(t, t) for t in range(3000)])
        store.extend("s", (1, 2))
        store.apply("e", {"n": 1})
        store.prune("e")
        with Store(dsn.replace("//", "//reader:secret@")) as reader:
            assert (len(reader), len(reader.range("s")), reader.current("e")) == (3000, 3000, {"n": 1})
        store.remove("s")
        assert store.delete("1", "2", "none") == 2
        store.clear()
        store.discard()


def test_a_write_that_too_few_replicas_confirm_is_not_acknowledged(dsn: str) -> None:
    with opened(dsn) as store:
        store.set("k", 0)
    with Store(f"{dsn}?wait_replicas=2", frozen=False, timeout=0.2) as store:
        with pytest.raises(OutcomeUnknownError, match="replicas"):
            store.set("k", 1)
        assert store["k"] == 1


def test_a_cluster_that_is_down_is_not_available(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        with Store(cluster.dsn, frozen=False, timeout=1) as store:
            store.update({f"{i}": i for i in range(100)})
            for server in cluster.servers[1:]:
                server.kill()
            with pytest.raises((StoreNotAvailableError, OutcomeUnknownError)):
                store.update({f"{i}": i for i in range(100)})
            cluster.servers[0].kill()
            with pytest.raises(StoreNotAvailableError):
                store.get("1")
        with pytest.raises(StoreNotAvailableError), opened(cluster.dsn):
            pass
    finally:
        cluster.kill()


@pytest.mark.parametrize("buckets", [(256, 1), (1, 256), (4, 16)])
def test_a_namespace_is_found_in_its_buckets(redis_dsn: str, redis_server: Server, buckets: tuple[int, int]) -> None:
    """One that was laid out in other buckets is used as it is, also where it is made anew under one's hands."""
    found: list[Any] = []
    first, second = (f"{redis_dsn}?buckets={n}" for n in buckets)
    with Store(first, frozen=False) as many, Store(second, frozen=False) as one:
        many.update({f"{i}": i for i in range(50)})
        found.append(one.find() == many.find())
        one.discard()
        one.update({f"{i}": -i for i in range(50)})
        found.append(one.find() == many.find() and len(many) == 50)
        one.discard()
        with Store(second, "other", frozen=False) as other:
            other["k"] = 1
        with Store(second, frozen=False) as again:
            again.update({f"{i}": 2 * i for i in range(50)})
            found.append(len(many) == 50)
            again.extend("s", (1, 1))
            found.append([many.get(f"{i}") for i in range(50)] == [2 * i for i in range(50)])
            found.append(many.range("s") == [(1, 1)])
        one.discard()
        one.update({f"{i}": i for i in range(50)})
        found.append(many.delete(*(f"{i}" for i in range(40))) == 40)
        found.append(len(one) == 10)
        one.discard()
        one.set("k", 1)
        many.clear()
        found.append(one.keys() == [])
    assert found == [True] * 8
    assert redis_server.do("DBSIZE") > 0


def test_keys_that_are_deleted_where_another_thread_finds_the_namespace_in_other_buckets(
    redis_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{i}" for i in range(40)]
    run: Callable[..., list[Any]] = Client.run

    def running(self: Client, calls: Any, *rest: Any) -> list[Any]:
        replies = run(self, calls, *rest)
        monkeypatch.undo()
        finder = threading.Thread(target=store.get, args=("0",))
        finder.start()
        finder.join()
        return replies

    with Store(f"{redis_dsn}?buckets=2", frozen=False) as store, Store(redis_dsn, frozen=False) as other:
        store.update(dict.fromkeys(keys, 1))
        other.discard()
        with Store(f"{redis_dsn}?buckets=16", frozen=False) as anew:
            anew.update(dict.fromkeys(keys, 2))
        monkeypatch.setattr(Client, "run", running)
        assert store.delete(*keys) == 40
        assert other.keys() == []
