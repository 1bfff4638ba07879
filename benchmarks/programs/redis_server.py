"""A Redis server of a measured program's own: empty, on a free port, gone with the program."""

from __future__ import annotations

import atexit
import socket
import subprocess
import time
from pathlib import Path


def start(directory: Path, executable: str) -> int:
    """Start a server that saves nothing, and return its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    options = ("--port", f"{port}", "--bind", "127.0.0.1", "--save", "", "--dir", str(directory), "--logfile", "log")
    server = subprocess.Popen((executable, *options), stdin=subprocess.DEVNULL)  # noqa: S603 - the one that was named
    atexit.register(server.kill)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if server.poll() is not None:
                raise SystemExit(f"{executable} does not start") from None
            time.sleep(0.01)
        else:
            return port
