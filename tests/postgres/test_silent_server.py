"""A server that falls silent in the middle of a verb: it is waited for as long as the time-out says, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg
import pytest
from postgres_proxy import Proxy
from postgresql import Server

from rstore import OutcomeUnknownError, Store, StoreBusyError, StoreError, StoreNotAvailableError
from rstore.backends.postgres.transport.statements import Statement


@pytest.fixture
def dsn(proxied_dsn: str) -> str:
    """The DSN of a store behind the proxy."""
    return proxied_dsn


SILENCES: dict[str, tuple[Callable[[Store], Any], type[StoreError]]] = {
    "get": (lambda s: s.get("k"), StoreNotAvailableError),
    "scan": (lambda s: s.items(), StoreNotAvailableError),
    "set": (lambda s: s.set("k", 2), OutcomeUnknownError),
    "add": (lambda s: s.add("other", 2), OutcomeUnknownError),
    "extend": (lambda s: s.extend("s", (1, 1)), OutcomeUnknownError),
    "discard": (lambda s: s.discard(), StoreNotAvailableError),
    "clear": (lambda s: s.clear(), OutcomeUnknownError),
    "delete_prefix": (lambda s: s.delete_prefix("k"), OutcomeUnknownError),
    "stats": (lambda s: s.stats(), StoreNotAvailableError),
    "check": (lambda s: s.check(), StoreNotAvailableError),
    "vacuum": (lambda s: s.vacuum(), OutcomeUnknownError),
    "namespaces": (lambda s: s.namespaces(), StoreNotAvailableError),
    "durability": (lambda s: s.durability(), StoreNotAvailableError),
    "len": (len, StoreNotAvailableError),
    "incr": (lambda s: s.incr("n"), StoreNotAvailableError),
    "apply": (lambda s: s.apply("e", {"x": 1}), StoreNotAvailableError),
    "remove": (lambda s: s.remove("s"), StoreNotAvailableError),
    "backup": (lambda s: s.backup("/nowhere/copy"), StoreNotAvailableError),
    "compact": (lambda s: s.compact("s"), StoreNotAvailableError),
    "snapshot": (lambda s: s.snapshot().__enter__(), StoreNotAvailableError),
    "opening": (lambda s: Store(s._dsn, timeout=0.5).open(), StoreNotAvailableError),  # noqa: SLF001
}


PATIENT = {"discard", "clear", "delete_prefix", "stats", "check"}


def test_a_server_that_falls_silent(dsn: str, proxy: Proxy) -> None:
    """All verbs side by side: each has three seconds more than the time-out, to give up and to say what became of it.

    What may take long has half as much again, for the server to say on another connection that it is at work.
    """
    stores = {name: Store(dsn, name, frozen=False, timeout=0.5).open() for name in SILENCES}
    for store in stores.values():
        store.set("k", 1)
        store.extend("s", (0, 0))
    ended: dict[str, tuple[type[BaseException], float]] = {}

    def work(name: str) -> None:
        began = monotonic()
        with pytest.raises(StoreError) as refused:
            list(SILENCES[name][0](stores[name]) or ())
        ended[name] = (refused.type, monotonic() - began)

    proxy.deaf = True
    threads = [threading.Thread(target=work, args=(name,)) for name in SILENCES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    proxy.deaf = False
    assert {name: kind for name, (kind, _) in ended.items()} == {name: kind for name, (_, kind) in SILENCES.items()}
    assert {name: s for name, (_, s) in ended.items() if s > (5 if name in PATIENT else 3.5)} == {}
    for store in stores.values():
        assert store.get("k") in (1, 2, None)
        store.close()


def test_a_server_that_falls_silent_at_the_end_of_a_transaction(dsn: str, proxy: Proxy) -> None:
    with Store(dsn, frozen=False, timeout=0.5) as store:
        began = monotonic()
        with pytest.raises(OutcomeUnknownError), store.transaction() as tx:  # noqa: PT012 - its end raises
            tx.set("k", 2)
            proxy.deaf = True
        assert monotonic() - began < 3.5
        proxy.deaf = False
        assert store.get("k") in (2, None)


def test_what_takes_long_takes_as_long_as_the_server_is_at_work(dsn: str) -> None:
    with Store(dsn, frozen=False, timeout=1) as store:
        store.update({f"k{i}": i for i in range(5)})
        backend: Any = store._writer.backend  # noqa: SLF001
        began = monotonic()
        slow = Statement("SELECT pg_sleep(5)")
        backend._session.read((slow, ()), patient=True)  # noqa: SLF001
        assert monotonic() - began > 5
        with pytest.raises(StoreBusyError):
            backend._session.read((slow, ()))  # noqa: SLF001


def test_what_takes_long_waits_for_a_lock_no_longer_than_the_time_out(
    postgresql: Server, postgresql_schema: str, dsn: str
) -> None:
    with Store(dsn, frozen=False, timeout=1) as store, psycopg.connect(postgresql.conninfo()) as holder:
        store["k"] = 1
        holder.execute(f'LOCK TABLE "{postgresql_schema}".records'.encode())
        for verb in (store.stats, store.check, store.clear, store.vacuum):
            began = monotonic()
            with pytest.raises(StoreBusyError):
                verb()
            assert monotonic() - began < 6


def test_a_silent_connection_beside_others_that_are_not(dsn: str, proxy: Proxy) -> None:
    """As when a firewall has forgotten it: a look goes another way, and finds what was done."""
    with Store(dsn, frozen=False, timeout=0.5) as store:
        store.set("k", 1)
        proxy.deaf = True
        threading.Timer(1.2, setattr, (proxy, "deaf", False)).start()  # after the time-out, and before the look
        store.set("k", 2)
        assert store["k"] == 2
