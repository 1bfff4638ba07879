"""Transactions on PostgreSQL: begun again where the server undid them, steps within them, and how long they wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from backends import make_backend
from postgresql import Server, check_schema

from rstore import (
    ConflictError,
    SerializationError,
    Store,
    StoreBusyError,
    StoreError,
    StoreNotAvailableError,
    Transaction,
)
from rstore.backends.contract import Backend
from rstore.backends.postgres.transport.protocol import PostgresConnection
from rstore.backends.postgres.transport.statements import Call
from rstore.backends.postgres.writer import PostgresWriter
from rstore.backends.types import Commit, Head, Log, Model, Options, Row, ScanQuery, Write

LOG = Log(Model.EVENTS, "e")
HEAD = Head(b"e" * 16, b"v" * 16, sealed=False)
OPTIONS = Options(frozen=False, durability="normal", timeout_s=5)


@pytest.fixture
def dsn(postgresql: Server, postgresql_schema: str) -> str:
    return postgresql.dsn(schema=postgresql_schema)


@pytest.fixture
def backend(dsn: str) -> Iterator[Backend]:
    backend = make_backend(dsn, "default", OPTIONS)
    backend.open()
    yield backend
    backend.discard()
    backend.close()


def in_threads(*works: Callable[[], object]) -> None:
    """Do all at once, and raise what one of them raised."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(works))

    def guarded(work: Callable[[], object]) -> None:
        together.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# -- others in the way ------------------------------------------------------------------------------------------------


def test_the_same_keys_in_another_order(postgresql: Server, dsn: str) -> None:
    """All take the locks of several series in one order: nobody has to be undone, which would take a second."""
    deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
    before = postgresql.execute(deadlocks)
    with Store(dsn, frozen=False, durability="normal") as one, Store(dsn, frozen=False, durability="normal") as two:

        def take_away(store: Store, *keys: str) -> None:
            for i in range(25):
                for key in keys:
                    store.extend(key, (i, i))
                    store.apply(key, {"i": i})
                store.remove(*keys, start=i)
                store.remove(*keys)
                store.prune(*keys)

        in_threads(lambda: take_away(one, "a", "b", "c"), lambda: take_away(two, "c", "b", "a"))
        assert [one.current(key) for key in "abc"] == [{"i": 24}] * 3
    assert postgresql.execute(deadlocks) == before


@pytest.mark.parametrize("verb", ["remove", "prune"])
def test_a_deadlock_in_the_middle_of_several_keys(
    postgresql: Server, postgresql_schema: str, dsn: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Our side finds it and is undone; all of it is done again."""
    lock = f"SELECT FROM \"{postgresql_schema}\".logs WHERE key = '{{}}' FOR UPDATE"
    with (
        Store(f"{dsn}&options=-c%20deadlock_timeout%3D20ms", frozen=False) as store,
        psycopg.connect(postgresql.conninfo()) as other,
    ):
        for key in ("a", "b"):
            store.extend(key, (1, 1))
            store.apply(key, {"i": 1})
            store.apply(key, {"i": 2})
        other.execute("SET deadlock_timeout = '10s'")
        other.execute(lock.format("b").encode())

        def cross() -> None:
            other.execute(lock.format("a").encode())  # which is ours until we are undone
            other.commit()

        crossing = threading.Thread(target=cross)
        for name in ("drop", "commit"):
            unhooked = getattr(PostgresWriter, name)

            def between(self: PostgresWriter, log: Log, *rest: Any, real: Any = unhooked, **options: Any) -> Any:
                if log.key == "b" and crossing.ident is None:
                    crossing.start()
                    postgresql.await_waiting(1)
                return real(self, log, *rest, **options)

            monkeypatch.setattr(PostgresWriter, name, between)
        getattr(store, verb)("a", "b")
        crossing.join()
        assert (store.timeseries(), len(store.events("a") or ()), len(store.events("b") or ())) == (
            ([], 2, 2) if verb == "remove" else (["a", "b"], 1, 1)
        )


def test_statements_that_a_session_forgot_inside_a_transaction(dsn: str) -> None:
    with Store(dsn, frozen=False) as store:
        for key in ("a", "b"):
            store.extend(key, (1, 1))
        store.remove("a", "b")
        for key in ("a", "b"):
            store.extend(key, (1, 1))
        backend: Any = store._writer.backend  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001
        (connection,) = backend._session.pool.connections  # noqa: SLF001 - what a pooler does between two transactions
        name = backend._logs.take.name.decode()  # noqa: SLF001
        connection.run([(type(backend._logs.take)(f"DEALLOCATE {name}"), ())], 1)  # noqa: SLF001
        store.remove("a", "b")
        assert store.timeseries() == []


def test_a_connection_that_breaks_in_the_middle_of_several_keys(
    postgresql: Server, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(dsn, frozen=False) as store:
        for key in ("a", "b"):
            store.extend(key, (1, 1))
        real = PostgresWriter.drop
        broken: list[Log] = []

        def drop(self: PostgresWriter, log: Log, **options: Any) -> bool:
            if log.key == "b" and not broken:
                broken.append(log)
                postgresql.terminate()
            return real(self, log, **options)

        monkeypatch.setattr(PostgresWriter, "drop", drop)
        store.remove("a", "b")
        assert (broken, store.timeseries()) == ([Log(Model.SERIES, "b")], [])


def test_a_namespace_that_is_made_anew_while_it_is_discarded(
    postgresql: Server, postgresql_schema: str, dsn: str
) -> None:
    """What is written under the new incarnation is not of the namespace that was to be discarded."""
    s = f'"{postgresql_schema}"'
    with Store(dsn, frozen=False) as store:
        store.set("k", "old")
        with psycopg.connect(postgresql.conninfo()) as other:
            other.execute(f"DELETE FROM {s}.records; DELETE FROM {s}.namespaces".encode())
            discarding = threading.Thread(target=store.discard)
            discarding.start()
            postgresql.await_waiting(1)
            other.execute(f"INSERT INTO {s}.namespaces VALUES ('default', 7, int8send(7) || int8send(8))".encode())
            other.execute(f"INSERT INTO {s}.records VALUES (7, 'k', '\\x8004')".encode())
        discarding.join()
    assert postgresql.left_in(postgresql_schema) == {"namespaces": 1, "records": 1}


POINTS = [(t, f"{t}" * 7_000_000) for t in range(3)]
"""Of more bytes than one statement takes."""


def between_statements(monkeypatch: pytest.MonkeyPatch, *works: Callable[[], object]) -> Callable[[], None]:
    """Do one thing after another in one thread, each behind one more statement of the next append of `POINTS`.

    Who waits for the append is not waited for. What this returns waits until all is done.
    """
    begin, done = [threading.Event() for _ in works], [threading.Event() for _ in works]

    def work() -> None:
        for one, may, has in zip(works, begin, done, strict=True):
            assert may.wait(10)
            one()
            has.set()

    thread = threading.Thread(target=work)
    real = PostgresConnection._send  # noqa: SLF001 - between two statements

    def slowly(connection: PostgresConnection, calls: Iterable[Call]) -> Any:
        def one_by_one() -> Iterator[Call]:
            for i, call in enumerate(calls):
                if i and b".hot" in call[0].sql and threading.current_thread() is not thread:
                    connection._pgconn.send_flush_request()  # noqa: SLF001
                    while connection._pgconn.flush():  # noqa: SLF001
                        sleep(0.01)
                    sleep(0.3)  # those before are done by then
                    if i <= len(works):
                        begin[i - 1].set()
                        done[i - 1].wait(0.3)
                yield call

        return real(connection, one_by_one())

    monkeypatch.setattr(PostgresConnection, "_send", slowly)
    thread.start()
    return thread.join


def test_a_series_that_others_create_between_two_statements(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several statements are stored all or none, and an acknowledged one is never lost."""
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        store.set("k", 1)
        join = between_statements(monkeypatch, lambda: other.extend("s", (-1, "other")))
        store.extend("s", *POINTS)
        join()
        assert store.range("s") == [(-1, "other"), *POINTS]


def test_a_series_that_others_make_anew_between_two_statements(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when the append began, so it stays until its end, and then all goes or nothing."""
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        store.extend("s", (-2, "before"))
        join = between_statements(monkeypatch, lambda: other.remove("s"), lambda: other.extend("s", (-1, "other")))
        store.extend("s", *POINTS)
        join()
        assert store.range("s") == [(-1, "other")]


WRITES: dict[str, Callable[[Store], object]] = {
    "extend": lambda s: s.extend("s", (2, 2)),
    "extend by many": lambda s: s.extend("s", (2, 2), (3, 3)),
    "apply": lambda s: s.apply("e", {"b": 2}),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_discard_waits_for_who_writes_into_a_log(
    postgresql: Server, postgresql_schema: str, dsn: str, write: Callable[[Store], object]
) -> None:
    """A writer locks the head of its log alone: nothing may be left behind of what it wrote."""
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        store.extend("s", (1, 1))
        store.apply("e", {"a": 1})
        with store.transaction() as tx:
            write(tx)  # type: ignore[arg-type]
            discarding = threading.Thread(target=other.discard)
            discarding.start()
            postgresql.await_waiting(1)
        discarding.join()
        assert postgresql.left_in(postgresql_schema) == {}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_who_writes_into_a_log_waits_for_a_discard(
    postgresql: Server, postgresql_schema: str, dsn: str, write: Callable[[Store], object]
) -> None:
    """And then begins a namespace anew."""
    s = f'"{postgresql_schema}"'
    with Store(dsn, frozen=False) as store:
        store.extend("s", (1, 1))
        store.apply("e", {"a": 1})
        with psycopg.connect(postgresql.conninfo()) as discarding:
            discarding.execute(f"SELECT FROM {s}.namespaces FOR UPDATE".encode())
            discarding.execute(f"DELETE FROM {s}.logs".encode())
            writing = threading.Thread(target=write, args=(store,))
            writing.start()
            postgresql.await_waiting(1)
            discarding.execute(f"DELETE FROM {s}.hot; DELETE FROM {s}.namespaces".encode())
        writing.join()
        assert (1, 1) not in store.range("s")
        assert store.current("e") in (None, {"b": 2})
        assert (store.timeseries(), store.eventsequences()) in ((["s"], []), ([], ["e"]))


def test_a_discard_and_a_transaction_that_wait_for_each_other(
    postgresql: Server, postgresql_schema: str, dsn: str
) -> None:
    """The server undoes one of them; none is lost, and nothing is left behind."""
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        store.run(lambda tx: (tx.extend("a", (1, 1)), tx.extend("b", (1, 1))))

        def both(tx: Transaction) -> None:
            for key in "ba":
                tx.extend(key, (2, 2))
                sleep(0.02)

        in_threads(lambda: store.run(both), other.discard)
        assert {tuple(store.range(key)) for key in "ab"} in ({()}, {((2, 2),)})
        check_schema(postgresql, postgresql_schema)


def test_what_cannot_be_stored_leaves_the_transaction_as_it_was(dsn: str) -> None:
    bad = {f"{i:05}": i for i in range(3000)} | {"9": lambda: None}
    with Store(dsn, frozen=False) as store:
        with store.transaction() as tx:
            tx.set("a", 1)
            with pytest.raises(SerializationError):
                tx.update(bad)
            assert tx["a"] == 1
            tx.set("b", 2)
        with pytest.raises(SerializationError):
            store.update(bad)
        assert dict(store) == {"a": 1, "b": 2}


# -- the level of isolation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_a_role_with_another_level_of_isolation(
    postgresql: Server, postgresql_schema: str, dsn: str, level: str
) -> None:
    """A writer is refused; a reader needs one statement for whatever has to be of one moment."""
    with Store(dsn, frozen=False) as store:
        store.set("k", 1)
    with postgresql.role("strict", "SUPERUSER"):
        postgresql.execute(f"ALTER ROLE strict SET default_transaction_isolation = '{level}'")
        strict = postgresql.dsn(schema=postgresql_schema, user="strict")
        with pytest.raises(StoreNotAvailableError, match="default_transaction_isolation"):
            Store(strict, frozen=False).open()
        with Store(strict) as frozen:
            assert frozen["k"] == 1


def test_a_transaction_sees_what_was_committed_meanwhile_whatever_the_level(
    postgresql: Server, postgresql_schema: str, dsn: str
) -> None:
    with postgresql.role("strict", "SUPERUSER"):
        strict = make_backend(postgresql.dsn(schema=postgresql_schema, user="strict"), "default", OPTIONS)
        strict.open()
        incarnation = strict.create()
        assert strict.commit(LOG, Commit(create=HEAD), incarnation)
        postgresql.execute("ALTER ROLE strict SET default_transaction_isolation = 'serializable'")
        postgresql.terminate()
        with strict.exclusive(LOG) as tx, Store(dsn, frozen=False) as other:
            assert tx.view(LOG).rows == []
            other_backend = other._writer.backend  # noqa: SLF001 - rows that this test can name
            assert other_backend.append(LOG, HEAD, [Row(1, 0, b"row")], incarnation)
            assert tx.view(LOG).rows == [Row(1, 0, b"row")]
        strict.discard()
        strict.close()
        postgresql.execute("REASSIGN OWNED BY strict TO postgres")


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_step_whose_first_statement_fails_leaves_the_rest(backend: Backend, dsn: str) -> None:
    """A lock that was waited for too long; without a savepoint the server would refuse all that follows."""
    hasty = make_backend(dsn, "default", Options(frozen=False, durability="normal", timeout_s=0.2))
    hasty.open()
    incarnation = backend.create()
    assert backend.commit(LOG, Commit(create=HEAD), incarnation)
    with hasty.transaction() as tx:
        tx.write([Write("before", b"1" * 20)], incarnation)
        with backend.exclusive(LOG), pytest.raises(StoreBusyError), tx.exclusive(LOG):
            pass
        with suppress(ZeroDivisionError), tx.transaction() as part:
            part.write([Write("inside", b"1" * 20)], incarnation)
            raise ZeroDivisionError
        tx.write([Write("behind", b"1" * 20)], incarnation)
    assert [key for key, _, _ in backend.scan(ScanQuery(10)).records] == ["before", "behind"]
    hasty.close()


# -- the time-out -----------------------------------------------------------------------------------------------------


def test_all_that_a_call_waits_for_is_within_one_time_out(postgresql: Server, postgresql_schema: str) -> None:
    """The second call waits for the connection while the first one waits for a lock, and then for the lock itself."""
    dsn = postgresql.dsn(schema=postgresql_schema, pool=1)
    with Store(dsn, frozen=False, timeout=0.6) as store:
        store.set("k", 1)
        waited: list[float] = []

        def write(after_s: float) -> None:
            sleep(after_s)
            began = monotonic()
            with pytest.raises(StoreBusyError):
                store.set("k", 2)
            waited.append(monotonic() - began)

        with psycopg.connect(postgresql.conninfo()) as other:
            other.execute(f'SELECT FROM "{postgresql_schema}".records FOR UPDATE'.encode())
            in_threads(lambda: write(0), lambda: write(0.3))
        assert len(waited) == 2
        assert max(waited) < 0.8
        store.set("k", 3)
        assert store["k"] == 3


# -- the transactions of users ----------------------------------------------------------------------------------------


def test_a_transaction_whose_session_ends_is_run_again(postgresql: Server, dsn: str) -> None:
    calls: list[int] = []

    def work(tx: Transaction) -> int:
        calls.append(1)
        tx["k"] = 1
        tx.extend("s", (1, 1))
        if len(calls) == 1:
            postgresql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            )
        return tx.apply("e", {"n": 1}) == {"n": 1}

    with Store(dsn, frozen=False) as store:
        with pytest.raises(ConflictError, match="nothing was applied"), store.transaction() as tx:
            work(tx)
        assert (store.keys(), store.timeseries()) == ([], [])
        calls.clear()
        assert store.run(work)
        assert (len(calls), store["k"], store.current("e")) == (2, 1, {"n": 1})


def test_an_error_that_was_swallowed_inside_is_told_at_the_end(dsn: str) -> None:
    with Store(dsn, frozen=False, timeout=0.2) as store, Store(dsn, frozen=False) as other:
        store["k"] = 0

        def swallow() -> None:
            with store.transaction() as tx:
                tx["a"] = 1
                with suppress(ConflictError, StoreError):
                    tx["k"] = 1  # which the other one has a lock on

        with other.transaction() as theirs:
            theirs["k"] = 2
            with pytest.raises(StoreBusyError):
                swallow()
        assert dict(store) == {"k": 2}


def test_a_snapshot_whose_session_ends_says_so(postgresql: Server, dsn: str) -> None:
    with Store(dsn, frozen=False) as store, store.snapshot() as view:
        assert view.get("k") is None
        postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        for _ in range(2):
            with pytest.raises(ConflictError, match="read again"):
                view.get("k")
        store["k"] = 1


def test_what_ended_a_transaction_is_what_it_says_whatever_follows(dsn: str) -> None:
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False, timeout=0.2) as other:
        store.update(a=0, b=0)
        calls: list[int] = []

        def work(tx: Transaction) -> None:
            calls.append(tx["a"])
            if len(calls) == 1:
                store.incr("a")
            for key in "a", "b":  # the second one fails since the first one did
                with suppress(StoreError):
                    tx[key] = 5

        other.run(work)
        assert (calls, store["a"], store["b"]) == ([0, 1], 5, 5)

        def wait(tx: Transaction) -> None:
            for key in "a", "b":
                with pytest.raises(StoreBusyError):
                    tx[key] = 7

        with store.transaction() as tx:
            tx["a"] = 6
            with pytest.raises(StoreBusyError):
                other.run(wait)
        assert (store["a"], store["b"]) == (6, 5)
