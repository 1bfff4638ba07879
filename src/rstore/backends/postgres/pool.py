"""The connections of one open store: handed out to threads, replaced when they break, left alone after a fork.

Not psycopg_pool: its threads do not survive a fork, it finds dead connections by a statement before each use, and
handing one out takes as long as a lookup on it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from threading import Condition
from time import monotonic
from typing import Final
from weakref import WeakSet, finalize

import psycopg

from rstore.backends.postgres.connecting import connect
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.errors import is_temporary, unreachable
from rstore.backends.postgres.link import Link
from rstore.errors import StoreBusyError, StoreClosedError

_IDLE_S: Final = 300.0
_LEAST_S: Final = 1.0
"""So long is a server given to take a connection, however short the time-out is: a distant one needs some of that."""


class Pool:
    """The connections of one open store. Threads share it; each takes one for a call, a transaction or a snapshot."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.prepare = place.prepare
        """Whether those that are opened from now on keep statements prepared."""
        self.closed = False
        self._begin_anew()
        _everything.add(self)

    def _begin_anew(self) -> None:
        self._changed = Condition()  # guards all below, and says when one of them changed
        self._idle: deque[Link] = deque()  # the one used last is taken first
        self._links: set[Link] = set()  # all that are open
        self._free = self._place.pool  # how many more may be
        self._kept: set[Link] = set()  # those that somebody reads from one moment
        self._spare: set[Link] = set()  # those on which an answer is under way that can be asked for again
        # A store that nobody closed says farewell to its server when it is thrown away, and at the end of the process.
        self._farewell = finalize(self, _close_all, self._links)

    def __contains__(self, link: Link) -> bool:
        """Return whether a connection is still this process's own, and not dropped."""
        return link in self._links

    def close(self) -> None:
        """Close the connections, each as soon as its thread is not using it."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        self.drop_idle()

    def forget(self) -> None:
        """Let go, in the child of a fork, of what is its parent's."""
        for link in self._links:
            link.abandon()
        # Kept for good: nothing may ever be said on them, not even farewell.
        self._farewell.detach()
        _abandoned.extend(self._links)
        self._begin_anew()

    def take(self, deadline: float) -> Link:
        """Return a connection for one call or one transaction, to be given back.

        Raises `StoreBusyError` if there is none by then.
        """
        while True:
            if not (self._idle or self._free):
                self._drop_spare()
            link = self._take_idle(deadline)
            if link is None:
                return self._connect(deadline)
            if link.alive():
                return link
            self.drop(link)

    def take_spare(self) -> Link | None:
        """Return a connection that is idle, if so few are kept that this one may be, too."""
        with self._changed:
            if self.closed or not self._idle or len(self._kept) + len(self._spare) >= self._place.pool // 2:
                return None
            link = self._idle.pop()
        try:
            if link.alive():
                return link
        except BaseException:
            self.drop(link)
            raise
        self.drop(link)
        return None

    def leave(self, link: Link) -> None:
        """Keep a connection on which an answer is under way, unless somebody needs its place meanwhile."""
        with self._changed:
            if link in self._links:
                self._spare.add(link)

    def claim(self, link: Link) -> bool:
        """Return whether such a connection is still there; it is the caller's again then, to be given back."""
        with self._changed:
            if link not in self._spare:
                return False
            self._spare.remove(link)
            return True

    def _drop_spare(self) -> bool:
        """End a session whose answer can be asked for again, if there is one."""
        with self._changed:
            if not self._spare:
                return False
            link = self._spare.pop()
        self.drop(link)
        return True

    def keep(self, link: Link) -> bool:
        """Return whether a connection may be kept for long: half of them may be, so that some are left for calls."""
        with self._changed:
            if len(self._kept) >= self._place.pool // 2:
                return False
            self._kept.add(link)
            return True

    def _take_idle(self, deadline: float) -> Link | None:
        """Return a connection that is idle, or None for a place in which one may be opened, waiting for either."""
        with self._changed:
            if not self._idle and not self._free:
                self._changed.wait_for(lambda: self._idle or self._free or self.closed, deadline - monotonic())
            if self.closed:
                raise StoreClosedError("the store was closed meanwhile")
            if self._idle:
                return self._idle.pop()
            if not self._free:
                raise StoreBusyError(
                    f"{self._place.show}: all {self._place.pool} connections of the store stayed in use until the "
                    "time-out; ?pool= allows more"
                )
            self._free -= 1
            return None

    def give_back(self, link: Link) -> None:
        """Take a connection back, unless it was dropped or has something left to do."""
        stale: list[Link] = []
        with self._changed:
            self._kept.discard(link)
            if link not in self._links:
                return
            if self.closed or not link.reusable:
                stale.append(link)
            else:
                link.used_at = monotonic()
                self._idle.append(link)
                while self._idle[0].used_at < link.used_at - _IDLE_S:
                    stale.append(self._idle.popleft())
                self._changed.notify()
        for one in stale:
            self.drop(one)

    def drop(self, link: Link) -> None:
        """End a session that nobody is to use again."""
        with self._changed:
            if link not in self._links:
                return
            self._links.remove(link)
            self._kept.discard(link)
            self._free += 1
            self._changed.notify()
        link.close()

    def drop_idle(self) -> None:
        """End the sessions that nobody uses."""
        with self._changed:
            idle = [*self._idle, *self._spare]
            self._idle.clear()
            self._spare.clear()
        for link in idle:
            self.drop(link)

    def _connect(self, deadline: float) -> Link:
        try:
            link = self._try_connect(deadline)
        except BaseException:
            with self._changed:
                self._free += 1
                self._changed.notify()
            raise
        self._links.add(link)
        return link

    def _try_connect(self, deadline: float) -> Link:
        pause = 0.01
        while True:
            connection = connect(self._place.login(), max(deadline, monotonic() + _LEAST_S))
            if isinstance(connection, psycopg.Connection):
                return Link(connection, prepare=self.prepare)
            if self._drop_spare():
                continue  # whose place at the server may be the one that is missing
            if not is_temporary(connection) or monotonic() + pause > deadline:
                raise unreachable(connection, self._place.show) from connection
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


# -- forks ------------------------------------------------------------------------------------------------------------
# A child has its parent's sockets. Whatever it said on one, even farewell, the server would take for its parent's word.

_everything: WeakSet[Pool] = WeakSet()
_abandoned: list[Link] = []


def _close_all(links: set[Link]) -> None:
    for link in links:
        link.close()


def _after_fork_in_child() -> None:
    for pool in list(_everything):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
