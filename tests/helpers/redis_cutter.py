"""A proxy before a Redis server that cuts a connection after so many bytes, of requests or of replies."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Literal, Self

Side = Literal["requests", "replies"]
_NEVER: Final = 1 << 60


class Cutter:
    """Forwards connections to a port of the loopback, and counts what goes through in each direction."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()  # guards all below
        self._left: dict[Side, int] = {"requests": _NEVER, "replies": _NEVER}
        self._down = False
        self._stays_down = False
        self.seen: dict[Side, list[int]] = {"requests": [], "replies": []}
        """The sizes of the pieces that came, in their order."""
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self) -> None:
        """Count anew, and cut nothing."""
        with self._lock:
            self._left = {"requests": _NEVER, "replies": _NEVER}
            self._down = self._stays_down = False
            self.seen = {"requests": [], "replies": []}
            self.cuts = 0

    def cut(self, side: Side, after: int, *, for_good: bool) -> None:
        """Cut the connection that carries the byte behind so many; `for_good`: and close all that come after it."""
        self.count()
        with self._lock:
            self._left[side] = after
            self._stays_down = for_good

    def _passes(self, side: Side, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes that go through, and whether the connection ends with them."""
        with self._lock:
            self.seen[side].append(len(data))
            if len(data) <= self._left[side]:
                self._left[side] -= len(data)
                return data, self._down
            through = data[: self._left[side]]
            self._left[side] = _NEVER
            self.cuts += 1
            self._down = self._stays_down
            return through, True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    down = self._down
                if down:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._to))
                for source, sink, side in ((client, server, "requests"), (server, client, "replies")):
                    threading.Thread(target=self._forward, args=(source, sink, side), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, side: Side) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                through, ends = self._passes(side, data)
                sink.sendall(through)
                if ends:
                    break
        for end in (sink, source):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if side == "replies":
            source.close()
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
