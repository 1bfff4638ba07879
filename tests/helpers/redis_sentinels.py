"""A service that Sentinel looks after: a master with two replicas, and three sentinels, on the loopback."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Final

import redis
from redis_servers import Server, executables
from waiting import until

SERVICE: Final = "the-service"


class Sentinel(Server):
    """One sentinel, which looks after the service."""

    def __init__(
        self,
        directory: Path,
        *lines: str,
        executable: Path | None = None,
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        self._lines = lines
        super().__init__(directory, executable=executable, tls=tls)

    def start(self, *options: str, loaded: bool = True) -> None:
        """Start it, with what it has noted before, if anything."""
        del loaded  # there is nothing to load
        file = self.directory / "sentinel.conf"
        if not file.exists():
            port = "port" if self.tls is None else "port 0\ntls-port"
            file.write_text("\n".join([f"{port} {self.port}", "bind 127.0.0.1", "logfile log", *self._lines]) + "\n")
        command = [str(self.executable), str(file), "--sentinel", *options]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=self.directory)
        self._await(f"the sentinel on port {self.port} does not answer; see {self.directory}/log")

    def master(self) -> int:
        """Return the port of whom it takes for the master."""
        return int(self.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def facts(self) -> dict[str, str]:
        """Return its facts about the service."""
        flat = [part.decode() for part in self.do("SENTINEL", "MASTER", SERVICE)]
        return dict(zip(flat[::2], flat[1::2], strict=True))


class Service:
    """The servers and the sentinels. A failover leaves it as whole as it was, with another master."""

    def __init__(
        self,
        directory: Path,
        *,
        down_ms: int = 1000,
        options: tuple[str, ...] = (),
        lines: tuple[str, ...] = (),
        executable: Path | None = None,
        password: str | None = None,
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        given_tls: tuple[tuple[str, str], ...] = ()
        if tls is not None:
            files = zip(("tls-cert-file", "tls-key-file", "tls-ca-cert-file"), map(str, tls), strict=True)
            given_tls = (*files, ("tls-replication", "yes"), ("tls-auth-clients", "no"))
            plain = ("--port", "0")
            options = (*options, *plain, *(part for name, value in given_tls for part in (f"--{name}", value)))
            lines = (*lines, *(f"{name} {value}" for name, value in given_tls))
        self.servers: list[Server] = []
        self.sentinels: list[Sentinel] = []
        executable = executable or next(iter(executables().values()))
        try:
            for _ in range(3):
                first = [("--replicaof", "127.0.0.1", f"{self.servers[0].port}")] if self.servers else []
                given = (*options, *(part for one in first for part in one), "--repl-ping-replica-period", "1")
                self.servers.append(Server(directory, *given, executable=executable, password=password, tls=tls))
            conf = (
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 2",
                f"sentinel down-after-milliseconds {SERVICE} {down_ms}",
                f"sentinel failover-timeout {SERVICE} 10000",
                f"sentinel parallel-syncs {SERVICE} 1",
                *lines,
            )
            self.sentinels += (Sentinel(directory, *conf, executable=executable, tls=tls) for _ in range(3))
            self.until_whole()
        except BaseException:
            self.kill()
            raise

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def dsn(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}"

    def master(self) -> Server:
        """Return the server that most sentinels take for the master."""
        ports = [sentinel.master() for sentinel in self.sentinels if sentinel.running]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def replicas(self) -> list[Server]:
        """Return the servers that replicate the master."""
        return [server for server in self.servers if server.running and not server.is_master()]

    def mend(self) -> None:
        """Start what was killed, let the masters of before replicate, as Sentinel does after a while, and wait."""
        for server in self.servers:
            if not server.running:
                server.start("--replicaof", "127.0.0.1", f"{self.master().port}")
        for sentinel in self.sentinels:
            if not sentinel.running:
                sentinel.start()
        agreed = "the sentinels do not agree"
        until(lambda: _answers(lambda: len({one.master() for one in self.sentinels}) == 1), agreed, pause_s=0.05)
        master = self.master()
        until(lambda: _answers(master.is_master), "the sentinels know a master that is none")
        for server in self.servers:
            if server is not master and server.do("ROLE")[2] != master.port:  # of a master something else stands there
                server.do("REPLICAOF", "127.0.0.1", master.port)
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until all know of one another, and the replicas have what the master has."""

        def is_whole() -> bool:
            facts = [sentinel.facts() for sentinel in self.sentinels]
            return (
                all(one["num-slaves"] == "2" and one["num-other-sentinels"] == "2" for one in facts)
                and len({(one["port"], one["flags"]) for one in facts}) == 1
                and facts[0]["flags"] == "master"
                and [server for server in self.servers if server.is_master()] == [self.master()]
                and all(server.do("ROLE")[3] == b"connected" for server in self.replicas())
                and all(one.do("SENTINEL", "CKQUORUM", SERVICE).startswith(b"OK 3") for one in self.sentinels)
                and all(_sees_replicas(one) for one in self.sentinels)
            )

        until(lambda: _answers(is_whole), "the service is not whole", pause_s=0.05, patience_s=60)

    def fail_over(self, *, wait: bool = True) -> float:
        """Make another server the master, as an operator does; return when that was asked for."""
        before = self.master().port
        until(
            lambda: _answers(lambda: self.sentinels[0].do("SENTINEL", "FAILOVER", SERVICE)), "no failover", pause_s=0.2
        )
        at = time.monotonic()
        if wait:
            until(lambda: all(one.master() != before for one in self.sentinels), "nobody takes over")
        return at

    def flush(self) -> None:
        """Empty it."""
        self.master().do("FLUSHALL")

    def kill(self) -> None:
        """End all servers."""
        for server in (*self.sentinels, *self.servers):
            server.kill()


def _sees_replicas(sentinel: Sentinel) -> bool:
    replicas: list[Any] = sentinel.do("SENTINEL", "REPLICAS", SERVICE)
    facts = [dict(zip(one[::2], one[1::2], strict=True)) for one in replicas]
    return all(one[b"flags"] == b"slave" for one in facts)


def _answers(question: Any) -> bool:
    try:
        return bool(question())
    except redis.RedisError:
        return False
