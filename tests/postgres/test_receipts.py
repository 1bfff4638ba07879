"""A transaction counts as committed only where its receipt is found: its number may be another's by then."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from postgres_proxy import Proxy
from postgresql import DEBIAN_15, Server
from waiting import until

from rstore import ConflictError, OutcomeUnknownError, Store, StoreError, StoreNotAvailableError, Transaction
from rstore.backends.postgres.transaction.receipts import Receipt
from rstore.backends.postgres.transaction.transaction import OpenTransaction
from rstore.backends.types import Head, Log, Model, NamespaceGone, Row

# No WAL is written but for a commit: what a crash loses is known.
LAZY: dict[str, Any] = {"wal_writer_delay": "10s", "bgwriter_delay": "10s"}
BINARIES = [None, *([DEBIAN_15] if DEBIAN_15.is_dir() else [])]


@pytest.fixture(scope="module", params=BINARIES, ids=["bundled", "15"][: len(BINARIES)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    binaries: Path | None = request.param
    with Server(binaries, **LAZY) as server:
        yield server


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    with Store(server.dsn(), frozen=False, timeout=10) as store:
        store.update(a=1, b=1)
        for key in ("s", "t"):
            store.extend(key, (1, 1), (2, 2), (3, 3))
            store.apply(key, {"x": 0})
            store.apply(key, {"x": 1})
        yield store
        store.discard()


@pytest.fixture
def other(server: Server) -> Iterator[Store]:
    with Store(server.dsn(), "other", frozen=False, timeout=10) as other:
        other["x"] = 0
        yield other


def transact(change: Callable[[Transaction], object]) -> Callable[[Store], None]:
    def write(store: Store) -> None:
        with store.transaction() as tx:
            change(tx)

    return write


def contend(store: Store) -> None:
    """Change a sequence under its lock, as a verb does that has lost races."""
    with patch("rstore.log.races.RACES", 0):
        store.apply("s", {"x": 9})


WRITES: dict[str, Callable[[Store], object]] = {
    "transaction, set": transact(lambda tx: tx.set("a", 9)),
    "transaction, delete": transact(lambda tx: tx.delete("a", "b")),
    "transaction, extend": transact(lambda tx: tx.extend("s", (9, 9))),
    "run": lambda s: s.run(lambda tx: tx.incr("a")),
    "remove a series": lambda s: s.remove("s"),
    "remove": lambda s: s.remove("s", "t", start=1, end=2),
    "prune": lambda s: s.prune("s", "t"),
    "extend_frame": lambda s: s.extend_frame({"t": [7], "s": [7], "u": [7]}, timestamps="t"),
    "a contended commit": contend,
}


def state(store: Store) -> Any:
    return dict(store), {key: store.range(key) for key in store.timeseries()}, {
        key: store.events(key) for key in store.eventsources()
    }  # fmt: skip


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_a_crash_has_lost_is_not_told_as_committed(
    server: Server, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, write: Callable[[Store], object]
) -> None:
    """Its number is another writer's by then, whose transaction is committed."""
    real, before = OpenTransaction.commit, state(store)
    crashes: list[int] = []

    def crash(self: OpenTransaction) -> Receipt | None:
        if not crashes:
            crashes.append(1)
            server.stop(signal.SIGQUIT)
            server.start()
            for i in range(20):
                other["x"] = i
        return real(self)

    monkeypatch.setattr(OpenTransaction, "commit", crash)
    try:
        write(store)
    except (OutcomeUnknownError, StoreNotAvailableError, ConflictError):
        done = False
    else:
        done = True
    assert crashes
    assert (state(store) != before) == done


def test_what_a_failover_has_lost_is_not_told_as_committed() -> None:
    with Server(wal_level="replica", **LAZY) as primary, Server(hot_standby="on") as standby:
        standby.stop()
        standby.remove_data()
        primary.execute("CREATE DATABASE data")
        standby.run(
            "pg_basebackup", "-D", str(standby.data), "-h", str(primary.directory), "-p", str(primary.port),
            "-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        synced = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: primary.execute(synced), "the standby is not synchronous")
        dsn = primary.dsn(
            host=f"{primary.directory},{standby.directory}", port=f"{primary.port},{standby.port}",
            target_session_attrs="read-write",
        )  # fmt: skip
        with Store(dsn, frozen=False, timeout=10) as store, Store(dsn, "other", frozen=False, timeout=10) as other:
            store["balance"], other["x"] = 100, 0

            def fail_over(tx: Transaction) -> None:
                tx["balance"] = 70
                primary.stop(signal.SIGQUIT)
                standby.execute("SELECT pg_promote()")
                until(lambda: standby.execute("SELECT pg_is_in_recovery()") == [(False,)], "it is no primary")
                for i in range(20):
                    other["x"] = i

            with pytest.raises(StoreError):
                transact(fail_over)(store)
            assert store["balance"] == 100


@pytest.mark.parametrize("name", [name for name in WRITES if name != "run"])
def test_a_lost_answer_to_a_commit_is_known_by_the_receipt(
    proxied_dsn: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Store(proxied_dsn, frozen=False, timeout=5) as store:
        store.update(a=1, b=1)
        for key in ("s", "t"):
            store.extend(key, (1, 1), (2, 2), (3, 3))
            store.apply(key, {"x": 0})
            store.apply(key, {"x": 1})
        before = state(store)
        real = OpenTransaction.commit

        def lose(self: OpenTransaction) -> Receipt | None:
            proxy.answers_to_lose = 1
            return real(self)

        with monkeypatch.context() as losing:
            losing.setattr(OpenTransaction, "commit", lose)
            WRITES[name](store)
        assert proxy.answers_to_lose == 0
        assert state(store) != before
        store.discard()


def test_a_crash_before_anybody_else_writes_is_told_without_waiting(server: Server, store: Store) -> None:
    """The server has not given the number to anybody yet, and says that it lies in the future."""

    def crash(tx: Transaction) -> None:
        tx["a"] = 9
        server.stop(signal.SIGQUIT)
        server.start()

    with pytest.raises(StoreNotAvailableError, match="nothing was applied"):
        transact(crash)(store)
    assert store["a"] == 1


def receipts(server: Server, schema: str) -> int:
    ((n,),) = server.execute(f'SELECT count(*) FROM "{schema}".receipts')
    return int(n)


def test_a_connection_leaves_one_receipt_and_stale_ones_go(
    postgresql: Server, postgresql_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    monkeypatch.setattr("rstore.backends.postgres.transaction.transaction.REMOVE_EVERY", 1)
    for n in (1, 2):
        with Store(dsn, frozen=False) as store:
            for i in range(3):
                with store.transaction() as tx:
                    tx["i"] = i
                assert receipts(postgresql, postgresql_schema) == n
    postgresql.execute(f'UPDATE "{postgresql_schema}".receipts SET left_ms = left_ms - {24 * 3600 * 1000 + 1000}')
    with Store(dsn, frozen=False) as store:
        with store.transaction() as tx:
            tx["i"] = 5
        assert receipts(postgresql, postgresql_schema) == 1
        store.discard()
    assert receipts(postgresql, postgresql_schema) == 0


def test_receipts_are_read_by_nobody_else(postgresql: Server, postgresql_schema: str, tmp_path: Path) -> None:
    """Whoever opens a namespace reads its facts, and a backup holds them: there may be a receipt for each process."""
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        before = store._writer.backend.facts()  # noqa: SLF001
        with store.transaction() as tx:
            tx["a"] = 1
        assert receipts(postgresql, postgresql_schema) == 1
        assert store._writer.backend.facts() == before  # noqa: SLF001
        store.backup(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as copy:
        assert not [name for name in copy._reader.backend.facts()[1] if "receipt" in name]  # noqa: SLF001


def test_a_transaction_that_discard_waits_for_can_leave_its_receipt(postgresql: Server, postgresql_schema: str) -> None:
    """It holds the lock of a head, and discard that of the namespace: neither may need the other's, too."""
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False, timeout=10) as store, Store(dsn, frozen=False, timeout=10) as other:
        store.extend("s", (1, 1))
        with ThreadPoolExecutor(1) as executor:
            with store.transaction() as tx:
                tx.extend("s", (2, 2))
                discarding = executor.submit(other.discard)
                postgresql.await_waiting(1)
            discarding.result()
    assert not postgresql.left_in(postgresql_schema)


def test_a_transaction_that_was_refused_leaves_none_behind_a_discard(
    postgresql: Server, postgresql_schema: str
) -> None:
    """It holds no lock for which `discard` would wait before it removes receipts."""
    dsn = postgresql.dsn(schema=postgresql_schema)
    tables = [f'"{postgresql_schema}".{table}' for table in ("logs", "receipts", "namespaces")]
    log, head = Log(Model.SERIES, "s"), Head(b"e", b"v", False, b"")
    with Store(dsn, frozen=False, timeout=10) as store, psycopg.connect(postgresql.conninfo()) as discarding:
        backend = store._writer.backend  # noqa: SLF001 - the layer above begins anew where the namespace is another
        with backend.exclusive(log) as tx:
            with pytest.raises(NamespaceGone):
                tx.append(log, head, [Row(1, 0, b"1")], bytes(24))
            for table in tables:  # as `discard` does, up to its commit
                discarding.execute(f"DELETE FROM {table}".encode())
        discarding.commit()
    assert not postgresql.left_in(postgresql_schema)


def test_a_reader_of_a_transaction_leaves_none(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store["a"] = 1
        with store.transaction() as tx:
            assert tx["a"] == 1
    assert receipts(postgresql, postgresql_schema) == 0
