"""The types that a backend and the layers above it exchange.

Nouns: a *record* (the bytes of one key), a *log* (one series or one event sequence) with its *head*, *rows*,
*chunks* and *checkpoints*, a *view* (a log at one moment), a *log snapshot* (the same, read bit by bit), a *commit*
(one atomic step of a log) and a *watcher* (hears that records may have changed).
"""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from rstore.backends.credentials import Credentials
from rstore.backends.telemetry import Telemetry
from rstore.errors import NotSupportedError, StoreError

Position: TypeAlias = tuple[int, int]
"""Where a row of a log stands: (timestamp, sequence number). Series always use sequence number 0."""

LARGE_BYTES: Final = 1024 * 1024
"""From this size on, a copy of a value costs more than the few steps that avoid it."""

MIN_INT64: Final = -(2**63)
MAX_INT64: Final = 2**63 - 1
MAX_SEQ: Final = 2**31 - 1
FIRST: Final[Position] = (MIN_INT64, 0)
LAST: Final[Position] = (MAX_INT64, MAX_SEQ)


class Always(enum.Enum):
    """The type of `ANY`, the condition that always holds."""

    ANY = enum.auto()


ANY: Final = Always.ANY
Expected: TypeAlias = bytes | Literal[Always.ANY] | None
"""A condition on a stamp: these bytes, `None` for "there must be none", or `ANY`."""


KEYS_BYTES: Final = 8
"""So many bytes at the end of an incarnation are replaced with every fact that is added."""


def identity_of(incarnation: bytes) -> bytes:
    """Return the part of an incarnation that stays from the creation of a namespace to its discarding."""
    return incarnation[:-KEYS_BYTES]


ExpectedIncarnation: TypeAlias = bytes | Literal[Always.ANY]
"""A condition on the incarnation of a namespace: this one, or `ANY`."""


class Keeping(enum.Enum):
    """The type of `KEEP`, the time to live that leaves the expiry in place."""

    KEEP = enum.auto()


KEEP: Final = Keeping.KEEP
Ttl: TypeAlias = int | Literal[Keeping.KEEP] | None
"""How many milliseconds a record lives, `None` for good, or `KEEP`: as long as the record in place at the commit."""


class Model(enum.IntEnum):
    """Which kind of log; the numbers are part of the layout."""

    SERIES = 1
    EVENTS = 2
    LEASES = 3
    """A head and nothing else: the caller that put it computes the value of a key, and others wait."""
    IDS = 4
    """Hot rows alone: the ids of the changes of the sequence of that name. It lies where the sequence lies."""


class Log(NamedTuple):
    """The name of one log within the namespace. On a cluster everything of a log lives in one slot."""

    model: Model
    key: str


class Head(NamedTuple):
    """The facts about a log as a whole.

    `epoch` is replaced by every rewrite, `version` by every apply; both are random and never come back.
    `sealed` is fixed at the log's creation. `facts` are a few bytes that only the layer above understands.
    """

    epoch: bytes
    version: bytes
    sealed: bool
    facts: bytes = b""


IDS_HEAD: Final = Head(bytes(16), bytes(16), sealed=False)
"""The head of every log of ids: no commit depends on it."""


def ids_of(log: Log) -> Log:
    """Return the log of ids beside a sequence; it outlives the sequence."""
    return Log(Model.IDS, log.key)


class Row(NamedTuple):
    """One hot row, or one checkpoint."""

    t: int
    seq: int
    body: bytes


class Chunk(NamedTuple):
    """A packed run of rows, immutable; the chunks of a log are disjoint. `body` is empty if it was not asked for."""

    first: Position
    last: Position
    n: int
    meta: bytes
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a backend is to be opened."""

    frozen: bool
    durability: Literal["full", "normal"]
    timeout_s: float
    """How long to wait for a lock or a connection."""
    credentials: Credentials | None = None
    """Asked for a login at each new connection; only for schemes that take them."""
    telemetry: Telemetry = field(default_factory=Telemetry, compare=False)
    """Where events behind the calls are counted and logged."""


class NamespaceGone(Exception):  # noqa: N818 - a signal between two layers, which no user sees
    """The namespace was discarded: nothing was written. `create` makes it again."""


class RolledBack(StoreError):  # noqa: N818 - an outcome, not a fault
    """A transaction was undone by its server: nothing was applied, and all of it may be done again.

    A backend raises it chained from the error of its driver, if there is one.
    """


class Write(NamedTuple):
    """Puts the record of one key; `None` deletes it.

    A time to live and not a time: only the backend's clock judges expiry, and the writer's may differ from it.
    """

    key: str
    record: bytes | None
    ttl_ms: Ttl = None
    """Above zero; `KEEP` only in `write_if` of a record that is there."""


Writes: TypeAlias = "Sequence[tuple[str, bytes | None, Ttl]]"
"""Puts and deletes of many keys: each a `Write`, or the bare tuple, which is cheaper to make."""

Found: TypeAlias = tuple[str, bytes, int | None]
"""A key, its record, and when it expires, in POSIX milliseconds: the first one at which it is absent."""


class ScanQuery(NamedTuple):
    """Asks for the records from `start` (included) to `stop` (excluded), in key order."""

    limit: int
    """At most so many records a page."""
    start: str = ""
    stop: str | None = None
    after: str | None = None
    """The last key of the page before: the run goes on behind it (before it, in reverse)."""
    reverse: bool = False
    keys_only: bool = False
    heads: bool = False
    """Only the first `HEAD_BYTES` of each record, without moving the rest."""


class Page(NamedTuple):
    """A run of records in key order, and whether more follows. If only keys were asked for, the rest is empty."""

    records: list[Found]
    more: bool


class ViewQuery(NamedTuple):
    """Asks for a part of a log, at one moment."""

    lo: Position = FIRST
    hi: Position = LAST
    """Both included; the result is in this order."""
    limit: int | None = None
    """Ends the view where it surely holds the first `limit` positions (the last ones, in `reverse`): after that many
    rows, and after the chunks that hold as many without the first one, of which the range may cut off a part."""
    reverse: bool = False
    rows: bool = True
    bodies: bool = True
    """Whether to move the chunks' bodies."""
    neighbours: bool = False
    """Adds the chunk before and the chunk after those that overlap."""
    from_checkpoint: Position | None = None
    """Finds the newest checkpoint at or before this position, and begins behind it instead of at `lo`."""
    unless_version: bytes | None = None
    """Only the head if its version is this one, for callers that keep the state they read."""


HEAD_ONLY: Final = ViewQuery(LAST, LAST, rows=False, bodies=False)
"""Asks for the head of a log and for the backend's time, and for next to nothing else."""


class View(NamedTuple):
    """A log at one moment, between two positions."""

    now_ms: int
    """The backend's clock, POSIX milliseconds."""
    head: Head | None
    """`None` if there is no such log."""
    rows: Sequence[Row] = ()
    """In order of position."""
    chunks: Sequence[Chunk] = ()
    """Those that overlap, and the neighbours that were asked for, in order."""
    checkpoint: Row | None = None


class Commit(NamedTuple):
    """One atomic step of a log: all of it, or none where a condition does not hold."""

    create: Head | None = None
    """The head to begin with if there is no such log; without it, an absent log fails the commit."""
    if_epoch: Expected = ANY
    if_version: Expected = ANY
    epoch: bytes | None = None
    """The new epoch; `None` leaves it. The same for `version` and `facts`."""
    version: bytes | None = None
    facts: bytes | None = None
    put_rows: Sequence[Row] = ()
    drop_rows: Sequence[Row] = ()
    """Dropped only where the stored bytes are still these: a row replaced meanwhile survives."""
    put_chunks: Sequence[Chunk] = ()
    drop_chunks: Sequence[Position] = ()
    """By the position of their first row. Dropping comes before putting, for rows and chunks alike."""
    put_checkpoints: Sequence[Row] = ()
    drop_checkpoints_from: Position | None = None
    """Checkpoints at or after this position are dropped, before `put_checkpoints`."""
    drop_if_empty: bool = False
    """Drop the log if it is left without rows and chunks."""
    put_ids: Sequence[Row] = ()
    """Put into the log of ids beside a sequence (`ids_of`), which is created if there is none. On the condition that it
    has no rows at these positions, other than those in `drop_ids`."""
    drop_ids: Sequence[Row] = ()
    """Dropped from that log, as of `drop_rows`; only together with `put_ids`."""


def position_before(position: Position) -> Position | None:
    """Return the next position before one; None before the first."""
    t, seq = position
    return (t, seq - 1) if seq else (t - 1, MAX_SEQ) if t > MIN_INT64 else None


def position_after(position: Position) -> Position | None:
    """Return the next position after one; None after the last."""
    t, seq = position
    return (t, seq + 1) if seq < MAX_SEQ else (t + 1, 0) if t < MAX_INT64 else None


def first_of(rows: list[Row], chunks: list[Chunk], limit: int, *, reverse: bool) -> tuple[list[Row], list[Chunk]]:
    """Return the first (in reverse: the last) `limit` rows, and the chunks that a view has with them."""
    if reverse:
        rows, chunks = first_of(rows[::-1], chunks[::-1], limit, reverse=False)
        return rows[::-1], chunks[::-1]
    held = list(accumulate(chunk.n for chunk in chunks[1:]))
    return rows[:limit], chunks[: bisect_left(held, limit) + 2]


def overlapping(chunks: list[Chunk], lo: Position, hi: Position, *, neighbours: bool) -> list[Chunk]:
    """Return those chunks of a log that overlap a range, with the one before and the one after them if asked for."""
    found = [i for i, chunk in enumerate(chunks) if chunk.last >= lo and chunk.first <= hi]
    if neighbours:
        left = [i for i, chunk in enumerate(chunks) if chunk.last < lo][-1:]
        right = [i for i, chunk in enumerate(chunks) if chunk.first > hi][:1]
        found = left + found + right
    return [chunks[i] for i in found]


class LogSnapshot(ABC):
    """A log at one moment, for as long as it is read; bodies of chunks are fetched when they are needed."""

    view: View
    """Without bodies."""

    @abstractmethod
    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return some of the chunks with their bodies.

        Raises `ConflictError` if the moment is lost: the store was closed, the process forked, or it took too long.
        """


class HeldLogSnapshot(LogSnapshot):
    """A view with all of its bodies. Chunks are immutable, so that holding them is enough."""

    def __init__(self, view: View) -> None:
        self._chunks = {chunk.first: chunk for chunk in view.chunks}
        self.view = view._replace(chunks=[chunk._replace(body=b"") for chunk in view.chunks])

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        return [self._chunks[chunk.first] for chunk in chunks]


class Watcher(ABC):
    """Tells one thread at a time that records may have changed; in doubt it tells too much."""

    every_s: float | None = None
    """How often to look at the records although nothing was heard; None if every change is heard."""

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Return whether something may have changed since the last wait, or since the beginning, as soon as it has."""


class PollingWatcher(Watcher):
    """Hears nothing, so that its user looks again and again."""

    every_s = 0.1

    def wait(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False


def close_scope(scope: AbstractContextManager[Any]) -> None:
    """Undo a transaction or a snapshot whose `with` was interrupted on entering; leave one that has ended alone.

    Otherwise it would hold its locks until it is collected, and its thread would stay inside.
    """
    close = getattr(scope, "close", None) or getattr(getattr(scope, "gen", None), "close", None)
    if close is not None:
        close()


HEAD_BYTES: Final = 62
"""So many bytes of a record are enough for `version_of`."""


def too_large(key: str, namespace: str, size: int, limit: int, holder: str) -> NotSupportedError:
    """Return the error for a record that a backend cannot hold; it is raised before anything is written."""
    return NotSupportedError(
        f"the value of {key!r} in namespace {namespace!r} takes {size:,} bytes, and {holder} holds up to {limit:,} "
        "bytes a value: divide it among several keys; nothing was stored"
    )


def version_of(record: bytes) -> bytes:
    """Return the version of a key/value record: the nonce of a sealed one, the stamp of a plain one.

    The bytes are at a fixed place, so that a backend can compare them where the data is.
    """
    return record[50:62] if record[:1] == b"\xc1" else record[1:9]
