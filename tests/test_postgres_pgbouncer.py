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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql import PASSWORD, Server
from test_postgres_layout import use

from rstore import Store

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.fixture
def pgbouncer(postgresql: Server) -> Iterator[int]:
    """The port of a PgBouncer that hands out three sessions by the transaction."""
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
default_pool_size = 3
max_client_conn = 100
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
