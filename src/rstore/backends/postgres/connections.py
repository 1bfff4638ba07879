"""Statements on the connections of one open store: reads, writes and transactions, and what became of lost ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import chain
from math import ceil
from random import SystemRandom
from threading import local
from time import monotonic
from typing import Final, TypeAlias, TypeVar

from rstore.backends.nouns import Options, Undone
from rstore.backends.postgres.ahead import Asked, ask
from rstore.backends.postgres.dsn import Place
from rstore.backends.postgres.errors import (
    ABORTED,
    CHANGED_PLAN,
    NOT_PREPARED,
    READ_ONLY,
    RETRY,
    CutOff,
    Passed,
    translated,
)
from rstore.backends.postgres.link import Call, Calls, Failed, Link, Lost, Results, Silent, Statement, Unconfirmed
from rstore.backends.postgres.moments import Moment
from rstore.backends.postgres.pool import Pool
from rstore.backends.postgres.schema import BEGIN, COMMIT, check_layout, quoted
from rstore.errors import (
    ConflictError,
    NotSupportedError,
    OutcomeUnknownError,
    StoreClosedError,
    StoreError,
    StoreNotAvailableError,
)

T = TypeVar("T")

Look: TypeAlias = Callable[[], bool | None]
"""Reads back what a write was to leave behind: True, it is there; False, what it was to replace is still there, so that
it may be sent again; None, that cannot be told. That something is absent tells nothing: somebody may have taken it."""

_RETRIES: Final = 10
_LOOKS: Final = 6
_STALL_S: Final = 60.0
_MOST_KEPT_BYTES: Final = 16 * 1024 * 1024
_MOMENT_S: Final = 0.1
"""A time-out of 0 says not to wait for others; the statement itself needs a moment."""
_OVER_S: Final = 2.7
"""So much longer than its time-out may a call take whose server falls silent, until what became of it is known, or not:
half of it the server has to give up, and a look takes the rest. The documentation promises three seconds."""
_LOOK_S: Final = 0.8
"""A look that would have less is not begun."""
_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it

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
_SAVEPOINT: Final = (Statement("SAVEPOINT step"), ())
_BACK: Final = (Statement("ROLLBACK TO SAVEPOINT step"), ())
_RELEASE: Final = (Statement("RELEASE SAVEPOINT step"), ())
# A commit behind the one that is in question, so that standbys that have confirmed it have confirmed both.
_CONFIRM: Final = Statement("""
SELECT pg_logical_emit_message(true, 'rstore', '') WHERE current_setting('synchronous_standby_names') <> ''""")
_SET_LOCAL: Final = Statement("SELECT set_config($1::text, $2::text, true)")


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


class Connections:
    """What one open store asks of its server. Threads share it; each takes a connection for one call."""

    def __init__(self, place: Place, options: Options) -> None:
        self.place = place
        self.pool = Pool(place)
        self.timeout_s = max(options.timeout_s, _MOMENT_S)
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
        for tries in range(_RETRIES):
            link = self.pool.take(deadline)
            try:
                left_s = max(deadline - monotonic(), _MOMENT_S)
                return check_layout(link, self.place, left_s, frozen=self._frozen)
            except Failed as failure:
                self.pool.drop(link)  # it may be in the middle of a transaction
                if tries == _RETRIES - 1 or monotonic() > deadline or not self._again(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Unconfirmed as lost:
                self.pool.drop(link)
                raise self._unconfirmed() from lost.__cause__
            except Lost as lost:
                self.pool.drop(link)
                raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
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

    # -- calls --------------------------------------------------------------------------------------------------------

    def read(self, *calls: Call, patient: bool = False) -> Results:
        """Return the results of statements that only read; of one moment each. `patient` is for what may take long."""
        if self._frozen:
            return self._run([_BEGIN_READ, *calls, _COMMIT], harmless=True, patient=patient)[1:-1]
        return self._run(calls, harmless=True, patient=patient)

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
            raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
        return results[1:-1] if results is not None and self._frozen else results

    def as_when_writing(self, *calls: Call) -> Results:
        """Return the results of statements that only read, under the parameters that those have that write."""
        prelude = [] if self.bound else self._prelude  # a transaction began with it
        return self._run([*prelude, *calls], harmless=True)[len(prelude) :]

    def alone(self, call: Call) -> None:
        """Run a statement that cannot be part of a transaction, may take long, and does no harm when it runs twice."""
        if self.bound:
            raise NotSupportedError("PostgreSQL gives no space back inside a transaction: call vacuum outside of it")
        self._run([call], harmless=True, patient=True)

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
        for _ in range(_RETRIES):
            try:
                results = self._run(all_calls, patient=patient, deadline=deadline)[len(prelude) :]
            except Lost as lost:
                first = first or lost
                if patient:
                    deadline = monotonic() + self.timeout_s  # until now it was allowed to take long
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
        if carried > _MOST_KEPT_BYTES:
            self.pool.drop_idle()

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
        self, calls: Iterable[Call], *, harmless: bool, patient: bool = False, deadline: float | None = None
    ) -> tuple[Link, Results]:
        """Return the results of a pipeline, tried again where nothing was done, and the connection, to be given back.

        Raises `Lost` unless it is `harmless` to send it twice.
        """
        deadline = self._bound.deadline or deadline or monotonic() + self.timeout_s
        for tries in range(_RETRIES):
            link = self.pool.take(deadline)
            try:
                # However long a connection was waited for, the statement itself needs a moment.
                return link, self._on(link, calls, None if patient else max(deadline - monotonic(), _MOMENT_S))
            except Failed as failure:
                self.pool.give_back(link)
                if tries == _RETRIES - 1 or monotonic() > deadline or not self._again(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Lost as lost:
                if not harmless:
                    raise
                if tries or isinstance(lost, Silent):
                    raise StoreNotAvailableError(f"{self.place.show}: {lost.__cause__}") from lost.__cause__
        raise AssertionError("the last try returns or raises")

    def _inside(self, link: Link, calls: Iterable[Call]) -> Results:
        """Return the results of a pipeline inside a transaction, which nobody but its owner can begin again."""
        self._check_own(link)
        try:
            return self._on(link, calls, self.timeout_s)
        except Failed as failure:
            if failure.sqlstate == ABORTED and self._bound.gone is not None:
                raise self._bound.gone from failure.error  # which says why, and whether it may be done again
            error = translated(failure.error, self.place.show)
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

    def _check_own(self, link: Link) -> None:
        if link not in self.pool:
            raise self._bound.gone or StoreNotAvailableError(
                "a transaction does not outlive a fork: it is its parent's"
            )

    def _on(self, link: Link, calls: Iterable[Call], timeout_s: float | None) -> Results:
        try:
            # On behalf of something that is overdue itself there is no time to ask the server to give up.
            return link.run(calls, timeout_s, asking=self._bound.deadline is None)
        except Failed as failure:
            if failure.sqlstate in (CHANGED_PLAN, READ_ONLY, *NOT_PREPARED):
                self.pool.drop(link)  # another session may be another server by now, or know other statements
            raise
        except Unconfirmed as lost:
            self.pool.drop(link)
            raise self._unconfirmed() from lost.__cause__
        except BaseException:
            self.pool.drop(link)  # in the middle of something: by an error, or by a signal
            raise

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

    @contextmanager
    def within(self, timeout_s: float) -> Generator[float]:
        """Give all calls of this thread together so much time, and return when it is over."""
        bound, before = self._bound, self._bound.deadline
        bound.deadline = monotonic() + timeout_s
        try:
            yield bound.deadline
        finally:
            bound.deadline = before

    # -- transactions -------------------------------------------------------------------------------------------------

    def in_transaction(self, work: Callable[[Results], T], *first: Call) -> T:
        """Return what `work` does in a transaction, given what some statements at its beginning found.

        It is done again where the server undid it.
        """
        for tries in range(_RETRIES):
            try:
                with self.transaction(*first) as found:
                    return work(found)
            except Undone:
                # A step keeps the locks of what was before it, and they would be in the way again.
                if self.bound or tries == _RETRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def transaction(self, *first: Call, serializable: bool = False) -> Generator[Results]:
        """Bind a connection to this thread, and make all of its calls one transaction, begun by some statements.

        Inside another one it is a step of that: all of it or nothing. `serializable`: what was read inside is what
        there is at its end.

        Raises `Undone` if the server undid it, and it may be done again.
        """
        bound = self._bound
        if bound.link is not None:
            with self._step(first) as found:
                yield found
            return
        # Whoever stalls while it holds the locks of a transaction loses them.
        idle_ms = str(ceil(max(_STALL_S, 2 * self.timeout_s) * 1000))
        level = _BEGIN_SERIALIZABLE if serializable else _BEGIN
        idle = set_local("idle_in_transaction_session_timeout", idle_ms)
        begin = [level, self._writable, idle, *self._prelude]
        link, found = self._send([*begin, *first], harmless=True)
        mine = vars(bound)  # of this thread, wherever it ends
        mine |= {"link": link, "xid": None, "gone": None, "serializable": serializable}
        try:
            yield found[len(begin) :]
            self._end(link)
        except BaseException:
            self._undo(link)
            raise
        finally:
            self._writes += 1
            mine |= {"link": None, "serializable": False}
            self.pool.give_back(link)

    @contextmanager
    def _step(self, first: Sequence[Call]) -> Generator[Results]:
        self._run([_SAVEPOINT])
        try:
            yield self._run(first) if first else []
        except BaseException:
            link = self._bound.link
            if link is not None and link in self.pool and not link.idle:
                self._run([_BACK, _RELEASE])
            raise
        self._run([_RELEASE])

    @contextmanager
    def moment(self, *calls: Call) -> Generator[Moment | None]:
        """Read, in a transaction of its own on a connection of its own, what there was when it began.

        None: too many are kept already.
        """
        begin = [_BEGIN_MOMENT, set_local("idle_in_transaction_session_timeout", _READER_MS)]
        link, found = self._send([*begin, *calls], harmless=True)
        try:
            if self.pool.keep(link):
                yield Moment(self, link, found[len(begin) :])
                return
        finally:
            self._undo(link)
            self.pool.give_back(link)
        yield None

    def _end(self, link: Link) -> None:
        bound, deadline = self._bound, monotonic() + self.timeout_s
        self._check_own(link)
        try:
            (ended,) = self._on(link, [_COMMIT], self.timeout_s)
        except Failed as failure:
            error = translated(failure.error, self.place.show)
            raise (Passed(str(error)) if failure.sqlstate in RETRY else error) from failure.error
        except Lost as lost:
            bound.link, xid = None, bound.xid
            message = f"{self.place.show}: the connection was lost at the end of a transaction; nothing was applied"
            if xid is None and bound.serializable:  # the server was to say whether what it read belongs together
                raise CutOff(message) from lost.__cause__
            if xid is not None and not self._was_done(lambda: self._was_committed(xid), lost, deadline):
                raise StoreNotAvailableError(message) from lost.__cause__
            return
        if ended.command_status != b"COMMIT":
            failed = StoreNotAvailableError(f"{self.place.show}: the transaction had failed; nothing was applied")
            raise bound.gone or failed

    def _was_committed(self, xid: bytes) -> bool | None:
        (found,) = self._run([(_STATUS, (xid,))], harmless=True)
        return {b"committed": True, b"aborted": False}.get(found.get_value(0, 0) or b"")

    def _undo(self, link: Link) -> None:
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
            if failure.sqlstate in RETRY:  # a standby replays what the moment has to forget
                raise ConflictError(f"{self.place.show}: it took too long to read: read again") from failure.error
            raise translated(failure.error, self.place.show) from failure.error

    # -- lost answers -------------------------------------------------------------------------------------------------

    def _was_done(self, look: Look, lost: Lost, deadline: float) -> bool:
        """Return what a look says after an answer was lost: done, or not and harmless to be sent again.

        `deadline` is that of the call.
        """
        looks, pause = 0, 0.005
        end = deadline + _OVER_S
        while looks < _LOOKS and monotonic() < end - _LOOK_S:
            try:
                with self.within(end - monotonic()):
                    seen = look()
                if seen:
                    self._confirm(max(deadline, monotonic() + _MOMENT_S))
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

    def _unconfirmed(self) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self.place.show}: it is committed on the primary, but no standby has confirmed it: it is lost if the "
            "primary is lost before one does"
        )
