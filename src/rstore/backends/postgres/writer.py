"""Writing to a namespace in PostgreSQL: by single calls, or in a transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from operator import itemgetter
from typing import Final, TypeAlias

from rstore.backends.common.backoff import Deadline
from rstore.backends.contract import WriteTransaction
from rstore.backends.postgres.errors import is_taken
from rstore.backends.postgres.logs.commits import (
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
from rstore.backends.postgres.sql.schema import TOMBSTONE_BYTES
from rstore.backends.postgres.transaction.executor import Executor, StatementReader
from rstore.backends.postgres.transport.binary import blobs, boolean, int4, int8, int8s_or_null, texts, truth
from rstore.backends.postgres.transport.statements import Call, Calls, Results
from rstore.backends.types import (
    ANY,
    KEEP,
    KEYS_BYTES,
    Chunk,
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
from rstore.errors import StoreBusyError, StoreError

_MAX_BYTES: Final = 1_000_000_000
"""PostgreSQL holds a little more in a field, but the row around it has to fit as well."""
_LOOKED_AT: Final = 10
"""After a lost answer to a bulk write this many keys are read back: others may have written some of them since."""

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
            # After a lost answer it is sent again as it is: the loop reads back which incarnation is stored.
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
        self, key: str | None, calls: Iterable[Call], look: _Look, *, claim: int | None = None, patient: bool = False
    ) -> Results | None:
        """Write as of `Executor.write`; an error names the namespace, and the key if there is a single one."""

        def looking(reader: StatementReader) -> bool | None:
            return look(PostgresReader(self._namespace, reader))

        try:
            return self._executor.write(calls, looking, claim=claim, patient=patient)
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

        key, record, ttl_ms = max(writes, key=_size_of, default=("", None, None))
        size = self._check_size(key, len(record or b""))
        space = self._name, incarnation
        if len(writes) == 1 and record is not None:
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
            if len(batch) == 1:  # a large record: an array would be one more copy of it
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
        size = self._check_size(key, len(record or b""))

        def look(seen: PostgresReader) -> bool | None:
            found = seen.get(key)
            if found is None:
                return None  # a concurrent reader may have seen the record, and have deleted it
            if found == record:
                return True
            return False if version_of(found) == version else None  # versions never come back

        results = self._write(key, [call], look, claim=0)
        self._executor.shrink(size)
        return _was_done(results, 0)

    def _check_size(self, key: str, size: int) -> int:
        """Return the size of a value; refuse one that PostgreSQL cannot hold, before it is sent."""
        if size > _MAX_BYTES:
            raise too_large(key, self._namespace.name, size, _MAX_BYTES, "PostgreSQL")
        return size

    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        call = self._records.touch, (self._name, key.encode(), _int8_or_null(ttl_ms))
        return self._take_away(call, if_incarnation, key) > 0

    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        call = self._records.delete, (self._name, texts(sorted(set(keys))))
        return self._take_away(call, if_incarnation, keys[0] if len(keys) == 1 else None)

    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        call = self._records.delete_range(stop=stop is not None), self._range(start, stop)
        return self._take_away(call, if_incarnation, patient=True)

    def _take_away(
        self, call: Call, if_incarnation: ExpectedIncarnation, key: str | None = None, *, patient: bool = False
    ) -> int:
        """Return how many records a statement took away; the incarnation is its last parameter."""
        statement, parameters = call
        incarnation = None if if_incarnation is ANY else if_incarnation
        n = self._count_of((statement, (*parameters, incarnation)), key, patient=patient)
        if n == 0 and incarnation is not None and self._incarnation() not in (None, incarnation):
            raise NamespaceGone  # incarnations never come back, so the statement met this one or none
        return n

    def sweep(self, limit: int) -> int:
        return self._count_of((self._records.sweep, (self._name, int8(limit))))

    def _count_of(self, call: Call, key: str | None = None, *, patient: bool = False) -> int:
        # The number of rows is in the answer alone.
        results = self._write(key, [call], lambda _: None, patient=patient)
        return 0 if results is None else results[0].command_tuples or 0

    def clear(self) -> None:
        clear = self._records.clear, (self._name,)
        self._write(None, [clear], lambda seen: seen.count() == 0 or None, patient=True)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        address = address_of(self._name, incarnation, log)
        place = *address, boolean(head.sealed)
        for row in rows:
            self._check_size(log.key, len(row.body))
        if len(rows) == 1:
            append: list[Call] = [(self._logs.append_one, (*place, *columns_of_row(rows[0]), incarnation))]
        else:
            append = [(self._logs.append, (*place, *columns, incarnation)) for columns in columns_of(rows)]
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
        values: Iterator[Row | Chunk] = chain(commit.put_rows, commit.put_chunks, commit.put_checkpoints)
        for value in values:
            self._check_size(log.key, len(value.body))
        is_bound = commit.if_epoch is not ANY or commit.if_version is not ANY
        deadline = Deadline(self._timeout_s)
        while True:
            if not is_bound:
                # Only bound to a head, or to there being none, can later statements tell whether the first one won.
                head = self.glance(log).head
                commit = commit._replace(if_epoch=head and head.epoch)
            if self._commit_once(log, commit, incarnation):
                return True
            begins = None in (commit.if_epoch, commit.if_version)
            may_meet = begins and log.model is Model.SERIES
            if may_meet and self._tombstones.is_in_the_way(self._executor, log, incarnation):
                self._tombstones.remove(self._executor, log, incarnation)
            elif is_bound or (begins and commit.create is None):
                return False
            self._check_time(deadline, log)

    def _commit_once(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        address = address_of(self._name, incarnation, log)
        tombstones = self._tombstones_of(log)
        planned = plan(self._logs, address, log, commit, heads_stay=tombstones is not None)
        if planned is None:
            if self._incarnation() != incarnation:
                raise NamespaceGone
            return False

        def look(seen: PostgresReader) -> bool | None:
            head = seen.glance(log).head
            # A lease is not lost with its result: another client that finds none may take it.
            return False if head is None and log.model is Model.LEASES else planned.look(head)

        try:
            results = self._write(log.key, planned.calls, look, claim=planned.claim)
        except StoreError as error:
            if commit.put_ids and is_taken(error):
                return False  # all of it was undone
            raise
        if tombstones is not None and planned.buries and results is not None and results[-1].command_tuples:
            tombstones[log] = incarnation
        return _was_done(results, planned.claim)

    def _tombstones_of(self, log: Log) -> dict[Log, bytes] | None:
        """Return the tombstones of the transaction if the log leaves one here, where rows of others cannot be seen."""
        return self._executor.tombstones if log.model is Model.SERIES else None

    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        tombstones = self._tombstones_of(log)

        # In a transaction, whose receipt tells its outcome: an absent log does not tell which call removed it.
        def remove(executor: Executor, found: Results) -> bool:
            (head,) = found
            if head.ntuples and if_incarnation not in (ANY, head.get_value(0, 3)):
                raise NamespaceGone
            if not head.ntuples or if_version not in (ANY, head.get_value(0, 1)):
                return False
            incarnation, epoch = head.get_value(0, 0) or b"", head.get_value(0, 2) or b""
            this = incarnation, int4(log.model), log.key.encode()
            last: Call = self._logs.remove_head, this
            if tombstones is not None:
                last = self._logs.bury, (*this, None, None, draw_tombstone())
                tombstones[log] = incarnation
            rows = [(one, this) for one in self._logs.remove_rows]
            results = executor.write([*rows, last], lambda _: None) or []
            return len(epoch) < TOMBSTONE_BYTES or any(result.command_tuples for result in results[: len(rows)])

        take = self._logs.take if tombstones is None else self._logs.hold
        return self._executor.in_transaction(remove, (take, self._named(log)))

    # -- several calls as one -----------------------------------------------------------------------------------------

    def transaction(
        self, *, create: bool = True, serializable: bool = True
    ) -> AbstractContextManager[WriteTransaction]:
        # A part is as isolated as its whole.
        return self._executor.scope(self._inside)

    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        # The lock of its head, where it has one: of several calls that create it one wins, and the others find it then.
        return self._executor.scope(self._inside, (self._logs.hold, self._named(log)))

    def _inside(self, executor: Executor, _: Results) -> WriteTransaction:
        return PostgresWriter(self._namespace, executor, self._timeout_s)


def _size_of(write: tuple[str, bytes | None, Ttl]) -> int:
    return len(write[1] or b"")


def _int8_or_null(ttl_ms: Ttl) -> bytes | None:
    return None if ttl_ms is None or ttl_ms is KEEP else int8(ttl_ms)


def _was_done(results: Results | None, claim: int) -> bool:
    """Return whether a conditional statement was done; one whose answer was lost was found to be done."""
    if results is None:
        return True
    if not truth(results[claim], 0):
        raise NamespaceGone
    return truth(results[claim], 1)
