"""Two at once on Redis: a transaction that read what another client changed meanwhile is undone, and no other one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from processes import forked
from redis_transactions import HEAD, LOG, OTHER, Work, append, fail, opened, put, record, seed, transact

from rstore import NotSupportedError, Store, StoreClosedError, StoreNotAvailableError
from rstore.backends.contract import Backend, WriteTransaction
from rstore.backends.redis.namespace.life import RedisLife
from rstore.backends.redis.records.batches import MAX_RECORDS
from rstore.backends.redis.transaction import overlay
from rstore.backends.redis.transaction.watched import WatchedKeys
from rstore.backends.types import (
    HEAD_ONLY,
    LAST,
    Commit,
    Log,
    Model,
    NamespaceGone,
    RolledBack,
    Row,
    ScanQuery,
    ViewQuery,
    Write,
    version_of,
)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


@pytest.fixture(params=["redis_dsn", "redis_cluster_dsn"], ids=["redis", "redis+cluster"])
def dsn(request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue(request.param)}?buckets=1"


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
    "scan": lambda b: b.scan(ScanQuery(10, "k", "l")),
    "keys": lambda b: b.scan(ScanQuery(10, keys_only=True)),
    "logs": lambda b: b.logs(Model.EVENTS),
    "view": lambda b: b.view(LOG),
    "views": lambda b: b.views([LOG, OTHER]),
    "head": lambda b: b.view(LOG, HEAD_ONLY._replace(bodies=True)),
    "checkpoint": lambda b: b.view(LOG, ViewQuery(rows=False, from_checkpoint=LAST)),
    "commit": lambda b: b.commit(LOG, Commit(if_epoch=b"n" * 16, epoch=b"m" * 16), b.create()),
    "drop": lambda b: b.drop(LOG),
    "append": lambda b: append(b, LOG, 9),
    "append to none": lambda b: append(b, OTHER, 9),
    "write": lambda b: put(b, "k", 9),
}
WRITES: dict[str, tuple[Callable[[Backend], object], set[str]]] = {
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
    "rewrite": (
        lambda b: b.commit(LOG, Commit(epoch=b"w" * 16), b.create()),
        {"view", "views", "head", "checkpoint", "commit", "drop", "append"},
    ),
    "facts": (
        lambda b: b.commit(LOG, Commit(facts=b"new"), b.create()),
        {"view", "views", "head", "checkpoint", "commit", "drop", "append"},
    ),
    "checkpoint": (lambda b: b.commit(LOG, Commit(put_checkpoints=[Row(3, 0, b"c")]), b.create()), {"checkpoint"}),
    "drop": (lambda b: b.drop(LOG), {"logs", "view", "views", "head", "checkpoint", "commit", "drop", "append"}),
    "new log": (lambda b: append(b, OTHER, 1), {"logs", "views", "append to none"}),
    "clear": (lambda b: b.clear(), set(READS)),
    "discard": (lambda b: b.discard(), set(READS)),
}


def _outside(change: Callable[[], object], _: object) -> None:
    change()


def _appending(t: int, inside: WriteTransaction) -> None:
    append(inside, OTHER, t)


@pytest.mark.parametrize("write", WRITES)
def test_who_is_in_whose_way(pair: tuple[Backend, Backend], write: str) -> None:
    mine, others = pair
    change, overtaken = WRITES[write]
    for name, read in READS.items():
        mine.discard()
        seed(mine)
        undone = True
        with suppress(RolledBack):
            transact(mine, lambda b: put(b, "mine", 1), read, partial(_outside, partial(change, others)))
            undone = False
        assert undone == (name in overtaken), name
        assert mine.has("mine") != undone, name
        if undone:
            transact(mine, lambda b: put(b, "mine", 1), read)
        assert others.has("mine"), name


def test_what_is_only_read_is_of_one_moment(pair: tuple[Backend, Backend]) -> None:
    mine, others = pair
    with mine.transaction() as inside:
        assert (inside.get("k"), inside.get("l")) == (record(1), record(2))
    two = [Write("k", record(3)), Write("l", record(3))]
    with pytest.raises(RolledBack):
        transact(mine, lambda b: b.get("k"), lambda _: others.write(two, others.create()), lambda b: b.get("l"))
    again: list[Work] = [lambda b: b.get("k"), lambda _: put(others, "k", 4), lambda b: b.get("k")]
    with pytest.raises(RolledBack):
        transact(mine, *again, fail("it could have been found out"))


def test_others_may_write_between_what_commits_on_conditions(pair: tuple[Backend, Backend]) -> None:
    mine, others = pair
    with mine.transaction(create=False, serializable=False) as inside:
        view = inside.view(LOG)
        append(others, LOG, 4)
        assert view.head is not None
        commit = Commit(if_epoch=view.head.epoch, drop_rows=view.rows, drop_if_empty=True, epoch=b"m" * 16)
        assert inside.commit(LOG, commit, inside.create())
        append(others, LOG, 5)
    assert [row.t for row in others.view(LOG).rows] == [4, 5]
    with mine.transaction(serializable=False) as inside:
        view = inside.view(LOG)
        assert others.commit(LOG, Commit(epoch=b"o" * 16), others.create())
        assert not inside.commit(LOG, Commit(if_epoch=b"m" * 16), inside.create())
    last = Commit(drop_rows=others.view(LOG).rows, drop_chunks=[(1, 0)], drop_if_empty=True)
    with suppress(RolledBack), mine.transaction(serializable=False) as inside:
        assert inside.commit(LOG, last, inside.create())
        append(others, LOG, 6)  # it is not empty any more
    assert [row.t for row in others.view(LOG).rows] == [4, 5, 6]


def test_a_row_that_comes_before_the_log_is_watched(
    pair: tuple[Backend, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen to be empty; a log is not dropped with a row that is there since."""
    mine, others = pair
    watch = WatchedKeys.add

    def add(self: WatchedKeys, keys: Sequence[bytes]) -> None:
        append(others, LOG, 6)
        watch(self, keys)

    monkeypatch.setattr(WatchedKeys, "add", add)
    last = Commit(drop_rows=mine.view(LOG).rows, drop_chunks=[(1, 0)], drop_if_empty=True)
    with mine.transaction(serializable=False) as inside:
        assert inside.commit(LOG, last, inside.create())
    assert [row.t for row in others.view(LOG).rows] == [6]


def test_several_keys_that_others_change_all_the_time(redis_dsn: str) -> None:
    done = threading.Event()

    def change() -> None:
        with Store(redis_dsn, frozen=False) as own:
            while not done.is_set():
                own.apply("a", {"n": 1})
                own.extend("b", (1, 1))

    with Store(redis_dsn, frozen=False) as store:
        thread = threading.Thread(target=change)
        thread.start()
        for i in range(15):
            store.apply("b", {"n": i})
            store.extend("a", (i, i))
            store.prune("a", "b")
            store.remove("a", "b", start=0)
        done.set()
        thread.join()
        store.prune("a", "b")
        assert [len(store.events(key) or ()) for key in ("a", "b")] == [1, 1]


def test_many_records_that_are_written_meanwhile(pair: tuple[Backend, Backend]) -> None:
    mine, others = pair
    many = [Write(f"{i}", record(i)) for i in range(MAX_RECORDS + 1)]
    with pytest.raises(RolledBack):
        transact(mine, lambda b: put(b, "a", 1), lambda b: b.count(), lambda _: others.write(many, others.create()))
    with mine.transaction() as inside:
        assert inside.count() == MAX_RECORDS + 3
        assert inside.delete_range("", "a") == MAX_RECORDS + 1
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
    with alone.transaction() as inside, inside.exclusive(LOG) as same:
        append(same, LOG, 7)  # no lease is in the way of that
    began = time.monotonic()
    with pytest.raises(RolledBack), alone.transaction() as inside, inside.exclusive(LOG) as same:
        assert same.drop(LOG)
    assert time.monotonic() - began > 0.01
    with alone.transaction() as inside:
        assert inside.drop(LOG)
    holder.join()
    assert other.logs(Model.EVENTS) == []
    other.close()


@pytest.mark.parametrize(
    "read",
    [
        lambda b: b.get("soon"),
        lambda b: b.has("soon"),
        lambda b: b.count(),
        lambda b: b.scan(ScanQuery(9)),
        lambda b: b.scan(ScanQuery(9, keys_only=True)),
        lambda b: b.delete(["soon"]),
    ],
    ids=["get", "has", "count", "scan", "keys", "delete"],
)
def test_a_record_that_expires_inside(alone: Backend, read: Work) -> None:
    undone = False
    for ttl_ms in (20, 200, 2000):
        alone.delete(["mine"])
        put(alone, "soon", 1, ttl_ms)
        in_time, began = False, time.monotonic()
        with suppress(RolledBack), alone.transaction() as inside:
            put(inside, "mine", 1)
            read(inside)
            in_time = time.monotonic() - began < ttl_ms / 1000
            time.sleep((ttl_ms + 2) / 1000)
        undone = not alone.has("mine")
        if in_time:  # otherwise it may have expired before it was read
            break
    assert undone
    with alone.transaction() as inside:
        put(inside, "mine", 2)
        read(inside)
    assert alone.get("mine") == record(2)


def test_a_record_with_an_expiry_of_its_own(alone: Backend) -> None:
    with alone.transaction() as inside:
        put(inside, "soon", 1, 300)
        assert inside.touch("l", 300)
        put(inside, "later", 2, 100_000)
        assert inside.has("soon")
        found = [one[0] for one in inside.scan(ScanQuery(9)).records]
        assert (inside.count(), found) == (4, ["k", "l", "later", "soon"])
        ((_, _, expires_ms),) = inside.fetch(["later"])
        time.sleep(0.302)
        assert inside.get("soon") is inside.get("l") is None
        assert (inside.count(), [one[0] for one in inside.scan(ScanQuery(9)).records]) == (2, ["k", "later"])
    assert alone.get("soon") is alone.get("l") is None
    assert alone.count() == 2
    assert alone.fetch(["later"]) == [("later", record(2), expires_ms)]
    with alone.transaction() as inside:
        assert inside.touch("later", None)
    assert alone.fetch(["later"]) == [("later", record(2), None)]


# -- who is inside ----------------------------------------------------------------------------------------------------


def test_other_threads_are_outside(alone: Backend) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(alone.get("mine"))
        put(alone, "theirs", 1)

    thread = threading.Thread(target=look)
    with pytest.raises(ZeroDivisionError):
        transact(
            alone, lambda b: put(b, "mine", 1), lambda _: thread.start(), lambda _: thread.join(), lambda _: 1 // 0
        )
    assert seen == [None]
    assert (alone.get("mine"), alone.get("theirs")) == (None, record(1))


@forks
def test_a_fork_inside(alone: Backend) -> None:
    with alone.transaction() as inside:
        put(inside, "mine", 1)

        def child() -> None:
            uses: list[Callable[[], object]] = [lambda: inside.get("k"), lambda: put(inside, "mine", 2)]
            uses.append(partial(transact, inside))
            for use in uses:
                with pytest.raises(StoreNotAvailableError, match="fork"):
                    use()

        forked(child)()
        assert inside.get("k") == record(1)
    assert alone.get("mine") == record(1)

    def leaves() -> None:
        transaction = alone.transaction()
        put(transaction.__enter__(), "mine", 3)
        forked(lambda: _refused(transaction))()
        transaction.__exit__(None, None, None)

    leaves()
    assert alone.get("mine") == record(3)


def _refused(transaction: Any) -> None:
    with pytest.raises(StoreNotAvailableError, match="fork"):
        transaction.__exit__(None, None, None)


def test_a_store_that_is_closed_inside(alone: Backend, redis_dsn: str) -> None:
    with pytest.raises(StoreClosedError):
        transact(alone, lambda b: b.view(LOG), lambda b: put(b, "mine", 1), lambda _: alone.close())
    other = opened(redis_dsn)
    assert not other.has("mine")
    other.close()


# -- where it cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["{redis_dsn}?buckets=2", "{redis_cluster_dsn}"])
def test_several_places(request: pytest.FixtureRequest, where: str) -> None:
    name = where[1:].partition("}")[0]
    backend = opened(where.format(**{name: request.getfixturevalue(name)}))
    incarnation = backend.create()
    assert not backend.transactional
    with pytest.raises(NotSupportedError, match="buckets=1"), backend.transaction():
        pytest.fail("it has begun")
    assert incarnation == backend.create()
    backend.close()


def test_one_that_is_too_large(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "MAX_SIZE", 20)
    incarnation = alone.create()
    works: list[Work] = [
        lambda b: b.write([Write(f"{i}", record(i)) for i in range(21)], incarnation),
        lambda b: b.append(OTHER, HEAD, [Row(i, 0, b"x") for i in range(21)], incarnation),
        lambda b: b.views([Log(Model.EVENTS, f"{i}") for i in range(21)]),
        lambda b: b.fetch([f"{i}" for i in range(21)]),
        lambda b: transact(b, *(partial(_appending, i) for i in range(21))),
    ]
    for work in works:
        with pytest.raises(NotSupportedError, match="split it"):
            transact(alone, lambda b: put(b, "mine", 1), work)
        assert (alone.count(), alone.logs(Model.EVENTS)) == (2, ["log"])


def test_a_refused_delete_range_inside_deletes_nothing(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 2 * MAX_RECORDS
    alone.write([Write(f"{i:05}", record(i)) for i in range(n)], alone.create())
    monkeypatch.setattr(overlay, "MAX_SIZE", MAX_RECORDS + 10)
    with alone.transaction() as inside, pytest.raises(NotSupportedError, match="split it"):
        inside.delete_range("0", None)
    assert alone.count("0", "1") == n


def test_a_refused_commit_inside_changes_nothing(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    incarnation = alone.create()
    alone.append(OTHER, HEAD, [Row(0, 0, b"x")], incarnation)
    monkeypatch.setattr(overlay, "MAX_SIZE", 10)
    with alone.transaction(serializable=False) as inside:
        inside.write([Write(f"{i}", record(i)) for i in range(2)], incarnation)
        with pytest.raises(NotSupportedError, match="split it"):
            inside.commit(OTHER, Commit(drop_rows=[Row(0, 0, b"x")], drop_if_empty=True), incarnation)
    assert (alone.has("0"), len(alone.view(OTHER).rows)) == (True, 1)


def test_only_a_transaction_that_leaves_garbage_deletes_some(alone: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    incarnation, collected = alone.create(), list[object]()
    monkeypatch.setattr(RedisLife, "collect", lambda _, buckets: collected.append(buckets))
    transact(alone, lambda b: b.append(OTHER, HEAD, [Row(0, 0, b"x")], incarnation))
    assert collected == []
    transact(alone, lambda b: b.drop(OTHER))
    assert len(collected) == 1


def test_a_namespace_that_is_not_there(redis_dsn: str) -> None:
    backend = opened(redis_dsn)
    with backend.transaction(create=False) as inside:
        assert (inside.get("k"), inside.count(), inside.logs(Model.EVENTS)) == (None, 0, [])
        assert (inside.view(LOG).head, inside.drop(LOG), inside.delete(["k"])) == (None, False, 0)
        with pytest.raises(NamespaceGone):
            inside.write([Write("k", record(1))], b"incarnation")
    assert backend.facts()[1] == {}
    with backend.transaction() as inside:
        incarnation = inside.create()
        put(inside, "k", 1)
        with pytest.raises(NamespaceGone):
            inside.append(LOG, HEAD, [Row(1, 0, b"x")], b"incarnation")
    assert (backend.create(), backend.get("k")) == (incarnation, record(1))
    backend.close()
