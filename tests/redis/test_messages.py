"""Messages for an operator: the server's own words, the command, the file, and what to do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Cluster, Server, executables
from redis_tls import Tunnel, certify

from rstore import (
    InvalidArgumentError,
    NotSupportedError,
    OutcomeUnknownError,
    Store,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)
from rstore.backends.redis.namespace.bucket import make_buckets
from rstore.backends.redis.transport.calls import Script


@pytest.fixture(params=executables())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, executable=executables()[request.param]) as server:
        yield server


def told(dsn: str, kind: type[StoreError] = StoreNotAvailableError, **options: Any) -> str:
    """Return the message with which an opening that cannot succeed ends."""
    with pytest.raises(kind) as refused, Store(dsn, frozen=False, **options) as store:
        store.set("k", 1)
    return str(refused.value)


# -- DSNs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("redis://h1,h2", ("redis+cluster://", "redis+sentinel://")),
        ("rediss://h1:1,h2:2/3", ("redis+cluster://", "redis+sentinel://")),
        ("redis://h/1?db=5", ("two databases",)),
        ("redis://h?poool=3", ("no option poool", "wait_replicas")),
        ("redis://h?poool=3&db=1&x=1", ("no option poool, x",)),
        ("redis://h?ssl_ca_certs=x", ("ssl_ca_certs", "rediss://")),
        ("redis://user:pass?word@h", ("%3F",)),
        ("redis://user:pass?word=1&x@h", ("%3F",)),
    ],
)
def test_what_a_dsn_means_in_vain(dsn: str, words: tuple[str, ...]) -> None:
    message = told(dsn, InvalidArgumentError)
    assert all(word in message for word in words), message
    assert "word@" not in message
    assert "pass" not in message.replace("password", "")


def test_a_database_may_be_named_twice_if_it_is_the_same(redis_dsn: str) -> None:
    with Store(f"{redis_dsn}/3?db=3", frozen=False) as store, Store(f"{redis_dsn}/3") as same:
        store.set("k", 3)
        assert same["k"] == 3


def test_a_database_that_there_is_none_of(server: Server) -> None:
    assert "DB index is out of range" in told(f"{server.dsn}/99")


# -- connections ------------------------------------------------------------------------------------------------------


def test_tls_on_one_side_only(server: Server, tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    with Tunnel(server.port, certificate, key) as tunnel:
        for dsn, hint in (
            (f"rediss://127.0.0.1:{server.port}", "redis:// is plain"),
            (f"rediss+cluster://127.0.0.1:{server.port}", "redis:// is plain"),
            (f"redis://127.0.0.1:{tunnel.port}", "rediss://"),
            (f"redis+cluster://127.0.0.1:{tunnel.port}", "rediss+cluster://"),
        ):
            began = time.monotonic()
            message = told(dsn, timeout=60)
            assert "TLS on one side only?" in message
            assert hint in message
            assert time.monotonic() - began < 15  # and not the time-out
        # What both sides speak is told apart from what one of them does not accept.
        assert "certificate verify failed" in told(f"rediss://127.0.0.1:{tunnel.port}", timeout=5)


def test_a_server_that_takes_no_more_connections(server: Server) -> None:
    server.do("CONFIG", "SET", "maxclients", 1)
    message = told(server.dsn)
    assert "maxclients" in message
    assert "max number of clients reached" in message


def test_a_sentinel_is_named_as_what_it_is(server: Server, tmp_path: Path) -> None:
    with Server(tmp_path / "spare", executable=server.executable) as spare:
        port = spare.port
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    sentinel = subprocess.Popen(
        [str(server.executable), str(configuration), "--sentinel"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        message = ""
        while "Sentinel" not in message and time.monotonic() < deadline:
            message = told(f"redis://127.0.0.1:{port}", timeout=2)
        assert "is a Sentinel: use redis+sentinel://" in message
        assert "redis+sentinel://" in told(f"redis+cluster://127.0.0.1:{port}", timeout=2)
    finally:
        sentinel.kill()
        sentinel.wait()


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("renamed", "words"), [("EVALSHA", "EVALSHA of the script 'create'"), ("INFO", "INFO"), ("ZADD", "the script '")]
)
def test_a_command_that_was_renamed(server: Server, tmp_path: Path, renamed: str, words: str) -> None:
    options = ("--rename-command", renamed, "ANOTHERNAME")
    with Server(tmp_path / "renamed", *options, executable=server.executable) as other:
        message = told(other.dsn, NotSupportedError)
        assert "lacks a command" in message
        assert "nknown" in message
        assert words in message
        with Server(tmp_path / "values", "--rename-command", "MGET", "X", executable=server.executable) as third:
            with Store(third.dsn, frozen=False) as store, pytest.raises(NotSupportedError) as refused:
                store.get("a key")
            assert "MGET" in str(refused.value)
            assert "rs{" not in str(refused.value)  # what the server repeats of a command may be a value


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("-evalsha", "'evalsha' command"),
        ("-zadd", "script 'write'"),
        ("resetkeys", "access"),
        ("-info", "'info' command"),
    ],
)
def test_a_right_that_is_missing(server: Server, right: str, words: str) -> None:
    server.do("ACL", "SETUSER", "u", "on", ">secret", "~rs*", "+@all", right)
    message = told(f"redis://u:secret@127.0.0.1:{server.port}")
    assert "ACL" in message
    assert words in message
    assert "secret" not in message


def test_a_right_to_wait_for_replicas_that_is_missing(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        store["k"] = 0
    server.do("ACL", "SETUSER", "u", "on", ">secret", "~rs*", "+@all", "-wait")
    with Store(f"redis://u:secret@127.0.0.1:{server.port}?wait_replicas=1", frozen=False) as store:
        writes: list[Callable[[], object]] = [lambda: store.set("k", 1), lambda: store.run(lambda tx: tx.set("k", 2))]
        for write in writes:
            with pytest.raises(OutcomeUnknownError, match=r"was applied, but the server refuses to wait .*'wait'"):
                write()
        assert store["k"] == 2
    with pytest.raises(StoreBusyError, match=r"the server refuses to wait .*; nothing was stored$"):
        Store(f"redis://u:secret@127.0.0.1:{server.port}?wait_replicas=1", "new", frozen=False).open()


def test_a_password_that_is_wrong(server: Server) -> None:
    server.do("ACL", "SETUSER", "u", "on", ">secret", "~rs*", "+@all")
    message = told(f"redis://u:other@127.0.0.1:{server.port}")
    assert "invalid username-password pair" in message
    assert "other" not in message


# -- a disk that fails ------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Store], object]] = {
    "set": lambda s: s.set("k", 2), "update": lambda s: s.update(a=1, b=2), "delete": lambda s: s.delete("k"),
    "clear": lambda s: s.clear(), "extend": lambda s: s.extend("s", (2, 2)), "remove": lambda s: s.remove("s"),
    "apply": lambda s: s.apply("e", {"n": 2}), "prune": lambda s: s.prune("e"), "pop": lambda s: s.pop("k"),
    "touch": lambda s: s.touch("k", 5), "run": lambda s: s.run(lambda tx: tx.set("k", 5)),
    "extend_many": lambda s: s.extend_many("s", [(i, i) for i in range(3000)]),
    "delete_prefix": lambda s: s.delete_prefix("k"), "discard": lambda s: s.discard(),
}  # fmt: skip


@pytest.mark.parametrize("executable", executables().values(), ids=executables())
def test_a_server_that_cannot_save_refuses_deletions_too_and_says_why(tmp_path: Path, executable: Path) -> None:
    with (
        Server(tmp_path, "--dbfilename", "directory", executable=executable) as server,
        Store(server.dsn, frozen=False) as store,
    ):
        store.set("k", 1)
        store.extend("s", (1, 1))
        store.apply("e", {"n": 0})
        store.apply("e", {"n": 1})
        before = store.find(), store.range("s"), store.events("e")
        (server.directory / "directory").mkdir()
        server.do("CONFIG", "SET", "save", "3600 1000000")
        server.do("BGSAVE")
        deadline = time.monotonic() + 20
        while server.client().info("persistence")["rdb_last_bgsave_status"] == "ok":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for write in WRITES.values():
            with pytest.raises(StoreNotAvailableError) as refused:
                write(store)
            message = str(refused.value)
            assert "refuses every write, deletions too" in message
            assert "RDB" in message  # its own words
            assert "stop-writes-on-bgsave-error" in message
            assert "nothing was applied" in message
            assert before == (store.find(), store.range("s"), store.events("e"))
        # What the message says helps.
        server.do("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
        assert store.delete("k") == 1
        store.discard()


def test_a_disk_that_is_full_is_told_from_one_that_fails(server: Server) -> None:
    """By the words of the server, which a script says here: no test has a disk of its own to fill."""
    with Store(server.dsn, frozen=False) as store:
        client = store._writer.backend._client  # type: ignore[attr-defined]  # noqa: SLF001
        script = Script("write")
        script.source = b"return {err = 'MISCONF Errors writing to the AOF file: No space left on device'}"
        script.sha = server.do("SCRIPT", "LOAD", script.source)
        with pytest.raises(StoreFullError, match=r"No space left on device.*nothing was applied"):
            client.call(script.on(0, (), write=True, again=False))


# -- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["current", "range", "get_many", "set", "extend", "apply"])
def test_a_slot_of_which_a_half_has_moved(redis_cluster: Cluster, redis_cluster_dsn: str, verb: str) -> None:
    verbs: dict[str, Callable[[Store], object]] = {
        "current": lambda s: s.current("e"), "range": lambda s: s.range("e"), "set": lambda s: s.set("k", 2),
        "extend": lambda s: s.extend("e", (2, 2)), "apply": lambda s: s.apply("e", {"n": 2}),
        "get_many": lambda s: s.get_many(["k", "l"]),
    }  # fmt: skip
    slot = make_buckets(1, b"default")[0].slot
    with ExitStack() as stack:
        store = stack.enter_context(Store(f"{redis_cluster_dsn}?buckets=1", frozen=False, timeout=1))
        store.update(k=1, l=1)
        store.extend_many("e", [(i, i) for i in range(3000)])
        store.apply("e", {"n": 1})
        source = redis_cluster.owner(slot)
        to = next(server for server in redis_cluster.masters() if server is not source)
        to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source.do("CLUSTER", "MYID"))
        source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.do("CLUSTER", "MYID"))
        try:
            keys = source.do("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            moved = [key for key in keys if key[7:8] in b"rhv"]
            assert 0 < len(moved) < len(keys)
            source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *moved)
            began = time.monotonic()
            with pytest.raises(StoreBusyError, match="a slot is moving; nothing was applied"):
                verbs[verb](store)
            assert time.monotonic() - began < 5
        finally:
            left = source.do("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            source.do("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *left)
            for server in (to, source, *redis_cluster.masters()):
                server.do("CLUSTER", "SETSLOT", slot, "NODE", to.do("CLUSTER", "MYID"))
        redis_cluster.until_ok()
        verbs[verb](store)


# -- what is promised -------------------------------------------------------------------------------------------------


def test_durability_names_what_may_be_evicted(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        assert store.durability().settings["maxmemory_policy"] == "noeviction"
        assert "evicts" not in store.durability().meaning
        server.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        told = store.durability()
        assert "maxmemory-policy allkeys-lfu" in told.meaning
        assert "may vanish" in told.meaning
        assert told.settings["maxmemory_policy"] == "allkeys-lfu"
