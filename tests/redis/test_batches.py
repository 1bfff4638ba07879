"""Writes of so many records that they are staged first: all at once for whoever looks, and never half."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
from backends import make_backend
from redis_proxy import Proxy
from redis_servers import Server

from rstore import Store, StoreBusyError, StoreError, StoreFullError
from rstore.backends.redis.records import batches
from rstore.backends.redis.records.batches import MAX_RECORDS
from rstore.backends.redis.transport.calls import Script
from rstore.backends.types import Options, ScanQuery, Write

N = 3 * MAX_RECORDS + 7
WRITABLE = Options(frozen=False, durability="normal", timeout_s=5)


def keys(value: object = 0) -> dict[str, object]:
    return {f"{i:06}": value for i in range(N)}


@pytest.mark.parametrize("buckets", [1, 256])
def test_many_records_at_once(redis_dsn: str, redis_server: Server, buckets: int) -> None:
    with Store(f"{redis_dsn}?buckets={buckets}", frozen=False) as store, Store(redis_dsn) as frozen:
        store.update({"000001": "old", "000002": "old", "other": "old"})
        store.update(keys(1))
        for one in (store, frozen):
            assert len(one) == N + 1
            assert dict(one.find()) == {**keys(1), "other": "old"}
            assert (one["000001"], one["other"], "000002" in one) == (1, "old", True)
        store.update({f"{i}": "x" * 1_000_000 for i in range(20)})
        assert len(store["7"]) == 1_000_000
        assert store.delete(*keys()) == N
        store.clear()
        assert store.keys() == []
        assert redis_server.do("DBSIZE") <= 3 * buckets


def test_a_reader_sees_all_of_a_large_write_or_nothing(redis_dsn: str) -> None:
    done = threading.Event()
    errors: list[BaseException] = []
    first, last = "000000", f"{N - 1:06}"

    def read(*, frozen: bool) -> None:
        try:
            with Store(redis_dsn, frozen=frozen) as own:
                while not done.is_set():
                    seen = own[last]
                    assert own[first] >= seen  # whatever was written earlier in order, it is there by now
                    assert len(own) == N
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    with Store(redis_dsn, frozen=False) as store:
        store.update(keys(0))
        threads = [threading.Thread(target=read, kwargs={"frozen": frozen}) for frozen in (True, False)]
        for thread in threads:
            thread.start()
        for i in range(1, 6):
            store.update(keys(i))
            store.set("000003", i)
        done.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def test_a_writer_that_dies_between_leaves_all_or_nothing(redis_server: Server) -> None:
    """It is cut off after the batch has become visible: reading works, and the next writer finishes it."""
    redis_server.do("FLUSHALL")
    with Proxy(redis_server.port) as proxy, Store(redis_server.dsn, frozen=False) as other:
        with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False, timeout=0.3) as store:
            store.update(keys(1))
            store.update(keys(2))  # now the server knows all scripts
            proxy.lose(Script("absorb").sha, forward=False)
            store.update(keys(2))
            assert proxy.lost == 1
            marker = redis_server.do("KEYS", "rs{*}mdefault")[0]
            assert len(redis_server.do("GET", marker)) == 32
        # By hand, what such a writer leaves: staged, visible, not absorbed.
        batch, tag, now = b"abcdefgh", marker[:7], redis_server.do("GET", marker)
        for key in ("000001", "new"):
            redis_server.do(
                "SET", tag + b"v" + batch + key.encode(), redis_server.do("GET", tag + b"v" + now[24:] + b"000002")
            )
            redis_server.do("ZADD", tag + b"i" + batch, 0, key)
        redis_server.do("SET", marker, now + batch)
        with Store(redis_server.dsn, timeout=0.2) as frozen:
            assert (frozen["new"], frozen["000001"], "new" in frozen, "none" in frozen) == (2, 2, True, False)
            assert frozen.timeseries() == []
            with pytest.raises(StoreBusyError, match="next writer"):
                len(frozen)
            other.set("one more", 1)
            assert len(frozen) == N + 2
        assert redis_server.do("GET", marker) == now


def test_an_expired_record_of_a_batch_does_not_bring_back_the_one_it_replaced(redis_dsn: str) -> None:
    backend = make_backend(redis_dsn, "default", WRITABLE)
    backend.open()
    incarnation = backend.create()
    old, new = b"\x01" + b"1" * 9, b"\x01" + b"2" * 9
    backend.write([Write(f"{i}", old) for i in range(10)], incarnation)
    backend.write([Write(f"{i}", new, 1500 if i < 5 else None) for i in range(N)], incarnation)
    assert (backend.get("1"), backend.get("7"), backend.count()) == (new, new, N)
    deadline = time.monotonic() + 10
    while backend.get("1") is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.01)
    assert backend.get("1") is None
    assert not backend.has("1")
    assert backend.count() == N - 5
    page = [key for key, _, _ in backend.scan(ScanQuery(10, "0", "1001")).records]
    assert page == ["10", "100", "1000"]
    assert backend.write_if(Write("1", old), None, incarnation)
    assert backend.get("1") == old
    backend.close()


def test_records_of_a_large_write_expire_together(redis_dsn: str, redis_server: Server) -> None:
    large = "x" * 3_000_000  # so that there are several pieces, which take their time
    with Store(redis_dsn, frozen=False) as store:
        store.update({f"{i}": "old" for i in range(12)})
        store.set_many({f"{i}": large for i in range(12)}, ttl=60)
        assert len({entry.expires for entry in store.scan()}) == 1
        store.set_many({f"{i}": large for i in range(12)}, ttl=0.001)
        time.sleep(0.002)
        assert [key for key in map(str, range(12)) if key in store] == []
        store.set("other", 1)
        assert store.keys() == ["other"]
        assert list(store.check()) == []
    assert len(redis_server.do("KEYS", "rs{*}v*")) == 1


def test_a_batch_that_is_entered_again_when_it_is_visible_does_not_become_garbage(
    redis_dsn: str, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_STAGED_S", -1)
    with Proxy(redis_server.port) as proxy:
        with Store(f"redis://127.0.0.1:{proxy.port}", frozen=False) as store:
            store.update(keys(1))
            proxy.lose(Script("stage").sha, forward=False)
            with monkeypatch.context() as cut_off:
                cut_off.setattr(batches.RedisBatches, "_absorb", lambda *_: None)
                store.update(keys(2))
            assert proxy.lost == 1
        proxy.deliver()
        for _ in range(2):  # each of which deletes some garbage
            with Store(redis_dsn, namespace="elsewhere", frozen=False) as elsewhere:
                elsewhere.set("k", 1)
        with Store(redis_dsn, frozen=False) as store:
            assert store["000001"] == 2
            store.set("other", 2)
            assert dict(store.find()) == {**keys(2), "other": 2}


def test_memory_that_runs_out_while_a_batch_is_staged(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(tmp_path_factory.mktemp("full")) as server, Store(server.dsn, frozen=False) as store:
        store.update(keys(1))
        used = int(server.client().info("memory")["used_memory"])
        server.do("CONFIG", "SET", "maxmemory", used + 1_500_000)
        for _ in range(3):
            with pytest.raises(StoreFullError):
                store.update({f"new {i}": "x" * 100 for i in range(N)})
            assert len(store) == N
            assert store.get("new 1") is None
            assert int(server.client().info("memory")["used_memory"]) < used + 1_400_000
        server.do("CONFIG", "SET", "maxmemory", 0)
        store.update(keys(2))
        assert store["000001"] == 2


def test_large_writes_race_with_everything_else(redis_dsn: str) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(work: object) -> None:
        try:
            with Store(redis_dsn, frozen=False) as own:
                while not stop.is_set():
                    work(own)  # type: ignore[operator]
        except StoreError as error:
            errors.append(error)

    def change(own: Store) -> None:
        own.set("a", 1)
        own.setdefault("b", 2)
        own.delete("a", "000005")
        own.extend("s", (1, 1))
        own.apply("e", {"x": 1})

    with Store(redis_dsn, frozen=False) as store:
        threads = [threading.Thread(target=run, args=(work,)) for work in (change, change, Store.clear)]
        for thread in threads:
            thread.start()
        for i in range(6):
            store.update(keys(i))
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        store.clear()
        store.update(keys(9))
        assert dict(store.find()) == keys(9)
        with suppress(KeyError):
            del store["nothing"]
