"""The handles of the state machine, and the rules that concern all models.

Nouns: a *handle* (one of several stores on one DSN: two writable, one frozen, one in a second process).
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis.stateful import RuleBasedStateMachine, rule

from rstore import FrozenStoreError, InvalidArgumentError, SerializationError, Store
from rstore.testing import strategies as draw
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.integrity import check_integrity, check_oracle
from rstore.testing.oracle import EventOracle, SeriesOracle
from rstore.testing.oracle import Oracle as NamespaceOracle
from rstore.testing.worker import Worker, call


class Handles(RuleBasedStateMachine):
    """Several handles on one store, and the oracle that knows what it holds."""

    flavour: ClassVar[Flavour] = PICKLED[0]
    worker: ClassVar[Worker | None] = None
    bulk_sizes: ClassVar[tuple[int, ...]] = (300, 5000, 18_000)
    transactional: ClassVar[bool] = True
    snapshots: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.dsn = self.new_dsn()
        self.oracle = NamespaceOracle()
        self.stores: dict[str, Any] = {}  # by handle: its store, or the transaction that is open in it
        self._races = 0
        for who in ("first", "second", "frozen", "process"):
            self._open(who)

    @staticmethod
    def new_dsn() -> str:
        """Return the DSN of a store that does not exist yet, another one each time."""
        raise NotImplementedError

    def teardown(self) -> None:
        """Read everything once more, through every handle and a new one."""
        for store in self.stores.values():
            check_oracle(store, self.oracle)
        if not self.oracle.empty():  # or else there was no write since the last discard
            with self._make(frozen=True) as store:
                check_integrity(store, self.oracle)
        for who in list(self.stores):
            self._close(who)
        if self.worker is not None:
            self._close("process")
        with self._make(frozen=False) as store:
            store.discard()

    # -- handles ------------------------------------------------------------------------------------------------------

    def _make(self, *, frozen: bool) -> Store:
        return self.flavour.make(self.dsn, frozen=frozen, durability="normal")

    def _open(self, who: str) -> None:
        if who != "process":
            self.stores[who] = self._make(frozen=who == "frozen")
            self.stores[who].open()
        elif self.worker is not None:
            self.worker.open(self.flavour, self.dsn, durability="normal")

    def _close(self, who: str) -> None:
        if who != "process":
            self.stores.pop(who).close()
        elif self.worker is not None:
            self.worker.close()

    def ask(self, who: str, verb: str, *args: Any, **kwargs: Any) -> Any:
        if who == "process":
            if self.worker is not None:
                return self.worker.call(verb, *args, **kwargs)
            who = "second"
        return call(self.stores[who], verb, *args, **kwargs)

    def series(self, key: str) -> SeriesOracle:
        return self.oracle.series.setdefault(key, SeriesOracle())

    def log(self, key: str) -> EventOracle:
        return self.oracle.events.setdefault(key, EventOracle())

    @rule(who=draw.READERS)
    def reopen(self, who: str) -> None:
        """Close a handle, and open it again."""
        if who == "frozen" and self.oracle.empty():
            return  # there may be no namespace to open
        if who != "process" or self.worker is not None:
            self._close(who)
            self._open(who)

    @rule(who=draw.WRITERS)
    def discard(self, who: str) -> None:
        """Discard the namespace while the other handles have it open."""
        self.ask(who, "discard")
        self.oracle.clear()

    @rule(who=draw.READERS)
    def read_everything(self, who: str) -> None:
        """Compare all that a handle reads with the oracle."""
        if who in self.stores:
            check_oracle(self.stores[who], self.oracle)
        elif self.worker is not None:
            self.worker.run(check_oracle, self.oracle)

    @rule(who=draw.READERS, key=draw.KEYS)
    def refuse(self, who: str, key: str) -> None:
        """Call verbs that must refuse their arguments; the other rules notice if one left anything behind."""
        unwritable: Any = FrozenStoreError if who == "frozen" else SerializationError
        malformed: Any = FrozenStoreError if who == "frozen" else InvalidArgumentError
        if who == "process":
            return  # a value that cannot be dumped cannot be sent there either
        for error, verb, args in (
            (unwritable, "update", ({"a": 1, "b": lambda: None, "c": 2},)),
            (unwritable, "extend", (key, (1, 1), (2, lambda: None))),
            (unwritable, "apply", (key, {"x": 1, "y": lambda: None})),
            (malformed, "extend", (key, (1, 1), (2.5, 2))),
            (malformed, "extend_many", (key, [(1, 1), (2, 2, 2)])),
            (malformed, "apply", (key, {"x": 1, "y": (len, 2)})),
            (malformed, "update", ({"a": 1, "": 2},)),
        ):
            with pytest.raises(error):
                self.ask(who, verb, *args)
