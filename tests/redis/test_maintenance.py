"""Redis as a whole: the index of namespaces, what real servers promise, and each kind of damage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Cluster, Server
from waiting import until

from rstore import NotSupportedError, Store, StoreError
from rstore.backends.redis.namespace.life import RedisLife

INDEX = "rs{namespaces}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


# -- namespaces -------------------------------------------------------------------------------------------------------


def test_no_keyspace_is_scanned(redis_server: Server, redis_dsn: str) -> None:
    with Store(redis_dsn, "a", frozen=False) as store, Store(redis_dsn, "b", frozen=False) as other:
        store["k"] = other["k"] = 1
        redis_server.do("CONFIG", "RESETSTAT")
        assert store.namespaces() == ["a", "b"]
        assert (store.stats().keys, store.check()) == (1, [])
        store.vacuum()
        used = redis_server.do("INFO", "commandstats")
        assert b"cmdstat_scan:" not in used
        assert b"cmdstat_keys:" not in used


def test_the_index_may_name_too_much(redis_server: Server, redis_dsn: str) -> None:
    with Store(redis_dsn, "a", frozen=False) as store:
        redis_server.do("HSET", INDEX, "gone", bytes(16))
        redis_server.do("HSET", INDEX, "b", bytes(16))
        assert store.namespaces() == ["a"]
        with Store(redis_dsn, "b", frozen=False):
            assert store.namespaces() == ["a", "b"]


@pytest.mark.parametrize("lost", ["the index", "one name"])
def test_what_a_failover_lost_of_the_index_is_found_by_the_next_writer(
    redis_server: Server, redis_dsn: str, lost: str
) -> None:
    with Store(redis_dsn, "a", frozen=False) as store:
        store["k"] = 1
        redis_server.do(*(("DEL", INDEX) if lost == "the index" else ("HDEL", INDEX, "a")))
        with Store(redis_dsn, "a", frozen=False) as again:
            assert again["k"] == 1
            assert store.namespaces() == ["a"]


def test_whoever_dies_before_a_namespace_is_named_has_not_opened_it(
    redis_server: Server, redis_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RedisLife, "_list", die)
        with pytest.raises(KeyboardInterrupt), Store(redis_dsn, "a", frozen=False):
            pass
    assert not redis_server.do("EXISTS", INDEX)
    with Store(redis_dsn, "a", frozen=False) as store:
        assert store.namespaces() == ["a"]


def test_a_late_discarder_leaves_the_name_of_the_next_one(redis_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[tuple[Any, ...]] = []
    really = RedisLife._list  # noqa: SLF001
    with Store(redis_dsn, "a", frozen=False) as store, Store(redis_dsn, "a", frozen=False) as other:
        with monkeypatch.context() as patch:
            patch.setattr(RedisLife, "_list", lambda *call: late.append(call))
            store.discard()
        other["k"] = 1
        assert other.namespaces() == ["a"]
        for call in late:
            really(*call)
        assert other.namespaces() == ["a"]
        other.discard()
        assert other.namespaces() == []


# -- what there is ----------------------------------------------------------------------------------------------------


def test_stats_of_more_than_one_script_looks_at(redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as store:
        store.set_many({f"k{i:05}": "x" * 100 for i in range(4500)})
        for i in range(700):
            store.extend(f"s{i}", *((t, t) for t in range(i % 7 + 1)))
        for i in range(6):
            store.extend("long", *((t, 1.5) for t in range(i * 1000, (i + 1) * 1000)))
        store.apply("e", {"a": 1})
        stats = store.stats()
        assert (stats.keys, stats.values_bytes) == (4500, 4500 * (100 + 9))
        assert (stats.series, stats.points) == (701, 6000 + sum(i % 7 + 1 for i in range(700)))
        assert (stats.sequences, stats.changes) == (1, 1)


DAMAGE: dict[str, tuple[Callable[[Server], object], tuple[str, str | None]]] = {
    "record evicted": (lambda s: s.do("DEL", named(s, "v*k")), ("values", "k")),
    "expiry lost": (lambda s: s.do("PERSIST", named(s, "v*passing")), ("values", "passing")),
    "expiry unknown": (lambda s: s.do("EXPIRE", named(s, "v*k"), 1000), ("values", "k")),
    "head evicted": (lambda s: s.do("DEL", named(s, "h*1hot")), ("series", "hot")),
    "rows evicted": (lambda s: s.do("DEL", named(s, "r*1hot")), ("series", "hot")),
    "row cut": (lambda s: s.do("ZADD", named(s, "r*1hot"), 0, "x"), ("series", "hot")),
    "chunk cut": (lambda s: s.do("ZADD", named(s, "c*1many"), 0, "x" * 20), ("series", "many")),
    "body evicted": (lambda s: s.do("DEL", named(s, "b*")), ("series", "many")),
    "body passing": (lambda s: s.do("EXPIRE", named(s, "b*"), 1000), ("series", "many")),
    "body flipped": (lambda s: s.do("SETRANGE", named(s, "b*"), 30, "xxxxxx"), ("series", "many")),
    "head of another kind": (
        lambda s: (s.do("DEL", name := named(s, "h*1hot")), s.do("SET", name, "x")),
        ("series", "hot"),
    ),
    "marker evicted": (lambda s: s.do("DEL", named(s, "mdefault")), ("store", None)),
}


def named(server: Server, pattern: str) -> bytes:
    names: list[bytes] = server.do("KEYS", "rs{*}" + pattern)
    assert len(names) == 1, names
    return names[0]


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_found(redis_server: Server, redis_dsn: str, name: str) -> None:
    damage, expected = DAMAGE[name]
    with Store(redis_dsn, frozen=False) as store:
        store["k"] = 1
        store.set("passing", 1, ttl=1000)
        store.extend("hot", (1, 1), (2, 2))
        store.extend_many("many", ((t, t) for t in range(5000)))
        store.apply("log", {"a": 1})
        assert store.check() == []
        damage(redis_server)
        with Store(redis_dsn) as frozen:
            found = {(finding.model, finding.key) for finding in frozen.check()}
        assert expected in found
        assert found <= {expected, ("store", None), (expected[0], None)}


# -- what the servers promise -----------------------------------------------------------------------------------------


def test_durability_is_what_the_server_is_set_to(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        assert store.durability()[:4] == (False, False, True, False)
        server.do("CONFIG", "SET", "appendonly", "yes")
        for policy, survives in (("everysec", False), ("always", True), ("no", False)):
            server.do("CONFIG", "SET", "appendfsync", policy)
            told = store.durability()
            assert told[:2] == (survives, survives)
            assert (told.settings["appendonly"], told.settings["appendfsync"]) == ("yes", policy)
        server.do("CONFIG", "SET", "appendfsync", "always")
        server.do("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes")  # nothing is synced while a snapshot is taken
        assert store.durability()[:2] == (False, False)
    with Store(f"{server.dsn}?wait_replicas=1") as frozen:
        assert frozen.durability().copied is True


def test_a_server_that_does_not_tell_is_not_trusted_and_not_doubted(server: Server) -> None:
    server.do("ACL", "SETUSER", "somebody", "on", ">secret", "~rs*", "+@all", "-@admin", "-@dangerous", "+info")
    with Store(f"redis://somebody:secret@127.0.0.1:{server.port}", frozen=False) as store:
        told = store.durability()
        assert told[:2] == (False, False)  # that there is no log every user is told
        server.do("CONFIG", "SET", "appendonly", "yes")
        told = store.durability()
        assert told[:2] == (None, None)
        assert told.settings["appendfsync"] == "unknown"
        assert store.namespaces() == ["default"]
        assert store.check() == []


def test_a_cluster_promises_what_its_weakest_master_does(redis_cluster: Cluster, redis_cluster_dsn: str) -> None:
    masters = redis_cluster.masters()
    try:
        with Store(f"{redis_cluster_dsn}?buckets=4", frozen=False) as store:
            for master in masters:
                master.do("CONFIG", "SET", "appendfsync", "always")
                master.do("CONFIG", "SET", "appendonly", "yes")
            assert store.durability().survives_crash is True
            masters[1].do("CONFIG", "SET", "appendfsync", "everysec")
            told = store.durability()
            assert told.survives_crash is False
            assert told.settings["appendfsync"] == "always, everysec"
    finally:
        for master in masters:
            master.do("CONFIG", "SET", "appendonly", "no")
            master.do("CONFIG", "SET", "appendfsync", "everysec")


# -- copies and space -------------------------------------------------------------------------------------------------


def test_there_is_no_moment_to_copy(redis_dsn: str, tmp_path: Path) -> None:
    with Store(redis_dsn, frozen=False) as store, pytest.raises(NotSupportedError, match="BGSAVE"):
        store.backup(tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []


def test_vacuum_deletes_what_others_left(redis_server: Server, redis_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(redis_dsn, frozen=False) as store:
        store["stays"] = 1
        empty = redis_server.do("DBSIZE")
        store.set_many({f"k{i}": i for i in range(2500)}, ttl=0.001)
        store.extend_many("s", ((t, t) for t in range(50_000)))
        with monkeypatch.context() as patch:
            patch.setattr(RedisLife, "collect", lambda *_, **__: None)
            store.remove("s")
        time.sleep(0.005)
        assert store.vacuum().bytes is None
        # Records that expired are deleted by the server, when it gets to it.
        until(lambda: redis_server.do("DBSIZE") == empty, "something is left")
        assert (store.keys(), store.check()) == (["stays"], [])


def test_a_vacuum_that_the_server_refuses_says_so(redis_server: Server, redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False, timeout=0.3) as store:
        store["k"] = 1
        redis_server.do("SADD", named(redis_server, "mdefault")[:7] + b"g", "r12345678")
        redis_server.do("CONFIG", "SET", "min-replicas-to-write", "3")
        try:
            with pytest.raises(StoreError):
                store.vacuum()
        finally:
            redis_server.do("CONFIG", "SET", "min-replicas-to-write", "0")
