"""Listening to sentinels: one thread for each, which is told of a failover at once."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic
from typing import Final, Protocol
from weakref import ReferenceType, ref

from rstore.backends.redis.transport.connection import FAILURES, Connection, connector, pack_command
from rstore.backends.redis.transport.dsn import Address, Target
from rstore.errors import StoreError

ASKING_S: Final = 1.0
"""How long one sentinel is waited for: there are others to ask."""
FRESH_S: Final = 3.0
"""How long an answer of a sentinel counts."""
_IDLE_S: Final = 0.2
"""How long a thread may go on listening after its store was closed or forgotten."""
_AGAIN_S: Final = 0.1
"""The pause after which a lost sentinel is tried again."""
# The slave, replica or primary in some of these names differs between Redis and Valkey, and what leads to it does not.
_CHANNELS: Final = (
    b"+switch-*", b"+failover-state-select-*", b"+failover-state-send-*", b"+promoted-*", b"+failover-end*",
    b"-failover-abort-*",
)  # fmt: skip


class Audience(Protocol):
    """The nodes that a listener tells."""

    def hear(self, sentinel: Address, channel: bytes, message: bytes) -> None: ...
    def look(self, sentinel: Address) -> float: ...
    def lost(self, sentinel: Address) -> None: ...


class Listener(Thread):
    """A thread that is subscribed to one sentinel, as long as its store is open and in use."""

    def __init__(self, nodes: Audience, sentinel: Address, target: Target) -> None:
        super().__init__(name="rstore sentinel", daemon=True)
        self._nodes: ReferenceType[Audience] = ref(nodes)  # a store that is never closed is to be collected
        self._sentinel = sentinel
        self._make = connector(target.of_sentinels(), ASKING_S)
        self._ended = Event()

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while self._lives():
            connection = self._make(self._sentinel)
            try:
                connection.connect()
                connection.send_packed_command([pack_command((b"PSUBSCRIBE", *_CHANNELS))], False)
                self._follow(connection)
            except (*FAILURES, StoreError):
                # Nothing is lost with it but time: the next call that asks the sentinels is told what is wrong.
                if (nodes := self._nodes()) is not None:
                    nodes.lost(self._sentinel)
                    del nodes
            finally:
                connection.disconnect()
            self._ended.wait(_AGAIN_S)

    def _lives(self) -> bool:
        return self._nodes() is not None and not self._ended.is_set()

    def _follow(self, connection: Connection) -> None:
        look_at, answered_at = 0.0, monotonic()
        while self._lives():
            left_s = max(0.0, min(look_at - monotonic(), _IDLE_S))
            if connection.can_read(left_s):
                kind, *said = connection.read_response(True)
                if kind == b"pmessage" and (nodes := self._nodes()) is not None:
                    nodes.hear(self._sentinel, *said[1:])
                    del nodes
                    look_at = 0.0
            elif monotonic() >= look_at and (nodes := self._nodes()) is not None:
                try:
                    look_at, answered_at = monotonic() + nodes.look(self._sentinel), monotonic()
                except FAILURES:
                    # One that is slow is listened to all the same: it may be about to say the one thing that matters.
                    look_at = monotonic() + _AGAIN_S
                    if monotonic() - answered_at > FRESH_S:
                        raise
                finally:
                    del nodes
