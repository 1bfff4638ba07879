"""Two at once on Redis: whoever read what somebody else changed meanwhile is undone, and nobody else; faults at the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from processes import forked
from redis_proxy import Proxy
from redis_servers import Server
from redis_transactions import HEAD, WRITABLE

from rstore import (
    NotSupportedError,
    OutcomeUnknownError,
    Store,
    StoreClosedError,
    StoreFullError,
    StoreNotAvailableError,
)
from rstore.backends import make_backend
from rstore.backends.base import Backend
from rstore.backends.nouns import (
    LAST,
    Chunk,
    Commit,
    Log,
    Model,
    NamespaceGone,
    Options,
    Row,
    Undone,
    Write,
    version_of,
)
from rstore.backends.redis import inside
from rstore.backends.redis.batches import MOST_RECORDS

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

LOG = Log(Model.EVENTS, "log")
OTHER = Log(Model.EVENTS, "other")


def record(stamp: int) -> bytes:
    return b"\x01" + stamp.to_bytes(8, "big") + b"x"


def opened(dsn: str, options: Options = WRITABLE) -> Backend:
    backend = make_backend(dsn, "default", options)
    backend.open()
    return backend


def put(backend: Backend, key: str, stamp: int, ttl_ms: int | None = None) -> None:
    backend.write([Write(key, record(stamp), ttl_ms)], backend.create())


def append(backend: Backend, log: Log, t: int) -> None:
    assert backend.append(log, HEAD, [Row(t, 0, b"%d" % t)], backend.create())


def rewrite(backend: Backend, log: Log) -> None:
    """Turn the rows of a log into a chunk."""
    rows = backend.view(log).rows
    chunk = Chunk((rows[0].t, 0), (rows[-1].t, 0), len(rows), b"meta", b"body")
    commit = Commit(if_epoch=HEAD.epoch, epoch=b"n" * 16, drop_rows=rows, put_chunks=[chunk])
    assert backend.commit(log, commit, backend.create())


def seed(backend: Backend) -> None:
    put(backend, "k", 1)
    put(backend, "l", 2)
    append(backend, LOG, 1)
    append(backend, LOG, 2)
    rewrite(backend, LOG)
    append(backend, LOG, 3)


@pytest.fixture(params=["redis_dsn", "redis_cluster_dsn"], ids=["redis", "redis+cluster"])
def dsn(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param) + "?buckets=1"


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[Backend, Backend]]:
    """Two handles on one namespace."""
    one, two = opened(dsn), opened(dsn)
    seed(one)
    yield one, two
    one.close()
    two.close()


@pytest.fixture
def alone(redis_dsn: str) -> Iterator[Backend]:
    backend = opened(redis_dsn)
    seed(backend)
    yield backend
    backend.close()


Work = Callable[[Backend], object]

READS: dict[str, Work] = {
    "get": lambda b: b.get("k"),
    "get none": lambda b: b.get("none"),
    "has": lambda b: b.has("k"),
    "fetch": lambda b: b.fetch(["k", "none"]),
    "write_if": lambda b: b.write_if(Write("k", record(9)), version_of(record(1)), b.create()),
    "touch": lambda b: b.touch("k", 100_000),
    "delete": lambda b: b.delete(["k"]),
    "delete_range": lambda b: b.delete_range("k", "l"),
    "count": lambda b: b.count(),
    "scan": lambda b: b.scan(start="k", stop="l", limit=10),
    "keys": lambda b: b.scan(limit=10, keys_only=True),
    "logs": lambda b: b.logs(Model.EVENTS),
    "view": lambda b: b.view(LOG),
    "views": lambda b: b.views([LOG, OTHER]),
    "head": lambda b: b.view(LOG, LAST, LAST, rows=False),
    "checkpoint": lambda b: b.view(LOG, rows=False, from_checkpoint=LAST),
    "commit": lambda b: b.commit(LOG, Commit(if_epoch=b"n" * 16, epoch=b"m" * 16), b.create()),
    "drop": lambda b: b.drop(LOG),
    "append": lambda b: append(b, LOG, 9),
    "append to none": lambda b: append(b, OTHER, 9),
    "write": lambda b: put(b, "k", 9),
}
WRITES: dict[str, tuple[Work, set[str]]] = {
    "put": (
        lambda b: put(b, "k", 5),
        {"get", "has", "fetch", "write_if", "touch", "delete", "scan"},
    ),
    "touch": (
        lambda b: b.touch("k", 100_000),
        # The index of what expires is another.
        {"get", "has", "fetch", "write_if", "touch", "delete", "scan", "delete_range", "count", "keys"},
    ),
    "delete": (
        lambda b: b.delete(["k"]),
        {"get", "has", "fetch", "write_if", "touch", "delete", "scan", "delete_range", "count", "keys"},
    ),
    "new key": (lambda b: put(b, "none", 5), {"get none", "fetch", "delete_range", "count", "scan", "keys"}),
    "append": (lambda b: append(b, LOG, 4), {"view", "views"}),
    "commit": (
        lambda b: b.commit(LOG, Commit(version=b"w" * 16), b.create()),
        {"view", "views", "head", "checkpoint", "commit", "drop", "append"},
    ),
    "checkpoint": (lambda b: b.commit(LOG, Commit(put_checkpoints=[Row(3, 0, b"c")]), b.create()), {"checkpoint"}),
    "drop": (lambda b: b.drop(LOG), {"logs", "view", "views", "head", "checkpoint", "commit", "drop", "append"}),
    "new log": (lambda b: append(b, OTHER, 1), {"logs", "views", "append to none"}),
    "clear": (lambda b: b.clear(), set(READS)),
    "discard": (lambda b: b.discard(), set(READS)),
}


@pytest.mark.parametrize("write", WRITES)
def test_who_is_in_whose_way(pair: tuple[Backend, Backend], write: str) -> None:
    mine, others = pair
    change, overtaken = WRITES[write]
    for name, read in READS.items():
        mine.discard()
        seed(mine)
        with suppress(Undone):
            undone = True
            with mine.transaction():
                put(mine, "mine", 1)
                read(mine)
                change(others)
            undone = False
        assert undone == (name in overtaken), name
        assert mine.has("mine") != undone, name
        if undone:
            with mine.transaction():
                put(mine, "mine", 1)
                read(mine)
        assert others.has("mine"), name


def test_what_is_only_read_is_of_one_moment(pair: tuple[Backend, Backend]) -> None:
    mine, others = pair
    with mine.transaction():
        assert (mine.get("k"), mine.get("l")) == (record(1), record(2))
    with pytest.raises(Undone), mine.transaction():
        mine.get("k")
        others.write([Write("k", record(3)), Write("l", record(3))], others.create())
        mine.get("l")
    with pytest.raises(Undone), mine.transaction():
        mine.get("k")
        put(others, "k", 4)
        mine.get("k")
        pytest.fail("it could have been found out")


def test_many_records_that_are_written_meanwhile(pair: tuple[Backend, Backend]) -> None:
    mine, others = pair
    with pytest.raises(Undone), mine.transaction():
        put(mine, "a", 1)
        mine.count()
        others.write([Write(f"{i}", record(i)) for i in range(MOST_RECORDS + 1)], others.create())
    with mine.transaction():
        assert mine.count() == MOST_RECORDS + 3
        assert mine.delete_range("", "a") == MOST_RECORDS + 1
    assert others.count() == 2


def test_a_log_that_somebody_holds(alone: Backend, redis_dsn: str) -> None:
    taken = threading.Event()
    other = opened(redis_dsn)

    def hold() -> None:
        with other.exclusive(LOG):
            taken.set()
            time.sleep(0.05)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    with alone.transaction(), alone.exclusive(LOG):
        append(alone, LOG, 7)  # nobody is in the way of that
    began = time.monotonic()
    with pytest.raises(Undone), alone.transaction(), alone.exclusive(LOG):
        assert alone.drop(LOG)
    assert time.monotonic() - began > 0.01
    with alone.transaction():
        assert alone.drop(LOG)
    holder.join()
    assert other.logs(Model.EVENTS) == []
    other.close()


@pytest.mark.parametrize(
    "read",
    [
        lambda b: b.get("soon"),
        lambda b: b.has("soon"),
        lambda b: b.count(),
        lambda b: b.scan(limit=9),
        lambda b: b.scan(limit=9, keys_only=True),
        lambda b: b.delete(["soon"]),
    ],
    ids=["get", "has", "count", "scan", "keys", "delete"],
)
def test_a_record_that_expires_inside(alone: Backend, read: Work) -> None:
    put(alone, "soon", 1, 20)
    with pytest.raises(Undone), alone.transaction():
        put(alone, "mine", 1)
        read(alone)
        time.sleep(0.022)
    with alone.transaction():
        put(alone, "mine", 2)
        read(alone)
    assert alone.get("mine") == record(2)


def test_a_record_with_an_expiry_of_its_own(alone: Backend) -> None:
    with alone.transaction():
        put(alone, "soon", 1, 20)
        assert alone.touch("l", 20)
        put(alone, "later", 2, 100_000)
        assert alone.has("soon")
        assert (alone.count(), [one[0] for one in alone.scan(limit=9).records]) == (4, ["k", "l", "later", "soon"])
        ((_, _, expires_ms),) = alone.fetch(["later"])
        time.sleep(0.022)
        assert alone.get("soon") is alone.get("l") is None
        assert (alone.count(), [one[0] for one in alone.scan(limit=9).records]) == (2, ["k", "later"])
    assert alone.get("soon") is alone.get("l") is None
    assert alone.count() == 2
    assert alone.fetch(["later"]) == [("later", record(2), expires_ms)]
    with alone.transaction():
        assert alone.touch("later", None)
    assert alone.fetch(["later"]) == [("later", record(2), None)]


# -- who is inside ----------------------------------------------------------------------------------------------------


def test_other_threads_are_outside(alone: Backend) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(alone.get("mine"))
        put(alone, "theirs", 1)

    with pytest.raises(ZeroDivisionError), alone.transaction():
        put(alone, "mine", 1)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        raise ZeroDivisionError
    assert seen == [None]
    assert (alone.get("mine"), alone.get("theirs")) == (None, record(1))


@forks
def test_a_fork_inside(alone: Backend) -> None:
    with alone.transaction():
        put(alone, "mine", 1)

        def child() -> None:
            for use in (lambda: alone.get("k"), lambda: put(alone, "mine", 2), alone.transaction().__enter__):
                with pytest.raises(StoreNotAvailableError, match="fork"):
                    use()

        forked(child)()
        assert alone.get("k") == record(1)
    assert alone.get("mine") == record(1)

    def leaves() -> None:
        transaction = alone.transaction()
        transaction.__enter__()
        put(alone, "mine", 3)
        forked(lambda: _refused(transaction))()
        transaction.__exit__(None, None, None)

    leaves()
    assert alone.get("mine") == record(3)


def _refused(transaction: Any) -> None:
    with pytest.raises(StoreNotAvailableError, match="fork"):
        transaction.__exit__(None, None, None)


def test_a_store_that_is_closed_inside(alone: Backend, redis_dsn: str) -> None:
    with pytest.raises(StoreClosedError), alone.transaction():
        alone.view(LOG)
        put(alone, "mine", 1)
        alone.close()
    other = opened(redis_dsn)
    assert not other.has("mine")
    other.close()


# -- where it cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["{redis_dsn}?buckets=2", "{redis_cluster_dsn}"])
def test_several_places(request: pytest.FixtureRequest, where: str) -> None:
    name = where[1:].partition("}")[0]
    backend = opened(where.format(**{name: request.getfixturevalue(name)}))
    birth = backend.create()
    assert not backend.transactional
    with pytest.raises(NotSupportedError, match="buckets=1"), backend.transaction():
        pytest.fail("it has begun")
    assert birth == backend.create()
    backend.close()


def test_one_that_is_too_large(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "MOST", 20)
    birth = alone.create()
    works: list[Work] = [
        lambda b: b.write([Write(f"{i}", record(i)) for i in range(21)], birth),
        lambda b: b.append(OTHER, HEAD, [Row(i, 0, b"x") for i in range(21)], birth),
        lambda b: b.views([Log(Model.EVENTS, f"{i}") for i in range(21)]),
        lambda b: b.fetch([f"{i}" for i in range(21)]),
        lambda b: [append(b, OTHER, i) for i in range(21)],
    ]
    for work in works:
        with pytest.raises(NotSupportedError, match="split it"), alone.transaction():
            put(alone, "mine", 1)
            work(alone)
        assert (alone.count(), alone.logs(Model.EVENTS)) == (2, ["log"])


def test_a_namespace_that_is_not_there(redis_dsn: str) -> None:
    backend = opened(redis_dsn)
    with backend.transaction(create=False):
        assert (backend.get("k"), backend.count(), backend.logs(Model.EVENTS)) == (None, 0, [])
        assert (backend.view(LOG).head, backend.drop(LOG), backend.delete(["k"])) == (None, False, 0)
        with pytest.raises(NamespaceGone):
            backend.write([Write("k", record(1))], b"birth")
    assert backend.fact("none") is None
    with backend.transaction():
        birth = backend.create()
        put(backend, "k", 1)
        with pytest.raises(NotSupportedError, match="leave it first"):
            backend.discard()
        with pytest.raises(NamespaceGone):
            backend.append(LOG, HEAD, [Row(1, 0, b"x")], b"birth")
    assert (backend.create(), backend.get("k")) == (birth, record(1))
    backend.close()


# -- faults -----------------------------------------------------------------------------------------------------------


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
    "log": (lambda b: append(b, OTHER, 1), lambda b: b.logs(Model.EVENTS) == ["log", "other"], True),
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
    with suppress(OutcomeUnknownError):
        done = False
        with backend.transaction():
            change(backend)
            proxy.lose(b"EXEC", forward=forward)
        done = True
    assert (proxy.lost, done, bool(is_done(backend))) == (1, known, forward)


def test_a_lost_end_of_what_only_reads(proxied: tuple[Backend, Proxy]) -> None:
    backend, proxy = proxied
    with pytest.raises(Undone), backend.transaction():
        backend.view(LOG)
        proxy.lose(b"EXEC", forward=True)


def test_a_connection_that_breaks_before_the_end(alone: Backend, redis_server: Server) -> None:
    with pytest.raises(Undone), alone.transaction():
        put(alone, "mine", 1)
        alone.view(LOG)
        redis_server.client().client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(Undone), alone.transaction():
        alone.view(LOG)
        redis_server.client().client_kill_filter(_type="normal", skipme=True)
        alone.count()
        pytest.fail("it went on with another connection, which watches nothing")
    assert not alone.has("mine")


def test_scripts_that_are_forgotten_inside(alone: Backend, redis_server: Server) -> None:
    with alone.transaction():
        put(alone, "mine", alone.count())
        redis_server.do("SCRIPT", "FLUSH")
        append(alone, LOG, 9)
        redis_server.do("SCRIPT", "FLUSH")
    assert (alone.get("mine"), alone.view(LOG).rows[-1].t) == (record(2), 9)


def test_memory_that_runs_out_before_the_end(alone: Backend, redis_server: Server) -> None:
    try:
        for work in (lambda: put(alone, "mine", 1), lambda: append(alone, LOG, 9), lambda: append(alone, OTHER, 9)):
            with pytest.raises(StoreFullError, match="nothing was applied"), alone.transaction():
                assert alone.delete(["k"]) == 1
                work()
                redis_server.do("CONFIG", "SET", "maxmemory", 1)
            redis_server.do("CONFIG", "SET", "maxmemory", 0)
            assert (alone.get("k"), alone.has("mine"), len(alone.view(LOG).rows)) == (record(1), False, 1)
        with alone.transaction():
            assert alone.delete(["k"]) == 1
            assert alone.drop(LOG)
            redis_server.do("CONFIG", "SET", "maxmemory", 1)
        with alone.transaction():
            alone.clear()
        assert (alone.count(), alone.logs(Model.EVENTS)) == (0, [])
    finally:
        redis_server.do("CONFIG", "SET", "maxmemory", 0)


def test_bodies_that_waited_too_long(alone: Backend, redis_server: Server) -> None:
    with pytest.raises(Undone), alone.transaction():
        chunk = Chunk((5, 0), (6, 0), 2, b"meta", b"another body")
        assert alone.commit(LOG, Commit(put_chunks=[chunk]), alone.create())
        assert alone.view(LOG, (5, 0)).chunks == [chunk]
        for name in redis_server.do("KEYS", "rs{*}b*"):
            if redis_server.do("PTTL", name) > 0:
                redis_server.do("DEL", name)
    assert len(alone.view(LOG).chunks) == 1


def test_replicas_that_do_not_confirm(redis_dsn: str) -> None:
    backend = opened(f"{redis_dsn}?wait_replicas=1", Options(frozen=False, durability="normal", timeout_s=0.1))
    with suppress(OutcomeUnknownError):
        backend.create()
    with pytest.raises(OutcomeUnknownError, match="fewer than 1 replicas"), backend.transaction():
        put(backend, "mine", 1)
    assert backend.has("mine")
    with backend.transaction():
        assert backend.has("mine")
    backend.close()


def test_nothing_is_left_behind(alone: Backend, redis_server: Server) -> None:
    """Neither of a log that was dropped nor of records that were cleared, and no connection goes on watching."""
    before = redis_server.do("DBSIZE")
    for _ in range(3):
        with alone.transaction():
            alone.clear()
            assert alone.drop(LOG)
        with alone.transaction():
            seed(alone)
        with suppress(ZeroDivisionError), alone.transaction():
            alone.count()
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
