"""How a Redis server is named and reached: DSNs, users, databases, sockets, TLS, and what is refused on opening."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from redis_servers import SYSTEM, Server, executables
from redis_tls import Tunnel, certify
from waiting import until

from rstore import (
    CorruptionError,
    InvalidArgumentError,
    KeyRequiredError,
    Store,
    StoreBusyError,
    StoreClosedError,
    StoreNotAvailableError,
    generate_key,
)
from rstore.backends.contract import Backend
from rstore.backends.redis import EvictionWarning
from rstore.backends.redis.namespace.life import RedisLife
from rstore.backends.redis.transport.calls import Script
from rstore.backends.redis.transport.dsn import parse

SECRET = "hunter2:/@?#é"  # noqa: S105 - opens servers of the tests only
QUOTED = "hunter2%3A%2F%40%3F%23%C3%A9"


@pytest.mark.parametrize(
    ("dsn", "addresses", "path", "database"),
    [
        ("", (("localhost", 6379),), None, 0),
        ("host", (("host", 6379),), None, 0),
        ("host:1/2", (("host", 1),), None, 2),
        ("[::1]:1/2", (("::1", 1),), None, 2),
        ("user:p%40ss@host:1?db=3", (("host", 1),), None, 3),
        (":p%2Fss@host/", (("host", 6379),), None, 0),
        ("/run/redis.sock", (), "/run/redis.sock", 0),
        ("user:p%40ss@/run/redis.sock?db=4", (), "/run/redis.sock", 4),
    ],
)
def test_what_a_dsn_says(dsn: str, addresses: object, path: str | None, database: int) -> None:
    target = parse(dsn, cluster=False, tls=False)
    assert (target.addresses, target.path, target.database) == (addresses, path, database)
    assert "p@ss" not in repr(target)


@pytest.mark.parametrize(
    "dsn",
    [
        "redis://secret@host", "redis://host:port", "redis://host:123456", "redis://host/db", "redis://host:1/0?what=1",
        "redis://host?db=x", "redis://host?buckets=3", "redis://host?buckets=512", "redis://a b:c", "redis://a..b",
        "rediss:///run/redis.sock", "redis+cluster://host:1/2", "redis+cluster:///run/redis.sock",
        "redis://host?ssl_ca_certs=x", "redis://host?wait_replicas=-1", "redis://user:a?secret@host", "redis://host?buckets=secret",
        f"redis://host/{'9' * 5000}", f"redis://host?wait_replicas={'9' * 5000}",
        "redis://host?db=1&db=2", "redis://host?db=1&buckets=1&db=1", "redis://host:0",
        "redis+cluster://a,", "redis+cluster://a,,b", "redis+sentinel://,a/service", "unix://path", "unix://secret@path/0",
    ],
)  # fmt: skip
def test_what_is_no_dsn_is_refused(dsn: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused, Store(dsn, frozen=False):
        pass
    assert "secret" not in str(refused.value)
    if "@" in dsn:
        assert "secret" not in repr(Store(dsn))


def test_a_server_that_is_not_there(server: Server) -> None:
    server.kill()
    for frozen in (True, False):
        with pytest.raises(StoreNotAvailableError), Store(server.dsn, frozen=frozen):
            pass


def test_what_cannot_be_reached_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        try:
            (tmp_path / "of the program").read_bytes()
        except FileNotFoundError:  # which is not why
            with pytest.raises(StoreNotAvailableError, match="no answer in time"):
                Store(f"redis://u:{QUOTED}@127.0.0.1:{port}", frozen=False, timeout=0.2).open()
    with pytest.raises(StoreNotAvailableError, match=f"127.0.0.1:{port} .*refused.*is it running") as refused:
        Store(f"redis://u:{QUOTED}@127.0.0.1:{port}", frozen=False).open()
    assert "hunter" not in str(refused.value)
    with pytest.raises(StoreNotAvailableError, match="No such file"):
        Store(f"redis://{tmp_path}/s", frozen=False).open()


@pytest.mark.parametrize(
    ("answer", "says"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "another protocol than that of Redis"), (b"", "the connection was closed")],
)
def test_a_port_of_something_else(answer: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # until it is closed
                while True:
                    with listening.accept()[0] as one:
                        while not (asked := one.recv(4096)).endswith(b"\r\n") and asked:
                            pass
                        one.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(StoreNotAvailableError, match=f"{says}; is it running, and is this its address"):
            Store(f"redis://127.0.0.1:{listening.getsockname()[1]}", frozen=False, timeout=2).open()
        listening.shutdown(socket.SHUT_RDWR)


def test_a_store_survives_a_restart_of_its_server(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with Server(tmp_path, *options) as server, Store(server.dsn, frozen=False) as store:
        store.set("k", 1)
        server.kill()
        with pytest.raises(StoreNotAvailableError):
            store.get("k")
        server.start()
        assert store["k"] == 1
        store.set("k", 2)
        assert store["k"] == 2


@pytest.mark.parametrize("user", ["", "writer"])
def test_passwords_are_asked_for_and_never_shown(server: Server, user: str) -> None:
    if user:
        server.do("ACL", "SETUSER", user, "on", f">{SECRET}", "~rs*", "+@all", "-@admin", "-@dangerous", "+info")
    else:
        server.do("CONFIG", "SET", "requirepass", SECRET)
    place = f"127.0.0.1:{server.port}"
    with Store(f"redis://{user}:{QUOTED}@{place}", frozen=False) as store:
        store.set("k", 1)
        store.extend("s", (1, 1))
        assert (store["k"], store.range("s")) == (1, [(1, 1)])
        assert "hunter2" not in repr(store)
        store.discard()
    wrong = [f"redis://{user}:hunter3@{place}", f"redis://nobody:{QUOTED}@{place}"]
    for dsn in wrong if user else [*wrong, f"redis://{place}"]:
        with pytest.raises(StoreNotAvailableError) as refused, Store(dsn, frozen=False):
            pass
        assert "hunter" not in "".join(map(str, (refused.value, refused.value.args)))


def test_a_user_without_the_right_to_write(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        store.set("k", 1)
    rights = ("+@read", "+info", "+evalsha", "+eval", "+time", "+@connection", "+@transaction")
    server.do("ACL", "SETUSER", "reader", "on", ">x", "~rs*", *rights)
    with Store(f"redis://reader:x@127.0.0.1:{server.port}") as frozen:
        assert frozen.find() == [("k", 1)]
        backend = cast("Backend", frozen._reader.backend)  # noqa: SLF001 - what it reads inside is watched
        with backend.transaction() as inside:
            assert inside.count() == 1
    with (
        Store(f"redis://reader:x@127.0.0.1:{server.port}", frozen=False) as store,
        pytest.raises(StoreNotAvailableError, match="ACL"),
    ):
        store.set("k", 2)


def test_databases_are_stores_of_their_own(redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as zero, Store(f"{redis_dsn}/3", frozen=False) as three:
        zero.set("k", 0)
        three.set("k", 3)
        assert (zero["k"], three["k"]) == (0, 3)
        with Store(f"{redis_dsn}/?db=3") as same:
            assert same["k"] == 3
    with pytest.raises(StoreNotAvailableError), Store(f"{redis_dsn}/99", frozen=False):
        pass


@pytest.mark.parametrize("scheme", ["redis", "valkey", "unix", "redis+unix", "valkey+unix", "UNIX"])
def test_a_unix_socket(scheme: str) -> None:
    directory = Path(tempfile.mkdtemp())  # short: the path of a socket has 107 bytes at most
    try:
        with (
            Server(directory, "--unixsocket", f"{directory}/s", "--requirepass", SECRET, password=SECRET),
            Store(f"{scheme}://:{QUOTED}@{directory}/s?db=3", frozen=False) as store,
        ):
            store.set("k", 1)
            assert store["k"] == 1
            assert "hunter2" not in repr(store)
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("scheme", ["valkey", "VALKEY"])
def test_valkey_is_another_name_of_the_scheme(redis_dsn: str, redis_cluster_dsn: str, scheme: str) -> None:
    for dsn in (redis_dsn, redis_cluster_dsn):
        with Store(dsn, frozen=False) as one, Store(dsn.replace("redis", scheme, 1), frozen=False) as other:
            one["k"] = 1
            assert other["k"] == 1


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("unix://host:6379", "unix:///path"),
        ("unix://host/0", "unix:///path"),
        ("unix://tmp/x.sock", "unix:///path"),
        ("unix://", "unix:///path"),
        ("valkey+unix://host", "unix:///path"),
        ("valkys://host", "did you mean valkeys://?"),
        ("redis+sentinal://host/x", "did you mean redis+sentinel://?"),
        ("redis-cluster://host", "did you mean redis+cluster://?"),
        ("mysql+x://host", "valkey+cluster://"),
        ("redis://host?read_from=replica", "read_from"),
        ("redis+cluster://host?read_from=anybody", "read_from"),
        ("redis://host?client_name=a%20b", "client_name"),
    ],
)
def test_what_is_meant_is_said(dsn: str, told: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Store(dsn).open()
    assert told in str(refused.value)


def test_tls(server: Server, tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    with Tunnel(server.port, certificate, key) as tunnel:
        check_tls(tunnel.port, certificate)
        tunnel.accepted = 0
        with Store(f"rediss://127.0.0.1:{tunnel.port}?ssl_ca_certs={certificate}", frozen=False) as store:
            for i in range(20):
                store.set("k", i)
                time.sleep(0.001)  # then its connection is looked at before it is used
        assert tunnel.accepted == 1


def test_tls_of_the_server(tmp_path: Path) -> None:
    executable = executables().get(SYSTEM)
    if executable is None:
        pytest.skip("the bundled server has no TLS, and there is no redis-server or valkey-server on the PATH")
    certificate, key = certify(tmp_path)
    given = ("--tls-port", "{}", "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with Server(tmp_path, executable=executable) as spare:
        port = spare.port
    options = (*(option.format(port) for option in given), "--tls-auth-clients", "no")
    with Server(tmp_path / "tls", *options, "--tls-ca-cert-file", str(certificate), executable=executable):
        check_tls(port, certificate)


def test_tls_of_a_cluster(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    trusted = f"ssl_ca_certs={certificate}"
    with ExitStack() as stack:
        servers, tunnels = [], []
        for i in range(2):
            with Server(tmp_path) as spare:
                port = spare.port
            tunnels.append(stack.enter_context(Tunnel(port, certificate, key)))
            # To clients they name the ends of the tunnels, to one another their bus.
            announced = (
                "--cluster-announce-port",
                f"{tunnels[i].port}",
                "--cluster-announce-bus-port",
                f"{port + 10_000}",
            )
            server = Server(tmp_path / "cluster", "--cluster-enabled", "yes", *announced, port=port)
            servers.append(stack.enter_context(server))
            server.do("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            server.do("CLUSTER", "ADDSLOTS", *range(8192 * i, 8192 * (i + 1)))
        servers[0].do("CLUSTER", "MEET", "127.0.0.1", servers[1].port, servers[1].port + 10_000)
        for server in servers:
            until(partial(is_up, server), "the cluster is not up")
        values = {f"k{i}": i for i in range(100)}
        with Store(f"rediss+cluster://127.0.0.1:{tunnels[0].port}?{trusted}", frozen=False) as store:
            store.update(values)
            store.extend("s", (1, 2.5))
            assert dict(store) == values
        assert all(tunnel.accepted for tunnel in tunnels)
        assert all(int(server.do("DBSIZE")) > 0 for server in servers)
        with pytest.raises(StoreNotAvailableError), Store(f"rediss+cluster://127.0.0.1:{tunnels[0].port}", timeout=2):
            pass


def is_up(server: Server) -> bool:
    return server.cluster_info()["cluster_state"] == "ok"


def check_tls(port: int, certificate: Path) -> None:
    with Store(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}", frozen=False) as store:
        store.update(k=1, large="x" * 1_000_000)
        assert store["k"] == 1
        assert len(store["large"]) == 1_000_000
    for dsn in (f"rediss://127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
        with pytest.raises(StoreNotAvailableError), Store(dsn, frozen=False, timeout=2):
            pass


def test_a_server_that_may_evict_is_warned_of(server: Server) -> None:
    server.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.warns(EvictionWarning, match="allkeys-lru"), Store(server.dsn, frozen=False):
        pass
    server.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Store(server.dsn, frozen=False):
            pass


def test_a_frozen_store_writes_nothing(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        store.update(k=1)
        store.extend_many("s", [(t, t) for t in range(5000)])
        store.apply("e", {"a": 1})
    before = server.client().info("persistence")["rdb_changes_since_last_save"]
    with Store(server.dsn) as frozen:
        assert (frozen.find(), len(frozen), "k" in frozen) == ([("k", 1)], 1, True)
        assert (len(frozen.range("s")), frozen.last("s"), frozen.timeseries()) == (5000, (4999, 4999), ["s"])
        assert (frozen.current("e"), frozen.eventsources()) == ({"a": 1}, ["e"])
    with pytest.raises(StoreNotAvailableError), Store(server.dsn, "other"):
        pass
    assert server.client().info("persistence")["rdb_changes_since_last_save"] == before


def test_keys_of_others_are_left_alone(server: Server) -> None:
    others = {b"k": b"1", b"rs": b"2", b"default": b"3", b"{1bz}vk": b"4"}
    server.client().mset({name.decode(): value for name, value in others.items()})
    with Store(server.dsn, frozen=False) as store:
        assert store.keys() == []
        store.set("k", 5)
        store.clear()
        store.discard()
    assert {name: server.do("GET", name) for name in others} == others


def test_what_a_crash_left_behind_is_deleted_by_whoever_comes_next(server: Server) -> None:
    """A discarder that died after it had buried the namespace: nobody sees it, and its keys go bit by bit."""
    with Store(server.dsn, frozen=False) as store:
        store.update({f"{i}": i for i in range(2500)})
        store.extend_many("s", [(t, t) for t in range(50_000)])
        store.extend("hot", (1, 1))
        script = Script("bury").source.decode()
        marker = server.do("KEYS", "rs{*}mdefault")[0]
        incarnation = server.do("GET", marker)[:16]
        server.do("EVAL", script, 2, marker, marker[:7] + b"g", incarnation, 1000)
        server.do("HSET", "rs:default", "alive", "0")
        assert store.keys() == store.timeseries() == []
        assert server.do("DBSIZE") > 2500
    for _ in range(20):
        with Store(server.dsn, frozen=False) as store:
            assert store.keys() == store.timeseries() == []
    assert server.do("DBSIZE") == 3  # the registry, the marker, and the index of namespaces


def test_a_registry_that_a_failover_lost_is_made_anew_from_the_markers(redis_dsn: str, redis_server: Server) -> None:
    with Store(redis_dsn, frozen=False) as store:
        store.set("k", 1)
        redis_server.do("DEL", "rs:default")
        with Store(redis_dsn, frozen=False) as again:
            assert again["k"] == 1
            store.set("k", 2)
            assert again["k"] == 2


@pytest.mark.parametrize("alive", [b"7", b"", None])
def test_a_damaged_registry_is_not_taken_for_an_end(redis_dsn: str, redis_server: Server, alive: bytes | None) -> None:
    """Whoever took it for one would create the namespace again, and delete all that it held."""
    with Store(redis_dsn, frozen=False) as store:
        store["k"] = 1
    if alive is None:
        redis_server.do("HDEL", "rs:default", "alive")
    else:
        redis_server.do("HSET", "rs:default", "alive", alive)
    for frozen in (True, False):
        with pytest.raises(CorruptionError, match=r"'alive' .* is neither 0 nor 1"), Store(redis_dsn, frozen=frozen):
            pass
    redis_server.do("HSET", "rs:default", "alive", "1")
    with Store(redis_dsn) as store:
        assert store["k"] == 1


def registry_of(server: Server) -> list[bytes]:
    registry: list[bytes] = server.do("HGETALL", "rs:default")
    return registry


def lose_in_a_failover(server: Server, registry: list[bytes]) -> None:
    """Let the server of the registry know no more than what it was, and those of the buckets all."""
    server.do("DEL", "rs:default")
    server.do("HSET", "rs:default", *registry)


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_discarding_of_which_a_failover_lost_the_first_step_is_finished(
    redis_dsn: str, redis_server: Server, buckets: int, *, opened_before: bool
) -> None:
    dsn = f"{redis_dsn}?buckets={buckets}"
    values = {f"{i}": i for i in range(20)}
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False, timeout=2) as other:
        store.update(values)
        other.set("k", 1)
        registry = registry_of(redis_server)
        [marker, *_] = redis_server.do("KEYS", "rs{*}mdefault")
        incarnation = redis_server.do("GET", marker)
        store.discard()
        lose_in_a_failover(redis_server, registry)
        if buckets > 1:
            redis_server.do("SET", marker, incarnation)  # which was lost as well
        with Store(dsn) as frozen:
            assert (frozen.keys(), frozen.namespaces()) == ([], [])
        with other if opened_before else Store(dsn, frozen=False, timeout=2) as again:
            assert again.keys() == []
            again.update(values)
            assert dict(again) == dict(store) == values
            assert again.check() == []
        assert redis_server.do("HGET", "rs:default", "birth") != incarnation[:16]


def test_a_beginning_of_which_a_failover_lost_the_registry_is_taken_up(redis_dsn: str, redis_server: Server) -> None:
    with Store(redis_dsn, frozen=False) as store:
        for lost in (["alive", "1"], ["alive", "0"]):  # the end of the one before is lost with it, or not
            store.set("k", 1)
            registry = registry_of(redis_server)
            store.discard()
            store.set("new", 2)
            lose_in_a_failover(redis_server, registry)
            redis_server.do("HSET", "rs:default", *lost)
            with Store(redis_dsn, frozen=False, timeout=2) as again:
                assert again.find() == [("new", 2)]
                again.set("k", 3)
            assert (store["new"], store["k"]) == (2, 3)
            assert store.check() == []


def test_who_finds_nothing_but_ends_gives_up_when_the_time_is_up(
    redis_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else discards it whenever it has been registered."""
    with Store(redis_dsn, frozen=False) as other:
        register = RedisLife._register  # noqa: SLF001 - comes between two of its steps

        def between(backend: RedisLife) -> bytes:
            incarnation = register(backend)
            other.discard()
            return incarnation

        other.discard()
        monkeypatch.setattr(RedisLife, "_register", between)
        with pytest.raises(StoreBusyError, match="nothing was applied"):
            Store(redis_dsn, frozen=False, timeout=0.2).open()
        monkeypatch.undo()
        other.set("k", 1)
        assert other["k"] == 1


def _in_a_child(store: Store) -> None:
    for i in range(100):
        store.set("child", i)
        assert store["parent"] >= 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_may_be_open_across_a_fork(redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as store:
        store.set("parent", 0)
        child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(store,))
        child.start()
        for i in range(100):
            store.set("parent", i)
            assert store["parent"] == i
        child.join()
        assert child.exitcode == 0
        assert (store["child"], store["parent"]) == (99, 99)


def test_a_closed_store_has_no_connections_left(redis_dsn: str, redis_server: Server) -> None:
    before = redis_server.client().info("clients")["connected_clients"]
    with Store(redis_dsn, frozen=False) as store:
        scan = iter(store)
        store.update({f"{i}": i for i in range(3000)})
        next(scan)
    with pytest.raises(StoreClosedError):
        list(scan)
    assert redis_server.client().info("clients")["connected_clients"] <= before


@pytest.mark.parametrize("buckets", [1, 4])
def test_a_key_of_which_a_failover_lost_the_fact_is_respected(
    redis_dsn: str, redis_server: Server, buckets: int
) -> None:
    """The markers still tell that others have to look again, and so does the next one who knows the key."""
    dsn, key = f"{redis_dsn}?buckets={buckets}", generate_key()
    names = [f"{i}" for i in range(20)]
    with Store(dsn, frozen=False, allow_plaintext=True) as plain:
        plain.set("plain", 1)
        plain.delete("plain")
        registry = registry_of(redis_server)
        with Store(dsn, key=key, frozen=False) as sealed:
            sealed.update(dict.fromkeys(names, 1))
            lose_in_a_failover(redis_server, registry)
            with Store(dsn, key=key, frozen=False) as again:
                assert dict(again) == dict.fromkeys(names, 1)
                again.update(dict.fromkeys(names, 2))
                sealed.update(dict.fromkeys(names, 3))
                for name in names:
                    with pytest.raises(KeyRequiredError):
                        plain.set(name, 0)
                assert dict(again) == dict(sealed) == dict.fromkeys(names, 3)
                assert again.check() == sealed.check() == []
