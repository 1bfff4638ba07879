"""The connections of one open store: handed out to threads, replaced when they break, left alone after a fork.

Not psycopg_pool: its threads do not survive a fork, it finds dead connections by a statement before each use, and
handing one out takes as long as a lookup on it.

An interrupt may come between any two steps, also between taking a connection and the `try` that would give it back. So
nothing counts what is in use: a connection that is in use is referenced by its user alone, and where that was
interrupted, the connection and its *seat* in the pool go with the last reference. For the same reason there is no
`Condition`: its own code can be interrupted between taking its lock and the `with` that would let go of it.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock, RLock
from time import monotonic
from typing import Final
from weakref import WeakSet, finalize, ref

import psycopg

from rstore.backends.postgres.connecting import connect
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.errors import is_temporary, unreachable
from rstore.backends.postgres.link import Link
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError, StoreClosedError

_log: Final = logging.getLogger("rstore.postgres")
_IDLE_S: Final = 300.0
_MIN_S: Final = 1.0
"""So long is a server given to take a connection, however short the time-out is: a distant one needs some of that."""
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.5
_LOOK_S: Final = 0.1
"""A thread that waits looks as often by itself: a seat that is lost to an interrupt wakes nobody."""
_COLLECT_S: Final = 0.5
"""A thread that has waited so long collects garbage: a cycle of tracebacks of an interrupt may hold a seat."""
_COLLECT_SHARE: Final = 20
"""So many times as long as a collection took there is none: all threads of a large program stand still meanwhile."""
_PATIENT_S: Final = 0.1
"""A thread that has waited so long is handed the next connection. Before, whoever comes first has it: to change the
thread with every call takes several times as long."""


class Seat:
    """The right to one connection, for as long as somebody refers to it."""

    __slots__ = ("__weakref__",)


class _Waiter:
    """A thread that waits for a connection."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.link: Link | None = None
        self.queued = False
        self.bell = Lock()
        self.bell.acquire()


class Pool:
    """The connections of one open store. Threads share it; each takes one for a call, a transaction or a snapshot."""

    def __init__(self, place: Place, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._place = place
        self.prepare = place.prepare
        """Whether those that are opened from now on keep statements prepared."""
        self.closed = False
        self._begin_anew()
        _everything.add(self)

    def _begin_anew(self) -> None:
        self._lock = RLock()  # guards seats and what is set aside; taking and giving back an idle one needs none
        self._home = object()  # what the connections of this process, that are not dropped, are marked with
        self._idle: deque[Link] = deque()  # the one used last is taken first
        self._links: list[ref[Link]] = []  # all that were opened, and some that are gone
        self._seats: list[ref[Seat]] = []
        self._waiters: deque[_Waiter] = deque()  # whoever waits the longest is called first
        self._given_back_at = self._collects_at = 0.0
        # A store that nobody closed says farewell to its server when it is thrown away, and at the end of the process.
        self._farewell = finalize(self, _close_all, self._links)

    def __contains__(self, link: Link) -> bool:
        """Return whether a connection is still this process's own, and not dropped."""
        return link.home is self._home

    @property
    def links(self) -> list[Link]:
        """All connections that are open."""
        return [link for link in _alive(self._links) if link in self]

    def close(self) -> None:
        """Close the connections, each as soon as its thread is not using it."""
        self.closed = True
        self.drop_idle()
        for waiter in [*self._waiters]:
            _ring(waiter)

    def forget(self) -> None:
        """Let go, in the child of a fork, of what is its parent's."""
        links = self.links
        for link in links:
            link.abandon()
        # Kept for good: nothing may ever be said on them, not even farewell.
        self._farewell.detach()
        _abandoned.extend(links)
        self._begin_anew()

    def take(self, deadline: float) -> Link:
        """Return a connection for one call or one transaction, to be given back.

        Raises `StoreBusyError` if there is none by then.
        """
        return self._pop() or self._wait(deadline)

    def _pop(self) -> Link | None:
        """Return a connection that is idle and has not broken."""
        while True:
            try:
                link = self._idle.pop()
            except IndexError:
                return None
            if self.closed:
                self.drop(link)
                raise StoreClosedError("the store was closed meanwhile")
            if link.alive():
                return link
            lost = "%s: a connection was lost while nobody used it"
            self._telemetry.note(_log, Occurrence.RECONNECTION, lost, self._place.show)
            self.drop(link)

    def _wait(self, deadline: float) -> Link:
        """Return a connection that others give back, or a new one, whichever can be had first."""
        waiter = _Waiter(monotonic())
        link: Link | None = None
        try:
            link = self._wait_as(waiter, deadline)
            return link
        finally:
            self._leave_queue(waiter, link)

    def _wait_as(self, waiter: _Waiter, deadline: float) -> Link:
        knock_at, pause = waiter.since, _FIRST_PAUSE_S
        refused: psycopg.Error | None = None
        waits = False
        while True:
            if self.closed:
                raise StoreClosedError("the store was closed meanwhile")
            if monotonic() >= knock_at:
                seat = self._seat()
                if seat is not None:
                    made = self._connect(seat, deadline)
                    if isinstance(made, Link):
                        return made
                    refused = made
                    del seat
                    if self._drop_one_aside():
                        continue  # whose place at the server may be the one that is missing
                    if not is_temporary(refused):
                        raise unreachable(refused, self._place.show) from refused
                    knock_at, pause = monotonic() + pause, min(2 * pause, _LONGEST_PAUSE_S)
                elif self._drop_one_aside():
                    continue
            if not waits:
                waits = True
                wait = "%s: a call waits for one of %d connections"
                self._telemetry.note(_log, Occurrence.WAIT, wait, self._place.show, self._place.pool)
                self._waiters.append(waiter)
                waiter.queued = True
            now = monotonic()
            until = min(deadline, now + _LOOK_S, knock_at if knock_at > now else deadline)
            if (link := self._given(waiter, until)) is not None or (link := self._pop()) is not None:
                return link
            if (now := monotonic()) >= deadline:
                break
            if now >= min(waiter.since + _COLLECT_S, deadline - _LOOK_S):
                self._collect(waiter.since, now)
        if refused is not None:
            raise unreachable(refused, self._place.show) from refused
        raise StoreBusyError(
            f"{self._place.show}: all {self._place.pool} connections of the store stayed in use until the "
            "time-out; ?pool= allows more"
        )

    def _given(self, waiter: _Waiter, until: float) -> Link | None:
        """Wait until a connection may be idle; return one that is handed over.

        Whoever waits keeps its place in the queue while it looks around, and where it was called in vain, it is the
        first one again: in a queue that everybody joins anew, chance decides, and some wait several times as long.
        """
        # Before the wait, it may have been given back before this one stood in the queue.
        if self._idle or not waiter.bell.acquire(timeout=max(0.0, until - monotonic())):
            return waiter.link
        waiter.queued = False
        link = waiter.link or self._pop()
        if link is None:
            self._waiters.appendleft(waiter)
            waiter.queued = True
        return link

    def _leave_queue(self, waiter: _Waiter, link: Link | None) -> None:
        """End a wait that led to a connection or to an error; give back another one that it was handed meanwhile."""
        if waiter.queued:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                waiter.bell.acquire(timeout=_LOOK_S)  # it was called, and is handed one right now, or nothing
        if waiter.link is not None and waiter.link is not link:
            self.give_back(waiter.link)

    def _collect(self, since: float, now: float) -> None:
        """Collect garbage, if no connection was given back since a thread waits, and not too often."""
        if self._given_back_at < since and now >= self._collects_at:
            gc.collect()
            end = monotonic()
            self._collects_at = max(self._collects_at, end + _COLLECT_SHARE * (end - now))

    def _seat(self) -> Seat | None:
        """Return the right to open one more connection, if there is one left."""
        with self._lock:
            self._seats[:] = [one for one in self._seats if one() is not None]
            if len(self._seats) >= self._place.pool:
                return None
            seat = Seat()
            self._seats.append(ref(seat))
            return seat

    def _connect(self, seat: Seat, deadline: float) -> Link | psycopg.Error:
        connection = connect(self._place.login(), max(deadline, monotonic() + _MIN_S))
        if isinstance(connection, psycopg.Error):
            return connection
        link = Link(connection, prepare=self.prepare)
        link.seat, link.home = seat, self._home
        with self._lock:
            self._links[:] = [one for one in self._links if one() is not None]
            self._links.append(ref(link))
        return link

    def give_back(self, link: Link) -> None:
        """Take a connection back, unless it was dropped or has something left to do."""
        link.kept = False
        if link.home is not self._home:
            return
        if not link.reusable:
            self.drop(link)
            return
        now = link.used_at = self._given_back_at = monotonic()
        if self._waiters and not self.closed and self._hand_over(link, now):
            return
        self._idle.append(link)
        if self._waiters:  # since a moment ago: it may have found none that is idle before
            self._call()
        try:
            while self._idle[0].used_at < now - _IDLE_S:
                self.drop(self._idle.popleft())
        except IndexError:  # another thread has taken them
            pass
        if self.closed:
            self.drop_idle()

    def _hand_over(self, link: Link, now: float) -> bool:
        """Wake a thread that waits; return whether it has got the connection, since it has waited for long."""
        try:
            waiter = self._waiters.popleft()
        except IndexError:
            return False
        handed = waiter.since < now - _PATIENT_S
        if handed:
            waiter.link = link
        else:
            self._idle.append(link)
        _ring(waiter)
        return True

    def drop(self, link: Link) -> None:
        """End a session that nobody is to use again."""
        if link.home is not self._home:
            return
        link.home, link.seat, link.aside = None, None, False
        link.close()
        self._call()

    def _call(self) -> None:
        """Wake the thread that has waited the longest, if there is one."""
        with suppress(IndexError):
            _ring(self._waiters.popleft())

    def drop_idle(self) -> None:
        """End the sessions that nobody uses."""
        with suppress(IndexError):
            while True:
                self.drop(self._idle.pop())
        while self._drop_one_aside():
            pass

    # -- connections that are kept for longer than a call -------------------------------------------------------------

    def keep(self, link: Link) -> bool:
        """Return whether a connection may be kept for long: half of them may be, so that some are left for calls."""
        with self._lock:
            if sum(one.kept for one in self.links) >= self._place.pool // 2:
                return False
            link.kept = True
            return True

    def take_spare(self) -> Link | None:
        """Return a connection that is idle, if so few are kept that this one may be, too."""
        if self.closed or not self._idle:
            return None
        if sum(one.kept or one.aside for one in self.links) >= self._place.pool // 2:
            return None
        return self._pop()

    def leave(self, link: Link) -> None:
        """Set a connection aside on which an answer is under way, unless somebody needs its place meanwhile."""
        link.aside = True

    def claim(self, link: Link) -> bool:
        """Return whether such a connection is still there; it is the caller's again then, to be given back."""
        with self._lock:
            there = link.aside and link in self
            link.aside = False
            return there

    def _drop_one_aside(self) -> bool:
        """End a session whose answer can be asked for again, if there is one."""
        for link in self.links:
            if link.aside and self.claim(link):
                self.drop(link)
                return True
        return False


def _ring(waiter: _Waiter) -> None:
    with suppress(RuntimeError):  # it was rung already
        waiter.bell.release()


def _alive(links: Iterable[ref[Link]]) -> list[Link]:
    return [link for one in [*links] if (link := one()) is not None]


# -- forks ------------------------------------------------------------------------------------------------------------
# A child has its parent's sockets. Whatever it said on one, even farewell, the server would take for its parent's word.

_everything: WeakSet[Pool] = WeakSet()
_abandoned: list[Link] = []


def _close_all(links: list[ref[Link]]) -> None:
    for link in _alive(links):
        link.close()


def _after_fork_in_child() -> None:
    for pool in list(_everything):
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
