"""Sessions: the namespace of an open store, a transaction or a snapshot, with its records, series and sequences."""

from __future__ import annotations

from typing import TypeAlias

from rstore.backends.contract import Backend, ReadTransaction, WriteTransaction
from rstore.backends.types import Model
from rstore.events.state_cache import StateCache
from rstore.guard import GuardedTransaction
from rstore.incarnation import Incarnation
from rstore.keyvalue.record_store import RecordReader, RecordStore
from rstore.log.packing import Logs
from rstore.log.reader import LogReader
from rstore.namespace import Namespace, ReadNamespace, Setup, Written


class Session(Namespace):
    """A session that can be written."""

    def __init__(
        self,
        backend: WriteTransaction,
        setup: Setup,
        now: Incarnation,
        states: StateCache,
        *,
        outer: Namespace | None = None,
        written: Written | None = None,
    ) -> None:
        """A transaction has an `outer` session, and counts what is `written`."""
        super().__init__(backend, setup, now, outer)
        self.states = states
        self.records = RecordStore(self, opens_plaintext=setup.incarnations.opens_plaintext, written=written)
        self.series = Logs(self, Model.SERIES, None if written is None else written.points)
        self.events = Logs(self, Model.EVENTS, None if written is None else written.changes)


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
        self.records = RecordReader(self, opens_plaintext=store.setup.incarnations.opens_plaintext)
        self.series = LogReader(self, Model.SERIES)
        self.events = LogReader(self, Model.EVENTS)


ReadSession: TypeAlias = Session | SnapshotSession
"""A session that can be read."""
