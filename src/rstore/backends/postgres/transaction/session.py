"""The calls of one open store: each takes a connection for its length, and is a transaction of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from math import ceil
from typing import Final, TypeVar

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.errors import translated
from rstore.backends.postgres.sql.schema import COMMIT, check_layout
from rstore.backends.postgres.transaction.executor import Executor, Look, StatementReader
from rstore.backends.postgres.transaction.probes import MIN_TIMEOUT_S
from rstore.backends.postgres.transaction.sender import RETRIES, Sender
from rstore.backends.postgres.transaction.snapshot import snapshot
from rstore.backends.postgres.transaction.transaction import transaction
from rstore.backends.postgres.transport.binary import truth
from rstore.backends.postgres.transport.protocol import Failed, Lost, Silent
from rstore.backends.postgres.transport.statements import Call, Calls, Results, Statement, set_local
from rstore.backends.telemetry import Occurrence
from rstore.backends.types import Options, RolledBack
from rstore.errors import StoreError

T = TypeVar("T")

_log: Final = logging.getLogger("rstore.postgres")
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
_BEGIN_READ: Final[Call] = (Statement("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"), ())
_COMMIT: Final[Call] = (COMMIT, ())


class ServerSession(Sender, Executor):
    """Runs single calls. Threads share it."""

    def __init__(self, place: PostgresPlace, options: Options, namespace: bytes) -> None:
        super().__init__(place, options, namespace)
        self._frozen = options.frozen
        self._lock_timeout = set_local("lock_timeout", f"{max(1, ceil(options.timeout_s * 1000))}")

    def set_up(self) -> None:
        """Make sure that the server is there, and that the schema is laid out.

        Raises `StoreNotAvailableError`.
        """
        deadline = Deadline(self.timeout_s)
        pauses = Backoff(deadline)
        for tries in range(RETRIES):
            connection = self.pool.take(deadline)
            run = partial(self.run_on, connection, timeout_s=max(deadline.left_s, MIN_TIMEOUT_S))
            try:
                return check_layout(run, connection.encoding, self.place, frozen=self._frozen)
            except Failed as failure:
                self.pool.drop(connection)  # it may be in the middle of a transaction
                if tries == RETRIES - 1 or not pauses.pause() or not self.may_retry(failure, tries):
                    raise translated(failure.error, self.place.show) from failure.error
            except Lost as lost:
                raise self.unavailable(lost) from lost.__cause__
            finally:
                self.pool.give_back(connection)
        return None

    def read(self, *calls: Call, patient: bool = False) -> Results:
        if not self._frozen and not patient:
            return self.send(calls, Deadline(self.timeout_s))
        before = [*([_BEGIN_READ] if self._frozen else ()), *([self._lock_timeout] if patient else ())]
        sent = [*before, *calls, *([_COMMIT] if self._frozen else ())]
        return self.send(sent, Deadline(self.timeout_s), patient=patient)[len(before) : len(before) + len(calls)]

    def run_alone(self, call: Call) -> None:
        """Run a statement that cannot be part of a transaction, may take long, and does no harm when it runs twice."""
        # No statement can go before it, such as one that bounds its wait for a lock.
        self.send([call], Deadline(self.timeout_s), patient=True, waits=False)

    def write(
        self, calls: Iterable[Call], look: Look, *, claim: int | None = None, patient: bool = False
    ) -> Results | None:
        prelude = [*self.prelude, *([self._lock_timeout] if patient else ())]
        sent = Calls(lambda: chain(prelude, calls)) if prelude else calls
        first: Lost | None = None
        deadline = Deadline(self.timeout_s)
        for _ in range(RETRIES):
            try:
                results = self.send(sent, deadline, harmless=False, patient=patient)[len(prelude) :]
            except Lost as lost:
                first = first or lost
                if patient:  # its time-out begins now, unless the server is silent
                    deadline = Deadline(MIN_TIMEOUT_S if isinstance(lost, Silent) else self.timeout_s)
                if self.was_done(look, lost, deadline):
                    return None
                if deadline.is_over:
                    break
            except StoreError:
                if first is None:
                    raise
                if self.was_done(look, first, deadline):
                    return None  # the first copy was under way still, and the second one met it
                break  # and it may be under way even now
            else:
                if first is None or claim is None or truth(results[claim], 1):
                    return results
                # The second copy came too late, perhaps behind the first one: that may have waited for a lock during
                # the look.
                return None if self.was_done(look, first, deadline) else results
        raise self.unknown() from first and first.__cause__

    def shrink(self, carried: int) -> None:
        if carried > _MAX_KEPT_BYTES:
            self.pool.drop_idle()

    # -- transactions -------------------------------------------------------------------------------------------------

    def scope(self, make: Callable[[Executor, Results], T], *first: Call) -> AbstractContextManager[T]:
        return transaction(self, make, first)

    def in_transaction(self, work: Callable[[Executor, Results], T], *first: Call) -> T:
        for tries in range(RETRIES):
            try:
                return super().in_transaction(work, *first)
            except RolledBack:
                self._telemetry.note(_log, Occurrence.RETRY, "%s: a transaction is done again", self.place.show)
                if tries == RETRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    def snapshot(self, *calls: Call) -> AbstractContextManager[tuple[StatementReader, Results] | None]:
        return snapshot(self, calls)
