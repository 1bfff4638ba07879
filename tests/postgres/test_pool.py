"""Threads that wait for a connection: each has its turn, and none waits for one that lies idle or is lost."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
from postgresql import Server

from rstore import Store
from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.transport import pool

THREADS = 8
USER = "rstore_few"


@pytest.fixture
def few(postgresql: Server, postgresql_schema: str) -> Iterator[str]:
    """Return the DSN of a user to whom the server gives two connections, and not the ten of a store."""
    with postgresql.role(USER, "CONNECTION LIMIT 2") as password:
        postgresql.execute(f"GRANT CREATE ON DATABASE postgres TO {USER}")
        yield postgresql.tcp_dsn(USER, password, schema=postgresql_schema)


def held_in_turn(store: Store, rounds: int, hold_s: float) -> list[tuple[str, int]]:
    """Let threads begin transactions; return in which order they asked for one, and got one."""
    noted: list[tuple[str, int]] = []
    begin = Barrier(THREADS)

    def use(i: int) -> None:
        begin.wait()
        for _ in range(rounds):
            noted.append(("asked", i))
            with store.transaction() as tx:
                noted.append(("got", i))
                tx.get("a")
                time.sleep(hold_s)

    threads = [Thread(target=use, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return noted


def most_overtaken(noted: list[tuple[str, int]]) -> int:
    """Return how often, at most, others got a connection between a question for one and its answer."""
    waiting: dict[int, int] = {}
    most = 0
    for what, i in noted:
        if what == "asked":
            waiting[i] = 0
            continue
        most = max(most, waiting.pop(i))
        for other in waiting:
            waiting[other] += 1
    return most


def test_each_thread_has_its_turn(postgresql_dsn: str) -> None:
    """Longer than the time after which whoever waits is handed the next connection, so that nobody jumps the queue."""
    with Store(f"{postgresql_dsn}&pool=1", frozen=False, timeout=60) as store:
        noted = held_in_turn(store, 3, 1.2 * pool._PATIENT_S)  # noqa: SLF001
        assert len(noted) == 2 * 3 * THREADS
        assert most_overtaken(noted) < 1.5 * THREADS
        store.discard()


def test_threads_use_what_their_store_has_where_the_server_gives_no_more(few: str) -> None:
    with Store(few, frozen=False, timeout=60) as store:
        noted = held_in_turn(store, 2, 0.05)
        assert len(noted) == 2 * 2 * THREADS
        assert 0 < len(store._writer.backend._session.pool.connections) <= 2  # type: ignore[attr-defined]  # noqa: SLF001
        assert most_overtaken(noted) < 2 * THREADS
        store.discard()


def test_nothing_is_collected_while_connections_come_back(postgresql_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads of a program stand still while the garbage of a large one is collected."""
    collections: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collections.append(1))
    with Store(f"{postgresql_dsn}&pool=1", frozen=False, timeout=60) as store:
        held_in_turn(store, 1, 0.12)  # the last one waits longer than until it would collect
        assert collections == []
        store.discard()


def test_a_connection_that_is_garbage_is_not_waited_for(postgresql_dsn: str) -> None:
    # On a busy machine the pause between two collections, twenty times the length of one, takes seconds.
    with Store(f"{postgresql_dsn}&pool=1", frozen=False, timeout=60) as store:
        store["a"] = 1
        gc.disable()
        try:
            for _ in range(3):
                lose_one(store)
                assert store["a"] == 1
        finally:
            gc.enable()
        store.discard()


def test_garbage_is_collected_before_a_wait_fails(postgresql_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(f"{postgresql_dsn}&pool=1", frozen=False, timeout=0.3) as store:
        store["a"] = 1
        monkeypatch.setattr(pool, "_LOOK_S", 10.0)  # the thread wakes when the time is up, as on a busy machine
        gc.disable()
        try:
            lose_one(store)
            assert store["a"] == 1
        finally:
            gc.enable()
        store.discard()


def lose_one(store: Store) -> None:
    """Leave a connection to the tracebacks of an interrupt, which are a cycle."""
    session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001
    cycle = [session.pool.take(Deadline(1))]
    cycle.append(cycle)


def test_a_connection_that_comes_too_late_goes_to_the_next_one(postgresql_dsn: str) -> None:
    """It may be handed to a thread that has just given up, or has just found another one."""
    with Store(f"{postgresql_dsn}&pool=1", frozen=False, timeout=5) as store:
        store["a"] = 1
        session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001
        ours: pool.ConnectionPool = session.pool
        connection = ours.take(Deadline(1))
        late = pool._WaitingThread()  # noqa: SLF001
        late.since -= 1
        late.queued = True
        ours._waiters.append(late)  # noqa: SLF001
        ours.give_back(connection)
        assert late.connection is connection
        ours._leave_queue(late, None)  # noqa: SLF001
        assert ours.take(Deadline(1)) is connection
        ours.give_back(connection)
        store.discard()


def test_no_connection_outlives_a_store_that_is_closed_while_others_wait(postgresql_dsn: str) -> None:
    """Whoever is called then finds the store closed, and leaves what came back where it lies."""
    with Store(postgresql_dsn, frozen=False) as store:
        store.discard()
        session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001
        ours: pool.ConnectionPool = session.pool
        connection = ours.take(Deadline(1))
        ours._waiters.append(pool._WaitingThread())  # noqa: SLF001
    ours.give_back(connection)
    assert (ours.connections, [*ours._idle]) == ([], [])  # noqa: SLF001
