"""The contract of a backend: what it keeps, what is atomic, and what it must never do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Unpack

from rstore.backends.maintenance import Care
from rstore.backends.types import (
    ANY,
    FIRST,
    LAST,
    MAX_SEQ,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    HeldSnapshot,
    Log,
    Model,
    Page,
    Position,
    Row,
    Scan,
    Snapshot,
    Ttl,
    View,
    Watcher,
    Write,
    Writes,
    position_before,
)
from rstore.errors import NotSupportedError


class Ahead(ABC):
    """A page that was asked for, and is used or let go of."""

    @abstractmethod
    def page(self) -> Page:
        """Return the page, waiting for it."""

    @abstractmethod
    def drop(self) -> None:
        """Let go of what it takes; behind `page` that is nothing."""


class Backend(Care):
    """One namespace of one store. Backends are dumb: they move bytes, atomically and in order.

    *What they must do.* Every method is atomic, and durable when it returns as far as the backend can promise. A
    view is of one moment. Keys are ordered by their UTF-8 bytes, rows by (t, seq) as signed integers. Namespaces
    never see one another. An expired record is absent for every method at once, judged by the backend's own clock.
    Threads may share a backend. A method that waited for a lock longer than the time-out raises `StoreBusyError`;
    driver exceptions never leak.

    *When a namespace is gone.* It has an incarnation, random bytes that tell it from another that takes its name later. What
    is sealed belongs to one incarnation, so every write that puts something carries the incarnation that it was sealed for; if the
    namespace is gone, or of another incarnation, nothing is written and `NamespaceGone` is raised. The layer above then calls
    `create`, seals anew and tries again. With every fact that is added the last `KEYS_BYTES` of the incarnation are replaced,
    in the same step: what is written by a layer above that does not know of the fact is refused as well, so that the
    rules that depend on facts hold for all who write from then on. What takes away carries the incarnation as `if_incarnation`: of
    another one nothing is taken, and `NamespaceGone` is raised; of a namespace that is gone there is nothing to take.
    Reading goes by name: a namespace that is gone reads as empty. (A cluster
    makes the incarnation part of every key's name: what is written under a dead one is found by nobody.)

    *What they must not know.* Types, pickles, compression, operators, encryption: these live above. Arguments were
    checked above and are not checked again, and so was whether writing is allowed.

    *What a cluster can do.* Each method touches one key, one log, or (those that take several keys or a range of them)
    keys that a cluster may spread: there atomic is per bucket, and for `fetch` and `delete_range`, which may concern
    any number of records, per step of bounded work. No method needs an interactive transaction: reading and
    committing are two calls, joined by the stamps that the commit expects, so that each of them is one script. A
    transaction over several calls is a separate ability on top: whoever has it runs the same methods inside it.
    """

    max_rows: ClassVar[int] = MAX_SEQ
    """How many hot rows may be written or dropped in one call without holding everybody else up for long."""

    is_remote: ClassVar[bool] = False
    """Whether every call takes a round trip, so that guessing what it would say is worth it."""

    # -- opening ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self) -> None:
        """Connect.

        Raises `StoreNotAvailableError` if it cannot be reached, is foreign, or is frozen and has no such namespace.
        """

    @abstractmethod
    def create(self) -> bytes:
        """Return the incarnation of the namespace, after creating it if there is none."""

    @abstractmethod
    def close(self) -> None:
        """Let go of every connection, in all threads. Closing twice is fine."""

    @abstractmethod
    def discard(self) -> None:
        """Delete everything of the namespace, and whatever is left of a store without namespaces."""

    @abstractmethod
    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        """Return the incarnation of the namespace and all facts about it, of one moment; (None, {}) if there is none."""

    @abstractmethod
    def add_fact(self, name: str, fact: bytes) -> bytes:
        """Keep a fact if there is none of that name, and return the one that is kept. The incarnation is another one then.

        Raises `NamespaceGone`.
        """

    # -- key/value ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the record of a key."""

    def peek(self, key: Any) -> bytes | None:
        """Return the record of a key if that takes less than `get`; None says nothing.

        The key need not be checked before: there are no records of what cannot be one.
        """
        del key
        return None

    @abstractmethod
    def has(self, key: str) -> bool:
        """Return whether there is a record, without moving it."""

    @abstractmethod
    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        """Return the records of those of the keys that have one, in any order: of one moment, on a cluster per key.

        `heads`: only their first `HEAD_BYTES`, without moving the rest.
        """

    @abstractmethod
    def count(self, start: str = "", stop: str | None = None) -> int:
        """Return the number of records from `start` (included) to `stop` (excluded), without moving them."""

    def is_one_place(self, keys: Iterable[str]) -> bool:
        """Return whether one `write` of these keys is all or nothing."""
        return True

    @abstractmethod
    def write(self, writes: Writes, incarnation: bytes) -> None:
        """Put and delete records of distinct keys: all or nothing, on a cluster per bucket."""

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        """Put one record: the write that there are most of."""
        self.write(((key, record, ttl_ms),), incarnation)

    @abstractmethod
    def write_if(self, write: Write, version: bytes | None, incarnation: bytes) -> bool:
        """Put or delete a record if it still has that version (`None`: if it is absent); return whether it was done."""

    @abstractmethod
    def touch(self, key: str, ttl_ms: int | None, *, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        """Let a record live that long from now on, `None` for good; return whether there is one."""

    @abstractmethod
    def delete(self, keys: Sequence[str], *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        """Delete records and return how many there were."""

    @abstractmethod
    def delete_range(self, start: str, stop: str | None, *, if_incarnation: ExpectedIncarnation = ANY) -> int:
        """Delete the records from `start` (included) to `stop` (excluded), and return how many there were."""

    @abstractmethod
    def sweep(self, limit: int) -> int:
        """Reclaim the space of about `limit` expired records at most, and return how many these were.

        A record that got another expiry meanwhile stays: what is deleted has expired at that moment.
        """

    @abstractmethod
    def scan(
        self,
        *,
        start: str = "",
        after: str | None = None,
        stop: str | None = None,
        limit: int,
        reverse: bool = False,
        keys_only: bool = False,
        heads: bool = False,
    ) -> Page:
        """Return the records from `start` (included) to `stop` (excluded), in key order or in reverse.

        To go on, call again with the last key as `after`: the run continues behind it (before it, in reverse). A page
        has at most `limit` records, and fewer where they would exceed some megabytes; one at least if any is left.
        `heads` as in `fetch`.
        """

    def scan_ahead(self, before: Sequence[Found], **asked: Unpack[Scan]) -> Ahead | None:
        """Ask for a page that is wanted in a moment, without waiting for it; None where that cannot be, or is no use.

        `before` is the page before it, whose records tell how large these may be, and the rest is that of `scan`. It
        may have fewer records, and what it holds is of the time when it was asked for.
        """
        del before, asked
        return None

    @abstractmethod
    def clear(self) -> None:
        """Delete all records; logs stay."""

    @abstractmethod
    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[Watcher]:
        """Return what says that one of the keys, or one that begins with the prefix, may have changed from now on.

        By whomever and in whatever way, but for expiring: who watches knows when that is. Writers pay next to nothing
        where nobody watches. A namespace that is discarded, and made again, goes on being watched. It may be closed by
        another thread, and after a fork in the child.
        """

    # -- logs ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def logs(self, model: Model) -> list[str]:
        """Return the keys of all logs of a model, in order."""

    @abstractmethod
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
        """Return what the log holds from `lo` to `hi`, both included and in this order, at one moment.

        `limit`: no more than needed for the first `limit` positions (the last, in `reverse`): that many rows, and
        chunks up to the one with which those after the first chunk hold that many. `rows=False` leaves the rows
        behind, `bodies=False` the chunks' bodies. `neighbours` adds the chunk before and the chunk after those that
        overlap. `from_checkpoint` finds the newest checkpoint at or before that position, and begins behind it instead
        of at `lo`. `unless_version`: nothing but the head if its version is this one, for whoever kept what it saw.
        """

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
        """Return the views of several logs, each of one moment; a backend that is far away asks for all at once."""
        return [self.view(log, lo, hi, limit=limit, reverse=reverse, bodies=bodies) for log in logs]

    def snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> AbstractContextManager[Snapshot]:
        """Return what the log holds from `lo` to `hi` at one moment, to be read bit by bit while others write.

        It is used by one thread at a time, not always the same, and held as long as somebody iterates. A backend that
        cannot stay at a moment holds the bodies: compressed, they are a tenth of the points or less.
        """
        return nullcontext(HeldSnapshot(self.view(log, lo, hi)))

    def checkpoints(self, log: Log) -> Iterator[Row]:
        """Yield the checkpoints of a log, the latest first."""
        at: Position | None = LAST
        while at is not None:
            checkpoint = self.view(log, hi=FIRST, rows=False, bodies=False, from_checkpoint=at).checkpoint
            if checkpoint is None:
                return
            yield checkpoint
            at = position_before((checkpoint.t, checkpoint.seq))

    @abstractmethod
    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        """Put rows, replacing those at the same positions, without reading anything; create the log if absent.

        Returns False, and writes nothing, if the log exists and its `sealed` differs from that of `head`.
        """

    @abstractmethod
    def hot(self, log: Log) -> tuple[int, int]:
        """Return the number of hot rows and the bytes they hold; an estimate is good enough."""

    @abstractmethod
    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        """Do all of a commit, or return False if a condition does not hold."""

    @abstractmethod
    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        """Delete a log with everything it holds, if its version is still that one; return whether it was done."""

    @property
    def transactional(self) -> bool:
        """Whether `transaction` is possible here: not where a namespace lies in several places."""
        return True

    def moment(self) -> AbstractContextManager[Backend]:
        """Return what reads the namespace as it is now, for as long as it is held. Threads may share it.

        Raises `NotSupportedError` where a backend cannot stay at a moment, and, when it is read, `ConflictError` if the
        moment is lost.
        """
        raise NotSupportedError("this backend cannot read many things as of one moment: snapshot() is for others")

    @abstractmethod
    def transaction(self, *, create: bool = True, serializable: bool = True) -> AbstractContextManager[None]:
        """Do what this thread asks for inside when it ends, all of it, or nothing if it raises; it nests.

        Nobody else sees a part, and what is read inside includes what was written inside. As if nobody else had done
        anything meanwhile in a transaction; nor outside of one, where a backend can tell. At the least, what is read is
        of one moment, and others are in the way who have since put a record or a row that is put here, or committed on
        conditions to what is committed to on conditions here; what is only read they may have changed, and rows that
        they appended to a log that is removed here come behind that.

        Without `serializable`, others may have done anything, as they may between two calls: for whoever commits on
        conditions. Without `create`, what is inside only takes away, and a place that is not there is not made for it.

        Whoever ends one that has a part open ends that before, and once more when its own `with` is left: the second
        end does nothing.

        Raises `RolledBack` where others were in the way, nothing was applied, and all of it may be done again;
        `NotSupportedError`, before anything is sent, where it is not possible.
        """

    @abstractmethod
    def exclusive(self, log: Log) -> AbstractContextManager[None]:
        """Keep everybody else from committing to a log, for whoever lost too many races; a lease on Redis."""
