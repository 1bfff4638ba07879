"""Through PgBouncer in transaction mode: each transaction may run in another session."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql import PASSWORD, Server
from statements import use

from rstore import OutcomeUnknownError, Store, StoreBusyError, StoreNotAvailableError

SESSIONS = 3
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.fixture
def pgbouncer(postgresql: Server, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a PgBouncer that hands out three sessions by the transaction; the parameter is how long one waits."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    as_user: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, postgresql.role("somebody", "SUPERUSER") as password:
        directory = Path(name)
        (directory / "users").write_text(f'"somebody" "{password}"\n')
        (directory / "ini").write_text(
            f"""[databases]
postgres = host={postgresql.directory} port={postgresql.port} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 100
query_wait_timeout = {getattr(request, "param", 120)}
"""
        )
        if os.geteuid() == 0:  # PgBouncer refuses root as well
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (directory, *directory.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        assert PGBOUNCER is not None
        process = subprocess.Popen(
            [PGBOUNCER, "-q", directory / "ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user
        )
        try:
            _await(postgresql, port)
            yield port
        finally:
            process.terminate()
            process.wait(10)
            postgresql.execute("REASSIGN OWNED BY somebody TO postgres")


def _await(postgresql: Server, port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(postgresql.tcp_dsn("somebody", PASSWORD, port=port).rstrip("?")).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


@pytest.mark.parametrize("options", [{}, {"prepare": "no"}], ids=["prepared at first", "never prepared"])
def test_everything_through_a_pooler(
    postgresql: Server, postgresql_schema: str, pgbouncer: int, options: dict[str, str]
) -> None:
    """PgBouncer before 1.21 loses prepared statements; the store finds that out, or is told."""
    dsn = postgresql.tcp_dsn("somebody", PASSWORD, port=pgbouncer, schema=postgresql_schema, **options)
    use(dsn)
    with Store(dsn, frozen=False) as store:

        def work(who: int) -> None:
            for i in range(50):
                store.set(f"{who}", i)
                assert store[f"{who}"] == i
                store.extend("s", (who * 1000 + i, i))
                store.apply("e", {f"{who}": i})

        threads = [threading.Thread(target=work, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert dict(store) == {f"{who}": 49 for who in range(6)}
        assert len(store.range("s")) == 300
        assert store.current("e") == {f"{who}": 49 for who in range(6)}
        with Store(dsn) as frozen:
            assert frozen.find() == store.find()
        store.discard()


def test_watching_through_a_pooler_leaves_no_session_listening(
    postgresql: Server, postgresql_schema: str, pgbouncer: int
) -> None:
    dsn = postgresql.tcp_dsn("somebody", PASSWORD, port=pgbouncer, schema=postgresql_schema)
    with Store(dsn, frozen=False) as store, store.watch(timeout=10) as changes:
        store["a"] = 1
        change = next(changes)
        assert (change.key, change.entry and change.entry.value) == ("a", 1)
        assert postgresql.execute(f'SELECT watched_until FROM "{postgresql_schema}".namespaces') == [(None,)]


def transact(store: Store) -> None:
    with store.transaction() as tx:
        tx["k"] = "new"


CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda s: s.get("k"),
    "items": lambda s: list(s.items()),
    "set": lambda s: s.set("k", "new"),
    "add": lambda s: s.add("other", "new"),
    "extend": lambda s: s.extend("s", (1, "new")),
    "apply": lambda s: s.apply("e", {"x": "new"}),
    "clear": lambda s: s.clear(),
    "transaction": transact,
    "opening": lambda s: Store(s._dsn, timeout=10).open(),  # noqa: SLF001
}


@pytest.fixture
def full(postgresql: Server, postgresql_schema: str, pgbouncer: int) -> Iterator[Callable[[float], Store]]:
    """What opens a store behind a PgBouncer and takes all its sessions; it has to be as it was in the end."""
    with ExitStack() as stack:

        def opened(timeout: float) -> Store:
            dsn = postgresql.tcp_dsn("somebody", PASSWORD, port=pgbouncer, schema=postgresql_schema)
            store = stack.enter_context(Store(dsn, frozen=False, timeout=timeout))
            store["k"] = "old"
            store.extend("s", (0, "old"))
            store.apply("e", {"x": "old"})
            for _ in range(SESSIONS):
                conninfo = f"host=127.0.0.1 port={pgbouncer} user=somebody password={PASSWORD} dbname=postgres"
                stack.enter_context(psycopg.connect(conninfo)).execute("SELECT 1")
            return store

        yield opened
    with Store(postgresql.dsn(schema=postgresql_schema)) as store:
        assert store.find() == [("k", "old")]
        assert (store.range("s"), store.current("e")) == ([(0, "old")], {"x": "old"})


@pytest.mark.parametrize("pgbouncer", [0.2], indirect=True)
def test_a_pooler_that_has_no_session_free_has_passed_on_nothing(full: Callable[[float], Store]) -> None:
    store = full(20)
    for name, call in CALLS.items():
        began = time.monotonic()
        with pytest.raises(StoreBusyError, match=r"query_wait_timeout.*nothing was applied"):
            call(store)
        assert time.monotonic() - began < 5, name


def test_a_pooler_that_is_waited_for_longer_than_the_time_out(full: Callable[[float], Store]) -> None:
    """Nobody knows whether it has passed on what it was sent."""
    store = full(0.3)
    with pytest.raises(OutcomeUnknownError):
        store.set("k", "new")
    with pytest.raises(StoreNotAvailableError):
        store.get("k")
