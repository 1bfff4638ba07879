"""Writing to a namespace in PostgreSQL: by single calls, or in a transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from operator import itemgetter
from typing import Final, TypeAlias

from psycopg import pq

from rstore.backends.common.backoff import Deadline
from rstore.backends.contract import WriteTransaction
from rstore.backends.postgres.logs.commits import (
    MAX_BYTES,
    TooLargeError,
    address_of,
    batches,
    columns_of,
    columns_of_head,
    columns_of_row,
    ns_of,
    plan,
)
from rstore.backends.postgres.logs.tombstones import Tombstones, draw_tombstone
from rstore.backends.postgres.reader import INCARNATION_BYTES, PostgresNamespace, PostgresReader
from rstore.backends.postgres.sql.tables import TOMBSTONE_BYTES
from rstore.backends.postgres.transaction.executor import Executor, StatementReader
from rstore.backends.postgres.transport.binary import blobs, boolean, int4, int8, int8s_or_null, texts, truth
from rstore.backends.postgres.transport.statements import Call, Calls, Results, Statement
from rstore.backends.types import (
    ANY,
    KEEP,
    KEYS_BYTES,
    Commit,
    Expected,
    ExpectedIncarnation,
    Head,
    Log,
    Model,
    NamespaceGone,
    Row,
    Ttl,
    ViewQuery,
    Write,
    Writes,
    too_large,
    version_of,
)
from rstore.errors import StoreBusyError

_LOOKED_AT: Final = 10
"""After a bulk write whose answer was lost, so many keys are read back: others may have written some of them since."""

_Look: TypeAlias = Callable[[PostgresReader], bool | None]


class PostgresWriter(PostgresReader, WriteTransaction):
    """Reads and writes one namespace through an object that runs statements."""

    def __init__(self, namespace: PostgresNamespace, executor: Executor, timeout_s: float) -> None:
        super().__init__(namespace, executor)
        self._executor = executor
        self._timeout_s = timeout_s
        self._tombstones = Tombstones(namespace.logs)

    def create(self) -> bytes:
        deadline = Deadline(self._timeout_s)
        while (incarnation := self._incarnation()) is None:
            if deadline.is_over:
                raise StoreBusyError(
                    f"the namespace {self._namespace.name!r} keeps being discarded concurrently; nothing was applied"
                )
            incarnation = os.urandom(INCARNATION_BYTES)
            create = self._records.create, (self._name, ns_of(incarnation), incarnation)
            # A lost one is sent again as it is: the look is the loop.
            self._write(None, [create], lambda seen: seen.facts()[0] is not None)
        return incarnation

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        ns = ns_of(incarnation)

        def kept(seen: PostgresReader) -> bytes | None:
            found, facts = seen.facts()
            return facts.get(name) if found is not None and ns_of(found) == ns else None

        add = self._records.add_fact, (self._name, name.encode(), fact, ns, ns + os.urandom(KEYS_BYTES))
        self._write(None, [add], lambda seen: kept(seen) is not None)
        if (one := kept(self)) is None:
            raise NamespaceGone
        return one

    def _write(
        self,
        key: str | None,
        calls: Iterable[Call],
        look: _Look,
        was_done: Callable[[Results], bool] = lambda _: True,
        *,
        patient: bool = False,
    ) -> Results | None:
        """Write, and name in an error the namespace and the key, if there is a single one; see `Executor.write`."""

        def looking(reader: StatementReader) -> bool | None:
            return look(PostgresReader(self._namespace, reader))

        try:
            return self._executor.write(calls, looking, was_done, patient=patient)
        except StoreBusyError as error:
            where = f"namespace {self._namespace.name!r}" if key is None else self._where(key)
            raise type(error)(f"{where}: {error}") from error.__cause__

    def _where(self, key: str) -> str:
        return f"{key!r} in namespace {self._namespace.name!r}"

    # -- records ------------------------------------------------------------------------------------------------------

    def write(self, writes: Writes, incarnation: bytes) -> None:
        def look(seen: PostgresReader) -> bool | None:
            # All or none was done, and records carry random stamps: one of them that is there is enough.
            some = islice(((key, record) for key, record, _ in writes if record is not None), _LOOKED_AT)
            return True if any(seen.get(key) == record for key, record in some) else None

        size = self._check_sizes(writes)
        space = self._name, incarnation
        if len(writes) == 1 and (record := writes[0][1]) is not None:
            key, _, ttl_ms = writes[0]
            put = self._records.put, (*space, key.encode(), record, _int8_or_null(ttl_ms))
            results = self._write(key, [put], look)
            found = results is None or results[0].command_tuples
        else:
            results = self._write(None, Calls(lambda: self._puts(writes, space)), look)
            found = results is None or results[0].ntuples
        self._executor.shrink(size)
        if not found:
            raise NamespaceGone

    def _puts(self, writes: Writes, space: tuple[bytes, bytes]) -> Iterator[Call]:
        yield self._records.lock, space
        # In the order of their keys, in which all calls take the locks of rows.
        ordered = sorted(writes, key=itemgetter(0))
        kept = [write for write in ordered if write[1] is not None]
        for batch in batches(kept, [len(record or b"") for _, record, _ in kept]):
            keys, records, ttls_ms = zip(*batch, strict=True)
            if len(batch) == 1:  # a large one among them: in an array it would be one more copy
                yield self._records.put, (*space, keys[0].encode(), records[0], _int8_or_null(ttls_ms[0]))
                continue
            pairs = *space, texts(keys), blobs(records)
            if ttls_ms.count(ttls_ms[0]) == len(ttls_ms):
                yield self._records.put_many, (*pairs, _int8_or_null(ttls_ms[0]))
            else:
                yield self._records.put_many_apart, (*pairs, int8s_or_null(ttls_ms))
        if len(kept) < len(writes):
            yield self._records.delete, (self._name, texts(key for key, record, _ in ordered if record is None), None)

    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        key, record, ttl_ms = write
        space, lives = (self._name, incarnation, key.encode()), _int8_or_null(ttl_ms)
        if record is None:
            if version is None:
                if self._incarnation() != incarnation:
                    raise NamespaceGone
                return not self.has(key)
            call: Call = self._records.delete_if, (*space, version)
        elif version is None:
            call = self._records.put_if_absent, (*space, record, lives)
        else:
            put = self._records.put_keeping_if if ttl_ms is KEEP else self._records.put_if
            call = put, (*space, record, lives, version)
        size = self._check_sizes([write])

        def look(seen: PostgresReader) -> bool | None:
            found = seen.get(key)
            if found is None:
                return None  # a concurrent reader may have seen the record, and have deleted it
            if found == record:
                return True
            return False if version_of(found) == version else None  # versions never come back

        results = self._write(key, [call], look, lambda results: truth(results[0], 1))
        self._executor.shrink(size)
        return _was_done(None if results is None else results[0])

    def _check_sizes(self, writes: Writes) -> int:
        """Return the size of the largest record; refuse one that PostgreSQL cannot hold, before it is sent."""
        sizes = [0 if record is None else len(record) for _, record, _ in writes]
        largest = max(sizes, default=0)
        if largest > MAX_BYTES:
            raise self._too_large(writes[sizes.index(largest)][0], largest)
        return largest

    def _too_large(self, key: str, size: int) -> Exception:
        return too_large(key, self._namespace.name, size, MAX_BYTES, "PostgreSQL")

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        named = self._name, key.encode(), _int8_or_null(ttl_ms)
        return self._take_away(self._records.touch, *named, key=key, if_incarnation=if_incarnation) > 0

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        key = keys[0] if len(keys) == 1 else None
        named = self._name, texts(sorted(set(keys)))
        return self._take_away(self._records.delete, *named, key=key, if_incarnation=if_incarnation)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        statement = self._records.delete_range(stop=stop is not None)
        return self._take_away(statement, *self._range(start, stop), patient=True, if_incarnation=if_incarnation)

    def _take_away(
        self,
        statement: Statement,
        *parameters: bytes | None,
        key: str | None = None,
        patient: bool = False,
        if_incarnation: ExpectedIncarnation,
    ) -> int:
        incarnation = None if if_incarnation is ANY else if_incarnation
        n = self._count_of(statement, *parameters, incarnation, key=key, patient=patient)
        if n == 0 and incarnation is not None and self._incarnation() not in (None, incarnation):
            raise NamespaceGone  # incarnations never come back, so the statement met this one or none
        return n

    def sweep(self, limit: int) -> int:
        return self._count_of(self._records.sweep, self._name, int8(limit))

    def _count_of(
        self, statement: Statement, *parameters: bytes | None, key: str | None = None, patient: bool = False
    ) -> int:
        # The number of rows is in the answer alone.
        results = self._write(key, [(statement, parameters)], lambda _: None, patient=patient)
        return 0 if results is None else results[0].command_tuples or 0

    def clear(self) -> None:
        clear = self._records.clear, (self._name,)
        self._write(None, [clear], lambda seen: seen.count() == 0 or None, patient=True)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        address = address_of(self._name, incarnation, log)
        place = *address, boolean(head.sealed)
        try:
            if len(rows) == 1:
                append: list[Call] = [(self._logs.append_one, (*place, *columns_of_row(rows[0]), incarnation))]
            else:
                append = [(self._logs.append, (*place, *columns, incarnation)) for columns in columns_of(rows)]
        except TooLargeError as error:
            raise self._too_large(log.key, error.size) from None
        # In one transaction with its first rows: no reader sees a log that holds nothing, whichever process dies.
        create = [(self._logs.hold_or_create, (*address, *columns_of_head(head))), *append]

        def look(seen: PostgresReader) -> bool | None:
            # Rows that are not there may have been read by another client, and removed.
            return True if {*rows} <= {*seen.view(log, ViewQuery(min(rows)[:2], max(rows)[:2])).rows} else None

        # Several statements find a head all or none: one that came between two of them would be given half of the rows.
        calls = append if len(append) == 1 else create
        deadline = Deadline(self._timeout_s)
        while True:
            results = self._write(log.key, calls, look)
            if results is None:
                return True
            if not truth(results[-1], 0):
                raise NamespaceGone
            sealed = results[-1].get_value(0, 1)
            if sealed == boolean(head.sealed):
                return True
            if sealed is not None:
                if not self._tombstones.is_in_the_way(self._executor, log, incarnation):
                    return False
                self._tombstones.remove(self._executor, log, incarnation)
            self._check_time(deadline, log)
            calls = create

    def _check_time(self, deadline: Deadline, log: Log) -> None:
        """Raise `StoreBusyError` when the time is up."""
        if deadline.is_over:
            raise StoreBusyError(
                f"{self._where(log.key)} was removed and begun anew concurrently until the time-out; nothing was stored"
            )

    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        deadline = Deadline(self._timeout_s)
        if commit.if_epoch is not ANY or commit.if_version is not ANY:
            return self._try_commit(log, commit, incarnation, deadline)
        while True:
            # Only bound to a head, or to there being none, can the later statements tell whether the first one won.
            head = self.head(log)
            if self._try_commit(log, commit._replace(if_epoch=head and head.epoch), incarnation, deadline):
                return True
            if head is None and commit.create is None:
                return False
            self._check_time(deadline, log)

    def _try_commit(self, log: Log, commit: Commit, incarnation: bytes, deadline: Deadline) -> bool:
        """Do a commit if its conditions hold, again where a tombstone was in the way."""
        may_begin = log.model is Model.SERIES and None in (commit.if_epoch, commit.if_version)
        while not self._commit_once(log, commit, incarnation):
            if not (may_begin and self._tombstones.is_in_the_way(self._executor, log, incarnation)):
                return False
            self._check_time(deadline, log)
            self._tombstones.remove(self._executor, log, incarnation)
        return True

    def _commit_once(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        address = address_of(self._name, incarnation, log)
        try:
            planned = plan(self._logs, address, log, commit, heads_stay=self._head_stays(log))
        except TooLargeError as error:
            raise self._too_large(log.key, error.size) from None
        if planned is None:
            if self._incarnation() != incarnation:
                raise NamespaceGone
            return False

        def look(seen: PostgresReader) -> bool | None:
            head = seen.head(log)
            # A lease is not lost with its result: another client that finds none may take it.
            return False if head is None and log.model is Model.LEASES else planned.look(head)

        results = self._write(log.key, planned.calls, look, lambda results: truth(results[planned.claim], 1))
        if planned.buries and results is not None and results[-1].command_tuples:
            self._bury(log, incarnation)
        return _was_done(None if results is None else results[planned.claim])

    def _head_stays(self, log: Log) -> bool:
        """Return whether the log leaves a tombstone here: others may have appended rows that cannot be seen."""
        return log.model is Model.SERIES and self._executor.tombstones is not None

    def _bury(self, log: Log, incarnation: bytes) -> None:
        if self._executor.tombstones is not None:
            self._executor.tombstones[log] = incarnation

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        stays = self._head_stays(log)

        # In a transaction, whose receipt tells its outcome: an absent log does not tell which call removed it.
        def remove(executor: Executor, found: Sequence[pq.abc.PGresult]) -> bool:
            (head,) = found
            if head.ntuples and if_incarnation not in (ANY, head.get_value(0, 3)):
                raise NamespaceGone
            if not head.ntuples or if_version not in (ANY, head.get_value(0, 1)):
                return False
            incarnation, epoch = head.get_value(0, 0) or b"", head.get_value(0, 2) or b""
            this = incarnation, int4(log.model), log.key.encode()
            last: Call = self._logs.remove_head, this
            if stays:
                last = self._logs.bury, (*this, None, None, draw_tombstone())
                self._bury(log, incarnation)
            rows = [(one, this) for one in self._logs.remove_rows]
            results = executor.write([*rows, last], lambda _: None) or []
            return len(epoch) < TOMBSTONE_BYTES or any(result.command_tuples for result in results[: len(rows)])

        take = self._logs.hold if stays else self._logs.take
        return self._executor.in_transaction(remove, (take, self._named(log)))

    # -- several calls as one -----------------------------------------------------------------------------------------

    def transaction(
        self, *, create: bool = True, serializable: bool = True
    ) -> AbstractContextManager[WriteTransaction]:
        del create, serializable  # a part is as isolated as its whole
        return self._executor.scope(self._inside)

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        # The lock of its head, where it has one: of several calls that create it one wins, and the others find it then.
        return self._executor.scope(self._inside, (self._logs.hold, self._named(log)))

    def _inside(self, executor: Executor, _: Results) -> WriteTransaction:
        return PostgresWriter(self._namespace, executor, self._timeout_s)


def _int8_or_null(ttl_ms: Ttl) -> bytes | None:
    return None if ttl_ms is None or ttl_ms is KEEP else int8(ttl_ms)


def _was_done(result: pq.abc.PGresult | None) -> bool:
    """Return whether a conditional statement was done; one whose answer was lost was found to be done."""
    if result is None:
        return True
    if not truth(result, 0):
        raise NamespaceGone
    return truth(result, 1)
