"""Transactions on Redis whose end is lost, cut off, forgotten, refused for lack of memory, or not confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from redis_proxy import Proxy
from redis_servers import Server
from redis_transactions import HEAD, LOG, OTHER, Work, append, fail, opened, put, record, seed, transact

from rstore import (
    OutcomeUnknownError,
    Store,
    StoreFullError,
    StoreNotAvailableError,
)
from rstore.backends.contract import Backend, WriteTransaction
from rstore.backends.redis.records.records import RedisRecords
from rstore.backends.types import (
    Chunk,
    Commit,
    Model,
    Options,
    RolledBack,
    ViewQuery,
)


@pytest.fixture
def alone(redis_dsn: str) -> Iterator[Backend]:
    backend = opened(redis_dsn)
    seed(backend)
    yield backend
    backend.close()


@pytest.fixture
def proxied(redis_server: Server) -> Iterator[tuple[Backend, Proxy]]:
    redis_server.do("FLUSHALL")
    with Proxy(redis_server.port) as proxy:
        backend = opened(f"redis://127.0.0.1:{proxy.port}")
        seed(backend)
        yield backend, proxy
        backend.close()


CHANGES: dict[str, tuple[Work, Work, bool]] = {
    "record": (lambda b: put(b, "mine", 1), lambda b: b.has("mine"), True),
    "log": (
        lambda b: transact(b, lambda b: b.view(LOG), lambda b: append(b, OTHER, 1)),
        lambda b: b.logs(Model.EVENTS) == ["log", "other"],
        True,
    ),
    "commit": (
        lambda b: b.commit(LOG, Commit(version=b"w" * 16), b.create()),
        lambda b: b.view(LOG).head != HEAD._replace(epoch=b"n" * 16),
        True,
    ),
    "deletion": (lambda b: b.delete(["k"]), lambda b: not b.has("k"), False),
}


@pytest.mark.parametrize("forward", [True, False], ids=["reply", "request"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_end_whose_reply_is_lost(proxied: tuple[Backend, Proxy], name: str, *, forward: bool) -> None:
    """Random bytes tell that it was done. That they are not there tells nothing."""
    backend, proxy = proxied
    change, is_done, leaves_stamps = CHANGES[name]
    known = forward and leaves_stamps
    done = False
    with suppress(OutcomeUnknownError):
        transact(backend, change, lambda _: proxy.lose(b"\r\nEVAL\r\n", forward=forward))
        done = True
    assert (proxy.lost, done, bool(is_done(backend))) == (1, known, forward)


def test_an_end_that_nobody_tells_of(proxied: tuple[Backend, Proxy], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, proxy = proxied

    def fetch(*_: object, **__: object) -> None:
        raise StoreNotAvailableError("it went down")

    monkeypatch.setattr(RedisRecords, "read_records", fetch)
    with pytest.raises(OutcomeUnknownError, match="a transaction was committed"):
        transact(backend, lambda b: put(b, "mine", 1), lambda _: proxy.lose(b"\r\nEVAL\r\n", forward=True))


def test_a_lost_end_of_what_only_reads(proxied: tuple[Backend, Proxy]) -> None:
    backend, proxy = proxied
    with pytest.raises(RolledBack):
        transact(backend, lambda b: b.view(LOG), lambda _: proxy.lose(b"EXEC", forward=True))
    with pytest.raises(RolledBack):
        transact(backend, lambda b: b.get("k"), lambda _: proxy.lose(b"\r\nEVAL\r\n", forward=True))


def test_a_connection_that_breaks_before_the_end(alone: Backend, redis_server: Server) -> None:
    def cut(_: object) -> None:
        redis_server.client().client_kill_filter(_type="normal", skipme=True)

    with pytest.raises(RolledBack):
        transact(alone, lambda b: put(b, "mine", 1), lambda b: b.view(LOG), cut)
    with pytest.raises(RolledBack):
        transact(alone, lambda b: b.view(LOG), cut, lambda b: b.count(), fail("another connection watches nothing"))
    assert not alone.has("mine")
    transact(alone, lambda b: put(b, "mine", 1), cut)
    assert alone.has("mine")


def test_scripts_that_are_forgotten_inside(alone: Backend, redis_server: Server) -> None:
    with alone.transaction() as inside:
        put(inside, "mine", inside.count())
        redis_server.do("SCRIPT", "FLUSH")
        append(inside, LOG, 9)
        redis_server.do("SCRIPT", "FLUSH")
    assert (alone.get("mine"), alone.view(LOG).rows[-1].t) == (record(2), 9)


def test_memory_that_runs_out_before_the_end(alone: Backend, redis_server: Server) -> None:
    def fill(_: object = None) -> None:
        redis_server.do("CONFIG", "SET", "maxmemory", 1)

    try:
        works: list[Work] = [lambda b: put(b, "mine", 1), lambda b: append(b, LOG, 9), lambda b: append(b, OTHER, 9)]
        for work in works:
            with pytest.raises(StoreFullError, match="nothing was applied"):
                transact(alone, lambda b: b.delete(["k"]), work, fill)
            redis_server.do("CONFIG", "SET", "maxmemory", 0)
            assert (alone.get("k"), alone.has("mine"), len(alone.view(LOG).rows)) == (record(1), False, 1)
        with alone.transaction() as inside:
            assert inside.delete(["k"]) == 1
            assert inside.drop(LOG)
            # Nothing is watched. Of what is, the server takes no end.
            fill()
        with alone.transaction() as inside:
            inside.clear()
        assert (alone.count(), alone.logs(Model.EVENTS)) == (0, [])
    finally:
        redis_server.do("CONFIG", "SET", "maxmemory", 0)


def test_bodies_that_waited_too_long(alone: Backend, redis_server: Server) -> None:
    chunk = Chunk((5, 0), (6, 0), 2, b"meta", b"another body")

    def load(inside: WriteTransaction) -> None:
        assert inside.commit(LOG, Commit(put_chunks=[chunk]), inside.create())
        assert inside.view(LOG, ViewQuery((5, 0))).chunks == [chunk]

    def expire(_: object) -> None:
        for name in redis_server.do("KEYS", "rs{*}b*"):
            if redis_server.do("PTTL", name) > 0:
                redis_server.do("DEL", name)

    with pytest.raises(RolledBack):
        transact(alone, load, expire)
    assert len(alone.view(LOG).chunks) == 1


def test_replicas_that_do_not_confirm(redis_dsn: str) -> None:
    opened(redis_dsn).create()
    backend = opened(f"{redis_dsn}?wait_replicas=1", Options(frozen=False, durability="normal", timeout_s=0.1))
    with pytest.raises(OutcomeUnknownError, match="fewer than 1 replicas"), backend.transaction() as inside:
        put(inside, "mine", 1)
    assert backend.has("mine")
    with backend.transaction() as inside:
        assert inside.has("mine")
    backend.close()


def test_nothing_is_left_behind(alone: Backend, redis_server: Server) -> None:
    """Neither of a log that was dropped nor of records that were cleared, and no connection goes on watching."""
    before = redis_server.do("DBSIZE")
    for _ in range(3):
        with alone.transaction() as inside:
            inside.clear()
            assert inside.drop(LOG)
        with alone.transaction() as inside:
            seed(inside)
        with suppress(ZeroDivisionError), alone.transaction() as inside:
            inside.count()
            raise ZeroDivisionError
    assert redis_server.do("DBSIZE") == before
    watching = [client for client in redis_server.client().client_list() if client.get("watch", "0") != "0"]
    assert watching == []


def test_several_keys_at_once(redis_dsn: str) -> None:
    """What `remove` and `prune` do to several keys is a transaction."""
    with Store(redis_dsn, frozen=False) as store:
        for key in ("a", "b"):
            store.extend_many(key, [(i, i) for i in range(5000)])
            store.extend(key, (9000, 1))
            for i in range(3):
                store.apply(key, {"i": i})
        store.remove("a", "b", start=100)
        assert [len(store.range(key)) for key in ("a", "b")] == [100, 100]
        store.prune("a", "b")
        assert [len(store.events(key) or ()) for key in ("a", "b")] == [1, 1]
        store.remove("a", "b")
        assert store.timeseries() == []
