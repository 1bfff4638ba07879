"""A proxy before a Redis server that loses what it is told to lose: a request, or the reply to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a port of the loopback."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()  # guards the seven below
        self._pattern = b""
        self._skip = 0
        self._forward = True
        self._hang = False
        self._meanwhile: Callable[[], object] = lambda: None
        self.lost = 0
        self._late = b""
        self._silent = False
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(
        self,
        pattern: bytes,
        *,
        skip: int = 0,
        forward: bool,
        hang: bool = False,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Lose the next request that holds a pattern, or if it is to be forwarded the reply to it.

        The connection is closed then, after what others do `meanwhile`; with `hang`, it stays open, and no reply comes.
        """
        with self._lock:
            self._pattern, self._skip, self._forward, self.lost, self._hang = pattern, skip, forward, 0, hang
            self._meanwhile = meanwhile

    def lead_to(self, port: int) -> None:
        """Forward new connections to another port; those that are there stay where they are."""
        self._to = port

    def silence(self) -> None:
        """Take new connections, and forward nothing that comes through them."""
        self._silent = True

    def lead_nowhere(self) -> None:
        """Close new connections."""
        self.lead_to(0)

    def deliver(self) -> bytes:
        """Send what was lost after all, as a network does that was only slow; return the reply, which nobody gets."""
        with socket.create_connection(("127.0.0.1", self._to)) as server:
            server.sendall(self._late)
            return server.recv(1 << 20)

    def _verdict(self, request: bytes) -> tuple[bool, bool]:
        """Return whether to forward a request, and whether to lose the reply."""
        with self._lock:
            if not self._pattern or self._pattern not in request:
                return True, False
            if self._skip:
                self._skip -= 1
                return True, False
            self._pattern = b""
            self.lost += 1
            self._late = request
            return self._forward, True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Take turns, as one connection of a store does: what comes at once is a request, and so is the reply."""
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._to)) as server:
            loses = threading.Event()
            threading.Thread(target=self._reply, args=(client, server, loses), daemon=True).start()
            while request := client.recv(1 << 20):
                if self._silent:
                    continue
                forward, lose = self._verdict(request)
                if lose:
                    loses.set()
                if forward:
                    server.sendall(request)
                elif not self._hang:
                    return

    def _reply(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while reply := server.recv(1 << 20):
                if loses.is_set() and self._hang:
                    continue
                if loses.is_set():
                    self._meanwhile()
                    break
                client.sendall(reply)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
