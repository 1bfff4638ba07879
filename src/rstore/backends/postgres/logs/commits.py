"""Commits as statements, and how one is recognised when its answer is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

from rstore.backends.common.heads import changed
from rstore.backends.postgres.logs.tombstones import draw_tombstone
from rstore.backends.postgres.sql.logs import LogSql
from rstore.backends.postgres.transport.binary import blobs, boolean, int4, int4s, int8, int8s
from rstore.backends.postgres.transport.statements import Call
from rstore.backends.types import ANY, IDS_HEAD, Commit, Head, Log, Model, Row

T = TypeVar("T")

_BATCH_ROWS: Final = 2_000
_BATCH_BYTES: Final = 16 * 1024 * 1024

Address = tuple[bytes, bytes, bytes, bytes]
"""The name of a namespace, its ns, the model and the key of a log."""


def ns_of(incarnation: bytes) -> bytes:
    """Return the number by which the rows of a namespace are found."""
    return incarnation[:8]


def batches(items: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """Yield items in batches of bounded size, each for one statement."""
    begin = held = 0
    for i, size in enumerate(sizes):
        if i > begin and (i - begin == _BATCH_ROWS or held + size > _BATCH_BYTES):
            yield items[begin:i]
            begin, held = i, 0
        held += size
    if begin < len(items):
        yield items[begin:]


def columns_of(rows: Sequence[Row]) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield rows as three arrays, a batch at a time, in the order in which all take the locks of rows."""
    if not rows:
        return
    ordered = sorted(rows)
    for batch in batches(ordered, [len(row.body) for row in ordered]):
        times, seqs, bodies = zip(*batch, strict=True)
        yield int8s(times), int4s(seqs), blobs(bodies)


def columns_of_row(row: Row) -> tuple[bytes, bytes, bytes]:
    """Return a row as parameters."""
    return int8(row.t), int4(row.seq), row.body


def address_of(name: bytes, incarnation: bytes, log: Log) -> Address:
    """Return a log as parameters."""
    return name, ns_of(incarnation), int4(log.model), log.key.encode()


def columns_of_head(head: Head) -> tuple[bytes, bytes, bytes, bytes]:
    """Return a head as parameters."""
    return head.epoch, head.version, boolean(head.sealed), head.facts


class Stamps(NamedTuple):
    """Epoch and version of a head; None is any."""

    epoch: bytes | None
    version: bytes | None


class Plan(NamedTuple):
    """A commit as statements, the place of the one that tells whether it was done, and how it is recognised later."""

    calls: list[Call]
    claim: int
    before: Stamps | None
    """The stamps that the head is to have; None where there is to be none."""
    fresh: Stamps
    """The stamps that the commit puts there; None where it leaves the old one."""
    buries: bool
    """Whether the last statement leaves a tombstone if the log is left without rows and chunks."""

    def look(self, head: Head | None) -> bool | None:
        """Return whether the commit is what made this head, False if it can still happen, None if that is unknown.

        An absent head tells nothing: another client may have read the log that the commit made, and have removed it.
        """
        if head is None:
            return None
        if any(stamp is not None and stamp in head[:2] for stamp in self.fresh):
            return True
        if self.before is None or self.fresh == (None, None):
            return None
        # Sent twice it happens once: the second finds a head with other stamps.
        fits = all(stamp in (None, there) for stamp, there in zip(self.before, head[:2], strict=True))
        return False if fits else None


def plan(sql: LogSql, address: Address, log: Log, commit: Commit, *, heads_stay: bool) -> Plan | None:
    """Return a commit as statements; None if its conditions contradict each other.

    The conditions name an epoch, a version, or that there is no such log. `heads_stay`: an empty log becomes a
    tombstone.
    """
    # One row goes along with the first statement, in half the time, where no row has to be dropped before.
    row = columns_of_row(commit.put_rows[0]) if len(commit.put_rows) == 1 and not commit.drop_rows else ()
    claim: list[Call]
    if commit.if_epoch is None or commit.if_version is None:
        if commit.create is None or isinstance(commit.if_epoch, bytes) or isinstance(commit.if_version, bytes):
            return None
        before, head = None, changed(commit.create, commit)
        if log.model is Model.SERIES:
            create = sql.create_series_with_row if row else sql.create_series
        else:
            create = sql.create_with_row if row else sql.create
        claim = [(create, (*address, *columns_of_head(head), *row))]
        fresh = after = Stamps(head.epoch, head.version)
    else:
        if_epoch, if_version = commit.if_epoch, commit.if_version
        before = Stamps(None if if_epoch is ANY else if_epoch, None if if_version is ANY else if_version)
        fresh = Stamps(commit.epoch, commit.version)
        claim = [(sql.move_with_row if row else sql.move, (*address, *before, *fresh, commit.facts, *row))]
        after = Stamps(fresh.epoch or before.epoch, fresh.version or before.version)
    guarded = *address[1:], *after
    calls = list(_changes(sql, commit, () if row else commit.put_rows, guarded))
    empties = commit.drop_if_empty and not commit.put_rows and not commit.put_chunks
    if empties and heads_stay:
        calls.append((sql.bury, (*guarded, draw_tombstone())))
    elif empties:
        # A commit that may remove the head takes its lock first, and in a statement of its own.
        claim.insert(0, (sql.lock, address))
        calls += ((remove, guarded) for remove in sql.remove_if_empty)
    return Plan([*claim, *calls], len(claim) - 1, before, fresh, empties and heads_stay)


def _changes(sql: LogSql, commit: Commit, put_rows: Sequence[Row], guarded: tuple[bytes | None, ...]) -> Iterator[Call]:
    """Yield the calls behind the first statement: dropping before putting."""
    for columns in columns_of(commit.drop_rows):
        yield sql.drop_rows, (*guarded, *columns)
    if commit.drop_chunks:
        times, seqs = zip(*sorted(commit.drop_chunks), strict=True)
        yield sql.drop_chunks, (*guarded, int8s(times), int4s(seqs))
    if commit.drop_checkpoints_from is not None:
        yield sql.drop_checkpoints, (*guarded, *map(int8, commit.drop_checkpoints_from))
    for columns in columns_of(put_rows):
        yield sql.put_rows, (*guarded, *columns)
    for (first_t, first_seq), (last_t, last_seq), n, meta, body in commit.put_chunks:
        ends = int8(first_t), int4(first_seq), int8(last_t), int4(last_seq)
        yield sql.put_chunk, (*guarded, *ends, int4(n), meta, body)
    for columns in columns_of(commit.put_checkpoints):
        yield sql.put_checkpoints, (*guarded, *columns)
    if commit.put_ids:
        yield sql.create_ids, (*guarded, *columns_of_head(IDS_HEAD))
    for columns in columns_of(commit.drop_ids):
        yield sql.drop_ids, (*guarded, *columns)
    for columns in columns_of(commit.put_ids):
        yield sql.put_ids, (*guarded, *columns)
