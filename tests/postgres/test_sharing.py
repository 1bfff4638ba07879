"""Many processes and threads on one server: nothing is lost, nothing is left over, and a fork harms nobody."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections import Counter
from contextlib import ExitStack
from functools import partial

import programs
import pytest
from backends import make_backend
from postgresql import Server
from processes import Program, forked
from waiting import until

from rstore import Store, StoreClosedError, StoreNotAvailableError
from rstore.backends.types import Commit, Head, Log, Model, Options, Row

PROCESSES = 8
ROUNDS = 40
OPTIONS = Options(frozen=False, durability="full", timeout_s=10)
LOG = Log(Model.SERIES, "s")
HEAD = Head(b"e" * 16, b"v" * 16, sealed=False)


@pytest.fixture
def dsn(postgresql: Server, postgresql_schema: str) -> str:
    return postgresql.dsn(schema=postgresql_schema)


def test_eight_processes_open_what_is_not_there(dsn: str) -> None:
    with ExitStack() as stack:
        opening = [stack.enter_context(Program(programs.open_at_once, dsn, i)) for i in range(PROCESSES)]
        for program in opening:
            assert program.hear() == "ready"
        for program in opening:
            program.tell()
        for program in opening:
            assert program.end() == ["done"]
    with Store(dsn) as store:
        assert dict(store) == {f"{i}": f"{i}" for i in range(PROCESSES)}
        assert store.current("log") == {f"{i}": 1 for i in range(PROCESSES)}


def test_eight_processes_write_one_series_one_sequence_and_the_same_keys(dsn: str) -> None:
    with Store(dsn, frozen=False) as store, ExitStack() as stack:
        store.apply("same", {"count": 0})
        writers = [stack.enter_context(Program(programs.contend, dsn, i, ROUNDS)) for i in range(PROCESSES)]
        for program in writers:
            assert program.hear() == "ready"
        for program in writers:
            program.tell()
        for program in writers:
            assert program.end() == ["done"]
        last = ROUNDS - 1
        state = {"count": PROCESSES * ROUNDS} | {f"{i}": last for i in range(PROCESSES)}
        assert store.current("same") == state | {f"own {i}": last for i in range(PROCESSES)}
        assert (store["incremented"], len(store["modified"])) == (PROCESSES * ROUNDS, PROCESSES * ROUNDS)
        assert Counter(store["modified"]) == {f"{i}": ROUNDS for i in range(PROCESSES)}
        assert store["same"] in [[f"{i}", last] for i in range(PROCESSES)]
        points = dict(store.range("same"))
        expected = {i * 100 + name for i in range(ROUNDS) for name in range(PROCESSES)} | {0}
        assert set(points) == expected
        store.discard()


def test_processes_that_overwrite_and_remove_what_is_packed(dsn: str) -> None:
    total = 8000
    with ExitStack() as stack:
        workers = [stack.enter_context(Program(programs.rework, dsn, parity, total)) for parity in (0, 1)]
        for program in workers:
            assert program.hear() == "ready"
        for program in workers:
            program.tell()
        left = [json.loads(program.end()[-1]) for program in workers]
    with Store(dsn) as store:
        assert [list(point) for point in store.range("s")] == sorted(left[0] + left[1])


def test_namespaces_that_come_and_go(postgresql: Server, postgresql_schema: str, dsn: str) -> None:
    with ExitStack() as stack:
        workers = [stack.enter_context(Program(programs.come_and_go, dsn, f"n{i}", 15)) for i in range(4)]
        for program in workers:
            assert program.hear() == "ready"
        for program in workers:
            program.tell()
        for program in workers:
            assert program.end() == ["done"]
    for i in range(4):
        with Store(dsn, f"n{i}", frozen=False) as store:
            assert store["k"] == -1
            store.discard()
    assert postgresql.left_in(postgresql_schema) == {}


def test_who_is_emptied_while_others_append_leaves_nothing_behind(dsn: str) -> None:
    """A removal may take the head of a log while an append has its rows written and not committed."""
    done = threading.Event()

    def remove(store: Store) -> None:
        while not done.is_set():
            store.remove("s")

    with Store(dsn, frozen=False, durability="normal") as store, Store(dsn, frozen=False, durability="normal") as other:
        removing = threading.Thread(target=remove, args=(other,))
        removing.start()
        for t in range(600):
            store.extend("s", (t, t))
        done.set()
        removing.join()
        store.extend("s", (1000, 1000))
        assert store.last("s") == (1000, 1000)


def test_an_exclusive_log_is_closed_to_other_commits_and_open_to_appends(dsn: str) -> None:
    one, two = (make_backend(dsn, "default", OPTIONS) for _ in range(2))
    for backend in (one, two):
        backend.open()
    incarnation = one.create()
    one.commit(LOG, Commit(create=HEAD, put_rows=[Row(1, 0, b"a")]), incarnation)
    late = threading.Thread(target=two.commit, args=(LOG, Commit(if_epoch=b"e" * 16, epoch=b"2" * 16), incarnation))
    with one.exclusive(LOG) as tx:
        late.start()
        assert two.append(LOG, HEAD, [Row(2, 0, b"b")], incarnation)
        assert [row.t for row in tx.view(LOG).rows] == [1, 2]
        assert tx.commit(LOG, Commit(if_epoch=b"e" * 16, epoch=b"1" * 16), incarnation)
    late.join()
    head = one.view(LOG).head
    assert head is not None
    assert head.epoch == b"1" * 16

    def fail() -> None:
        with one.exclusive(LOG) as tx:
            assert tx.commit(LOG, Commit(if_epoch=b"1" * 16, epoch=b"3" * 16), incarnation)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    head = one.view(LOG).head
    assert head is not None
    assert head.epoch == b"1" * 16
    for backend in (one, two):
        backend.close()


# -- forks ------------------------------------------------------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@forks
def test_a_child_does_not_touch_what_is_its_parents(postgresql: Server, dsn: str) -> None:
    until(lambda: not postgresql.sessions(), "a session of an earlier test is left")
    with Store(dsn, frozen=False) as store:
        store.set("k", 0)
        before = set(postgresql.sessions())

        def child() -> None:
            assert store["k"] == 0
            store.set("child", os.getpid())
            store.extend_many("s", ((t, t) for t in range(3000)))
            store.apply("e", {"child": 1})
            store.close()

        for wait in [forked(child) for _ in range(3)]:
            wait()
        assert before <= set(postgresql.sessions())  # nobody said farewell in the parent's name
        store.set("k", 1)
        until(lambda: set(postgresql.sessions()) == before, "a session of a child is left")
        assert (store["k"], len(store.range("s")), store.current("e")) == (1, 3000, {"child": 1})


@forks
def test_a_child_that_ends_by_itself_ends_no_session(dsn: str) -> None:
    """At its end an interpreter throws its objects away, and a connection that is thrown away says farewell."""
    program = f"""
import os, sys
from rstore import Store
store = Store({dsn!r}, frozen=False).open()
store.set("k", 1)
if os.fork() == 0:
    store["k"]
    sys.exit()
assert os.wait()[1] == 0
session = store._writer.backend._session
before = set(session.pool.connections)
store.set("k", 2)
assert set(session.pool.connections) == before and len(before) == 1
print("done")
"""
    with Program(programs.run, program) as running:
        assert running.end() == ["done"]


@forks
def test_a_fork_while_threads_write(dsn: str) -> None:
    with Store(dsn, frozen=False, durability="normal") as store:
        done = threading.Event()

        def write(who: int) -> None:
            i = 0
            while not done.is_set():
                i += 1
                store.set(f"{who}", i)
                assert store[f"{who}"] == i

        threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        for n in range(10):
            forked(partial(store.set, f"child {n}", n))()
        done.set()
        for thread in threads:
            thread.join()
        assert store.find("child *") == [(f"child {n}", n) for n in range(10)]


@forks
def test_a_fork_inside_a_transaction(dsn: str) -> None:
    backend = make_backend(dsn, "default", OPTIONS)
    backend.open()
    incarnation = backend.create()
    backend.commit(LOG, Commit(create=HEAD), incarnation)
    with backend.exclusive(LOG) as tx:
        assert tx.commit(LOG, Commit(if_epoch=b"e" * 16, epoch=b"1" * 16), incarnation)

        def child() -> None:
            # The transaction is its parent's; outside of it, the child would do at once what is inside.
            for use in (lambda: tx.view(LOG), lambda: tx.commit(LOG, Commit(epoch=b"2" * 16), incarnation)):
                with pytest.raises(StoreNotAvailableError, match="fork"):
                    use()

        forked(child)()
    head = backend.view(LOG).head
    assert head is not None
    assert head.epoch == b"1" * 16
    backend.close()


def test_closing_while_others_use_it(postgresql: Server, dsn: str) -> None:
    store = Store(dsn, frozen=False).open()
    ended: list[type[BaseException]] = []

    def use() -> None:
        try:
            for i in range(100_000):
                store.set("k", i)
        except StoreClosedError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(postgresql.sessions, "nobody comes", pause_s=0)
    store.close()
    for thread in threads:
        thread.join()
    assert ended == [StoreClosedError] * 4
    until(lambda: not postgresql.sessions(), "a session is left")


def test_a_store_that_nobody_closed_ends_its_sessions(postgresql: Server, dsn: str) -> None:
    Store(dsn, frozen=False).open().set("k", 1)
    gc.collect()
    until(lambda: not postgresql.sessions(), "a session is left")
