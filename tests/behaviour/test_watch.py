"""What a watch does where a connection breaks, a right is missing, a file is replaced, or the process forks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql import PASSWORD, Server
from processes import forked
from redis_servers import Server as RedisServer

from rstore import Store, StoreClosedError, Watched
from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.sql.records import RecordSql
from rstore.backends.postgres.watcher import PostgresWatcher

PATIENCE_S = 10.0
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(params=["memory", "sqlite", "postgresql", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    places = {"memory": f"memory://{tmp_path}", "sqlite": f"{tmp_path}/store.db"}
    dsn = places.get(request.param) or request.getfixturevalue(f"{request.param}_dsn")
    with Store(dsn, frozen=False, durability="normal") as store:
        yield store
        store.discard()


def told(changes: Iterable[Watched]) -> list[tuple[str, Any]]:
    return [(key, None if entry is None else entry.value) for key, entry in changes]


@contextmanager
def waited_for(changes: Iterator[Watched]) -> Generator[list[Watched]]:
    """Wait for one change in another thread, while something is done to what it waits on."""
    found: list[Watched] = []
    thread = threading.Thread(target=lambda: found.append(next(changes)))
    thread.start()
    time.sleep(0.02)
    yield found
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@forks
def test_a_watch_is_its_parents_after_a_fork(store: Store) -> None:
    changes = store.watch(timeout=PATIENCE_S)
    shared = "memory" not in repr(store)

    def child() -> None:
        with pytest.raises(StoreClosedError, match="fork"):
            next(changes)
        changes.close()
        with store.watch(timeout=PATIENCE_S) as own:
            store["child"] = 1
            assert told([next(own)]) == [("child", 1)]

    with waited_for(changes) as found:
        forked(child)()
        if not shared:
            store["child"] = 1
    assert told(found) == [("child", 1)]
    store["parent"] = 1
    assert told([next(changes)]) == [("parent", 1)]


def test_whoever_is_slow_is_told_what_is_there_by_then(store: Store) -> None:
    store.update({f"{i}": 0 for i in range(9)})
    with store.watch(timeout=0) as changes:
        store.update({f"{i}": 1 for i in range(5)})
        assert told([next(changes)]) == [("0", 1)]
        assert told([next(changes)]) == [("1", 1)]
        store.update({"2": 2, "8": 2})
        store.delete("3")
        time.sleep(0.11)
        assert sorted(told(changes)) == [("2", 2), ("3", None), ("4", 1), ("8", 2)]


def test_two_threads_that_share_one_are_told_different_changes(store: Store) -> None:
    with store.watch(timeout=PATIENCE_S) as changes, waited_for(changes) as one, waited_for(changes) as other:
        store.update(a=1, b=2)
    assert sorted(told([*one, *other])) == [("a", 1), ("b", 2)]


# -- SQLite -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_and_removed(tmp_path: Path) -> None:
    path, other = tmp_path / "store.db", tmp_path / "other.db"
    with Store(other, frozen=False) as store:
        store.update(a=2, new=3)
    with Store(path, frozen=False) as store, store.watch(timeout=PATIENCE_S) as changes:
        store.update(a=1, b=1)
        assert told(next(changes) for _ in range(2)) == [("a", 1), ("b", 1)]
        other.replace(path)
        assert told(next(changes) for _ in range(3)) == [("a", 2), ("new", 3), ("b", None)]
        path.unlink()
        assert told(next(changes) for _ in range(2)) == [("a", None), ("new", None)]
        store["a"] = 4
        assert told([next(changes)]) == [("a", 4)]


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


@contextmanager
def listening(server: Server, schema: str) -> Generator[psycopg.Connection]:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(f"LISTEN {RecordSql(schema).channel}".encode())
        yield connection


def test_writers_notify_only_while_somebody_watches(postgresql: Server, postgresql_schema: str) -> None:
    with (
        Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store,
        Store(postgresql.dsn(schema=postgresql_schema), "other", frozen=False) as other,
        listening(postgresql, postgresql_schema) as connection,
    ):

        def heard() -> list[str]:
            return [notify.payload for notify in connection.notifies(timeout=0.05)]

        heard()
        writes = [
            lambda: store.set("a", 1), lambda: store.update(b=2, c=3), lambda: store.add("d", 4),
            lambda: store.delete("a"), lambda: store.touch("b", 10), lambda: store.delete_prefix("b"), store.clear,
        ]  # fmt: skip
        for write in writes:
            write()
        assert heard() == []
        with other.watch(timeout=0):
            store["a"] = 1
            assert heard() == []
        with store.watch(timeout=0):
            for write in writes:
                write()
                assert heard() == ["default"]
            store.extend("s", (1, 1))
            store.apply("e", {"a": 1})
            assert heard() == []
        # Writers of themselves take nobody's word for longer than he gave it.
        postgresql.execute(f'UPDATE "{postgresql_schema}".namespaces SET watched_until = now()')
        store["a"] = 1
        assert heard() == []


def test_what_nobody_was_notified_of_is_seen_within_a_second(postgresql: Server, postgresql_schema: str) -> None:
    """As of a transaction that began before anybody watched."""
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store["a"] = 1
        with store.watch(timeout=PATIENCE_S) as changes:
            began = time.monotonic()
            postgresql.execute(f'DELETE FROM "{postgresql_schema}".records')
            assert told([next(changes)]) == [("a", None)]
            assert time.monotonic() - began < 3


def test_a_session_that_is_ended_is_followed_by_another(postgresql: Server, postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as store, store.watch(timeout=PATIENCE_S) as changes:
        with waited_for(changes) as found:
            ended = postgresql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE query LIKE '%SET watched_until =%' AND pid <> pg_backend_pid()"
            )
            assert ended == [(True,)]
            store["a"] = 1
        assert told(found) == [("a", 1)]
        store["a"] = 2
        assert told([next(changes)]) == [("a", 2)]


def test_a_watcher_that_loses_its_session_while_another_thread_closes_it(
    postgresql_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(postgresql_dsn, frozen=False) as store:
        backend: Any = store._writer.backend  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001
        with backend.watcher([], "") as watcher, monkeypatch.context() as losing:
            looks = [watcher._connection, None]  # noqa: SLF001 - at the second look the session is lost
            losing.setattr(PostgresWatcher, "_connection", property(lambda _: looks.pop(0)), raising=False)
            watcher.close()
            assert looks == [None]


def test_a_watcher_that_is_closed_while_it_begins_anew_keeps_no_session(postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as store:
        backend: Any = store._writer.backend  # type: ignore[attr-defined,unused-ignore]  # noqa: SLF001
        with backend.watcher([], "") as watcher:
            ours: Any = watcher._pool  # noqa: SLF001
            ours.drop(watcher._connection)  # noqa: SLF001
            watcher._connection, real = None, ours.take  # noqa: SLF001

            def take(deadline: Deadline) -> object:
                connection = real(deadline)
                watcher.close()  # as another thread does
                return connection

            ours.take = take
            watcher._begin()  # noqa: SLF001
            assert ours.connections == []


def test_a_reader_without_the_right_to_say_that_it_watches(postgresql: Server, postgresql_schema: str) -> None:
    schema = postgresql_schema
    with Store(postgresql.dsn(schema=schema), frozen=False) as store, postgresql.role("reader"):
        postgresql.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO reader')
        postgresql.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO reader')
        dsn = postgresql.tcp_dsn("reader", PASSWORD, schema=schema)
        with Store(dsn) as reader, reader.watch(timeout=PATIENCE_S) as changes:
            store["a"] = 1
            assert told([next(changes)]) == [("a", 1)]
            assert postgresql.execute(f'SELECT watched_until FROM "{schema}".namespaces') == [(None,)]


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_a_connection_to_redis_that_is_ended_is_followed_by_another(redis_server: RedisServer, redis_dsn: str) -> None:
    with Store(redis_dsn, frozen=False) as store, store.watch("a", timeout=PATIENCE_S) as changes:
        with waited_for(changes) as found:
            for kind in ("normal", "pubsub"):
                with suppress(Exception):  # this one ends, too
                    redis_server.do("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            store["a"] = 1
        assert told(found) == [("a", 1)]
        store["a"] = 2
        assert told([next(changes)]) == [("a", 2)]


def test_a_user_of_redis_who_may_not_track(redis_server: RedisServer, redis_dsn: str) -> None:
    rights = ["~rs*", "+@all", "-@admin", "-@dangerous", "+info", "-client"]
    redis_server.do("ACL", "SETUSER", "modest", "on", ">secret", *rights)
    try:
        with (
            Store(redis_dsn.replace("//", "//modest:secret@"), frozen=False) as store,
            store.watch(timeout=PATIENCE_S) as changes,
        ):
            store["a"] = 1
            assert told([next(changes)]) == [("a", 1)]
    finally:
        redis_server.do("ACL", "DELUSER", "modest")


def test_what_is_not_read_is_not_kept_without_end(redis_server: RedisServer, redis_dsn: str) -> None:
    """The server bounds what it keeps for clients that subscribe, and ends them then."""
    with Store(redis_dsn, frozen=False) as store, store.watch(timeout=0):
        kinds = redis_server.do("CLIENT", "LIST", "TYPE", "pubsub")
        assert len(kinds if isinstance(kinds, list) else kinds.splitlines()) == 1
        assert store.keys() == []
