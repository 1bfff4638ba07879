"""The connections to a master that Sentinel may replace: what it answers counts only as long as it is the master.

A planned failover makes a replica a master first, and tells the old one seconds later. All that the old one has
acknowledged in between is lost. So nothing is sent while a failover is under way, and what was answered meanwhile
counts once it is known that the master has stayed; otherwise its reply is taken for lost, and looked for on the new
master.
"""

from __future__ import annotations

from threading import Event
from typing import Final

from redis import exceptions as driver

from rstore.backends.redis.transport.connection import Connection
from rstore.backends.redis.transport.pool import RedisPool

_LONGEST_HOLD_S: Final = 10.0
"""How long a thread waits in one go for the end of a failover, and its time-out at most."""


class Tenure:
    """Whether a server is still the master. Threads share it; those that listen to the sentinels change it."""

    def __init__(self) -> None:
        self._known = Event()
        self._known.set()
        self.over = False
        """Whether another server is the master."""
        self.changing = False
        """Whether another server is the master, or may be soon."""

    def hold(self) -> None:
        """Let no thread send anything: a failover has begun."""
        if not self.over:
            self._known.clear()
            self.changing = True

    def release(self) -> None:
        """Let all threads go on: the failover was given up."""
        if not self.over:
            self.changing = False
            self._known.set()

    def end(self) -> None:
        self.over = self.changing = True
        self._known.set()

    def lasts(self, timeout_s: float) -> bool:
        """Wait until it is known whether the server stays the master; return whether it does."""
        self._known.wait(min(timeout_s, _LONGEST_HOLD_S))
        return not self.changing


class MasterPool(RedisPool):
    """The connections to one master."""

    tenure: Tenure

    @property
    def changing(self) -> bool:  # type: ignore[override]
        return self.tenure.changing

    def idle(self, *, checked: bool, now: float) -> Connection | None:
        return None if self.tenure.changing else super().idle(checked=checked, now=now)

    def take(self, *, checked: bool, within_s: float | None = None) -> Connection:
        if self.tenure.changing and not self.is_settled(self._timeout_s if within_s is None else within_s):
            raise driver.ConnectionError("another server becomes the master")
        return super().take(checked=checked, within_s=within_s)

    def is_settled(self, within_s: float) -> bool:
        return self.tenure.lasts(within_s)

    def aside(self) -> RedisPool:
        aside = super().aside()
        if isinstance(aside, MasterPool):
            aside.tenure = self.tenure
        return aside

    def give(self, connection: Connection) -> None:
        if self.tenure.over:
            connection.disconnect()
        else:
            super().give(connection)

    def retire(self) -> None:
        """Close all connections at once, also those that wait for a reply: another server is the master."""
        self.tenure.end()
        for pool in (self, self._aside):
            if pool is not None:
                pool.cut()
