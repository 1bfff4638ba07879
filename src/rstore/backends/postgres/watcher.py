"""Being woken by whoever writes to a namespace: LISTEN and NOTIFY, for which writers pay while somebody watches."""

from __future__ import annotations

import time
from time import monotonic
from typing import Final

from rstore.backends.postgres.binary import number
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.link import Call, Failed, Link, Lost, Statement
from rstore.backends.postgres.pool import Pool
from rstore.backends.postgres.sql import WATCHED_S, RecordSql
from rstore.backends.telemetry import Telemetry
from rstore.backends.types import Watcher
from rstore.errors import StoreError

_RENEW_S: Final = WATCHED_S / 3
_LISTENING_S: Final = 1.0
"""Whoever began to write before it was known that somebody watches does not notify, however late it commits."""
_POLLING_S: Final = 0.1
_AGAIN_S: Final = 1.0
# A session whose client reads nothing any more would keep the notifications of the whole database from being forgotten.
_FORGET = Statement("""
SELECT set_config('idle_session_timeout', '60s', false) WHERE current_setting('server_version_num')::int >= 140000""")


class PostgresWatcher(Watcher):
    """A session that listens. Where that cannot be, as behind a pooler, on a standby or without rights, it polls."""

    def __init__(self, place: Place, sql: RecordSql, name: bytes, timeout_s: float) -> None:
        # Not of the store's pool: there a few that watch would leave no connection to those who read and write.
        self._pool = Pool(place._replace(pool=1), Telemetry())
        self._sql = sql
        self._name = name
        self._timeout_s = timeout_s
        self._link: Link | None = None
        self._renew_at = 0.0
        self._begin_at: float | None = None
        """When to try next to listen; None: it was refused."""
        self._begin()

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody has written."""
        deadline = monotonic() + timeout_s
        if self._link is None and self._begin_at is not None and monotonic() >= self._begin_at and self._begin():
            return True
        if self._link is None:
            time.sleep(max(0.0, deadline - monotonic()))
            return False
        try:
            return self._hear(self._link, deadline)
        except (Lost, Failed):
            self._pool.drop(self._link)
            self._poll(again_at=monotonic())
            return True

    def _hear(self, link: Link, deadline: float) -> bool:
        if monotonic() >= self._renew_at:
            self._renew(link)
        while True:
            left_s = deadline - monotonic()
            if self._name in link.hear(max(0.0, left_s)):
                self._renew(link)  # it may be that the namespace was made anew
                return True
            if left_s <= 0:
                return False

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()
        if self._link is not None:
            self._pool.drop(self._link)

    def _begin(self) -> bool:
        """Return whether it listens from now on."""
        try:
            link = self._pool.take(monotonic())  # which takes a second at most
        except StoreError:
            # Whoever looks at the data is told what is wrong, unless it is right there, such as with one session less.
            self._poll(again_at=monotonic() + _AGAIN_S)
            return False
        try:
            (pid,) = link.run([(self._sql.who, ())], self._timeout_s)
            # A pooler hands the sessions of its server around: to listen in one would leave it listening for others.
            if number(pid) == link.pid:
                link.run([(_FORGET, ()), (self._sql.listen, ()), self._watch], self._timeout_s)
                self._link, self.every_s, self._renew_at = link, _LISTENING_S, monotonic() + _RENEW_S
                return True
        except Failed:
            pass
        except Lost:
            self._pool.drop(link)
            self._poll(again_at=monotonic() + _AGAIN_S)
            return False
        self._pool.drop(link)
        self._poll(again_at=None)
        return False

    def _renew(self, link: Link) -> None:
        link.run([self._watch], self._timeout_s)
        self._renew_at = monotonic() + _RENEW_S

    @property
    def _watch(self) -> Call:
        return self._sql.watch, (self._name,)

    def _poll(self, *, again_at: float | None) -> None:
        self._link, self.every_s, self._begin_at = None, _POLLING_S, again_at
