"""Messages that say what to do: limits that an administrator has set, options that are unknown, connections lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import psycopg
import pytest
from postgresql import Server

from rstore import InvalidArgumentError, Store, StoreBusyError, StoreError, StoreNotAvailableError, Transaction
from rstore.backends.postgres.transaction import sender


@pytest.fixture
def dsn(postgresql: Server, postgresql_schema: str) -> Iterator[str]:
    with postgresql.role("limited", "SUPERUSER"):
        yield postgresql.dsn(user="limited", schema=postgresql_schema)
        postgresql.execute(f'ALTER SCHEMA "{postgresql_schema}" OWNER TO postgres')
        postgresql.execute("REASSIGN OWNED BY limited TO postgres")


@contextmanager
def locked(server: Server, schema: str) -> Generator[None]:
    with psycopg.connect(server.conninfo()) as holder:
        holder.execute(f'SELECT FROM "{schema}".records FOR UPDATE'.encode())
        yield


@pytest.mark.parametrize(
    ("setting", "says"),
    [("statement_timeout", "statement_timeout of 400ms"), ("lock_timeout", "lock_timeout of 400ms")],
)
def test_a_limit_of_the_administrator_is_told_as_that(
    postgresql: Server, postgresql_schema: str, dsn: str, setting: str, says: str
) -> None:
    with Store(dsn, frozen=False) as store:
        store["k"] = 1
    postgresql.execute(f"ALTER ROLE limited SET {setting} = '400ms'")
    writes: list[Callable[[Store], object]] = [lambda s: s.set("k", 2), lambda s: s.run(lambda tx: tx.set("k", 2))]
    with Store(dsn, frozen=False, timeout=20) as store:
        for write in writes:
            began = monotonic()
            with locked(postgresql, postgresql_schema), pytest.raises(StoreBusyError, match=says) as refused:
                write(store)
            assert "not the timeout of the store" in str(refused.value)
            assert monotonic() - began < 10
        assert store["k"] == 1


def test_its_own_time_out_is_told_as_that(postgresql: Server, postgresql_schema: str, dsn: str) -> None:
    postgresql.execute("ALTER ROLE limited SET statement_timeout = '1h'")
    with Store(dsn, frozen=False, timeout=1) as store:
        store["k"] = 1
        with locked(postgresql, postgresql_schema), pytest.raises(StoreBusyError, match="after the time-out"):
            store["k"] = 2


def test_a_statement_that_an_administrator_cancels(postgresql: Server, postgresql_schema: str, dsn: str) -> None:
    with Store(dsn, frozen=False, timeout=20) as store, locked_after(postgresql, postgresql_schema, store):
        raised: list[StoreError] = []

        def write() -> None:
            try:
                store["k"] = 2
            except StoreError as error:
                raised.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        postgresql.await_waiting(1)
        postgresql.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'")
        writer.join()
    assert [type(error) for error in raised] == [StoreBusyError]
    assert "an administrator or another program had it cancelled; nothing was applied" in str(raised[0])


@contextmanager
def locked_after(server: Server, schema: str, store: Store) -> Generator[None]:
    store["k"] = 1
    with locked(server, schema):
        yield


def test_a_transaction_that_takes_longer_than_the_server_allows(postgresql: Server, dsn: str) -> None:
    ((version,),) = postgresql.execute("SELECT current_setting('server_version_num')::int")
    if version < 170000:
        pytest.skip("transaction_timeout begins with PostgreSQL 17")
    with Store(dsn, frozen=False) as store:
        store["k"] = 1
    postgresql.execute("ALTER ROLE limited SET transaction_timeout = '700ms'")
    calls: list[int] = []

    def slow(tx: Transaction) -> None:
        calls.append(1)
        tx["k"] = 2
        sleep(1.5)
        tx["k"] = 3

    def slow_at_the_end(tx: Transaction) -> None:
        tx["k"] = 2
        sleep(1.5)

    with Store(dsn, frozen=False, timeout=20) as store:
        for work in (slow, slow_at_the_end):
            with pytest.raises(StoreNotAvailableError, match="transaction_timeout of 700ms") as refused:
                store.run(work)
            assert "nothing was applied" in str(refused.value)
        assert calls == [1]
        assert store["k"] == 1


def test_a_transaction_that_does_nothing(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_STALL_S", 0.5)

    def stall(tx: Transaction) -> None:
        tx["k"] = 2
        sleep(5)

    with Store(dsn, frozen=False, timeout=1) as store:
        store["k"] = 1
        with pytest.raises(StoreNotAvailableError, match="did nothing for too long; nothing was applied"):
            store.run(stall)
        assert store["k"] == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [("poool=3", "'poool' is no option of PostgreSQL or of rstore: 'pool' is"), ("sslmod=require", "'sslmode' is"),
     ("qqqqqqqq=1", "'qqqqqqqq' is no option")],
)  # fmt: skip
def test_an_unknown_option_is_named(option: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Store(f"postgresql://u:hunter2@h/db?schema=a&{option}").open()
    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("dsn", ["postgresql://u@h/db?password=hun&ter2=x", "postgresql://u:hun?ter2"])
def test_what_may_be_a_part_of_a_password_is_not_named(dsn: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Store(dsn).open()
    assert "ter2" not in str(refused.value)


def test_a_lost_connection_is_one_line(postgresql: Server, postgresql_schema: str, dsn: str) -> None:
    """As of libpq, which says it in several."""
    said: list[str] = []
    with Store(dsn, frozen=False, timeout=20) as store, psycopg.connect(postgresql.conninfo()) as holder:
        store["k"] = 1
        holder.execute(f'LOCK TABLE "{postgresql_schema}".records'.encode())
        reader = threading.Thread(target=lambda: said.append(message(store, lambda s: s["k"])))
        reader.start()
        while reader.is_alive():  # it is tried once more
            postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            reader.join(0.05)
    assert "terminating connection" in said[0]
    assert "\n" not in said[0]


def message(store: Store, read: Callable[[Store], object]) -> str:
    try:
        read(store)
    except StoreError as error:
        return str(error)
    return ""


def test_a_schema_that_was_restored_without_its_rows(postgresql: Server, postgresql_schema: str, dsn: str) -> None:
    Store(dsn, frozen=False).open().close()
    postgresql.execute(f'DELETE FROM "{postgresql_schema}".format')
    for frozen in (True, False):
        with pytest.raises(StoreNotAvailableError, match="restored without its rows"):
            Store(dsn, frozen=frozen).open()


def test_a_missing_namespace_names_those_that_are_there(dsn: str) -> None:
    for i in range(7):
        Store(dsn, f"n{i}", frozen=False).open().close()
    with pytest.raises(StoreNotAvailableError, match="there are 'n0', 'n1', 'n2', 'n3', 'n4', 'n5', 'n6'"):
        Store(dsn, "other").open()
    with Store(dsn, "n0", frozen=False) as store:
        store.discard()


def test_a_namespace_that_is_discarded_each_time_that_it_is_created(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(dsn, frozen=False, timeout=0.2) as store:
        backend = store._writer.backend  # noqa: SLF001
        monkeypatch.setattr(backend, "_incarnation", lambda: None)
        with pytest.raises(StoreBusyError, match="'default' keeps being discarded concurrently; nothing was applied"):
            backend.create()
