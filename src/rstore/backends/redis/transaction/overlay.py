"""The state of a transaction: the keys that it watches, what it has seen, and the changes that it lays over it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import ClassVar, Final

from rstore.backends.contract import WriteTransaction
from rstore.backends.redis.autocommit import RedisAutocommit
from rstore.backends.redis.namespace.bucket import Bucket
from rstore.backends.redis.transaction.changes import TransactionChanges
from rstore.backends.redis.transaction.watched import WatchedKeys
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import Signal
from rstore.backends.types import ANY, ExpectedIncarnation, Head, Log, NamespaceGone, RolledBack
from rstore.errors import NotSupportedError, StoreNotAvailableError

MAX_SIZE: Final = 6_000
"""How many records and rows a transaction reads and changes at most: its end is one script, which others wait for."""
_WATCHED: Final = 4
"""The share of a watched key in that: for each key that is added, the server looks through all watched ones."""

Seen = tuple[bytes, int | None]
"""The version of a record, and when it expires."""


class Overlay(WriteTransaction):
    """One transaction, of one thread. It reads as others do; what it writes stays here until the end."""

    is_remote: ClassVar = True
    max_rows: ClassVar = RedisAutocommit.max_rows

    def __init__(self, stored: RedisAutocommit, *, create: bool, serializable: bool) -> None:
        self._serializable = serializable
        self._stored = stored
        self._namespace = stored.namespace
        self._pid = os.getpid()
        self._bucket = self._begin(create=create)
        self._watched = WatchedKeys(self._namespace.client, self._bucket.slot)
        self._changes = TransactionChanges()
        self._seen: dict[str, Seen | None] = {}
        self._heads: dict[Log, Head | None] = {}
        self._since_ms: int | None = None  # since when nothing may expire: a run of keys was read

    def _begin(self, *, create: bool) -> Bucket:
        """Return the one bucket of a transaction; without an incarnation, if there is no namespace and none is made."""
        namespace = self._namespace
        namespace.deadline.begin()
        retries: CallRetries | None = None
        while True:
            if not self._stored.transactional:
                raise NotSupportedError(
                    f"the namespace {namespace.name!r} lies in {len(namespace.buckets)} buckets, and a transaction in "
                    "one: create it with ?buckets=1 in the DSN, or on a single server"
                )
            bucket = namespace.current(b"")
            if not bucket.incarnation and create and not namespace.frozen:
                namespace.create()
                bucket = namespace.current(b"")
            try:
                return self._stored.absorbed(bucket)
            except Signal:
                retries = namespace.again(retries)

    def _now_ms(self) -> int:
        return self._namespace.now_ms(self._bucket.slot)

    def _begin_call(self) -> None:
        """Begin a call, which has one deadline for all of its steps."""
        if self._pid != os.getpid():
            raise StoreNotAvailableError("a transaction does not outlive a fork: it is its parent's")
        self._namespace.deadline.begin()

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        self._begin_call()
        incarnation, facts = self._stored.facts()
        if incarnation != (self._bucket.incarnation or None):
            raise self._overtaken("the namespace")
        return incarnation, facts

    def create(self) -> bytes:
        self._begin_call()
        if self._nowhere:
            raise self._overtaken("the namespace")
        return self._bucket.incarnation

    def add_fact(self, name: str, fact: bytes, incarnation: bytes) -> bytes:
        self._begin_call()
        kept = self._stored.add_fact(name, fact, incarnation)
        # The fact is kept whatever becomes of the transaction, which goes on under the incarnation that it makes.
        if incarnation == self._bucket.incarnation:
            now = self._namespace.current(b"")
            if (now.records, now.batch) == (self._bucket.records, self._bucket.batch):
                self._bucket = now
        return kept

    @property
    def _nowhere(self) -> bool:
        """Whether there was no namespace when it began."""
        return not self._bucket.incarnation

    def _begin_put(self, incarnation: bytes) -> None:
        """Begin a call that puts something into one incarnation of the namespace."""
        self._begin_call()
        if self._nowhere or incarnation != self._bucket.incarnation:
            raise NamespaceGone

    def _begin_removal(self, incarnation: ExpectedIncarnation) -> None:
        """Begin a call that takes something away; there is nothing to take of a namespace that is gone."""
        self._begin_call()
        if not self._nowhere and incarnation not in (ANY, self._bucket.incarnation):
            raise NamespaceGone

    def _watch(self, keys: Iterable[bytes]) -> None:
        """Watch keys that are about to be read, unless others may change them."""
        if self._serializable:
            self._always_watch(keys)

    def _always_watch(self, keys: Iterable[bytes]) -> None:
        if new := self._watched.missing(keys):
            self._grow(_WATCHED * len(new))
            self._watched.add(new)

    def _grow(self, n: int) -> None:
        """Refuse to grow by so many records and rows if one script could not hold them."""
        changes = self._changes
        read = len(self._seen) + len(self._heads) + _WATCHED * len(self._watched)
        if read + len(changes.records) + changes.n + n > MAX_SIZE:
            raise NotSupportedError(
                f"a transaction on Redis ends as one script, of {MAX_SIZE:,} records and rows at most: split it"
            )

    def _overtaken(self, what: str) -> RolledBack:
        return RolledBack(f"another client changed {what} during a transaction; nothing was applied")
