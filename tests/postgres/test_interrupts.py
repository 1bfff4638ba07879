"""Calls that are interrupted, at whatever moment: no place in the pool is lost, and no transaction is left open."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from itertools import count
from threading import Thread

import pytest
from interrupting import Interrupting
from postgres_proxy import Proxy
from postgresql import Server
from waiting import until

from rstore import Store, StoreBusyError, store, transactions
from rstore.backends.postgres import backend, reader, writer
from rstore.backends.postgres.logs import tombstones
from rstore.backends.postgres.transaction import executor, receipts, sender, session, snapshot, transaction
from rstore.backends.postgres.transport import connect, pool, protocol, sockets
from rstore.log import packing, races, rewrite
from rstore.log import writer as log_writer

MODULES = [
    *(backend, reader, writer, tombstones, executor, receipts, sender, session, snapshot, transaction),
    *(connect, pool, protocol, sockets, packing, races, rewrite, log_writer, store, transactions),
]
FILES = {contextlib.__file__, *(str(module.__file__) for module in MODULES)}
OURS = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'rstore' AND state LIKE 'idle in transaction%'"


def nothing(opened: Store, n: int) -> None:
    """Prepare nothing."""


def transact(opened: Store, n: int) -> None:
    with opened.transaction() as tx:
        tx["a"] = n
        with tx.transaction() as part:
            part["b"] = n


def extend(opened: Store, n: int) -> None:
    for key in ("s", "t"):
        opened.extend(key, (n, n), (n + 1, n))


def remove(opened: Store, n: int) -> None:
    opened.remove("s", "t", start=n, end=n)


def read_snapshot(opened: Store, _: int) -> None:
    with opened.snapshot() as view:
        assert view["a"] == view["b"]


def write_one(opened: Store, n: int) -> None:
    opened["one"] = n


def apply(opened: Store, n: int) -> None:
    for key in ("e", "f"):
        opened.apply(key, {"x": n})


VERBS: dict[str, tuple[Callable[[Store, int], object], Callable[[Store, int], object]]] = {
    "get": (nothing, lambda s, _: s["a"]),
    "set": (nothing, write_one),
    "transaction": (nothing, transact),
    "remove of several": (extend, remove),
    "prune of several": (apply, lambda s, _: s.prune("e", "f")),
    "snapshot": (nothing, read_snapshot),
    "scan": (nothing, lambda s, _: list(s)),
    "drop": (lambda s, n: s.extend("d", (n, n)), lambda s, _: s.remove("d")),
}


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_lost(postgresql: Server, postgresql_dsn: str, name: str) -> None:
    size = 2 if name == "snapshot" else 1  # half of a pool may be kept
    prepare, verb = VERBS[name]
    interrupted = 0
    with Store(f"{postgresql_dsn}&pool={size}", frozen=False, durability="normal", timeout=2) as opened:
        opened.update(a=0, b=0, **{f"k{i}": i for i in range(50)})
        prepare(opened, 1)
        verb(opened, 1)
        for n in count(1):
            prepare(opened, n)
            if done_before(lambda n=n: verb(opened, n), n):  # type: ignore[misc]
                break
            interrupted += 1
            # In this thread at once, and in as many as there are places: nobody waits for a place that is lost.
            # Both at one moment: the server may still be at work on a COMMIT whose answer was not waited for.
            both = opened.get_many(["a", "b"])
            assert both["a"] == both["b"]
            opened["after"] = n
            with Store(postgresql_dsn, timeout=2) as other:
                assert other["after"] == n  # nothing of it was said inside of a transaction that nobody ends
        together(opened, size)
        until(lambda: not postgresql.execute(OURS), "a transaction is left open")
        assert interrupted > 5
        opened.discard()


def done_before(act: Callable[[], object], n: int, files: set[str] = FILES) -> bool:
    """Return whether something was done before the n-th event came."""
    gc.disable()  # an interrupt in the finalizer of something else is ignored, with a warning
    sys.setprofile(Interrupting(n, files))
    try:
        act()
    except KeyboardInterrupt:
        return False
    finally:
        sys.setprofile(None)
        gc.enable()
    return True


def together(opened: Store, size: int) -> None:
    """Use all places at once."""
    refused: list[StoreBusyError] = []

    def use() -> None:
        try:
            with opened.transaction() as tx:
                tx.get("a")
        except StoreBusyError as error:
            refused.append(error)

    threads = [Thread(target=use) for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert len(opened._writer.backend._session.pool.connections) <= size  # type: ignore[attr-defined]  # noqa: SLF001


def test_a_look_that_is_interrupted_leaves_no_deadline_behind(proxied_dsn: str, proxy: Proxy) -> None:
    """All later calls of the thread would be overdue."""
    files = {str(sender.__file__), str(session.__file__)}  # where a call is looked for
    with Store(proxied_dsn, frozen=False, durability="normal", timeout=5) as opened:
        opened["one"] = 0
        for n in count(1):
            proxy.answers_to_lose = 1
            done = done_before(lambda n=n: write_one(opened, n), n, files)  # type: ignore[misc]
            proxy.answers_to_lose = 0
            assert opened["one"] in (n, n - 1) or not done
            if done:
                break
        opened.discard()
