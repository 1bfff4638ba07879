"""The reference backend: who has to wait for a transaction, for how long, and what a fork leaves of one."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from processes import forked

from rstore import Store, StoreBusyError, StoreClosedError


@pytest.fixture
def dsn() -> Iterator[str]:
    dsn = f"memory://{uuid.uuid4()}"
    yield dsn
    with Store(dsn, frozen=False) as store:
        store.discard()


def test_who_writes_waits_for_the_end_of_a_transaction_and_no_longer_than_the_time_out(dsn: str) -> None:
    with (
        Store(dsn, frozen=False, timeout=0.2) as store,
        Store(dsn, frozen=False, timeout=0.2) as other,
        Store(dsn, "namespace", frozen=False, timeout=0.2) as another,
        Store(f"{dsn}/elsewhere", frozen=False, timeout=0.2) as elsewhere,
    ):
        with store.transaction() as tx:
            tx["a"] = 1
            for busy in (other, another):
                began = time.monotonic()
                with pytest.raises(StoreBusyError, match=r"time-out, 0\.2 s"):
                    busy["b"] = 1
                assert 0.19 < time.monotonic() - began < 5
            elsewhere["b"] = 1
            with pytest.raises(StoreBusyError), other.transaction():
                pytest.fail("it has begun")
            assert (other.get("a"), tx["a"], elsewhere["b"]) == (None, 1, 1)
        assert (other["a"], "b" in other, "b" in another) == (1, False, False)


def test_who_waits_goes_on_at_the_end(dsn: str) -> None:
    with Store(dsn, frozen=False, timeout=30) as store:
        with store.transaction() as tx:
            tx["a"] = 1
            thread = threading.Thread(target=store.set, args=("b", 2))
            thread.start()
            time.sleep(0.05)
            assert (thread.is_alive(), tx.keys()) == (True, ["a"])
        thread.join(10)
        assert dict(store) == {"a": 1, "b": 2}


def test_a_watch_hears_of_a_transaction_at_its_end(dsn: str) -> None:
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        changes = other.watch(timeout=0)
        with store.transaction() as tx:
            tx["a"] = 1
            assert [*changes] == []
        with other.watch(timeout=0) as later:
            store["b"] = 1
            assert [key for key, _ in later] == ["b"]


def test_a_transaction_stays_with_the_parent(dsn: str) -> None:
    with Store(dsn, frozen=False, timeout=0.2) as store, store.transaction() as tx:
        tx["a"] = 1

        def child() -> None:
            with pytest.raises(StoreClosedError, match="process"):
                tx["a"] = 2
            assert store.keys() == []
            store["b"] = 1
            with Store(dsn) as frozen:
                assert frozen.keys() == ["b"]

        forked(child)()
        assert tx.keys() == ["a"]
