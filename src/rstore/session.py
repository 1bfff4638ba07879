"""Sessions: the namespace of an open store, a transaction or a snapshot, with its records, series and sequences."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.types import Model
from rstore.events.state_cache import StateCache
from rstore.guard import GuardedTransaction
from rstore.incarnation import Incarnation
from rstore.keyvalue.record_store import RecordReader, RecordStore
from rstore.log.packing import Logs
from rstore.log.reader import LogReader
from rstore.namespace import Namespace, ReadNamespace, Setup


class Session(Namespace):
    """A session that can be written."""

    def __init__(
        self,
        backend: WriteTransaction,
        setup: Setup,
        now: Incarnation,
        states: StateCache,
        outer: Session | None = None,
    ) -> None:
        """A transaction has an `outer` session, and counts its writes."""
        super().__init__(backend, setup, now, outer)
        self.states = states
        self.records = RecordStore(self, counts=outer is not None)
        self.series, self.events = (
            Logs(self, model, None if outer is None else Counter()) for model in (Model.SERIES, Model.EVENTS)
        )

    def catch_up(self, inside: Session) -> None:
        """Sweep and seal what the writes of a transaction that has ended made due."""
        self.records.count_written(inside.records.written)
        self.series.catch_up(inside.series)
        self.events.catch_up(inside.events)


class StoreSession(Session):
    """The session of an open store, outside of transactions. Threads share it."""

    def __init__(self, whole: Backend, setup: Setup) -> None:
        now = setup.incarnations.find(whole)
        super().__init__(whole, setup, now, StateCache())
        self.whole = whole
        """The backend itself, for what concerns the store as a whole."""
        self.adopt(now)

    def adopt(self, found: Incarnation) -> None:
        """Go on with another incarnation."""
        # In this order: a writer that takes the new incarnation writes through the backend that goes with it.
        self.backend = GuardedTransaction(self.whole, found.envelope) if found.is_guarded else self.whole
        self.now = found


class SnapshotSession(ReadNamespace[ReadTransaction]):
    """The session of a snapshot. Threads share it."""

    def __init__(self, snapshot: ReadTransaction, store: StoreSession) -> None:
        super().__init__(snapshot, store.setup, store.now)
        self.states = StateCache()
        self.records = RecordReader(self)
        self.series = LogReader(self, Model.SERIES)
        self.events = LogReader(self, Model.EVENTS)


ReadSession: TypeAlias = Session | SnapshotSession
"""A session that can be read."""
