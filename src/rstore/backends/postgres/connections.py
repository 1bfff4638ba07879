"""Statements on the connections of one open store: reads, writes and transactions, and what became of lost ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from math import ceil
from random import SystemRandom
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

from rstore.backends.postgres.ahead import Asked, ask
from rstore.backends.postgres.binary import truth
from rstore.backends.postgres.caller import BEHIND_S, MOMENT_S, RETRIES, Caller, set_local
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.errors import (
    ABORTED,
    ENDED,
    IN_THE_FUTURE,
    RETRY,
    CutOff,
    Passed,
    translated,
    words,
)
from rstore.backends.postgres.link import Call, Calls, Failed, Link, Lost, Results, Silent, Statement
from rstore.backends.postgres.receipts import REMOVE_EVERY, Receipt, Receipts
from rstore.backends.postgres.schema import BEGIN, COMMIT
from rstore.backends.postgres.scopes import Around, MomentScope, Scope
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Options, RolledBack
from rstore.errors import (
    ConflictError,
    NotSupportedError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
    StoreNotAvailableError,
)

T = TypeVar("T")
_log: Final = logging.getLogger("rstore.postgres")
_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it

Look: TypeAlias = Callable[[], bool | None]
"""Reads back what a write was to leave behind: True, it is there; False, what it was to replace is still there, so that
it may be sent again; None, that cannot be told. That something is absent tells nothing: somebody may have taken it."""

_LOOKS: Final = 6
_STALL_S: Final = 60.0
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
_OVER_S: Final = 2.7
"""So much longer than its time-out may a call take whose server falls silent, until what became of it is known, or not:
half of it the server has to give up, and a look takes the rest. The documentation promises three seconds."""
_LOOK_S: Final = 0.8
"""A look that would have less is not begun."""

_BEGIN_READ: Final = (Statement("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"), ())
_BEGIN_MOMENT: Final = (Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), ())
_READER_MS: Final = "600000"
"""Whoever reads from one moment and does not go on for so long has lost it: the server could not clean up meanwhile."""
_BEGIN: Final = (BEGIN, ())
_BEGIN_SERIALIZABLE: Final = (Statement("BEGIN ISOLATION LEVEL SERIALIZABLE"), ())
_COMMIT: Final = (COMMIT, ())
_ROLLBACK: Final = (Statement("ROLLBACK"), ())
_XID: Final = (Statement("SELECT pg_current_xact_id()::text"), ())
_STATUS: Final = Statement("SELECT pg_xact_status($1::text::xid8)")
_STANDBY: Final = (Statement("SELECT pg_is_in_recovery()"), ())
# A commit behind the one that is in question, so that standbys that have confirmed it have confirmed both.
_CONFIRM: Final = Statement("""
SELECT pg_logical_emit_message(true, 'rstore', '') WHERE current_setting('synchronous_standby_names') <> ''""")


class Connections(Caller):
    """What one open store asks of its server."""

    def __init__(self, place: Place, options: Options, namespace: bytes) -> None:
        super().__init__(place, options)
        self._receipts = Receipts(place.schema, namespace)

    # -- calls --------------------------------------------------------------------------------------------------------

    def read(self, *calls: Call, patient: bool = False) -> Results:
        """Return the results of statements that only read; of one moment each.

        `patient` is for what may take long without waiting for anybody, as of `write`.
        """
        before: list[Call] = [_BEGIN_READ] if self._frozen else []
        if patient and not self.bound:
            before.append(set_local("lock_timeout", self._timeout_ms))
        if not before:
            return self._run(calls, harmless=True)
        results = self._run([*before, *calls, *([_COMMIT] if self._frozen else ())], harmless=True, patient=patient)
        return results[len(before) : len(before) + len(calls)]

    def ask(self, *calls: Call) -> Asked | None:
        """Send statements that only read, and leave their results for later; None where that cannot be done now."""
        if self.bound:
            return None
        return ask(self.pool, [_BEGIN_READ, *calls, _COMMIT] if self._frozen else calls, self._writes)

    def take_in(self, asked: Asked) -> Results | None:
        """Return the results of what was asked; None if they are lost, or older than what this store has written."""
        if asked.writes != self._writes:
            asked.drop()
            return None
        try:
            results = asked.results(self.timeout_s)
        except Failed as failure:
            if self._again(failure):
                return None
            raise translated(failure.error, self.place.show) from failure.error
        except Silent as lost:
            raise StoreNotAvailableError(f"{self.place.show}: {words(lost.__cause__)}") from lost.__cause__
        return results[1:-1] if results is not None and self._frozen else results

    def as_when_writing(self, *calls: Call) -> Results:
        """Return the results of statements that only read, under the parameters that those have that write."""
        prelude = [] if self.bound else self._prelude  # a transaction began with it
        return self._run([*prelude, *calls], harmless=True)[len(prelude) :]

    def alone(self, call: Call) -> None:
        """Run a statement that cannot be part of a transaction, may take long, and does no harm when it runs twice."""
        if self.bound:
            raise NotSupportedError("PostgreSQL gives no space back inside a transaction: call vacuum outside of it")
        self._send_alone(call)

    def write(
        self,
        calls: Iterable[Call],
        look: Look,
        was_done: Callable[[Results], bool] = lambda _: True,
        *,
        patient: bool = False,
    ) -> Results | None:
        """Return the results of statements that are done together, or not at all.

        None: the connection was lost before the answer, and a look has shown that all was done. `was_done` tells that
        by the results, where they are not the same for what was done and what was not. `patient` is for what may take
        long without waiting for anybody: locks are waited for no longer than the time-out even so.

        Raises `OutcomeUnknownError` if that cannot be told.
        """
        bound = self._bound
        if bound.link is not None:
            if bound.xid is not None:
                return self._run(calls)
            *results, xid = self._run(Calls(lambda: chain(calls, [_XID])))
            bound.xid = xid.get_value(0, 0)
            return results
        self._writes += 1
        prelude = [*self._prelude, *([set_local("lock_timeout", self._timeout_ms)] if patient else ())]
        all_calls = Calls(lambda: chain(prelude, calls)) if prelude else calls
        first: Lost | None = None
        deadline = monotonic() + self.timeout_s
        for _ in range(RETRIES):
            try:
                results = self._run(all_calls, patient=patient, deadline=deadline)[len(prelude) :]
            except Lost as lost:
                first = first or lost
                if patient:  # until now it was allowed to take long, unless nothing was heard of the server
                    deadline = monotonic() + (MOMENT_S if isinstance(lost, Silent) else self.timeout_s)
                if self._was_done(look, lost, deadline):
                    return None
                if monotonic() > deadline:
                    break
            except StoreError:
                if first is None:
                    raise
                if self._was_done(look, first, deadline):
                    return None  # the first copy was under way still, and the second one met it
                break  # and it may be under way even now
            else:
                if first is None or was_done(results):
                    return results
                # What was sent first may have waited for a lock while the look found nothing: it was done then, and
                # the second copy came too late.
                return None if self._was_done(look, first, deadline) else results
        raise self._unknown() from first and first.__cause__

    def shrink(self, carried: int) -> None:
        """Let go of idle connections after one has carried so many bytes: its buffers would stay that large."""
        if carried > _MAX_KEPT_BYTES:
            self.pool.drop_idle()

    # -- transactions -------------------------------------------------------------------------------------------------

    def in_transaction(self, work: Callable[[Results], T], *first: Call) -> T:
        """Return what `work` does in a transaction, given what some statements at its beginning found.

        It is done again where the server undid it.
        """
        for tries in range(RETRIES):
            scope = self.transaction(*first)
            try:
                with scope:
                    return work(scope.found)
            except RolledBack:
                self._telemetry.note(_log, Occurrence.RETRY, "%s: a transaction is done again", self.place.show)
                # A step keeps the locks of what was before it, and they would be in the way again.
                if self.bound or tries == RETRIES - 1:
                    raise
            finally:
                scope.close()
        raise AssertionError("the last try returns or raises")

    def transaction(self, *first: Call, serializable: bool = False, around: Around | None = None) -> Scope:
        """Return a scope that binds a connection to this thread and makes all of its calls one transaction.

        It begins with some statements, whose results are its `found`. Inside another one it is a step of that: all of
        it or nothing. `serializable`: what was read inside is what there is at its end.

        Raises `RolledBack` if the server undid it, and it may be done again.
        """
        return Scope(self, first, around, serializable=serializable)

    def begin(self, first: Sequence[Call], *, serializable: bool) -> tuple[Link, Results]:
        """Return a connection on which a transaction has begun, and what its first statements found."""
        # Whoever stalls while it holds the locks of a transaction loses them.
        idle_ms = str(ceil(max(_STALL_S, 2 * self.timeout_s) * 1000))
        level = _BEGIN_SERIALIZABLE if serializable else _BEGIN
        idle = set_local("idle_in_transaction_session_timeout", idle_ms)
        begin = [level, self._writable, idle, *self._prelude]
        link, found = self._send([*begin, *first], harmless=True)
        return link, found[len(begin) :]

    def of_this_thread(self) -> dict[str, Any]:
        """Return the state of this thread's transaction, which the thread that ends it changes in one step."""
        return vars(self._bound)

    def inside(self, calls: Iterable[Call]) -> Results:
        """Return the results of statements of the transaction that is open in this thread."""
        return self._run(calls)

    @property
    def can_go_on(self) -> bool:
        """Whether the transaction that is open in this thread is still there, failed or not."""
        link = self._bound.link
        return link is not None and link in self.pool and not link.idle

    def receipt(self, link: Link) -> Receipt | None:
        """Return the receipt of the transaction of this thread, if it has written anything."""
        return None if self._bound.xid is None else self._receipts.make(link)

    def finish(self, link: Link) -> None:
        """Take back the connection of a transaction that has ended."""
        self._writes += 1
        self.pool.give_back(link)

    def remove_stale_receipts(self, receipt: Receipt | None) -> None:
        """Remove now and then, behind a transaction that left one, the receipts of connections that are gone."""
        if receipt is None or not receipt.is_new or _random.randrange(REMOVE_EVERY):
            return
        # The transaction is done, and an error here would say that it is not.
        bounds = [set_local("synchronous_commit", "off"), set_local("lock_timeout", f"{BEHIND_S * 1000:.0f}")]
        with suppress(StoreError):
            self.within(BEHIND_S, lambda _: self.write([*bounds, self._receipts.remove_stale], lambda: False))

    def moment(self, *calls: Call) -> MomentScope:
        """Return a scope that reads one moment, in a transaction of its own on a connection of its own."""
        begin = [_BEGIN_MOMENT, set_local("idle_in_transaction_session_timeout", _READER_MS)]

        def start() -> tuple[Link, Results]:
            link, found = self._send([*begin, *calls], harmless=True)
            return link, found[len(begin) :]

        return MomentScope(start, self)

    def end(self, link: Link, receipt: Receipt | None) -> None:
        """Commit the transaction of this thread."""
        bound, deadline = self._bound, monotonic() + self.timeout_s
        self._check_own(link)
        failed = StoreNotAvailableError(f"{self.place.show}: the transaction had failed; nothing was applied")
        try:
            *_, ended = self._on(link, [_COMMIT] if receipt is None else [receipt.leave, _COMMIT], self.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED:
                raise bound.gone or failed from failure.error
            error = self._refusal(failure)
            raise (Passed(str(error)) if failure.sqlstate in RETRY else error) from failure.error
        except Lost as lost:
            bound.link, xid = None, bound.xid
            message = f"{self.place.show}: the connection was lost at the end of a transaction; nothing was applied"
            if xid is None and bound.serializable:  # the server was to say whether what it read belongs together
                raise CutOff(message) from lost.__cause__
            if xid is None or receipt is None:
                return
            if not self._was_done(lambda: self._was_committed(xid, receipt), lost, deadline):
                raise StoreNotAvailableError(message) from lost.__cause__
            return
        if ended.command_status != b"COMMIT":
            raise bound.gone or failed

    def _was_committed(self, xid: bytes, receipt: Receipt) -> bool | None:
        """Return whether a transaction was committed: only its receipt shows that, see `receipts`."""
        (found,) = self._run([receipt.find], harmless=True)
        if found.ntuples:
            return True
        try:
            (told,) = self._run([(_STATUS, (xid,))], harmless=True)
        except StoreError as error:
            if getattr(error.__cause__, "sqlstate", None) != IN_THE_FUTURE:
                raise
            # A server that crashed has not given this number to anybody yet. A standby may not have heard of it.
            (standby,) = self._run([_STANDBY], harmless=True)
            return None if truth(standby, 0) else False
        # If that number was undone, so was this transaction, or it was lost. If it is committed, and was not a moment
        # ago, the next look finds the receipt.
        return False if told.get_value(0, 0) == b"aborted" else None

    def undo(self, link: Link) -> None:
        """Undo the transaction on a connection, unless it has ended."""
        if link in self.pool and not link.idle:
            try:
                link.run([_ROLLBACK], self.timeout_s)
            except (Lost, Failed):
                self.pool.drop(link)  # and the server undoes it

    def still(self, link: Link, calls: Iterable[Call]) -> Results:
        """Return what the transaction of a moment reads.

        Raises `ConflictError` if the moment is lost.
        """
        if link not in self.pool:
            raise ConflictError("the process forked, or an earlier read failed, while it was being read: read again")
        try:
            return self._on(link, calls, self.timeout_s)
        except Lost as lost:
            raise ConflictError(
                f"{self.place.show}: the connection was lost while it was being read: read again"
            ) from lost.__cause__
        except Failed as failure:
            if failure.sqlstate in {*RETRY, *ENDED}:  # a standby replays what the moment has to forget
                raise ConflictError(f"{self.place.show}: it took too long to read: read again") from failure.error
            raise translated(failure.error, self.place.show) from failure.error

    # -- lost answers -------------------------------------------------------------------------------------------------

    def _was_done(self, look: Look, lost: Lost, deadline: float) -> bool:
        """Return what a look says after an answer was lost: done, or not and harmless to be sent again.

        `deadline` is that of the call.
        """
        self._telemetry.note(_log, Occurrence.LOST_REPLY, "%s: the reply to a write was lost", self.place.show)
        looks, pause = 0, 0.005
        end = deadline + _OVER_S
        while looks < _LOOKS and monotonic() < end - _LOOK_S:
            try:
                seen = self.within(end - monotonic(), lambda _: look())
                if seen:
                    self._confirm(max(deadline, monotonic() + MOMENT_S))
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
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        raise self._unknown() from lost.__cause__

    def _confirm(self, deadline: float) -> None:
        """Wait until the standbys have confirmed what a look has found, if such a write waits for them.

        Raises `OutcomeUnknownError` if none has.
        """
        self._run([*self._prelude, (_CONFIRM, ())], harmless=True, deadline=deadline)

    def _unknown(self) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self.place.show}: the connection was lost before the answer to a write: all of it was applied, or none"
        )
