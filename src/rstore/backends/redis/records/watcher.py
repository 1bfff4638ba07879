"""Watching records in Redis: its tracking for caches at the client tells which names were written to.

It costs writers nothing where no client watches, and their scripts need not know of it. It covers the records of a
generation, and the marker of each bucket, which is written when a generation or a batch takes the place of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from redis import exceptions as driver

from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.transport.client import Client
from rstore.backends.redis.transport.connection import FAILURES, Connection, Connector, pack_command
from rstore.backends.redis.transport.dsn import Address
from rstore.backends.types import Watcher

_TRACKING_S: Final = 1.0
"""Tracking hears nothing between a failover, or a slot that moves, and the notice of it."""
_POLLING_S: Final = 0.1
_AGAIN_S: Final = 0.5
_TURN_S: Final = 0.004
"""How long each of several servers is listened to: to listen to all at once takes the sockets, which are private."""
# Of clients that subscribe to something the server forgets those that do not read; of others it keeps everything.
_SUBSCRIBE: Final = pack_command((b"SUBSCRIBE", b"rs:nothing"))


class RedisWatcher(Watcher):
    """A connection to each server that holds some of the records. Where tracking is refused, it polls."""

    def __init__(
        self,
        client: Client,
        connect: Connector,
        buckets: Callable[[], Iterable[Bucket]],
        watched: Callable[[Bucket], bytes],
    ) -> None:
        """`watched` returns with what the names in a bucket begin that are watched."""
        self._client = client
        self._connect = connect
        self._buckets = buckets
        self._watched = watched
        self._tracked: dict[Address | None, tuple[bytes, ...]] = {}
        self._connections: dict[Address | None, Connection] = {}
        self._refused = False
        self._again_at = 0.0
        self.every_s = _POLLING_S
        self._track()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the server has sent something."""
        deadline = monotonic() + timeout_s
        if self._track():
            return True
        if not self._connections:
            time.sleep(timeout_s)
            return False
        while True:
            left_s = max(0.0, deadline - monotonic())
            servers = list(self._connections)
            heard = [self._hears(server, min(left_s, _TURN_S) if servers[1:] else left_s) for server in servers]
            if any(heard):
                return True
            if left_s <= 0:
                return False

    def close(self) -> None:
        """Close the connections."""
        for server in list(self._connections):
            self._drop(server)

    def _hears(self, server: Address | None, timeout_s: float) -> bool:
        """Return whether a server has sent something, or may have: the connection broke."""
        connection, heard = self._connections[server], False
        try:
            while connection.can_read(0.0 if heard else timeout_s):
                heard = True
                try:
                    connection.read_response(True, push_request=True)
                except driver.ResponseError:
                    continue  # it may not subscribe: then the server keeps for it what it does not read
        except FAILURES:
            self._drop(server)
            return True
        return heard

    def _track(self) -> bool:
        """Have the servers track the names of the current markers; return whether these were others before."""
        if self._refused or monotonic() < self._again_at:
            return False
        wanted = self._wanted()
        if wanted == self._tracked:
            return False
        for server in [server for server, prefixes in self._tracked.items() if wanted.get(server) != prefixes]:
            self._drop(server)
        for server in [server for server in wanted if server not in self._connections]:
            connection = self._connect(server)
            try:
                connection.connect()
                prefixes = [part for prefix in wanted[server] for part in (b"PREFIX", prefix)]
                track = pack_command((b"CLIENT", b"TRACKING", b"ON", b"BCAST", *prefixes))
                connection.send_packed_command([track], False)
                connection.read_response(True)
                connection.send_packed_command([_SUBSCRIBE], False)
            except (driver.ResponseError, driver.AuthenticationError):
                connection.disconnect()
                self._refused, self.every_s = True, _POLLING_S
                self.close()
                return True
            except FAILURES:
                # The next read is told what is wrong, and finds the server that stands in for this one.
                connection.disconnect()
                self._again_at, self.every_s = monotonic() + _AGAIN_S, _POLLING_S
                return True
            self._connections[server], self._tracked[server] = connection, wanted[server]
        self.every_s = _TRACKING_S
        return True

    def _wanted(self) -> dict[Address | None, tuple[bytes, ...]]:
        wanted: dict[Address | None, tuple[bytes, ...]] = {}
        for bucket in self._buckets():
            pool = self._client.server_of(bucket.slot)
            if pool is not None:
                prefixes = bucket.marker_key, self._watched(bucket)
                wanted[pool.address] = wanted.get(pool.address, ()) + prefixes
        return wanted

    def _drop(self, server: Address | None) -> None:
        self._connections.pop(server).disconnect()
        self._tracked.pop(server, None)
