"""What stands between rstore and a PostgreSQL server, and loses what it is told to lose."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from postgresql import Server


class Proxy:
    """Passes on what both sides say. The attributes say what is lost from now on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self.answers_to_lose = 0
        self.questions_to_lose = 0
        self.deaf = False
        self.then: Callable[[], object] = lambda: None  # done when an answer was lost, before the client knows it
        self.round_trips = 0
        self._clients: list[socket.socket] = []
        self._stopped = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._stopped = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self) -> None:
        """Break the connections of the clients; the server learns of it when it has something to say."""
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopped:
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._clients.append(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        asked = False
        with client, socket.create_connection(("127.0.0.1", self._server.port)) as server, suppress(OSError):
            while not self._stopped:
                ready, _, _ = select.select([client, server], [], [], 0.05)
                if client in ready:
                    data = client.recv(1 << 16)
                    if not data:
                        return
                    if self.questions_to_lose:
                        self.questions_to_lose -= 1
                        return
                    self.round_trips += not asked
                    asked = True
                    server.sendall(data)
                if server in ready:
                    data = server.recv(1 << 16)
                    if self.deaf:
                        continue
                    if self.answers_to_lose:
                        self.answers_to_lose -= 1
                        self.then()
                        return
                    if not data:
                        return
                    asked = False
                    client.sendall(data)
