"""The connections of one open store: handed out to threads, replaced when they break, left alone after a fork.

Not psycopg_pool: its threads do not survive a fork, it finds dead connections by a statement before each use, and
handing one out takes as long as a lookup on it.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from threading import Condition, local
from time import monotonic
from typing import Any, Final, TypeAlias
from weakref import WeakSet, finalize

import psycopg

from rstore.backends.base import Options
from rstore.backends.postgres_dsn import Place
from rstore.backends.postgres_errors import (
    CHANGED_PLAN,
    NOT_PREPARED,
    READ_ONLY,
    RETRY,
    is_temporary,
    translated,
    unreachable,
)
from rstore.backends.postgres_link import Call, Failed, Link, Lost, Result, Results, Silent, Statement
from rstore.backends.postgres_schema import BEGIN, COMMIT, check_layout
from rstore.errors import (
    ConflictError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreNotAvailableError,
)

Look: TypeAlias = Callable[[], bool | None]
"""Reads back what a write was to leave behind: True, it is there; False, it is not and may be sent again, since it can
happen only once; None, that cannot be told."""

Ask: TypeAlias = Callable[[Call], Result]

_RETRIES: Final = 10
_LOOKS: Final = 6
_IDLE_S: Final = 300.0
_STALL_S: Final = 60.0
_BEGIN_READ: Final = (Statement("BEGIN READ ONLY"), ())
_BEGIN_MOMENT: Final = (Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), ())
_ROLLBACK: Final = (Statement("ROLLBACK"), ())
_XID: Final = (Statement("SELECT pg_current_xact_id()::text"), ())
_STATUS: Final = Statement("SELECT pg_xact_status($1::text::xid8)")
_SAVEPOINT: Final = (Statement("SAVEPOINT step"), ())
_BACK: Final = (Statement("ROLLBACK TO SAVEPOINT step"), ())
_RELEASE: Final = (Statement("RELEASE SAVEPOINT step"), ())
# Local to the transaction, and so to the statements up to the next sync: nothing stays behind in the session, which
# behind a pooler is the next client's.
_SET_LOCAL: Final = Statement("SELECT set_config($1::text, $2::text, true)")
_ASYNCHRONOUS: Final = (_SET_LOCAL, (b"synchronous_commit", b"off"))


class Connections:
    """The connections of one open store. Threads share it; each takes a connection for one call."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place = place
        self.timeout_s = options.timeout_s
        self._frozen = options.frozen
        self._prelude: list[Call] = [_ASYNCHRONOUS] if options.durability == "normal" else []
        self._prepare = place.prepare
        self._closed = False
        self._begin_anew()
        _everything.add(self)

    def _begin_anew(self) -> None:
        self._changed = Condition()  # guards the three below, and says when one of them changed
        self._idle: deque[Link] = deque()  # the one used last is taken first
        self._links: set[Link] = set()  # all that are open
        self._free = self.place.pool  # how many more may be
        # A store that nobody closed says farewell to its server when it is thrown away, and at the end of the process.
        self._farewell = finalize(self, _close_all, self._links)
        self._bound = local()  # `link`, where a transaction of this thread is open

    def set_up(self) -> None:
        """Make sure that the server is there, and that the schema is laid out.

        Raises `StoreNotAvailableError`.
        """
        for tries in range(_RETRIES):
            link = self._take()
            try:
                return check_layout(link, self.place, max(self.timeout_s, 0.1), frozen=self._frozen)
            except Failed as failure:
                self._drop(link)  # it may be in the middle of a transaction
                if tries == _RETRIES - 1 or not self._again(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Lost as lost:
                self._drop(link)
                raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
            finally:
                self._give_back(link)
        return None

    def close(self) -> None:
        """Close the connections, each as soon as its thread is not using it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._drop_idle()

    def forget(self) -> None:
        """Let go, in the child of a fork, of what is its parent's."""
        for link in self._links:
            link.abandon()
        # Kept for good: nothing may ever be said on them, not even farewell.
        self._farewell.detach()
        _abandoned.extend(self._links)
        self._begin_anew()

    # -- using them ---------------------------------------------------------------------------------------------------

    def read(self, *calls: Call) -> Results:
        """Return the results of statements that only read; of one moment each."""
        if self._frozen:
            return self._run([_BEGIN_READ, *calls, (COMMIT, ())], reading=True)[1:-1]
        return self._run(calls, reading=True)

    def write(self, calls: Sequence[Call], look: Look, *, patient: bool = False) -> Results | None:
        """Return the results of statements that are done together, or not at all.

        None: the connection was lost before the answer, and a look has shown that all was done. `patient` is for what
        may take long without waiting for anybody: locks are waited for no longer than the time-out even so.

        Raises `OutcomeUnknownError` if that cannot be told.
        """
        link: Link | None = getattr(self._bound, "link", None)
        if link is not None:
            if self._bound.xid is not None:
                return self._run(calls)
            *results, xid = self._run([*calls, _XID])
            self._bound.xid = xid.get_value(0, 0)
            return results
        prelude = [*self._prelude, *([self._lock_timeout()] if patient else ())]
        first: Lost | None = None
        for _ in range(_RETRIES):
            try:
                results = self._run([*prelude, *calls], patient=patient)[len(prelude) :]
            except Lost as lost:
                first = first or lost
                if self._was_done(look, lost):
                    return None
            except StoreError:
                if first is not None and self._was_done(look, first):
                    return None  # the first copy was under way still, and the second one met it
                raise
            else:
                # What was sent first may have waited for a lock while the look found nothing: it was done then, and
                # the second copy came too late.
                return None if first is not None and look() else results
        raise StoreNotAvailableError(f"{self.place.show}: the connection was lost again and again; nothing was applied")

    @contextmanager
    def moment(self, first: Call) -> Generator[tuple[Result, Ask]]:
        """Return what a first query finds, and what asks more of that moment; it has a connection to itself.

        One thread at a time may ask.
        """
        link = self._take()
        try:
            for tries in range(_RETRIES):
                try:
                    _, found = self._on(link, [_BEGIN_MOMENT, first])
                    break
                except Failed as failure:
                    if tries == _RETRIES - 1 or not self._again(failure, tries):
                        raise translated(failure.error, self.place.show) from failure.error
                except Lost as lost:
                    if tries or isinstance(lost, Silent):
                        raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
                self._undo(link)
                self._give_back(link)
                link = self._take()
            else:
                raise AssertionError("the last try breaks or raises")
            yield found, partial(self._ask, link)
        finally:
            self._undo(link)
            self._give_back(link)

    def _ask(self, link: Link, call: Call) -> Result:
        if self._closed or link not in self._links:
            raise ConflictError("the store was closed, or the process forked, while it was being read: read again")
        try:
            return self._on(link, [call])[0]
        except Failed as failure:
            raise translated(failure.error, self.place.show) from failure.error
        except Lost as lost:
            raise ConflictError(
                f"{self.place.show}: the connection was lost while a log was being read: read again"
            ) from lost.__cause__

    @contextmanager
    def transaction(self, *first: Call) -> Generator[None]:
        """Bind a connection to this thread, and make all of its calls one transaction, begun by some statements.

        Inside another one it is a step of that: all of it or nothing.
        """
        if getattr(self._bound, "link", None) is not None:
            with self._step(first):
                yield
            return
        idle_ms = str(ceil(max(_STALL_S, 2 * self.timeout_s) * 1000)).encode()
        # Whoever stalls while it holds the locks of a transaction loses them.
        begin: list[Call] = [(BEGIN, ()), (_SET_LOCAL, (b"idle_in_transaction_session_timeout", idle_ms))]
        link = self._take()
        self._bound.link, self._bound.xid = link, None
        try:
            self._run([*begin, *self._prelude, *first])
            yield
            self._end(link)
        except BaseException:
            self._undo(link)
            raise
        finally:
            self._bound.link = None
            self._give_back(link)

    @contextmanager
    def _step(self, first: Sequence[Call]) -> Generator[None]:
        self._run([_SAVEPOINT])
        try:
            if first:
                self._run(first)
            yield
        except BaseException:
            link: Link = self._bound.link
            if link in self._links and not link.idle:
                self._run([_BACK, _RELEASE])
            raise
        self._run([_RELEASE])

    def _end(self, link: Link) -> None:
        if link not in self._links:
            raise StoreNotAvailableError("a transaction does not outlive a fork: it is its parent's")
        xid: bytes | None = self._bound.xid
        try:
            (ended,) = self._on(link, [(COMMIT, ())])
        except Failed as failure:
            raise translated(failure.error, self.place.show) from failure.error
        except Lost as lost:
            self._bound.link = None
            if xid is not None and not self._was_done(lambda: self._was_committed(xid), lost):
                raise StoreNotAvailableError(
                    f"{self.place.show}: the connection was lost at the end of a transaction; nothing was applied"
                ) from lost.__cause__
            return
        if ended.command_status != b"COMMIT":
            raise StoreNotAvailableError(f"{self.place.show}: the transaction had failed; nothing was applied")

    def _was_committed(self, xid: bytes) -> bool | None:
        (found,) = self._run([(_STATUS, (xid,))], reading=True)
        return {b"committed": True, b"aborted": False}.get(found.get_value(0, 0) or b"")

    def _undo(self, link: Link) -> None:
        if link in self._links and not link.idle:
            try:
                link.run([_ROLLBACK], self.timeout_s)
            except (Lost, Failed):
                self._drop(link)  # and the server undoes it

    def _lock_timeout(self) -> Call:
        return _SET_LOCAL, (b"lock_timeout", str(max(1, ceil(self.timeout_s * 1000))).encode())

    def _run(self, calls: Sequence[Call], *, reading: bool = False, patient: bool = False) -> Results:
        """Return the results of a pipeline, tried again where that is harmless. Raises `Lost` unless `reading`."""
        bound: Link | None = getattr(self._bound, "link", None)
        for tries in range(_RETRIES):
            link = bound or self._take()
            try:
                return self._on(link, calls, patient=patient)
            except Failed as failure:
                if bound is not None or tries == _RETRIES - 1 or not self._again(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Lost as lost:
                if bound is not None:
                    raise StoreNotAvailableError(
                        f"{self.place.show}: the connection was lost inside a transaction; nothing was applied"
                    ) from lost.__cause__
                if not reading:
                    raise
                if tries or isinstance(lost, Silent):
                    raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
            finally:
                if bound is None:
                    self._give_back(link)
        raise AssertionError("the last try returns or raises")

    def _on(self, link: Link, calls: Sequence[Call], *, patient: bool = False) -> Results:
        try:
            # A time-out of 0 says not to wait for others; the statement itself needs a moment.
            return link.run(calls, None if patient else max(self.timeout_s, 0.1))
        except Failed as failure:
            if failure.sqlstate in (CHANGED_PLAN, READ_ONLY, *NOT_PREPARED):
                self._drop(link)  # another session may be another server by now, or know other statements
            raise
        except BaseException:
            self._drop(link)  # in the middle of something: by an error, or by a signal
            raise

    def _again(self, failure: Failed, tries: int) -> bool:
        """Return whether the same statements may succeed now, after a pause where others have to finish first."""
        if failure.sqlstate in NOT_PREPARED:
            # A pooler hands out sessions by the transaction, and does not keep track of what is prepared in them.
            self._prepare = False
            self._drop_idle()
            return True
        if failure.sqlstate in RETRY:
            time.sleep(random.random() * 0.002 * 2**tries)  # noqa: S311 - spreads those who met
            return True
        if failure.sqlstate == READ_ONLY:
            self._drop_idle()  # of several hosts another one may be the primary by now
        return failure.sqlstate in (CHANGED_PLAN, READ_ONLY) and tries == 0

    def _was_done(self, look: Look, lost: Lost) -> bool:
        """Return what a look says after an answer was lost: done, or not and harmless to be sent again."""
        deadline, looks, pause = monotonic() + max(self.timeout_s, 1.0), 0, 0.005
        while looks < _LOOKS and monotonic() < deadline:
            try:
                seen = look()
            except StoreClosedError:
                break
            except StoreError:
                pass  # a server that was killed takes a moment to come back
            else:
                if seen is not None:
                    return seen
                looks += 1  # it may be under way still
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        raise self._unknown() from lost.__cause__

    def _unknown(self) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self.place.show}: the connection was lost before the answer to a write: all of it was applied, or none"
        )

    # -- handing them out ---------------------------------------------------------------------------------------------

    def _take(self) -> Link:
        """Return a connection for one call or one transaction, to be given back."""
        while True:
            link = self._take_idle()
            if link is None:
                return self._connect()
            if link.alive():
                return link
            self._drop(link)

    def _take_idle(self) -> Link | None:
        """Return a connection that is idle, or None for a place in which one may be opened, waiting for either."""
        with self._changed:
            if not self._idle and not self._free:
                self._changed.wait_for(lambda: self._idle or self._free or self._closed, self.timeout_s)
            if self._closed:
                raise StoreClosedError("the store was closed meanwhile")
            if self._idle:
                return self._idle.pop()
            if not self._free:
                raise StoreBusyError(
                    f"{self.place.show}: all {self.place.pool} connections of the store were in use for "
                    f"{self.timeout_s:g} s; ?pool= allows more"
                )
            self._free -= 1
            return None

    def _give_back(self, link: Link) -> None:
        stale = None
        with self._changed:
            if link not in self._links:
                return
            if self._closed or not link.reusable:
                stale = link
            else:
                link.used_at = monotonic()
                self._idle.append(link)
                if self._idle[0].used_at < link.used_at - _IDLE_S:
                    stale = self._idle.popleft()
                self._changed.notify()
        if stale is not None:
            self._drop(stale)

    def _drop(self, link: Link) -> None:
        with self._changed:
            if link not in self._links:
                return
            self._links.remove(link)
            self._free += 1
            self._changed.notify()
        link.close()

    def _drop_idle(self) -> None:
        with self._changed:
            idle = list(self._idle)
            self._idle.clear()
        for link in idle:
            self._drop(link)

    def _connect(self) -> Link:
        try:
            link = self._try_connect()
        except BaseException:
            with self._changed:
                self._free += 1
                self._changed.notify()
            raise
        self._links.add(link)
        return link

    def _try_connect(self) -> Link:
        deadline, pause = monotonic() + self.timeout_s, 0.01
        parameters: dict[str, Any] = {"connect_timeout": max(1, ceil(self.timeout_s)), **self.place.parameters}
        while True:
            try:
                connection = psycopg.Connection.connect(**parameters, autocommit=True)
            except psycopg.Error as error:
                if not is_temporary(error) or monotonic() + pause > deadline:
                    # Not chained: the frames of the driver hold the password.
                    raise unreachable(error, self.place.show) from error.with_traceback(None)
                time.sleep(pause)
                pause = min(2 * pause, 0.5)
            else:
                return Link(connection, prepare=self._prepare)


# -- forks ------------------------------------------------------------------------------------------------------------
# A child has its parent's sockets. Whatever it said on one, even farewell, the server would take for its parent's word.

_everything: WeakSet[Connections] = WeakSet()
_abandoned: list[Link] = []


def _close_all(links: set[Link]) -> None:
    for link in links:
        link.close()


def _after_fork_in_child() -> None:
    for connections in list(_everything):
        connections.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
