"""A state machine that drives a store at random through several handles, and compares every answer with the oracle.

Nouns: a *handle* (one of several stores on one DSN: two writable, one frozen, one in a second process) and a *rule*
(one thing that a handle is asked to do). Keys and timestamps are few, so that rules meet each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from rstore import (
    ChangeRefusedError,
    FrozenStoreError,
    HorizonError,
    InvalidArgumentError,
    SerializationError,
    Store,
    StoreIntegrityError,
)
from rstore.testing import strategies as draw
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.integrity import check_integrity, check_oracle
from rstore.testing.oracle import (
    EventOracle,
    Point,
    PrunedError,
    SeriesOracle,
    TakenError,
    matches,
    same,
    same_state,
    utf8,
)
from rstore.testing.oracle import Oracle as NamespaceOracle
from rstore.testing.worker import Worker, call


class StoreMachine(RuleBasedStateMachine):
    """Several handles on one store; make a class of your own with `machine`."""

    flavour: ClassVar[Flavour] = PICKLED[0]
    worker: ClassVar[Worker | None] = None
    bulk_sizes: ClassVar[tuple[int, ...]] = (300, 5000, 18_000)

    def __init__(self) -> None:
        super().__init__()
        self.dsn = self.new_dsn()
        self.oracle = NamespaceOracle()
        self.stores: dict[str, Store] = {}
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
        if not self.oracle.empty():  # or else nobody has written since the last discard
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

    def _ask(self, who: str, verb: str, *args: Any, **kwargs: Any) -> Any:
        if who == "process":
            if self.worker is not None:
                return self.worker.call(verb, *args, **kwargs)
            who = "second"
        return call(self.stores[who], verb, *args, **kwargs)

    def _series(self, key: str) -> SeriesOracle:
        return self.oracle.series.setdefault(key, SeriesOracle())

    def _log(self, key: str) -> EventOracle:
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
        """Discard everything, under the hands of the other handles."""
        self._ask(who, "discard")
        self.oracle.clear()

    @rule(who=draw.READERS)
    def read_everything(self, who: str) -> None:
        """Compare everything."""
        if who in self.stores:
            check_oracle(self.stores[who], self.oracle)
        elif self.worker is not None:
            self.worker.run(check_oracle, self.oracle)

    @rule(who=draw.READERS, key=draw.KEYS)
    def refuse(self, who: str, key: str) -> None:
        """Ask for what is refused; whatever it leaves behind is found by the other rules."""
        unwritable: Any = FrozenStoreError if who == "frozen" else SerializationError
        malformed: Any = FrozenStoreError if who == "frozen" else InvalidArgumentError
        if who == "process":
            return  # what cannot be dumped cannot be sent there either
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
                self._ask(who, verb, *args)

    # -- key/value ----------------------------------------------------------------------------------------------------

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES)
    def set(self, who: str, key: str, value: Any) -> None:
        """Set a key."""
        self._ask(who, "set", key, value)
        self.oracle.values[key] = value

    @rule(who=draw.WRITERS, pairs=st.dictionaries(draw.KEYS, draw.VALUES, max_size=4))
    def update(self, who: str, pairs: dict[str, Any]) -> None:
        """Set several keys."""
        self._ask(who, "update", pairs)
        self.oracle.values.update(pairs)

    @rule(who=draw.WRITERS, keys=st.lists(draw.KEYS, max_size=4))
    def delete(self, who: str, keys: list[str]) -> None:
        """Delete several keys."""
        there = [key for key in set(keys) if key in self.oracle.values]
        assert self._ask(who, "delete", *keys) == len(there)
        for key in there:
            del self.oracle.values[key]

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES)
    def setdefault_and_pop(self, who: str, key: str, value: Any) -> None:
        """Set a key unless it is there, and take another out."""
        assert same(self._ask(who, "setdefault", key, value), self.oracle.values.setdefault(key, value))
        assert same(self._ask(who, "pop", "ab", 5), self.oracle.values.pop("ab", 5))

    @rule(who=draw.WRITERS)
    @precondition(lambda self: self.oracle.values)
    def popitem(self, who: str) -> None:
        """Take out the last key."""
        last = max(self.oracle.values, key=utf8)
        assert same(self._ask(who, "popitem"), (last, self.oracle.values.pop(last)))

    @rule(who=draw.WRITERS)
    def clear(self, who: str) -> None:
        """Delete all keys."""
        self._ask(who, "clear")
        self.oracle.values.clear()

    @rule(who=draw.READERS, key=draw.KEYS, pattern=st.text(st.sampled_from("ab*?\uffff"), max_size=4))
    def read_values(self, who: str, key: str, pattern: str) -> None:
        """Read pairs in every way."""
        values = self.oracle.values
        assert same(self._ask(who, "get", key, 5), values.get(key, 5))
        assert self._ask(who, "__contains__", key) is (key in values)
        assert self._ask(who, "__len__") == len(values)
        assert self._ask(who, "keys") == sorted(values, key=utf8)
        expected = [(key, values[key]) for key in sorted(values, key=utf8)]
        assert same(self._ask(who, "items"), expected)
        assert same(self._ask(who, "find", pattern), [pair for pair in expected if matches(pattern, pair[0])])

    # -- series -------------------------------------------------------------------------------------------------------

    @rule(who=draw.WRITERS, key=draw.KEYS, points=st.lists(st.tuples(draw.TIMES, draw.VALUES), max_size=6))
    def extend(self, who: str, key: str, points: list[Point]) -> None:
        """Write a few points."""
        assert self._ask(who, "extend", key, *points) == len(points)
        self._series(key).update(points)

    @rule(
        who=draw.WRITERS, key=draw.KEYS, start=st.integers(-20, 30), size=st.integers(0, 2), step=st.integers(1, 3),
        kind=st.sampled_from(sorted(draw.KINDS)),
    )  # fmt: skip
    def extend_bulk(self, who: str, key: str, start: int, size: int, step: int, kind: str) -> None:
        """Write many points."""
        spec = (start, self.bulk_sizes[size], step, kind)
        if who == "process" and self.worker is not None:
            assert self.worker.run(draw.extend_bulk, key, *spec) == spec[1]
        else:
            assert self._ask(who, "extend_many", key, iter(draw.bulk_points(*spec))) == spec[1]
        self._series(key).update(draw.bulk_points(*spec))

    @rule(
        who=draw.WRITERS,
        key=draw.KEYS,
        start=draw.BOUNDS | st.integers(0, 20_000),
        end=draw.BOUNDS | st.integers(0, 20_000),
    )
    def remove(self, who: str, key: str, start: int | None, end: int | None) -> None:
        """Remove a range of points."""
        self._ask(who, "remove", key, start=start, end=end)
        self._series(key).remove(start, end)

    @rule(
        who=draw.READERS, key=draw.KEYS,
        start=draw.BOUNDS | st.integers(0, 20_000), end=draw.BOUNDS | st.integers(0, 20_000),
        n=st.none() | st.integers(0, 4), freq=st.none() | st.sampled_from([1, 2, 3, 10, 2**62]),
    )  # fmt: skip
    def read_series(
        self, who: str, key: str, start: int | None, end: int | None, n: int | None, freq: int | None
    ) -> None:
        """Read points in every way."""
        points = self.oracle.series.get(key, SeriesOracle())
        expected = points.range(start, n=n, end=end, freq=freq)
        assert same(self._ask(who, "range", key, start, n=n, end=end, freq=freq), expected)
        every = points.points()
        assert same(self._ask(who, "first", key), every[0] if every else None)
        assert same(self._ask(who, "last", key), every[-1] if every else None)
        grid = points.missing(-3, 15, freq=2)
        assert self._ask(who, "missing", key, -3, 15, 2) == grid
        assert self._ask(who, "iscomplete", key, -3, 15, 2) is (not grid)
        there = [key for key, points in self.oracle.series.items() if points]
        assert self._ask(who, "timeseries") == sorted(there, key=utf8)

    # -- events -------------------------------------------------------------------------------------------------------

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        state=st.dictionaries(draw.ITEMS, draw.CHANGES, max_size=3),
        t=draw.EVENT_TIMES,
    )
    def apply(self, who: str, key: str, state: dict[str, Any], t: int | None) -> None:
        """Apply a change, which may be refused."""
        log = self._log(key)
        before = log.current()
        if not state:
            assert same_state(self._ask(who, "apply", key, state, t), before and before[1])
            return
        refused: type[StoreIntegrityError]
        try:
            log.check(state, t)
        except (PrunedError, TakenError):
            refused = StoreIntegrityError
        except (KeyError, TypeError, ValueError, ArithmeticError):
            refused = ChangeRefusedError
        else:
            result = self._ask(who, "apply", key, state, t)
            self._record(who, key, state, t)
            assert same_state(result, (log.current() or (0, None))[1])
            return
        with pytest.raises(refused):
            self._ask(who, "apply", key, state, t)

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        state=st.dictionaries(draw.ITEMS, draw.CHANGES, min_size=1, max_size=3),
        n=st.integers(2, 40),
    )
    def apply_often(self, who: str, key: str, state: dict[str, Any], n: int) -> None:
        """Apply additions until there is history."""
        for i in range(n):
            self.apply(who, key, {"count": (operator.add, 1)} if i and i % 7 else {"count": i} | state, None)

    def _record(self, who: str, key: str, state: dict[str, Any], t: int | None) -> None:
        log = self._log(key)
        if t is not None:
            log.apply(state, t)
            return
        at, _ = self._ask(who, "current", key, withtimestamp=True)
        assert at >= (log.current() or (at, None))[0]
        log.apply(state, at, last=True)

    @rule(who=draw.WRITERS, key=draw.SEQUENCES, remove=st.booleans())
    def prune(self, who: str, key: str, remove: bool) -> None:
        """Prune a sequence."""
        before = self._ask(who, "current", key, withtimestamp=True)
        n = self._ask(who, "prune", key, remove=remove)
        log = self._log(key)
        obsolete = log.prune()
        if remove and before is not None and not before[1]:
            self.oracle.events[key] = EventOracle()
            assert self._ask(who, "current", key) is None
        else:
            assert n == obsolete
            after = self._ask(who, "current", key, withtimestamp=True)
            assert same(before and before[0], after and after[0])
            assert same_state(before and before[1], after and after[1])
            self._probe_horizon(who, key)

    def _probe_horizon(self, who: str, key: str) -> None:
        log = self._log(key)
        if log.horizon is None:
            return
        t, state = log.past(log.horizon) or (0, {})
        told = self._ask(who, "past", key, log.horizon, withtimestamp=True)
        assert told[0] == t
        assert same_state(told[1], state)
        with pytest.raises(HorizonError):
            self._ask(who, "past", key, log.horizon - 1)
        with pytest.raises(StoreIntegrityError):
            self._ask(who, "apply", key, {"x": 1}, log.horizon)

    @rule(who=draw.READERS, key=draw.SEQUENCES, t=st.integers(-6, 13) | st.sampled_from([10**14, 10**15, 2**63 - 1]))
    def read_past(self, who: str, key: str, t: int) -> None:
        """Read the state of a time."""
        log = self.oracle.events.get(key, EventOracle())
        try:
            expected = log.past(t)
        except PrunedError:
            with pytest.raises(HorizonError):
                self._ask(who, "past", key, t)
            return
        state = self._ask(who, "past", key, t, withtimestamp=True)
        assert (state and state[0]) == (expected and expected[0])
        assert same_state(state and state[1], expected and expected[1])

    @rule(
        who=draw.READERS, key=draw.SEQUENCES,
        start=st.none() | st.integers(-6, 13), end=st.none() | st.integers(-6, 13),
        ops=st.none() | st.lists(st.sampled_from([operator.setitem, operator.add, operator.delitem]), min_size=1),
    )  # fmt: skip
    def read_events(
        self, who: str, key: str, start: int | None, end: int | None, ops: list[Callable[..., Any]] | None
    ) -> None:
        """Read what happened."""
        log = self.oracle.events.get(key, EventOracle())
        events = self._ask(who, "events", key, start, end, ops)
        if not log.changes:
            assert events is None
        else:
            assert same([tuple(event) for event in events], log.events(start, end, ops))
        there = [key for key, log in self.oracle.events.items() if log.changes]
        assert self._ask(who, "eventsources") == sorted(there, key=utf8)

    # -- at once ------------------------------------------------------------------------------------------------------

    @rule(key=draw.SEQUENCES, size=st.integers(0, 1))
    def race(self, key: str, size: int) -> None:
        """Let all writers write to one series and one sequence at once, to places that are each one's own."""
        writers = ["first", "second"] + ["process"] * (self.worker is not None)
        n = self.bulk_sizes[size]
        self._races += 1
        points = {who: draw.bulk_points(1000 + i, n, len(writers), "ints") for i, who in enumerate(writers)}
        # Their own times, after any horizon but that of a sequence pruned in the future, whose `now` is at it.
        times = {who: 10_000 + self._races * 10 + i for i, who in enumerate(writers)}
        log = self._log(key)
        explicit = log.horizon is None or log.horizon < 10_000

        def write(who: str) -> None:
            self._ask(who, "extend", key, *points[who][: n // 2])
            self._ask(who, "set", f"race {who}", self._races)
            if explicit:
                self._ask(who, "apply", key, {f"race {who}": self._races}, times[who])
            self._ask(who, "extend_many", key, points[who][n // 2 :])

        _all_at_once(write, writers)
        for who in writers:
            self._series(key).update(points[who])
            self.oracle.values[f"race {who}"] = self._races
            if explicit:
                log.apply({f"race {who}": self._races}, times[who])


def _all_at_once(task: Callable[[str], None], writers: Iterable[str]) -> None:
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(task, who) for who in writers]:
            future.result()


def machine(
    new_dsn: Callable[[], str],
    *,
    flavour: Flavour = PICKLED[0],
    worker: Worker | None = None,
    bulk_sizes: tuple[int, int, int] = StoreMachine.bulk_sizes,  # type: ignore[assignment]
) -> type[StoreMachine]:
    """Return a state machine over fresh stores: `run_state_machine_as_test` runs it.

    Args:
        new_dsn: Returns the DSN of a store that does not exist yet, another one each time.
        flavour: Plain or encrypted; its serializer is pickle.
        worker: The second process; without one, the backend is taken to be this process's own.
        bulk_sizes: How many points a small, a middling and a large batch have.
    """
    given = {"new_dsn": staticmethod(new_dsn), "flavour": flavour, "worker": worker, "bulk_sizes": bulk_sizes}
    return type("Machine", (StoreMachine,), given)
