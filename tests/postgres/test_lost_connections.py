"""Connections that break: what was acknowledged is there, what was not is there once or not at all, and said so."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg
import pytest
from backends import make_backend
from postgres_proxy import Proxy
from postgresql import Server

from rstore import (
    ConflictError,
    OutcomeUnknownError,
    Store,
    StoreBusyError,
    StoreError,
    StoreNotAvailableError,
)
from rstore.backends.contract import Backend
from rstore.backends.types import Commit, Head, Log, Model, Options, Row, Write

LOG = Log(Model.EVENTS, "e")
HEAD = Head(b"e" * 16, b"v" * 16, sealed=False)


@pytest.fixture
def dsn(proxied_dsn: str) -> str:
    """The DSN of a store behind the proxy."""
    return proxied_dsn


# -- the answer to a commit is lost -----------------------------------------------------------------------------------

WRITES: dict[str, Callable[[Store], Any]] = {
    "set": lambda s: s.set("k", "new"),
    "update": lambda s: s.update(k="new", l=[1]),
    "update of many": lambda s: s.update({f"{i}": i for i in range(3500)}),
    "setdefault": lambda s: s.setdefault("other", "new"),
    "extend": lambda s: s.extend("s", (1, "new"), (2, "new")),
    "a new series": lambda s: s.extend("t", (1, "new"), (2, "new")),
    "extend_many": lambda s: s.extend_many("s", ((t, t) for t in range(5000))),
    "remove": lambda s: s.remove("s", start=0, end=0),
    "remove all": lambda s: s.remove("s"),
    "remove several": lambda s: s.remove("t", "s"),
    "apply": lambda s: s.apply("e", {"count": (operator.add, 1)}),
    "apply with an id": lambda s: s.apply("e", {"count": (operator.add, 1)}, id="once"),
    "apply in the past": lambda s: s.apply("e", {"other": 1}, 5),
    "a new sequence": lambda s: s.apply("f", {"count": 1}),
    "prune all": lambda s: s.prune("empty"),
    "prune": lambda s: s.prune("e"),
    "discard": lambda s: s.discard(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_answer_to_a_write_is_lost(dsn: str, proxy: Proxy, write: Callable[[Store], Any]) -> None:
    """It was done, and a look shows that, so the caller learns nothing of it; and it was done once."""
    with Store(dsn, frozen=False) as store, Store(dsn, "expected", frozen=False) as expected:
        for one in (store, expected):
            one.set("k", "old")
            one.extend("s", (0, "old"), (9, "old"))
            one.apply("e", {"count": 0}, 1)
            one.apply("e", {"count": (operator.add, 1)}, 10)
            one.apply("e", {"count": 7}, 11)
        write(expected)
        backend = store._writer.backend  # noqa: SLF001 - an answer of its own is lost, not that of a read before it
        for name in ("write", "write_if", "append", "commit", "drop", "discard"):
            _lose_the_answer_of(backend, name, proxy)
        write(store)
        assert store.find() == expected.find()
        assert (store.range("s"), store.range("t")) == (expected.range("s"), expected.range("t"))
        for key in ("e", "f"):
            assert store.current(key) == expected.current(key)
            assert len(store.events(key) or ()) == len(expected.events(key) or ())
        assert proxy.answers_to_lose == 0


def _writes(calls: Any) -> bool:
    """Return whether statements write something: not what appends to the series "t" alone, which is never there."""
    sql = b"".join(statement.sql for statement, _ in calls)
    begins = any(b"t" in parameters for _, parameters in calls) and b".logs (" not in sql
    return not begins and any(word in sql for word in (b"INSERT", b"UPDATE", b"DELETE", b"COMMIT"))


def _lose_the_answer_of(backend: Any, name: str, proxy: Proxy) -> None:
    session, real = backend._session, getattr(backend, name)  # noqa: SLF001 - between a call and its answer
    real_run = session.run_on
    lost: list[bytes] = []  # what was sent once already: in what is done again, the answer arrives

    def losing(*args: Any, **kwargs: Any) -> Any:
        def run_on(connection: Any, calls: Any, timeout_s: Any, **more: Any) -> Any:
            sql = b"".join(statement.sql for statement, _ in calls)
            if sql not in lost and _writes(calls):
                lost.append(sql)
                proxy.answers_to_lose = 1
            return real_run(connection, calls, timeout_s, **more)

        session.run_on = run_on
        try:
            return real(*args, **kwargs)
        finally:
            session.run_on = real_run
            assert lost

    setattr(backend, name, losing)


TAKEN: dict[str, tuple[Callable[[Store], Any], Callable[[Store], Any]]] = {
    "set": (lambda s: s.set("k", "new"), lambda s: s.pop("k")),
    "add": (lambda s: s.add("new", 1), lambda s: s.pop("new")),
    "setdefault": (lambda s: s.setdefault("new", 1), lambda s: s.pop("new")),
    "a new counter": (lambda s: s.incr("new"), lambda s: s.pop("new")),
    "modify what is new": (lambda s: s.modify("new", lambda n: n + 1, default=0), lambda s: s.pop("new")),
    "incr": (lambda s: s.incr("n"), lambda s: s.pop("n")),
    "modify": (lambda s: s.modify("n", lambda n: n + 1), lambda s: s.pop("n")),
    "if_version": (lambda s: s.set("n", 5, if_version=s.entry("n").version), lambda s: s.pop("n")),  # type: ignore[union-attr]
    "if absent": (lambda s: s.set("new", 5, if_version=None), lambda s: s.pop("new")),
    "extend": (lambda s: s.extend("s", (1, 1)), lambda s: s.remove("s")),
    "extend, and a range": (lambda s: s.extend("s", (1, 1)), lambda s: s.remove("s", start=1)),
    "extend_many": (lambda s: s.extend_many("s", ((t, t) for t in range(2000))), lambda s: s.remove("s")),
    "a new series": (lambda s: s.extend("t", (1, 1), (2, 2)), lambda s: s.remove("t")),
    "a new series of many": (lambda s: s.extend_many("t", ((t, t) for t in range(2000))), lambda s: s.remove("t")),
    "apply": (lambda s: s.apply("e", {"n": (operator.neg, None)}), lambda s: end_of(s, "e")),
    "a new sequence": (lambda s: s.apply("f", {"n": 1}), lambda s: end_of(s, "f")),
}


def end_of(store: Store, key: str) -> None:
    store.apply(key, {"n": (operator.delitem, None)})
    store.prune(key)


@pytest.mark.parametrize(("write", "take"), TAKEN.values(), ids=TAKEN)
def test_what_others_took_before_it_is_looked_for(
    postgresql: Server,
    postgresql_schema: str,
    dsn: str,
    proxy: Proxy,
    write: Callable[[Store], Any],
    take: Callable[[Store], Any],
) -> None:
    """The answer to the write is lost, somebody sees what it wrote and removes it: it must not be done once more."""
    own = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False) as store, Store(own, frozen=False) as other:
        store.update(k="old", n=1)
        store.extend("s", (0, 0))
        store.apply("e", {"n": 1})
        session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        real = session.run_on
        left: list[Any] = []

        def all_there_is() -> Any:
            held = other.find(), other.timeseries(), [*map(other.range, "st")], [*map(other.events, "ef")]
            return *held, other.check()

        def take_it() -> None:
            proxy.then = lambda: None
            take(other)
            left.append(all_there_is())

        def run_on(connection: Any, calls: Any, timeout_s: Any, **more: Any) -> Any:
            if _writes(calls) and not left:
                proxy.answers_to_lose, proxy.then = 1, take_it
            return real(connection, calls, timeout_s, **more)

        session.run_on = run_on
        with pytest.raises(OutcomeUnknownError):
            write(store)
        assert left == [all_there_is()]


def test_a_change_with_an_id_whose_outcome_is_unknown_is_tried_again(
    postgresql: Server, postgresql_schema: str, dsn: str, proxy: Proxy
) -> None:
    """Its answer is lost, and the whole sequence goes before a look: the id stays, and says that it was done."""
    own = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False) as store, Store(own, frozen=False) as other:
        session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        real = session.run_on
        left = [1]

        def end_it() -> None:
            proxy.then = lambda: None
            end_of(other, "e")

        def run_on(connection: Any, calls: Any, timeout_s: Any, **more: Any) -> Any:
            if _writes(calls) and left:
                left.clear()
                proxy.answers_to_lose, proxy.then = 1, end_it
            return real(connection, calls, timeout_s, **more)

        session.run_on = run_on
        with pytest.raises(OutcomeUnknownError):
            store.apply("e", {"n": 1}, id="once")
        assert store.apply("e", {"n": 1}, id="once") is None
        assert (other.events("e"), other.check()) == (None, [])
        with pytest.raises(ConflictError):
            store.apply("e", {"n": 2}, id="once")


def test_what_others_replaced_while_two_copies_of_it_waited(
    postgresql: Server, postgresql_schema: str, dsn: str, proxy: Proxy
) -> None:
    """The first copy is done, then another write, and the second copy finds that one: nothing tells of the first."""
    own = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False) as store, Store(own, frozen=False) as other:
        store["n"] = 1
        errors: list[BaseException] = []

        def write() -> None:
            try:
                store.incr("n")
            except StoreError as error:
                errors.append(error)

        writers = [threading.Thread(target=write), threading.Thread(target=other.set, args=("n", 100))]
        with psycopg.connect(postgresql.conninfo()) as holding:
            holding.execute(f'SELECT FROM "{postgresql_schema}".records FOR UPDATE'.encode())
            for waiting, writer in enumerate(writers, 1):
                writer.start()
                postgresql.await_waiting(waiting)
            proxy.cut()
            postgresql.await_waiting(3)
        for writer in writers:
            writer.join()
        assert ([type(error) for error in errors], other["n"]) == ([OutcomeUnknownError], 100)


def test_a_lease_that_is_not_there_may_be_taken_once_more(dsn: str, proxy: Proxy) -> None:
    """Nothing of value is in it, and where there is none nobody holds it."""
    with Store(dsn, frozen=False) as store:
        backend: Any = store._writer.backend  # noqa: SLF001 - of the lease, and not of the value
        real = backend.commit

        def commit(*arguments: Any) -> Any:
            backend.commit = real
            proxy.questions_to_lose = 1
            return real(*arguments)

        backend.commit = commit
        assert (store.get_or_set("k", lambda: 1), store["k"], proxy.questions_to_lose) == (1, 1, 0)


def test_a_transaction_that_only_read_is_not_done_before_the_server_has_said_so(dsn: str, proxy: Proxy) -> None:
    """It is the server that finds out, at the end, whether what was read belongs together."""
    with Store(dsn, frozen=False) as store:
        store["k"] = 1

        def read() -> None:
            with store.transaction() as tx:
                assert tx["k"] == 1
                proxy.answers_to_lose = 1

        with pytest.raises(ConflictError, match="nothing was applied"):
            read()


def test_a_write_whose_connection_breaks_while_it_waits_for_a_lock(
    postgresql: Server, postgresql_schema: str, dsn: str, proxy: Proxy
) -> None:
    """Its first copy is done by a server that does not know yet that nobody listens; the second one comes too late."""
    with Store(dsn, frozen=False) as store:
        store.apply("e", {"count": 0})
        with psycopg.connect(postgresql.conninfo()) as other:
            other.execute(f'SELECT FROM "{postgresql_schema}".logs FOR UPDATE'.encode())
            writer = threading.Thread(target=store.apply, args=("e", {"count": (operator.add, 1)}))
            writer.start()
            postgresql.await_waiting(1)
            proxy.cut()
            postgresql.await_waiting(2)
        writer.join()
        assert store.current("e") == {"count": 1}


def test_a_write_that_waits_still_when_its_second_copy_gives_up(
    postgresql: Server, postgresql_schema: str, dsn: str, proxy: Proxy
) -> None:
    with Store(dsn, frozen=False, timeout=0.5) as store:
        store.apply("e", {"count": 0})
        errors: list[BaseException] = []

        def write() -> None:
            try:
                store.apply("e", {"count": (operator.add, 1)})
            except StoreError as error:
                errors.append(error)

        with psycopg.connect(postgresql.conninfo()) as other:
            other.execute(f'SELECT FROM "{postgresql_schema}".logs FOR UPDATE'.encode())
            writer = threading.Thread(target=write)
            writer.start()
            postgresql.await_waiting(1)
            proxy.cut()
            writer.join()
        assert [type(error) for error in errors] == [OutcomeUnknownError]
        while store.current("e") == {"count": 0}:  # it was done after all
            pass


def exclusively(backend: Backend, incarnation: bytes, *, before_the_end: Callable[[], None]) -> None:
    with backend.exclusive(LOG) as tx:
        assert tx.commit(LOG, Commit(if_epoch=HEAD.epoch, epoch=b"n" * 16, put_rows=[Row(1, 0, b"row")]), incarnation)
        before_the_end()


def test_the_end_of_a_transaction_is_known_by_its_receipt(
    postgresql: Server, postgresql_schema: str, dsn: str, proxy: Proxy
) -> None:
    """Nothing that it wrote is there any more when it is looked for, or it never reached the server."""
    backend = make_backend(dsn, "default", Options(frozen=False, durability="full", timeout_s=5))
    backend.open()
    incarnation = backend.create()
    assert backend.commit(LOG, Commit(create=HEAD), incarnation)

    def lose_the_answer() -> None:
        proxy.answers_to_lose = 1
        proxy.then = lambda: postgresql.execute(f"UPDATE \"{postgresql_schema}\".logs SET epoch = 'another'")

    exclusively(backend, incarnation, before_the_end=lose_the_answer)
    assert backend.view(LOG).rows == [Row(1, 0, b"row")]

    assert backend.drop(LOG)
    assert backend.commit(LOG, Commit(create=HEAD), incarnation)

    def lose_the_question() -> None:
        proxy.questions_to_lose = 1

    with pytest.raises(StoreNotAvailableError, match="nothing was applied"):
        exclusively(backend, incarnation, before_the_end=lose_the_question)
    assert backend.view(LOG).rows == []
    backend.discard()
    backend.close()


def test_what_cannot_be_told_is_said(dsn: str, proxy: Proxy) -> None:
    """Somebody else wrote, or how many there were was in the answer alone."""
    with Store(dsn, frozen=False) as store, Store(dsn, frozen=False) as other:
        store.update(a=1, b=2)
        proxy.answers_to_lose = 1
        with pytest.raises(OutcomeUnknownError):
            store.delete("a")
        assert store.keys() == ["b"]
        backend = store._writer.backend  # noqa: SLF001 - another writer between the loss and the look
        session: Any = backend._session  # type: ignore[attr-defined]  # noqa: SLF001
        real = session.was_done

        def meanwhile(*arguments: Any) -> Any:
            other.set("b", "other")
            return real(*arguments)

        session.was_done = meanwhile
        proxy.answers_to_lose = 1
        with pytest.raises(OutcomeUnknownError):
            store.set("b", 3)
        assert store["b"] == "other"


def test_a_lost_answer_with_the_server_gone_for_good(dsn: str, proxy: Proxy) -> None:
    with Store(dsn, frozen=False, timeout=1) as store:
        store.set("k", 1)
        proxy.answers_to_lose = 1000
        began = monotonic()
        with pytest.raises(OutcomeUnknownError):
            store.set("k", 2)
        with pytest.raises(StoreNotAvailableError):
            store.get("k")
        assert monotonic() - began < 10
        proxy.answers_to_lose = 0
        assert store["k"] == 2


# -- others hold a lock -----------------------------------------------------------------------------------------------


def test_a_lock_is_waited_for_no_longer_than_the_time_out(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    options = Options(frozen=False, durability="full", timeout_s=10)
    holder = make_backend(dsn, "default", options)
    holder.open()
    incarnation = holder.create()
    holder.commit(LOG, Commit(create=HEAD, put_rows=[Row(1, 0, b"\x01")]), incarnation)
    waiting = make_backend(dsn, "default", options.__class__(frozen=False, durability="full", timeout_s=0.5))
    waiting.open()
    with holder.exclusive(LOG) as tx:
        tx.write([Write("k", b"1" * 20)], incarnation)
        writes: list[tuple[str, Callable[[], object]]] = [
            ("'k' in namespace", lambda: waiting.write([Write("k", b"2" * 20)], incarnation)),
            (
                "'e' in namespace",
                lambda: waiting.commit(LOG, Commit(if_epoch=HEAD.epoch, epoch=b"n" * 16), incarnation),
            ),
            ("namespace", waiting.discard),
        ]
        for named, write in writes:
            began = monotonic()
            with pytest.raises(StoreBusyError, match=f"^{named} 'default': "):
                write()
            assert 0.4 < monotonic() - began < 3
        assert waiting.get("k") is None  # a read waits for nobody
        assert waiting.append(LOG, HEAD, [Row(2, 0, b"\x01")], incarnation)  # nor does an append for a rewrite
    assert waiting.get("k") == b"1" * 20
    assert waiting.commit(LOG, Commit(if_epoch=HEAD.epoch, epoch=b"n" * 16), incarnation)
    waiting.discard()
    for backend in (waiting, holder):
        backend.close()
    assert postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'") == [(0,)]


def test_a_deadlock_is_tried_again(postgresql: Server, postgresql_dsn: str) -> None:
    """A session that takes the locks in another order: one of the two is undone by the server, and it may be ours."""
    schema = postgresql_dsn.partition("schema=")[2].replace("%20", " ")
    with Store(postgresql_dsn, frozen=False) as store:
        store.update(a=1, b=1)
        with psycopg.connect(postgresql.conninfo()) as other:
            other.execute("SET deadlock_timeout = '10s'")  # the other side finds it first
            other.execute(f"SELECT FROM \"{schema}\".records WHERE key = 'b' FOR UPDATE".encode())
            writer = threading.Thread(target=lambda: store.update(a=2, b=2))
            writer.start()
            while not postgresql.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                pass
            other.execute(f"SELECT FROM \"{schema}\".records WHERE key = 'a' FOR UPDATE".encode())
        writer.join()
        assert dict(store) == {"a": 2, "b": 2}
