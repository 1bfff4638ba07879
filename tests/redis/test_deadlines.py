"""One time-out for a verb, whatever it sends: of servers that fall silent, and of states that others keep changing."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from redis_proxy import Proxy
from redis_servers import Cluster, Server

from rstore import CorruptionError, NotSupportedError, OutcomeUnknownError, Store, StoreBusyError, StoreError
from rstore.backends.redis.transport.calls import Call, Script
from rstore.backends.redis.transport.client import Client
from rstore.backends.redis.transport.errors import Signal

TIMEOUT_S = 2.0
MAX_S = 1.6 * TIMEOUT_S


def reopen(store: Store) -> None:
    store.close()
    store.open()


VERBS: dict[str, Callable[[Store], object]] = {
    "open": reopen,
    "get": lambda s: s.get("k"),
    "has": lambda s: "k" in s,
    "get_many": lambda s: s.get_many(["k", "l"]),
    "count": lambda s: s.count("k"),
    "keys": lambda s: s.keys(),
    "find": lambda s: s.find(),
    "set": lambda s: s.set("k", 2),
    "update": lambda s: s.update({f"{i}": i for i in range(50)}),
    "bulk": lambda s: s.update({f"{i}": i for i in range(5000)}),
    "add": lambda s: s.add("new", 2),
    "incr": lambda s: s.incr("n"),
    "touch": lambda s: s.touch("k", 60),
    "pop": lambda s: s.pop("k"),
    "delete": lambda s: s.delete("k", "l"),
    "delete_prefix": lambda s: s.delete_prefix("k"),
    "clear": lambda s: s.clear(),
    "extend": lambda s: s.extend("s", (5, 5)),
    "extend_many": lambda s: s.extend_many("s", [(i, i) for i in range(3000)]),
    "range": lambda s: s.range("s"),
    "remove": lambda s: s.remove("s", start=0),
    "timeseries": lambda s: s.timeseries(),
    "apply": lambda s: s.apply("e", {"n": 2}),
    "current": lambda s: s.current("e"),
    "events": lambda s: s.events("e"),
    "prune": lambda s: s.prune("e"),
    "transaction": lambda s: s.run(lambda tx: tx.set("k", tx["k"])),
    "ping": lambda s: s.ping(),
    "stats": lambda s: s.stats(),
    "check": lambda s: list(s.check()),
    "durability": lambda s: s.durability(),
    "namespaces": lambda s: s.namespaces(),
    "discard": lambda s: s.discard(),
}


def fill(store: Store) -> None:
    store.update(k=1, l=1, n=1)
    store.extend("s", (1, 1))
    store.apply("e", {"n": 1})


def took_s(verb: Callable[[Store], object], store: Store) -> tuple[float, BaseException | None]:
    """Return how long a verb took, and what it raised."""
    began = time.monotonic()
    raised: BaseException | None = None
    try:
        verb(store)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        raised = error
    return time.monotonic() - began, raised


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), node_timeout_ms=60_000)
    with Server(tmp_path_factory.mktemp("single")) as server:
        yield {"single": [server], "cluster": cluster.servers}
    cluster.kill()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["single", "cluster"])
def test_no_verb_outlasts_the_timeout_where_the_servers_fall_silent(servers: dict[str, Any], kind: str) -> None:
    """All verbs side by side, each with a store of its own, connected and opened before."""
    up: list[Server] = servers[kind]
    dsn = f"redis+cluster://127.0.0.1:{up[0].port}" if kind == "cluster" else up[0].dsn
    stores = {name: Store(dsn, name, frozen=False, timeout=TIMEOUT_S).open() for name in VERBS}
    for store in stores.values():
        fill(store)
    found: dict[str, tuple[float, BaseException | None]] = {}

    def work(name: str) -> None:
        found[name] = took_s(VERBS[name], stores[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in VERBS]
    for server in up:
        server.pause()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for server in up:
            server.resume()
    ended = {name: error for name, (_, error) in found.items()}
    if kind == "cluster":  # which says so before it sends anything
        assert isinstance(ended.pop("transaction"), NotSupportedError)
    assert {name: error for name, error in ended.items() if not isinstance(error, StoreError)} == {}
    assert {name: (s, found[name][1]) for name, (s, _) in found.items() if s > MAX_S} == {}
    for store in stores.values():
        store.close()


@pytest.mark.parametrize(
    ("pattern", "verb"),
    [
        (Script("write").sha, VERBS["set"]),
        (Script("append").sha, VERBS["extend"]),
        (Script("commit").sha, VERBS["apply"]),
        (Script("stage").sha, VERBS["bulk"]),
        (b"\r\nEVAL\r\n", VERBS["transaction"]),
    ],
    ids=["set", "extend", "apply", "bulk", "transaction"],
)
def test_a_server_that_falls_silent_in_the_middle_of_a_verb(
    redis_server: Server, pattern: bytes, verb: Callable[[Store], object]
) -> None:
    redis_server.do("FLUSHALL")
    with Proxy(redis_server.port) as proxy:
        store = Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=TIMEOUT_S).open()
        fill(store)
        store.set("k", 1)
        verb(store)
        proxy.lose(pattern, forward=False, hang=True, meanwhile=proxy.lead_nowhere)
        threading.Thread(target=_then_nowhere, args=(proxy,)).start()
        s, error = took_s(verb, store)
        assert proxy.lost == 1
        assert isinstance(error, StoreError)
        assert s < MAX_S
        store.close()


def _then_nowhere(proxy: Proxy) -> None:
    while not proxy.lost:
        time.sleep(0.001)
    proxy.silence()


def test_a_write_whose_reply_is_only_late_is_found_out_after_the_timeout(redis_server: Server) -> None:
    """One connection hangs; another one is answered at once."""
    redis_server.do("FLUSHALL")
    with (
        Proxy(redis_server.port) as proxy,
        Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=1) as store,
    ):
        store.set("k", 1)
        proxy.lose(b"EVALSHA", forward=True, hang=True)
        store.set("k", 2)
        assert (proxy.lost, store["k"]) == (1, 2)


def key_of(server: Server, kind: bytes) -> bytes:
    """Return the name of the one key of a kind."""
    [name] = [name for name in server.do("KEYS", "rs{*") if name[7:8] == kind]
    return bytes(name)


DAMAGES: dict[str, Callable[[Server], object]] = {
    "an incarnation that is too short": lambda s: s.do("HSET", "rs:default", "birth", b"x"),
    "an incarnation of no bucket": lambda s: s.do("HSET", "rs:default", "birth", b"\xff" * 16),
    "no incarnation": lambda s: s.do("HDEL", "rs:default", "birth"),
    "neither alive nor dead": lambda s: s.do("HSET", "rs:default", "alive", "7"),
    "a fact whose name is no text": lambda s: s.do("HSET", "rs:default", b"fact:\xff", b"x"),
    "a marker of no bucket": lambda s: s.do("SET", key_of(s, b"m"), b"\xff" * 40),
    "a tombstone of no bucket": lambda s: s.do("SET", key_of(s, b"m"), b"\xff" * 16),
    "a marker of no size": lambda s: s.do("SET", key_of(s, b"m"), b"\xff" * 17),
    "a marker from the future": lambda s: s.do("SET", key_of(s, b"m"), b"\xff" * 15 + bytes(9)),
    "a tombstone from the future": lambda s: s.do("SET", key_of(s, b"m"), b"\xff" * 15 + bytes(1)),
    "a head without an epoch": lambda s: s.do("HDEL", key_of(s, b"h"), "e"),
    "a head without a version": lambda s: s.do("HDEL", key_of(s, b"h"), "v"),
    "a head without its kind": lambda s: s.do("HDEL", key_of(s, b"h"), "s"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_no_damage_keeps_a_verb_busy_beyond_the_timeout(
    redis_dsn: str, redis_server: Server, damage: Callable[[Server], object]
) -> None:
    verbs: list[Callable[[Store], object]] = [
        lambda s: s.get("k"), lambda s: s.keys(), lambda s: s.set("k", 2), lambda s: s.update(k=1, l=2),
        lambda s: s.apply("e", {"n": (operator.add, 1)}), lambda s: s.apply("e", {"n": 1}, 99),
        lambda s: s.current("e"), lambda s: s.prune("e"), lambda s: list(s.check()), lambda s: s.discard(),
    ]  # fmt: skip
    for verb in verbs:
        for opened_before in (True, False):
            redis_server.do("FLUSHALL")
            with Store(redis_dsn, frozen=False, timeout=1) as store:
                store.set("k", 1)
                store.apply("e", {"n": 1})
                damage(redis_server)
                again = store if opened_before else Store(redis_dsn, frozen=False, timeout=1)
                s, error = took_s(partial(_inside, verb), again)
                assert error is None or isinstance(error, StoreError), repr(error)
                assert s < 3, (s, error)


def _inside(verb: Callable[[Store], object], store: Store) -> None:
    with store:
        verb(store)


@pytest.mark.parametrize("field", ["e", "v", "s", "f"])
def test_a_head_that_lacks_a_part_is_said_to_and_can_be_removed(
    redis_dsn: str, redis_server: Server, field: str
) -> None:
    with Store(redis_dsn, frozen=False, timeout=1) as store:
        store.extend("s", (1, 1))
        redis_server.do("HDEL", key_of(redis_server, b"h"), field)
        for verb in (
            lambda: store.range("s"), lambda: store.extend_many("s", [(i, i) for i in range(3000)]),
            lambda: store.range_many(["s"], 0, 5), lambda: store.remove("s", start=1),
        ):  # fmt: skip
            with pytest.raises(CorruptionError, match="'s' in the namespace 'default'"):
                verb()
        assert any(problem.key == "s" for problem in store.check())
        store.remove("s")
        assert store.timeseries() == []
        store.extend("s", (2, 2))
        assert (store.range("s"), store.check()) == ([(2, 2)], [])


@pytest.mark.parametrize(
    "verb",
    [lambda s: s.set("k", 2), lambda s: s.update(a=1, b=2), lambda s: s.extend("s", (1, 1)), VERBS["apply"]],
    ids=["set", "update", "extend", "apply"],
)
def test_a_namespace_that_others_discard_again_and_again(
    redis_dsn: str, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Store], object]
) -> None:
    """Between the creation and the write, each time: the write never finds it."""
    with Store(redis_dsn, frozen=False) as other, Store(redis_dsn, frozen=False, timeout=0.5) as store:
        store.set("k", 1)
        backend: Any = store._writer.backend  # noqa: SLF001 - comes between two of its calls
        create = backend.create

        def created() -> bytes:
            incarnation: bytes = create()
            other.discard()
            return incarnation

        monkeypatch.setattr(backend, "create", created)
        other.discard()
        s, error = took_s(verb, store)
        assert isinstance(error, StoreBusyError), error
        assert str(error) == "the namespace 'default' keeps being discarded concurrently; nothing was applied"
        assert s < 2
        monkeypatch.undo()
        verb(store)


@pytest.mark.parametrize("buckets", [1, 2])
def test_a_clearing_that_never_gets_its_turn(redis_dsn: str, monkeypatch: pytest.MonkeyPatch, *, buckets: int) -> None:
    """A large write of another client becomes visible before each try. With two buckets, one is cleared."""
    call, run = Client.call, Client.run

    def calling(self: Client, one: Call) -> Any:
        if one.script is not None and one.script.name == "clear":
            raise Signal("STALE")
        return call(self, one)

    def running(self: Client, calls: Sequence[Call], outcomes: Sequence[Any] | None = None) -> list[Any]:
        if any(one.script is not None and one.script.name == "clear" for one in calls):
            return [*run(self, calls[:-1]), Signal("STALE")]
        return run(self, calls, outcomes)

    with Store(f"{redis_dsn}?buckets={buckets}", frozen=False, timeout=0.5) as store, Store(redis_dsn) as other:
        store.update({f"{i}": i for i in range(50)})
        with monkeypatch.context() as patch:
            patch.setattr(Client, "call", calling)
            patch.setattr(Client, "run", running)
            error = StoreBusyError if buckets == 1 else OutcomeUnknownError
            says = "keeps being .*; nothing was applied" if buckets == 1 else "some records were cleared and others not"
            with pytest.raises(error, match=says):
                store.clear()
        assert (len(other) == 50) == (buckets == 1)
        store.clear()
        assert len(other) == 0


def test_a_replica_that_never_confirms_takes_no_longer_than_the_timeout(redis_dsn: str) -> None:
    Store(redis_dsn, frozen=False).open().close()
    with Store(f"{redis_dsn}?wait_replicas=1", frozen=False, timeout=TIMEOUT_S) as store:
        for verb in (VERBS["set"], VERBS["extend"], VERBS["bulk"]):
            s, error = took_s(verb, store)
            assert isinstance(error, OutcomeUnknownError | StoreBusyError)
            assert s < MAX_S


@pytest.mark.parametrize("verb", ["open", "set", "update", "bulk", "extend", "extend_many", "apply", "transaction"])
def test_a_message_says_that_a_write_was_applied_or_that_nothing_was(redis_dsn: str, verb: str) -> None:
    """With too few replicas, in the first step or in the last one."""
    waiting = Store(f"{redis_dsn}?wait_replicas=1", frozen=False, timeout=0.2)
    with Store(redis_dsn, frozen=False) as other:
        fill(other)
        before = other.find(), other.range("s"), other.current("e")
        if verb == "open":
            other.discard()
            with pytest.raises(StoreBusyError, match=r"fewer than 1 replicas .*; nothing was stored$"):
                waiting.open()
            return
        with waiting as store, pytest.raises((OutcomeUnknownError, StoreBusyError)) as raised:
            VERBS[verb](store)
        message = str(raised.value)
        applied = "was applied, but fewer than 1 replicas" in message
        assert applied == isinstance(raised.value, OutcomeUnknownError)
        assert message.endswith("; nothing was stored") == (not applied)
        assert applied or before == (other.find(), other.range("s"), other.current("e"))
        if verb in ("set", "update", "apply"):
            assert applied
            assert before != (other.find(), other.range("s"), other.current("e"))


def test_what_finds_nothing_to_do_has_nothing_to_confirm(redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as other:
        fill(other)
    with Store(f"{redis_dsn}?wait_replicas=1", frozen=False, timeout=0.2) as store:
        assert not store.add("k", 2)
        assert store.delete("nothing") == 0
        assert not store.touch("nothing", 5)
        assert store["k"] == 1


def test_a_server_that_is_full_after_a_lost_reply_leaves_it_unknown(redis_server: Server) -> None:
    """One statement: not that nothing was applied, and before that something may have been."""
    redis_server.do("FLUSHALL")
    with Proxy(redis_server.port) as proxy:
        store = Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=5).open()
        store.set("k", 1)
        store.clear()
        store.set("k", 1)
        full = partial(redis_server.do, "CONFIG", "SET", "requirepass", "x")
        try:
            proxy.lose(Script("clear").sha, forward=True, meanwhile=full)
            with pytest.raises(OutcomeUnknownError) as raised:
                store.clear()
        finally:
            redis_server.do("CONFIG", "SET", "requirepass", "")
        assert "nothing was applied" not in str(raised.value)
        assert proxy.lost == 1
        store.close()


def test_a_record_that_lives_for_no_time_is_gone_for_all_verbs_at_once(redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as store:
        for i in range(200):
            store.set("k", i)
            store.touch("k", 0.001)
            assert (store.count(), "k" in store) == (0, False)
