"""Statements on any connection of an open store, or on that of the thread's transaction; again if nothing was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from math import ceil
from random import SystemRandom
from threading import local
from time import monotonic
from typing import Final, TypeVar

import psycopg

from rstore.backends.postgres.binary import boolean, int4, truth
from rstore.backends.postgres.connecting import connect
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.errors import (
    ABORTED,
    CANCELLED,
    CHANGED_PLAN,
    ENDED,
    LIMITS,
    NOT_PREPARED,
    READ_ONLY,
    RETRY,
    CutOff,
    Passed,
    is_full,
    limited,
    translated,
    words,
)
from rstore.backends.postgres.link import AtWork, Call, Failed, Link, Lost, Results, Silent, Statement, Unconfirmed
from rstore.backends.postgres.pool import Pool
from rstore.backends.postgres.schema import check_layout, quoted
from rstore.backends.types import Options
from rstore.errors import OutcomeUnknownError, StoreError, StoreNotAvailableError

T = TypeVar("T")

RETRIES: Final = 10
MOMENT_S: Final = 0.1
"""A time-out of 0 says not to wait for others; the statement itself needs a moment."""
BEHIND_S: Final = 1.0
"""A call waits no longer for what is done behind its commit, and cannot fail any more."""
_PROBE_S: Final = 5.0
"""A server that is at work on something long is given so long to say so on another connection."""
_IDLE: Final = Statement("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
  WHERE pid = $1::int AND (state = ANY ('{idle,idle in transaction,idle in transaction (aborted)}'::text[])
    OR (NOT $2::boolean AND wait_event_type = 'Lock')))""")
_SETTING: Final = Statement("SELECT current_setting($1::text, true)")
_SET_LOCAL: Final = Statement("SELECT set_config($1::text, $2::text, true)")
_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it


def set_local(name: str, value: str) -> Call:
    """Return what sets a parameter of the server up to the next sync, or to the end of the transaction.

    Nothing stays behind in the session, which behind a pooler is the next client's.
    """
    return _SET_LOCAL, (name.encode(), value.encode())


class _Bound(local):
    """What a thread is in the middle of."""

    link: Link | None = None  # on which its transaction is open
    xid: bytes | None = None  # the transaction's name at the server, since its first write
    gone: StoreError | None = None  # why the transaction cannot go on, where its connection was dropped
    deadline: float | None = None  # of what is asked on behalf of something else
    serializable: bool = False  # whether its transaction sees nothing that others commit


class Caller:
    """What sends statements to a server. Threads share it; each takes a connection for one call."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place = place
        self._telemetry = options.telemetry
        self.pool = Pool(place, options.telemetry)
        self.timeout_s = max(options.timeout_s, MOMENT_S)
        self._timeout_ms = f"{max(1, ceil(options.timeout_s * 1000))}"
        self._frozen = options.frozen
        self._prelude: list[Call] = [set_local("synchronous_commit", "off")] if options.durability == "normal" else []
        self._bound = _Bound()
        self._writes = 0  # that were begun, so that what was asked before them is known to be old
        # A server that only reads refuses it: another one is looked for then, before the transaction has begun.
        sql = f"SELECT FROM {quoted(place.schema)}.namespaces WHERE false FOR KEY SHARE"
        self._writable: Call = Statement(sql), ()

    def set_up(self) -> None:
        """Make sure that the server is there, and that the schema is laid out.

        Raises `StoreNotAvailableError`.
        """
        deadline = monotonic() + self.timeout_s
        for tries in range(RETRIES):
            link = self.pool.take(deadline)
            try:
                left_s = max(deadline - monotonic(), MOMENT_S)
                return check_layout(link, self.place, left_s, frozen=self._frozen)
            except Failed as failure:
                self.pool.drop(link)  # it may be in the middle of a transaction
                if tries == RETRIES - 1 or monotonic() > deadline or not self._again(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Unconfirmed as lost:
                self.pool.drop(link)
                raise self._unconfirmed() from lost.__cause__
            except Lost as lost:
                self.pool.drop(link)
                raise StoreNotAvailableError(f"{self.place.show}: {words(lost.__cause__)}") from lost.__cause__
            finally:
                self.pool.give_back(link)
        return None

    @property
    def bound(self) -> bool:
        """Whether this thread is inside a transaction."""
        return self._bound.link is not None

    @property
    def serializable(self) -> bool:
        """Whether this thread is inside a transaction that sees nothing that others have committed since it began."""
        return self._bound.serializable

    def _run(
        self, calls: Iterable[Call], *, harmless: bool = False, patient: bool = False, deadline: float | None = None
    ) -> Results:
        """Return the results of a pipeline, on the connection of this thread's transaction or on any."""
        if self._bound.link is not None:
            return self._inside(self._bound.link, calls)
        link, results = self._send(calls, harmless=harmless, patient=patient, deadline=deadline)
        self.pool.give_back(link)
        return results

    def _send(
        self,
        calls: Iterable[Call],
        *,
        harmless: bool,
        patient: bool = False,
        waits: bool = True,
        deadline: float | None = None,
    ) -> tuple[Link, Results]:
        """Return the results of a pipeline, tried again where nothing was done, and the connection, to be given back.

        Raises `Lost` unless it is `harmless` to send it twice.
        """
        deadline = self._bound.deadline or deadline or monotonic() + self.timeout_s
        at_work = partial(self._is_at_work, waits=waits) if patient else None
        for tries in range(RETRIES):
            link = self.pool.take(deadline)
            try:
                # However long a connection was waited for, the statement itself needs a moment.
                timeout_s = self.timeout_s if patient else max(deadline - monotonic(), MOMENT_S)
                return link, self._on(link, calls, timeout_s, at_work=at_work)
            except Failed as failure:
                self.pool.give_back(link)
                if tries == RETRIES - 1 or monotonic() > deadline or not self._again(failure, tries):
                    raise self._refusal(failure) from failure.error
            except Lost as lost:
                if not harmless:
                    raise
                if tries or isinstance(lost, Silent):
                    raise StoreNotAvailableError(f"{self.place.show}: {words(lost.__cause__)}") from lost.__cause__
        raise AssertionError("the last try returns or raises")

    def _send_alone(self, call: Call) -> None:
        """Run a statement that may take long, and before which nothing can be said, such as how long it may wait."""
        link, _ = self._send([call], harmless=True, patient=True, waits=False)
        self.pool.give_back(link)

    def _inside(self, link: Link, calls: Iterable[Call]) -> Results:
        """Return the results of a pipeline inside a transaction, which nobody but its owner can begin again."""
        self._check_own(link)
        try:
            return self._on(link, calls, self.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED and self._bound.gone is not None:
                raise self._bound.gone from failure.error  # which says why, and whether it may be done again
            error = self._refusal(failure)
            if failure.sqlstate in RETRY or self._again(failure):
                error = Passed(str(error))
            self._bound.gone = error
            raise error from failure.error
        except Lost as lost:
            kind = StoreNotAvailableError if isinstance(lost, Silent) else CutOff
            self._bound.gone = kind(
                f"{self.place.show}: the connection was lost inside a transaction; nothing was applied"
            )
            raise self._bound.gone from lost.__cause__
        except BaseException:
            self._bound.gone = StoreNotAvailableError(
                f"{self.place.show}: a call inside the transaction was interrupted; nothing was applied"
            )
            raise

    def _check_own(self, link: Link) -> None:
        if link not in self.pool:
            raise self._bound.gone or StoreNotAvailableError(
                "a transaction does not outlive a fork: it is its parent's"
            )

    def _on(self, link: Link, calls: Iterable[Call], timeout_s: float, *, at_work: AtWork | None = None) -> Results:
        try:
            # On behalf of something that is overdue itself there is no time to ask the server to give up.
            return link.run(calls, timeout_s, asking=self._bound.deadline is None, at_work=at_work)
        except Failed as failure:
            if failure.sqlstate in (CHANGED_PLAN, READ_ONLY, *NOT_PREPARED, *ENDED):
                self.pool.drop(link)  # another session may be another server by now, or know other statements
            raise
        except Unconfirmed as lost:
            self.pool.drop(link)
            raise self._unconfirmed() from lost.__cause__
        except BaseException:
            self.pool.drop(link)  # in the middle of something: by an error, or by a signal
            raise

    def _refusal(self, failure: Failed) -> StoreError:
        """Return the error of rstore for what the server refused, or gave up of itself."""
        setting = LIMITS.get(failure.sqlstate)
        if setting is None or failure.asked:
            return translated(failure.error, self.place.show)
        value = self._setting(setting)
        if value is None or (value == "" and failure.sqlstate != CANCELLED):
            return translated(failure.error, self.place.show)
        return limited(failure.error, self.place.show, setting, value)

    def _setting(self, name: str) -> str | None:
        """Return how a session begins, empty where that is without a limit; None if that cannot be told now."""
        try:
            link = self.pool.take(monotonic() + MOMENT_S)
        except StoreError:
            return None
        try:
            (found,) = link.run([(_SETTING, (name.encode(),))], MOMENT_S, asking=False)
        except (Lost, Failed):
            self.pool.drop(link)
            return None
        finally:
            self.pool.give_back(link)
        value = (found.get_value(0, 0) or b"").decode()
        return "" if value == "0" else value

    def _is_at_work(self, link: Link, *, waits: bool) -> bool | None:
        """Return whether a server that answers on another connection does not say that this one has nothing to do.

        `waits`: it may wait for a lock, which the server bounds. `pg_stat_activity` does not know a connection to a
        pooler; then an answer has to be enough.
        """
        end = monotonic() + min(max(self.timeout_s, 1.0), _PROBE_S)
        try:
            connection = connect(self.place.login(), end)  # not of the pool, in which this may be the only one
        except StoreError:  # there are no credentials now
            return None
        if isinstance(connection, psycopg.Error):
            return True if is_full(connection) else None
        probe = Link(connection, prepare=False)
        try:
            asked = _IDLE, (int4(link.pid), boolean(waits))
            (found,) = probe.run([asked], max(end - monotonic(), MOMENT_S), asking=False)
        except (Lost, Failed):
            return None
        finally:
            probe.close()
        return not truth(found, 0)

    def _again(self, failure: Failed, tries: int = 0) -> bool:
        """Return whether the same statements may succeed now, after a pause where others have to finish first."""
        if failure.sqlstate in NOT_PREPARED:
            # A pooler hands out sessions by the transaction, and does not keep track of what is prepared in them.
            self.pool.prepare = False
            self.pool.drop_idle()
            return True
        if failure.sqlstate in RETRY:
            time.sleep(_random.random() * 0.002 * 2**tries)  # which spreads those who met
            return True
        if failure.sqlstate == READ_ONLY:
            self.pool.drop_idle()  # of several hosts another one may be the primary by now
        return failure.sqlstate in (CHANGED_PLAN, READ_ONLY) and tries == 0

    def within(self, timeout_s: float, work: Callable[[float], T]) -> T:
        """Call `work` with a deadline for all of its calls in this thread, and return its result.

        Not a `with`: where an interrupt came while it is entered, all later calls of the thread would be overdue.
        """
        bound, before = self._bound, self._bound.deadline
        deadline = monotonic() + timeout_s
        try:
            bound.deadline = deadline
            return work(deadline)
        finally:
            bound.deadline = before

    def _unconfirmed(self) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self.place.show}: it is committed on the primary, but no standby has confirmed it: it is lost if the "
            "primary is lost before one does"
        )
