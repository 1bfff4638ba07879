"""Replies that are lost after the server has done its work, and requests that are lost before it could."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_proxy import Proxy
from redis_servers import Server
from redis_waits import lose_wait
from waiting import until

from rstore import OutcomeUnknownError, Passphrase, Store
from rstore.backends.redis.logs import commits
from rstore.backends.redis.namespace import life
from rstore.backends.redis.records.batches import MAX_RECORDS
from rstore.backends.redis.transport.calls import Script
from rstore.backends.redis.transport.client import Client

KEY = "cnN0b3JlLnRlc3Rpbmcgc2VhbHMgd2l0aCB0aGlzISE="


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[Proxy]:
    redis_server.do("FLUSHALL")
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture(name="key", params=[None, KEY], ids=["plain", "sealed"])
def fixture_key(request: pytest.FixtureRequest) -> str | None:
    given: str | None = request.param
    return given


@pytest.fixture
def store(key: str | None, proxy: Proxy) -> Iterator[Store]:
    with Store(f"redis://127.0.0.1:{proxy.port}", key=key, frozen=False) as store:
        # Every script once, so that no reply that is lost says that the server does not know it yet.
        store.update(x=0, y=0)
        store.setdefault("z", 0)
        store.pop("x")
        store.delete("y")
        store.clear()
        store.extend("x", (0, 0))
        store.remove("x")
        store.update(k=1, other=2)
        store.extend("s", (1, 1))
        store.apply("e", {"n": 1})
        yield store


@pytest.fixture
def other(redis_server: Server, key: str | None) -> Iterator[Store]:
    """Return another handle, that does not go through the proxy."""
    with Store(redis_server.dsn, key=key, frozen=False) as other:
        yield other


READS: dict[str, tuple[bytes, Callable[[Store], Any], Any]] = {
    "get": (b"MGET", lambda s: s["k"], 1),
    "has": (b"EVALSHA", lambda s: "k" in s, True),
    "len": (b"EVALSHA", len, 2),
    "find": (b"EVALSHA", lambda s: s.find(), [("k", 1), ("other", 2)]),
    "range": (b"EVALSHA", lambda s: s.range("s"), [(1, 1)]),
    "current": (b"EVALSHA", lambda s: s.current("e"), {"n": 1}),
    "timeseries": (b"EVALSHA", lambda s: s.timeseries(), ["s"]),
}


@pytest.mark.parametrize("forward", [True, False], ids=["reply", "request"])
@pytest.mark.parametrize(("pattern", "read", "result"), READS.values(), ids=READS)
def test_what_reads_is_asked_again(
    store: Store, proxy: Proxy, pattern: bytes, read: Callable[[Store], Any], result: Any, *, forward: bool
) -> None:
    proxy.lose(pattern, forward=forward)
    assert read(store) == result
    assert proxy.lost == 1


WRITES: dict[str, tuple[int, Callable[[Store], Any], Callable[[Store], Any], Any]] = {
    "set": (0, lambda s: s.set("k", 5), lambda s: s["k"], 5),
    "update": (0, lambda s: s.update(k=5, new=6), lambda s: (s["k"], s["new"]), (5, 6)),
    "setdefault": (0, lambda s: s.setdefault("new", 5), lambda s: s["new"], 5),
    "extend": (0, lambda s: s.extend("s", (1, 5), (9, 9)), lambda s: s.range("s"), [(1, 5), (9, 9)]),
    "extend a new one": (0, lambda s: s.extend("new", (1, 5)), lambda s: s.range("new"), [(1, 5)]),
    "apply": (0, lambda s: s.apply("e", {"n": (operator.add, 1)}), lambda s: s.current("e"), {"n": 2}),
    "apply to a new one": (1, lambda s: s.apply("new", {"n": 1}), lambda s: s.current("new"), {"n": 1}),
    "load": (1, lambda s: s.extend_many("s", [(t, t) for t in range(5000)]), lambda s: len(s.range("s")), 5000),
}


@pytest.mark.parametrize(("skip", "write", "read", "result"), WRITES.values(), ids=WRITES)
def test_a_write_whose_reply_is_lost_is_found_out_to_be_done(
    store: Store, other: Store, proxy: Proxy, skip: int, write: Callable[[Store], Any], read: Callable[[Store], Any],
    result: Any,
) -> None:  # fmt: skip
    proxy.lose(b"EVALSHA", skip=skip, forward=True)
    write(store)
    assert proxy.lost == 1
    assert read(store) == read(other) == result
    assert len(store.events("e") or ()) == (2 if result == {"n": 2} else 1)


@pytest.mark.parametrize(("skip", "write", "read", "result"), WRITES.values(), ids=WRITES)
def test_a_write_that_is_lost_is_unknown_or_done_again_where_that_is_safe(
    store: Store, other: Store, proxy: Proxy, skip: int, write: Callable[[Store], Any], read: Callable[[Store], Any],
    result: Any, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    # What expects a stamp that it replaces cannot happen twice, and is sent again.
    safe = any(word in request.node.callspec.id for word in ("apply", "load")) and "new" not in request.node.callspec.id
    proxy.lose(b"EVALSHA", skip=skip, forward=False)
    if safe:
        write(store)
        assert read(other) == result
    else:
        before = other.find(), other.range("s"), other.timeseries()
        with pytest.raises(OutcomeUnknownError) as lost:
            write(store)
        assert lost.value.__cause__ is not None
        assert before == (other.find(), other.range("s"), other.timeseries())
    assert proxy.lost == 1
    store.set("after", 1)
    assert other["after"] == 1


def remove(other: Store) -> None:
    """Take what somebody else has just stored, as a worker takes a job."""
    other.pop("new", None)
    other.remove("new")
    if other.current("new") is not None:
        other.apply("new", {"n": (operator.delitem, None)})
        other.prune("new")


@pytest.mark.parametrize(
    ("skip", "write"),
    [(0, lambda s: s.add("new", 5)), (0, lambda s: s.extend("new", (1, 5))), (1, lambda s: s.apply("new", {"n": 1}))],
    ids=["add", "extend", "apply"],
)
def test_what_others_removed_before_its_reply_was_missed_is_not_stored_again(
    store: Store, other: Store, proxy: Proxy, skip: int, write: Callable[[Store], Any]
) -> None:
    proxy.lose(b"EVALSHA", skip=skip, forward=True, meanwhile=lambda: remove(other))
    with pytest.raises(OutcomeUnknownError):
        write(store)
    assert proxy.lost == 1
    assert (other.keys(), other.timeseries(), other.eventsources()) == (["k", "other"], ["s"], ["e"])


@pytest.mark.parametrize("forward", [True, False], ids=["reply", "request"])
@pytest.mark.parametrize("write", [lambda s: s.delete("k", "other"), lambda s: s.pop("k")], ids=["delete", "pop"])
def test_a_deletion_whose_reply_is_lost_is_never_sent_again(
    store: Store, other: Store, proxy: Proxy, write: Callable[[Store], Any], *, forward: bool
) -> None:
    proxy.lose(b"EVALSHA", forward=forward)
    with pytest.raises(OutcomeUnknownError):
        write(store)
    assert ("k" in other) == (not forward)


@pytest.mark.parametrize("forward", [True, False], ids=["reply", "request"])
def test_clearing_and_discarding_are_safe_to_repeat(store: Store, other: Store, proxy: Proxy, *, forward: bool) -> None:
    proxy.lose(b"EVALSHA", forward=forward)
    store.clear()
    assert len(store) == len(other) == 0
    assert other.range("s") == [(1, 1)]
    proxy.lose(b"EVALSHA", forward=forward)
    store.discard()
    assert other.timeseries() == other.eventsources() == []


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "not empty"])
def test_clearing_again_after_a_lost_reply_leaves_alone_what_was_written_meanwhile(
    store: Store, other: Store, proxy: Proxy, *, empty: bool
) -> None:
    if empty:
        other.delete("k", "other")
    proxy.lose(Script("clear").sha, forward=True, meanwhile=lambda: other.set("new", 2))
    store.clear()
    assert proxy.lost == 1
    assert store.find() == other.find() == [("new", 2)]


@pytest.mark.parametrize("verb", [Store.clear, Store.discard], ids=["clear", "discard"])
def test_clearing_and_discarding_that_are_not_answered_are_unknown(
    proxy: Proxy, redis_server: Server, verb: Callable[[Store], None]
) -> None:
    with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=1) as store:
        store.set("k", 1)
        proxy.lose(b"EVALSHA", forward=True, hang=True)
        with pytest.raises(OutcomeUnknownError):
            verb(store)
    assert proxy.lost == 1
    with Store(redis_server.dsn, frozen=False) as other:
        verb(other)
        assert other.keys() == []


@pytest.mark.parametrize(("verb", "script"), [(Store.clear, "clear"), (Store.discard, "end"), (Store.discard, "bury")])
def test_clearing_and_discarding_are_unknown_where_the_server_is_gone_before_they_can_be_repeated(
    proxy: Proxy, redis_server: Server, verb: Callable[[Store], None], script: str
) -> None:
    with Store(f"redis://127.0.0.1:{proxy.port}?buckets=2", frozen=False, timeout=1) as store:
        store.set("k", 1)
        verb(store)
        store.update({f"{i}": i for i in range(10)})
        proxy.lose(Script(script).sha, forward=True, meanwhile=proxy.lead_nowhere)
        with pytest.raises(OutcomeUnknownError):
            verb(store)
    assert proxy.lost == 1
    with Store(redis_server.dsn, frozen=False) as other:
        assert other.keys() == []


def test_a_clearing_of_which_the_server_is_gone_before_it_is_found_out_is_unknown(
    proxy: Proxy, redis_server: Server
) -> None:
    with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=1) as store:
        store.set("k", 1)
        store.clear()
        store.set("k", 1)
        gone = functools.partial(proxy.lose, b"\r\nGET\r\n", forward=True, meanwhile=proxy.lead_nowhere)
        proxy.lose(Script("clear").sha, forward=True, meanwhile=gone)
        with pytest.raises(OutcomeUnknownError):
            store.clear()
        assert proxy.lost == 1
    with Store(redis_server.dsn) as other:
        assert other.keys() == []


def test_a_discarding_whose_last_step_cannot_be_sent_is_unknown(proxy: Proxy, redis_server: Server) -> None:
    with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=1) as store:
        store.set("k", 1)
        store.discard()
        store.set("k", 1)
        proxy.lose(Script("end").sha, skip=1, forward=True, meanwhile=proxy.lead_nowhere)
        with pytest.raises(OutcomeUnknownError, match="in part"):
            store.discard()
    assert proxy.lost == 1
    with Store(redis_server.dsn, frozen=False) as other:
        assert other.keys() == []


def test_a_server_that_is_gone_after_clearing_is_no_matter(proxy: Proxy, redis_server: Server) -> None:
    with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=1) as store:
        store.set("k", 1)
        store.clear()
        store.set("k", 1)
        proxy.lose(b"\r\nGET\r\n", skip=1, forward=True, meanwhile=proxy.lead_nowhere)
        store.clear()
        assert proxy.lost == 1
    with Store(redis_server.dsn) as other:
        assert other.keys() == []


def test_a_range_that_is_deleted_in_part_when_the_server_is_gone_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 2 * MAX_RECORDS + 1
    call: Callable[..., Any] = Client.call
    steps: list[int] = []

    def calling(self: Client, one: Any) -> Any:
        steps.append(one.script is not None and one.script.sha == Script("delete_range").sha)
        if sum(steps) == 2:
            server.kill()
        return call(self, one)

    with Server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        with Store(server.dsn, frozen=False, timeout=1) as store:
            store.update({f"k{i}": i for i in range(n)})
            monkeypatch.setattr(Client, "call", calling)
            with pytest.raises(OutcomeUnknownError):
                store.delete_prefix("k")
        monkeypatch.undo()
        server.start()
        with Store(server.dsn) as store:
            assert len(store) == n - MAX_RECORDS


def test_a_removal_whose_reply_is_lost_is_unknown(store: Store, other: Store, proxy: Proxy) -> None:
    proxy.lose(b"EVALSHA", skip=0, forward=True)
    with pytest.raises(OutcomeUnknownError):
        store.remove("s")
    assert other.timeseries() == []


def test_a_change_is_not_made_again_where_the_namespace_was_discarded_before_its_reply_was_missed(
    store: Store, other: Store, proxy: Proxy
) -> None:
    seen: list[Any] = []

    def take() -> None:
        seen.append(other.current("e"))
        other.discard()

    proxy.lose(Script("commit").sha, forward=True, meanwhile=take)
    with pytest.raises(OutcomeUnknownError):
        store.apply("e", {"job": 7})
    assert proxy.lost == 1
    assert seen == [{"n": 1, "job": 7}]
    assert other.eventsources() == []


def test_the_body_of_a_chunk_that_arrives_again_when_it_is_committed_does_not_expire(
    store: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "STAGED_MS", 500)
    proxy.lose(b"\r\nPX\r\n", forward=False)
    store.extend_many("s", [(t, t) for t in range(5000)])
    assert proxy.lost == 1
    proxy.deliver()
    assert list(store.check()) == []
    time.sleep(0.6)
    assert len(store.range("s")) == 5000


def test_discarding_again_after_a_lost_reply_leaves_alone_what_was_created_meanwhile(
    store: Store, other: Store, proxy: Proxy, redis_server: Server, key: str | None
) -> None:
    store.discard()
    store.set("k", 1)
    seen: list[Any] = []

    def begin_anew() -> None:
        with Store(redis_server.dsn, key=key, frozen=False) as third:
            seen.append(third.get("k"))
            third.set("new", 2)

    proxy.lose(Script("end").sha, forward=True, meanwhile=begin_anew)
    store.discard()
    assert proxy.lost == 1
    assert seen == [None]
    assert store["new"] == other["new"] == 2


def test_what_is_created_before_a_discarder_has_done_does_not_expire(
    proxy: Proxy, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its registry would, and with it the salt of its passphrase."""
    monkeypatch.setattr(life, "TOMBSTONE_MS", 500)
    key = Passphrase("secret")
    with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False) as store:
        store.set("k", 1)
        store.discard()
        store.set("k", 1)
        with Store(redis_server.dsn, key=key, frozen=False) as other:
            proxy.lose(Script("bury").sha, forward=True, meanwhile=lambda: other.set("new", 2))
            store.discard()
            assert proxy.lost == 1
            assert other["new"] == 2
    assert redis_server.do("PTTL", "rs:default") == -1
    time.sleep(0.6)
    with Store(redis_server.dsn, key=key) as frozen:
        assert frozen["new"] == 2


def test_a_write_whose_wait_for_replicas_is_not_sent_is_not_sent_again(
    redis_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Store(f"{redis_dsn}?wait_replicas=1", frozen=False, timeout=1)
    with Store(redis_dsn, frozen=False) as other, waiting as store:
        other.set("k", "before")
        seen: list[Any] = []

        def read_and_write() -> None:
            seen.append(other["k"])
            other.set("k", "later")

        lose_wait(monkeypatch, read_and_write)
        with pytest.raises(OutcomeUnknownError):
            store.set("k", "mine")
        assert seen == ["mine"]
        assert other["k"] == "later"


@pytest.mark.parametrize("reads", [True, False])
def test_a_transaction_whose_wait_for_replicas_is_not_sent_is_not_done_again(
    redis_dsn: str, monkeypatch: pytest.MonkeyPatch, *, reads: bool
) -> None:
    tries: list[int] = []
    taken: list[Any] = []

    def work(tx: Any) -> None:
        tries.append(len(tries))
        if reads:
            tx.timeseries()
        tx.set("job", tries[-1])

    waiting = Store(f"{redis_dsn}?wait_replicas=1", frozen=False, timeout=1)
    with Store(redis_dsn, frozen=False) as other, waiting as store:
        lose_wait(monkeypatch, lambda: taken.append(other.pop("job")))
        with pytest.raises(OutcomeUnknownError):
            store.run(work)
        assert (tries, taken, "job" in other) == ([0], [0], False)


LOST: dict[str, tuple[bytes, Callable[[Store], Any]]] = {
    "set": (Script("write").sha, lambda s: s.set("k", 1)),
    "add": (Script("write_if").sha, lambda s: s.add("k", 1)),
    "extend": (Script("append").sha, lambda s: s.extend("k", (1, 1))),
    "apply": (Script("commit").sha, lambda s: s.apply("k", {"n": 1})),
    "transaction": (b"WAIT", lambda s: s.run(lambda tx: tx.set("k", 1))),
}


@pytest.mark.parametrize(("pattern", "write"), LOST.values(), ids=LOST)
def test_what_is_found_to_be_done_is_waited_for_until_replicas_have_it(
    redis_server: Server, tmp_path: Path, pattern: bytes, write: Callable[[Store], Any]
) -> None:
    redis_server.do("FLUSHALL")
    with Store(redis_server.dsn, frozen=False) as store:
        write(store)  # now the server knows the scripts
        store.discard()
        store.set("other", 1)
    with Proxy(redis_server.port) as proxy:
        waiting = f"redis://127.0.0.1:{proxy.port}?wait_replicas=1"
        with Store(waiting, frozen=False, timeout=1) as store:
            proxy.lose(pattern, forward=True)
            with pytest.raises(OutcomeUnknownError):
                write(store)
            assert proxy.lost == 1
        with Store(redis_server.dsn, frozen=False) as store:
            store.discard()
            store.set("other", 1)
        with Server(tmp_path) as replica:
            replica.do("REPLICAOF", "127.0.0.1", redis_server.port)
            until(lambda: replica.do("ROLE")[3] == b"connected", "the replica is not in sync")
            with Store(waiting, frozen=False, timeout=5) as store:
                proxy.lose(pattern, forward=True)
                write(store)
                assert proxy.lost == 1
