"""The PostgreSQL backend: a handful of tables in a schema, for many processes on many machines."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from time import monotonic
from typing import Final

from psycopg import pq

from rstore.backends.contract import Backend
from rstore.backends.postgres.binary import (
    boolean,
    int4,
    int8,
    number,
    truth,
)
from rstore.backends.postgres.link import Call, Statement
from rstore.backends.postgres.logs import (
    MAX_BYTES,
    TooLargeError,
    address_of,
    begun_over,
    columns_of,
    columns_of_head,
    columns_of_row,
    plan,
)
from rstore.backends.postgres.maintenance import PostgresMaintenance
from rstore.backends.postgres.moments import Moment, Turns
from rstore.backends.postgres.records import was_done
from rstore.backends.postgres.sql import EMPTIED_BYTES
from rstore.backends.postgres.view import view_call, view_of
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    Chunk,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    HeldSnapshot,
    Log,
    Model,
    NamespaceGone,
    Position,
    Row,
    Snapshot,
    View,
    too_large,
)
from rstore.errors import StoreBusyError

_FEW_CHUNKS: Final = 8
"""So many are fetched at once: a transaction would ask the server more often, and keep a connection."""


class PostgresBackend(PostgresMaintenance):
    """One namespace of one schema."""

    is_remote = True

    def logs(self, model: Model) -> list[str]:
        (found,) = self._reads.read((self._logs.keys, (self._name, int4(model))))
        return [(found.get_value(row, 0) or b"").decode() for row in range(found.ntuples)]

    def view(
        self,
        log: Log,
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        rows: bool = True,
        bodies: bool = True,
        neighbours: bool = False,
        from_checkpoint: Position | None = None,
        unless_version: bytes | None = None,
    ) -> View:
        if unless_version is not None:
            glance = self._glance(log)  # a third of the time of the query that looks for everything
            if glance.head is not None and glance.head.version == unless_version:
                return glance
        query, asked = view_call(
            self._place.schema, lo, hi, limit, reverse=reverse, rows=rows, bodies=bodies, neighbours=neighbours,
            from_checkpoint=from_checkpoint,
        )  # fmt: skip
        (found,) = self._reads.read((query, (*self._named(log), *asked)))
        return view_of(found)

    def views(
        self,
        logs: Sequence[Log],
        lo: Position = FIRST,
        hi: Position = LAST,
        *,
        limit: int | None = None,
        reverse: bool = False,
        bodies: bool = True,
    ) -> list[View]:
        query, asked = view_call(self._place.schema, lo, hi, limit, reverse=reverse, bodies=bodies)
        found = self._reads.read(*((query, (*self._named(log), *asked)) for log in logs))
        return [view_of(one) for one in found]

    @contextmanager
    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> Generator[Snapshot]:
        view = self.view(log, lo, hi, bodies=False)
        if len(view.chunks) <= _FEW_CHUNKS or self._reads.bound:
            yield HeldSnapshot(self.view(log, lo, hi) if view.chunks else view)
            return
        named = self._named(log)
        query, asked = view_call(self._place.schema, lo, hi, bodies=False)
        scope = self._connections.moment((query, (*named, *asked)))
        try:
            with scope as moment:
                if moment is None:
                    yield HeldSnapshot(self.view(log, lo, hi))
                else:
                    yield _PinnedSnapshot(moment, self._logs.body, named)
        finally:
            scope.close()

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        address = address_of(self._name, incarnation, log)
        place = *address, boolean(head.sealed)
        try:
            if len(rows) == 1:
                append: list[Call] = [(self._logs.append_one, (*place, *columns_of_row(rows[0]), incarnation))]
            else:
                append = [(self._logs.append, (*place, *columns, incarnation)) for columns in columns_of(rows)]
        except TooLargeError as error:
            raise too_large(log.key, self._namespace, error.size, MAX_BYTES, "PostgreSQL") from None
        # In one transaction with its first rows: nobody sees a log that holds nothing, whoever dies meanwhile.
        create = [(self._logs.hold_or_create, (*address, *columns_of_head(head))), *append]

        def look() -> bool | None:
            # Where they are not, somebody may have read them, and have removed them.
            return True if {*rows} <= {*self.view(log, min(rows)[:2], max(rows)[:2]).rows} else None

        # Several statements find a head all or none: one that came between two of them would be given half of the rows.
        calls = append if len(append) == 1 else create
        deadline = monotonic() + self._connections.timeout_s
        while True:
            results = self._write(log.key, calls, look)
            if results is None:
                return True
            if not truth(results[-1], 0):
                raise NamespaceGone
            sealed = results[-1].get_value(0, 1)
            if sealed is not None and (sealed == boolean(head.sealed) or self._emptied.find(log, incarnation) is None):
                return sealed == boolean(head.sealed)
            if sealed is not None:
                self._emptied.remove(log, incarnation)
            self._check_time(deadline, log)
            calls = create

    def _check_time(self, deadline: float, log: Log) -> None:
        """Raise `StoreBusyError` when the time is up."""
        if monotonic() > deadline:
            raise StoreBusyError(
                f"{log.key!r} in namespace {self._namespace!r} was removed and begun anew concurrently until the "
                "time-out; nothing was stored"
            )

    def hot(self, log: Log) -> tuple[int, int]:
        (found,) = self._reads.read((self._logs.hot, self._named(log)))
        return number(found, 0), number(found, 1)

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        deadline = monotonic() + self._connections.timeout_s
        if commit.if_epoch is not ANY or commit.if_version is not ANY:
            return self._try_commit(log, commit, incarnation, deadline)
        while True:
            # Only bound to a head, or to there being none, can the later statements tell whether the first one won.
            head = self._head(log)
            if self._try_commit(log, commit._replace(if_epoch=head and head.epoch), incarnation, deadline):
                return True
            if head is None and commit.create is None:
                return False
            self._check_time(deadline, log)

    def _try_commit(self, log: Log, commit: Commit, incarnation: bytes, deadline: float) -> bool:
        while True:
            outcome = self._commit_once(log, commit, incarnation, deadline)
            if isinstance(outcome, bool):
                return outcome
            commit = outcome

    def _commit_once(self, log: Log, commit: Commit, incarnation: bytes, deadline: float) -> bool | Commit:
        """Do a commit if its conditions hold; return the one to try next where an emptied head was in the way."""
        stays = self._head_stays(log)
        try:
            planned = plan(self._logs, address_of(self._name, incarnation, log), commit, heads_stay=stays)
        except TooLargeError as error:
            raise too_large(log.key, self._namespace, error.size, MAX_BYTES, "PostgreSQL") from None
        if planned is None:
            if self._incarnation() != incarnation:
                raise NamespaceGone
            return False

        def look() -> bool | None:
            seen = self._head(log)
            # A lease is not lost with what it was for: who finds none may take it.
            return False if seen is None and log.model is Model.LEASES else planned.look(seen)

        results = self._write(log.key, planned.calls, look, lambda results: truth(results[planned.claim], 1))
        if planned.empties and results is not None and results[-1].command_tuples:
            self._emptied.remove_later(log, incarnation)
        if was_done(None if results is None else results[planned.claim]):
            return True
        # Who begins a series finds that there is a head: it may be one that nobody sees.
        if planned.before is not None or commit.create is None or log.model is not Model.SERIES:
            return False
        emptied = self._emptied.find(log, incarnation)
        if emptied is None:
            return False
        if stays and emptied.sealed == commit.create.sealed:
            return begun_over(commit, emptied.epoch)
        self._check_time(deadline, log)
        self._emptied.remove(log, incarnation)
        return commit

    def _head_stays(self, log: Log) -> bool:
        """Return whether the log must not be removed here: others may have appended what cannot be seen."""
        return log.model is Model.SERIES and self._connections.serializable

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        stays = self._head_stays(log)

        # In a transaction, whose name says what became of it: that a log is gone does not say who removed it.
        def remove(found: Sequence[pq.abc.PGresult]) -> bool:
            (head,) = found
            if head.ntuples and if_incarnation not in (ANY, head.get_value(0, 3)):
                raise NamespaceGone
            if not head.ntuples or if_version not in (ANY, head.get_value(0, 1)):
                return False
            incarnation, epoch = head.get_value(0, 0) or b"", head.get_value(0, 2) or b""
            this = incarnation, int4(log.model), log.key.encode()
            last: Call = self._logs.remove_head, this
            if stays:
                last = self._logs.empty, (*this, None, None, os.urandom(EMPTIED_BYTES))
                self._emptied.remove_later(log, incarnation)
            rows = [(one, this) for one in self._logs.remove_rows]
            results = self._connections.write([*rows, last], lambda: None) or []
            return len(epoch) < EMPTIED_BYTES or any(result.command_tuples for result in results[: len(rows)])

        take = self._logs.hold if stays else self._logs.take
        return self._connections.in_transaction(remove, (take, self._named(log)))

    @contextmanager
    def moment(self) -> Generator[Backend]:
        other = copy(self)
        scope = self._connections.moment()
        try:
            with scope as moment:
                if moment is None:
                    raise StoreBusyError("too many snapshots are open at once: each keeps a connection")
                other._reads = Turns(moment)  # noqa: SLF001 - of its own class
                yield other
        finally:
            scope.close()

    def transaction(self, *, create: bool = True, serializable: bool = True) -> AbstractContextManager[None]:
        return self._connections.transaction(serializable=serializable, around=self._emptied)

    def exclusive(self, log: Log) -> AbstractContextManager[None]:
        # The lock of its head, where it has one: of whoever creates it one wins, and the others find it then.
        return self._connections.transaction((self._logs.hold, self._named(log)))

    def _named(self, log: Log) -> tuple[bytes, bytes, bytes]:
        return self._name, int4(log.model), log.key.encode()

    def _head(self, log: Log) -> Head | None:
        return self._glance(log).head

    def _glance(self, log: Log) -> View:
        """Return a view of the head alone; the clock is only told of a log that is there."""
        (found,) = self._reads.read((self._logs.head, self._named(log)))
        if not found.ntuples:
            return View(0, None)
        epoch, version, sealed, facts = (found.get_value(0, column) or b"" for column in range(4))
        return View(number(found, 4), Head(epoch, version, sealed == b"\1", facts))


class _PinnedSnapshot(Snapshot):
    """A log in a transaction that stays at one moment."""

    def __init__(self, moment: Moment, body: Statement, named: tuple[bytes, ...]) -> None:
        self.view = view_of(moment.found[0])
        self._moment = moment
        self._body = body
        self._named = named

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        found = self._moment.read(*((self._body, (*self._named, int8(t), int4(seq))) for (t, seq), *_ in chunks))
        return [chunk._replace(body=one.get_value(0, 0) or b"") for chunk, one in zip(chunks, found, strict=True)]
