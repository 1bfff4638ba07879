"""The contract of a backend: the calls that it answers, what is atomic, and what must never happen.

Nouns: a *read transaction* (reads one namespace), a *write transaction* (reads and writes it, all or nothing) and a
*backend* (opens both, and answers the same calls itself: each is a transaction of its own then).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from rstore.backends.maintenance import BackendMaintenance
from rstore.backends.types import (
    ANY,
    FIRST,
    HEAD_ONLY,
    LAST,
    MAX_SEQ,
    Commit,
    Expected,
    ExpectedIncarnation,
    Found,
    Head,
    HeldLogSnapshot,
    Log,
    LogSnapshot,
    Model,
    Options,
    Page,
    PollingWatcher,
    Position,
    Row,
    ScanQuery,
    Ttl,
    View,
    ViewQuery,
    Watcher,
    Write,
    Writes,
    position_before,
)
from rstore.errors import NotSupportedError


class ReadTransaction(ABC):
    """Reads one namespace.

    A backend reads what is stored at the moment of each call. A write transaction adds what was written inside it. A
    snapshot stays at one moment. A namespace that is gone reads as empty.

    An expired record is absent for every call, judged by the backend's own clock. Keys are ordered by their UTF-8
    bytes, rows by (t, seq) as signed integers.
    """

    is_remote: ClassVar[bool] = False
    """Whether every call takes a round trip, so that guessing its answer pays."""

    def clock_ms(self) -> int | None:
        """Return the backend's clock, POSIX milliseconds, if it is that of this process; else only views tell it."""
        return None

    @abstractmethod
    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        """Return the incarnation of the namespace and all its facts, of one moment; (None, {}) if there is none."""

    # -- records ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Return the record of a key."""

    def peek(self, key: Any) -> bytes | None:
        """Return the record of a key if a path shorter than `get` finds it; None says nothing.

        The key need not be checked before: no record exists under anything that cannot be a key.
        """
        return None

    @abstractmethod
    def has(self, key: str) -> bool:
        """Return whether there is a record, without moving it."""

    @abstractmethod
    def fetch(self, keys: Collection[str], *, heads: bool = False) -> list[Found]:
        """Return the records that exist under these keys, in any order: of one moment, on a cluster per key.

        `heads`: only their first `HEAD_BYTES`, without moving the rest.
        """

    @abstractmethod
    def count(self, start: str = "", stop: str | None = None) -> int:
        """Return the number of records from `start` (included) to `stop` (excluded), without moving them."""

    @abstractmethod
    def scan(self, query: ScanQuery) -> Page:
        """Return a page of records in key order.

        A page has at most `query.limit` records, fewer where they would exceed some megabytes, and one at least if any
        is left.
        """

    # -- logs ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def logs(self, model: Model) -> list[str]:
        """Return the keys of all logs of a model, in order."""

    @abstractmethod
    def view(self, log: Log, query: ViewQuery = ViewQuery()) -> View:  # noqa: B008 - immutable
        """Return the part of a log that the query asks for, of one moment."""

    def views(self, logs: Sequence[Log], query: ViewQuery = ViewQuery()) -> list[View]:  # noqa: B008 - immutable
        """Return the views of several logs, each of one moment; a remote backend asks for all of them at once."""
        return [self.view(log, query) for log in logs]

    def log_snapshot(self, log: Log, lo: Position = FIRST, hi: Position = LAST) -> AbstractContextManager[LogSnapshot]:
        """Hold a log at one moment, from `lo` to `hi`, to be read bit by bit while others write.

        One thread uses it at a time, not always the same, and holds it as long as it iterates. A backend that cannot
        stay at a moment holds the bodies, which are compressed.
        """
        return nullcontext(HeldLogSnapshot(self.view(log, ViewQuery(lo, hi))))

    def checkpoints(self, log: Log) -> Iterator[Row]:
        """Yield the checkpoints of a log, the latest first."""
        at: Position | None = LAST
        while at is not None:
            query = ViewQuery(hi=FIRST, rows=False, bodies=False, from_checkpoint=at)
            checkpoint = self.view(log, query).checkpoint
            if checkpoint is None:
                return
            yield checkpoint
            at = position_before((checkpoint.t, checkpoint.seq))

    @abstractmethod
    def hot(self, log: Log) -> tuple[int, int]:
        """Return the number of hot rows and the bytes they hold; an estimate is good enough."""


class WriteTransaction(ReadTransaction):
    """Reads and writes one namespace.

    Every call is atomic. On a backend each is durable when it returns, as far as the backend can promise; inside a
    transaction all of them become durable, and visible to others, when the transaction ends.

    *When a namespace is gone.* Random bytes, its incarnation, tell a namespace from a later one of the same name. A
    sealed value belongs to one incarnation, so every call that puts something carries the incarnation that it was
    sealed for. If the namespace is gone, or of another incarnation, the call writes nothing and raises
    `NamespaceGone`; the layer above calls `create`, seals anew and tries again. Each new fact replaces the last
    `KEYS_BYTES` of the incarnation in the same step, so that a writer that does not know the fact is refused as well.
    A call that deletes carries `if_incarnation`: it deletes nothing and raises `NamespaceGone` if the namespace is of
    another incarnation. If the namespace is gone, there is nothing to delete. (A cluster makes the incarnation part of
    every key's name: no reader finds what is written under a dead one.)

    *On a cluster* a call on one key or one log is atomic. A call on several keys is atomic per bucket; `fetch` and
    `delete_range`, which may concern any number of records, are atomic per step of bounded work.
    """

    max_rows: ClassVar[int] = MAX_SEQ
    """How many hot rows one call may write or drop without holding up all other clients for long."""

    @abstractmethod
    def create(self) -> bytes:
        """Return the incarnation of the namespace, after creating it if there is none."""

    @abstractmethod
    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        """Keep a fact if there is none of that name, and return the one that is kept; the incarnation changes.

        Only the part of the `incarnation` that facts leave alone has to be that of the namespace (`identity_of`).

        Raises `NamespaceGone`.
        """

    # -- records ------------------------------------------------------------------------------------------------------

    def is_one_place(self, keys: Iterable[str]) -> bool:
        """Return whether one `write` of these keys is all or nothing."""
        return True

    @abstractmethod
    def write(self, writes: Writes, incarnation: bytes) -> None:
        """Put and delete records of distinct keys: all or nothing, on a cluster per bucket."""

    def put(self, key: str, record: bytes, ttl_ms: Ttl, incarnation: bytes) -> None:
        """Put one record: the most frequent write."""
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

        A record that got another expiry meanwhile stays: only records that have expired at that moment are deleted.
        """

    @abstractmethod
    def clear(self) -> None:
        """Delete all records; logs stay."""

    # -- logs ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def append(self, log: Log, head: Head, rows: Sequence[Row], incarnation: bytes) -> bool:
        """Put rows, replacing those at the same positions, without reading anything; create the log if absent.

        Returns False, and writes nothing, if the log exists and its `sealed` differs from that of `head`.
        """

    @abstractmethod
    def commit(self, log: Log, commit: Commit, incarnation: bytes) -> bool:
        """Do all of a commit, or return False if a condition does not hold."""

    @abstractmethod
    def drop(self, log: Log, *, if_version: Expected = ANY, if_incarnation: ExpectedIncarnation = ANY) -> bool:
        """Delete a log with everything it holds, if its version is still that one; return whether it was done."""

    # -- several calls as one -----------------------------------------------------------------------------------------

    @property
    def transactional(self) -> bool:
        """Whether `transaction` is possible here: not where a namespace lies in several places."""
        return True

    @abstractmethod
    def transaction(
        self, *, create: bool = True, serializable: bool = True
    ) -> AbstractContextManager[WriteTransaction]:
        """Begin a transaction: all calls of the object that it yields are done when it ends, or none if it raises.

        One that begins inside another one is a part of it: undone alone, done with the whole. The object belongs to the
        thread that began it.

        Others see no part. Reads inside see the writes inside. The result is as if no other transaction had run
        meanwhile, nor a single call of others where a backend can tell. At the least, all reads are of one moment, and
        a concurrent write is in the way if it put a record or a row that is put here, or committed on conditions to a
        log that is committed to on conditions here. A record that is only read may have changed, and rows that others
        appended to a log that is removed here come behind its removal.

        Without `serializable`, others may do anything between two calls: for callers that commit on conditions.
        Without `create`, the calls inside only delete, and an absent store is not created.

        The end of a transaction whose part is still open ends the part first. The part's own end then does nothing.

        Raises `RolledBack` where others were in the way, nothing was applied, and all of it may be done again;
        `NotSupportedError`, before anything is sent, where it is not possible.
        """

    @abstractmethod
    def exclusive(self, log: Log) -> AbstractContextManager[WriteTransaction]:
        """Keep all others from committing to a log, after too many lost races; a lease on Redis.

        The calls that it protects go through the object that it yields.
        """


class Backend(WriteTransaction, BackendMaintenance):
    """One namespace of one store. Backends are dumb: they move bytes, atomically and in order.

    Threads may share a backend. A call that waited for a lock longer than the time-out raises `StoreBusyError`; no
    exception of a driver leaks. Namespaces never see one another.

    *Kept out of it:* types, pickles, compression, operators and encryption live above. Arguments were checked above
    and are not checked again, and so was the right to write.

    No call needs an interactive transaction: reading and committing are two calls, joined by the stamps that the commit
    expects, so that each is one script. `transaction` is a separate ability on top.
    """

    takes_credentials: ClassVar[bool] = False
    """Whether it asks `Options.credentials` for a login; only read of a backend that is not built in."""

    @abstractmethod
    def __init__(self, place: str, namespace: str, options: Options) -> None:
        """Make the backend, not open yet; `place` is what a DSN says behind its two slashes."""

    @abstractmethod
    def open(self) -> None:
        """Connect.

        Raises `StoreNotAvailableError` if it cannot be reached, is foreign, or is frozen and has no such namespace.
        """

    @abstractmethod
    def close(self) -> None:
        """Close every connection, in all threads. Closing twice is fine."""

    @abstractmethod
    def discard(self) -> None:
        """Delete everything of the namespace, and what is left of a store without namespaces."""

    @abstractmethod
    def watcher(self, keys: Sequence[str], prefix: str | None) -> AbstractContextManager[Watcher]:
        """Watch for changes of the keys, or of keys that begin with the prefix, from now on.

        It hears of every change but expiry, whose time its user knows. Writers pay next to nothing while no watcher is
        there. It goes on when the namespace is discarded and made again. Another thread may close it, and the child
        after a fork.
        """

    def heads(self, model: Model, start: str = "", stop: str | None = None) -> list[tuple[str, Head]]:
        """Return the logs of a model from `start` (included) to `stop` (excluded), each with its head.

        Each head is of one moment. All that were committed before the call are told as they are by then, or later.
        """
        keys = [key for key in self.logs(model) if start <= key and (stop is None or key < stop)]
        views = self.views([Log(model, key) for key in keys], HEAD_ONLY)
        return [(key, view.head) for key, view in zip(keys, views, strict=True) if view.head is not None]

    def log_watcher(self, model: Model) -> AbstractContextManager[Watcher]:
        """Watch for commits to the logs of a model, from now on, as `watcher` does for records."""
        return nullcontext(PollingWatcher())

    def snapshot(self) -> AbstractContextManager[ReadTransaction]:
        """Read the namespace as of now, as long as the scope lasts. Threads may share the object that it yields.

        Raises `NotSupportedError` where a backend cannot stay at a moment; and `ConflictError`, when it is read, if the
        moment is lost.
        """
        raise NotSupportedError("this backend cannot read many things as of one moment: snapshot() is for others")
