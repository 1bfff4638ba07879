"""Statements on any connection of an open store, again where nothing was done; and what became of a lost write."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from math import ceil
from typing import Final

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.errors import (
    CANCELLED,
    CHANGED_PLAN,
    ENDED,
    LIMITS,
    NOT_PREPARED,
    READ_ONLY,
    RETRY,
    limited,
    translated,
    words,
)
from rstore.backends.postgres.sql.schema import BEGIN, quoted
from rstore.backends.postgres.transaction.executor import Look, StatementReader
from rstore.backends.postgres.transaction.probes import MIN_TIMEOUT_S, is_at_work, setting_of
from rstore.backends.postgres.transaction.receipts import Receipts
from rstore.backends.postgres.transport.pool import ConnectionPool
from rstore.backends.postgres.transport.protocol import AtWork, Failed, Lost, PostgresConnection, Silent, Unconfirmed
from rstore.backends.postgres.transport.statements import Call, Results, Statement, set_local
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Options
from rstore.errors import OutcomeUnknownError, StoreClosedError, StoreError, StoreNotAvailableError

_log: Final = logging.getLogger("rstore.postgres")

RETRIES: Final = 10
BEHIND_S: Final = 1.0
"""A call waits this long at most for work behind its commit, which cannot fail it any more."""
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 1.0

_LOOKS: Final = 6
_FIRST_LOOK_PAUSE_S: Final = 0.01
_LONGEST_LOOK_PAUSE_S: Final = 1.0
_OVER_S: Final = 2.7
"""A call on a silent server may take so much longer than its time-out: the server has half of that to give up, and
looks at the outcome take the rest. The documentation promises three seconds."""
_LOOK_S: Final = 0.8
"""A look is not begun with less time than this."""

_STALL_S: Final = 60.0
_BEGIN_SERIALIZABLE: Final = Statement("BEGIN ISOLATION LEVEL SERIALIZABLE")
_ROLLBACK: Final[Call] = (Statement("ROLLBACK"), ())
# A commit behind the one in question: a standby that has confirmed it has confirmed both.
_CONFIRM: Final = Statement("""
SELECT pg_logical_emit_message(true, 'rstore', '') WHERE current_setting('synchronous_standby_names') <> ''""")


class Sender:
    """Sends statements to a server. Threads share it; each takes a connection for one call or one transaction."""

    def __init__(self, place: PostgresPlace, options: Options, namespace: bytes) -> None:
        self.place = place
        self.pool = ConnectionPool(place, options.telemetry)
        self.timeout_s = max(options.timeout_s, MIN_TIMEOUT_S)
        self.receipts = Receipts(place.schema, namespace)
        self._telemetry = options.telemetry
        self.prelude: list[Call] = [set_local("synchronous_commit", "off")] if options.durability == "normal" else []
        """The calls before those that write."""
        # A server that only reads refuses it, so that another one is found before the transaction has begun.
        sql = f"SELECT FROM {quoted(place.schema)}.namespaces WHERE false FOR KEY SHARE"
        self._writable: Call = Statement(sql), ()
        # A process that stalls while it holds the locks of a transaction loses them.
        idle_ms = ceil(max(_STALL_S, 2 * self.timeout_s) * 1000)
        self._may_idle = set_local("idle_in_transaction_session_timeout", str(idle_ms))

    def send(
        self,
        calls: Iterable[Call],
        deadline: Deadline,
        *,
        harmless: bool = True,
        patient: bool = False,
        waits: bool = True,
        asking: bool = True,
        hold: list[PostgresConnection] | None = None,
    ) -> Results:
        """Return the results of a pipeline, tried again where nothing was done.

        `asking`: a server that is silent at the deadline is asked to give up. `hold`: takes the connection, which goes
        back to the pool otherwise.

        Raises `Lost` unless it is `harmless` to send it twice.
        """
        at_work = partial(is_at_work, self.place, timeout_s=self.timeout_s, waits=waits) if patient else None
        pauses: Backoff | None = None
        for tries in range(RETRIES):
            connection = self.pool.take(deadline)
            try:
                # However long a connection was waited for, the statement itself needs a moment.
                timeout_s = self.timeout_s if patient else max(deadline.left_s, MIN_TIMEOUT_S)
                results = self.run_on(connection, calls, timeout_s, asking=asking, at_work=at_work)
            except Failed as failure:
                self.pool.give_back(connection)
                if tries == RETRIES - 1 or deadline.is_over or not self.may_retry(failure, tries):
                    raise self.refusal(failure) from failure.error
                if failure.sqlstate in RETRY:
                    pauses = pauses or Backoff(deadline, first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
                    pauses.pause()
            except Lost as lost:
                if not harmless:
                    raise
                if tries or isinstance(lost, Silent):
                    raise self.unavailable(lost) from lost.__cause__
            else:
                (self.pool.give_back if hold is None else hold.append)(connection)
                return results
        raise AssertionError("the last try returns or raises")

    def run_on(
        self,
        connection: PostgresConnection,
        calls: Iterable[Call],
        timeout_s: float,
        *,
        asking: bool = True,
        at_work: AtWork | None = None,
    ) -> Results:
        """Return the results of a pipeline on one connection, which is dropped where it cannot go on.

        Raises `Failed` or `Lost`.
        """
        try:
            return connection.run(calls, timeout_s, asking=asking, at_work=at_work)
        except Failed as failure:
            if failure.sqlstate in (CHANGED_PLAN, READ_ONLY, *NOT_PREPARED, *ENDED):
                self.pool.drop(connection)  # a new session may be on another server, or know other statements
            raise
        except Unconfirmed as lost:
            self.pool.drop(connection)
            raise OutcomeUnknownError(
                f"{self.place.show}: it is committed on the primary, but no standby has confirmed it: it is lost if "
                "the primary is lost before one does"
            ) from lost.__cause__
        except BaseException:
            self.pool.drop(connection)  # in the middle of something: by an error, or by a signal
            raise

    def may_retry(self, failure: Failed, tries: int = 0) -> bool:
        """Return whether the same statements may succeed now."""
        if failure.sqlstate in NOT_PREPARED:
            # A pooler hands out sessions by the transaction, and does not keep track of what is prepared in them.
            self.pool.prepare = False
            self.pool.drop_idle()
            return True
        if failure.sqlstate == READ_ONLY:
            self.pool.drop_idle()  # of several hosts another one may be the primary by now
        return failure.sqlstate in RETRY or (failure.sqlstate in (CHANGED_PLAN, READ_ONLY) and tries == 0)

    def run_behind(self, calls: Iterable[Call], deadline: Deadline) -> None:
        """Run harmless statements behind a commit, without waiting for a disk or a standby."""
        bounds = [set_local("synchronous_commit", "off"), set_local("lock_timeout", f"{BEHIND_S * 1000:.0f}")]
        self.send([*bounds, *calls], deadline, asking=False)

    # -- transactions -------------------------------------------------------------------------------------------------

    def begin(self, first: Iterable[Call], *, serializable: bool) -> tuple[PostgresConnection, Results]:
        """Return a connection on which a transaction has begun, and the results of its first statements."""
        level: Call = (_BEGIN_SERIALIZABLE if serializable else BEGIN), ()
        begin = [level, self._writable, self._may_idle, *self.prelude]
        held: list[PostgresConnection] = []
        results = self.send([*begin, *first], Deadline(self.timeout_s), hold=held)
        return held[0], results[len(begin) :]

    def roll_back(self, connection: PostgresConnection) -> None:
        """Undo the transaction on a connection, unless it has ended."""
        if connection in self.pool and not connection.idle:
            try:
                connection.run([_ROLLBACK], self.timeout_s)
            except (Lost, Failed):
                self.pool.drop(connection)  # and the server undoes it

    # -- errors -------------------------------------------------------------------------------------------------------

    def refusal(self, failure: Failed) -> StoreError:
        """Return the error of rstore for statements that the server refused, or gave up of itself."""
        setting = LIMITS.get(failure.sqlstate)
        if setting is None or failure.asked:
            return translated(failure.error, self.place.show)
        value = setting_of(self.pool, setting)
        if value is None or (value == "" and failure.sqlstate != CANCELLED):
            return translated(failure.error, self.place.show)
        return limited(failure.error, self.place.show, setting, value)

    def unavailable(self, lost: Lost) -> StoreNotAvailableError:
        """Return the error of rstore for a connection that was lost."""
        return StoreNotAvailableError(f"{self.place.show}: {words(lost.__cause__)}")

    def unknown(self) -> OutcomeUnknownError:
        """Return the error for a write whose outcome cannot be told."""
        return OutcomeUnknownError(
            f"{self.place.show}: the connection was lost before the answer to a write: all of it was applied, or none"
        )

    # -- lost answers -------------------------------------------------------------------------------------------------

    def was_done(self, look: Look, lost: Lost, deadline: Deadline) -> bool:
        """Return whether a write whose answer was lost was done; if not, it is harmless to send it again.

        `deadline` is that of the call. Raises `OutcomeUnknownError` if no look can tell.
        """
        self._telemetry.note(_log, Occurrence.LOST_REPLY, "%s: the reply to a write was lost", self.place.show)
        end = deadline.extended(_OVER_S)
        pauses = Backoff(end, first_s=_FIRST_LOOK_PAUSE_S, longest_s=_LONGEST_LOOK_PAUSE_S)
        looks = 0
        while looks < _LOOKS and end.left_s > _LOOK_S:
            try:
                seen = look(_OverdueReader(self, end))
                if seen:
                    self._confirm(deadline)
            except StoreClosedError:
                break
            except OutcomeUnknownError:
                raise
            except StoreError:
                pass  # a server that was killed takes a moment to come back
            else:
                if seen is not None:
                    return seen
                looks += 1  # it may be under way still
            pauses.pause()
        raise self.unknown() from lost.__cause__

    def _confirm(self, deadline: Deadline) -> None:
        """Wait until the standbys have confirmed the write that a look has found, if such a write waits for them.

        Raises `OutcomeUnknownError` if none has.
        """
        self.send([*self.prelude, (_CONFIRM, ())], Deadline(max(deadline.left_s, MIN_TIMEOUT_S)))


class _OverdueReader(StatementReader):
    """Reads for a call that is overdue: there is no time to ask the server to give up."""

    def __init__(self, sender: Sender, deadline: Deadline) -> None:
        self._sender = sender
        self._deadline = deadline

    def read(self, *calls: Call) -> Results:
        return self._sender.send(calls, self._deadline, asking=False)
