"""The rules of the state machine for event sequences."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from rstore import ChangeRefusedError, ConflictError, HorizonError, StoreIntegrityError
from rstore.testing import strategies as draw
from rstore.testing.handles import Handles
from rstore.testing.oracle import EventOracle, PrunedError, TakenError, fold, same, same_state, utf8


@dataclass(frozen=True)
class Given:
    """A function that makes a change of the state that it expects; another process may call it."""

    expected: dict[str, Any] | None
    change: dict[str, Any]

    def __call__(self, state: dict[str, Any]) -> dict[str, Any]:
        if not same_state(state, self.expected or {}):
            raise AssertionError(f"given another state: {state} instead of {self.expected}")
        return self.change


class EventRules(Handles):
    """Applies changes, prunes, and reads the past."""

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        state=st.dictionaries(draw.ITEMS, draw.CHANGES, max_size=3),
        t=draw.EVENT_TIMES,
        way=st.sampled_from(["mapping", "function", "version", "both"]),
    )
    def apply(self, who: str, key: str, state: dict[str, Any], t: int | None, way: str = "mapping") -> None:
        """Apply a change, which may be refused, after asking whether it will be."""
        self._apply(who, key, state, t, way)

    def _apply(self, who: str, key: str, state: dict[str, Any], t: int | None, way: str, **given: Any) -> None:
        log = self.log(key)
        before = log.current()
        change: Any = Given(before and before[1], state) if way in ("function", "both") else state
        if way in ("version", "both"):
            given["if_version"] = self.ask(who, "version", key)
        if not state:
            assert same_state(self.ask(who, "apply", key, change, t, **given), before and before[1])
            return
        refused: type[StoreIntegrityError]
        try:
            log.check(state, t)
        except (PrunedError, TakenError):
            refused = StoreIntegrityError
        except (KeyError, TypeError, ValueError, ArithmeticError):
            refused = ChangeRefusedError
        else:
            foreseen = self.ask(who, "check_change", key, change, t)
            result = self.ask(who, "apply", key, change, t, **given)
            self._record(who, key, state, t)
            assert same_state(result, (log.current() or (0, None))[1])
            assert same_state(foreseen, result)
            return
        for verb, options in (("check_change", {}), ("apply", given)):
            with pytest.raises(refused):
                self.ask(who, verb, key, change, t, **options)

    @rule(who=draw.WRITERS, key=draw.SEQUENCES, t=draw.EVENT_TIMES, stale=st.sampled_from([b"stale", None]))
    def apply_of_another_version(self, who: str, key: str, t: int | None, stale: bytes | None) -> None:
        """Apply a change on the condition of a version that is not there."""
        if stale is None and not self.log(key).changes:
            return
        with pytest.raises(ConflictError):
            self.ask(who, "apply", key, {"a": 1}, t, if_version=stale)

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        state=st.dictionaries(draw.ITEMS, draw.CHANGES, min_size=1, max_size=2),
        t=draw.EVENT_TIMES,
        id_=st.sampled_from(["1", "\U0001f600"]),
        again=st.integers(0, 2),
    )
    def apply_once(self, who: str, key: str, state: dict[str, Any], t: int | None, id_: str, again: int) -> None:
        """Apply a change under an id several times; it may be taken by another change."""
        told = repr(sorted(state.items(), key=lambda pair: pair[0])), t
        for _ in range(1 + again):
            known, n = self.oracle.ids.get((key, id_)), len(self.log(key).changes)
            if known is None:
                self._apply(who, key, state, t, "mapping", id=id_)
                if len(self.log(key).changes) > n:
                    self.oracle.ids[key, id_] = told
            elif known == told:
                current = self.log(key).current()
                assert same_state(self.ask(who, "apply", key, state, t, id=id_), current and current[1])
            else:
                with pytest.raises(ConflictError):
                    self.ask(who, "apply", key, state, t, id=id_)

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
        log = self.log(key)
        if t is not None:
            log.apply(state, t)
            return
        at, _ = self.ask(who, "current", key, withtimestamp=True)
        assert at >= (log.current() or (at, None))[0]
        log.apply(state, at, last=True)

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        remove=st.booleans(),
        until=st.none() | st.sampled_from([-9, *range(13), 10**14, 2**63 - 1]),
    )
    def prune(self, who: str, key: str, remove: bool, until: int | None = None) -> None:
        """Prune a sequence, superseded events or all before a time."""
        before = self.ask(who, "current", key, withtimestamp=True)
        log = self.log(key)
        wanted = self.ask(who, "prune", key, remove=remove, before=until, dry_run=True)
        assert same(before, self.ask(who, "current", key, withtimestamp=True))
        n = self.ask(who, "prune", key, remove=remove, before=until)
        assert n == wanted
        goes_on = until is not None and any(change.t >= until for change in log.changes)
        gone = log.prune() if until is None else log.prune_before(until)
        if remove and before is not None and not before[1] and not goes_on:
            self.oracle.events[key] = EventOracle()
            assert self.ask(who, "current", key) is None
        else:
            assert n == gone
            after = self.ask(who, "current", key, withtimestamp=True)
            assert same(before and before[0], after and after[0])
            assert same_state(before and before[1], after and after[1])
            self._probe_horizon(who, key)

    @rule(who=draw.READERS, key=draw.SEQUENCES)
    def verify(self, who: str, key: str) -> None:
        """Hold a sequence to its digest."""
        digest = self.ask(who, "digest", key)
        assert (digest is not None) == self.log(key).exists
        assert self.ask(who, "verify", key, digest) == digest

    def _probe_horizon(self, who: str, key: str) -> None:
        log = self.log(key)
        if log.horizon is None:
            return
        t, state = log.past(log.horizon) or (0, {})
        told = self.ask(who, "past", key, log.horizon, withtimestamp=True)
        assert told[0] == t
        assert same_state(told[1], state)
        with pytest.raises(HorizonError):
            self.ask(who, "past", key, log.horizon - 1)
        with pytest.raises(StoreIntegrityError):
            self.ask(who, "apply", key, {"x": 1}, log.horizon)

    @rule(who=draw.READERS, key=draw.SEQUENCES, t=st.integers(-6, 13) | st.sampled_from([10**14, 10**15, 2**63 - 1]))
    def read_past(self, who: str, key: str, t: int) -> None:
        """Read the state at one time."""
        log = self.oracle.events.get(key, EventOracle())
        try:
            expected = log.past(t)
        except PrunedError:
            with pytest.raises(HorizonError):
                self.ask(who, "past", key, t)
            return
        state = self.ask(who, "past", key, t, withtimestamp=True)
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
        """Read the events of a sequence, and the names of all sequences."""
        log = self.oracle.events.get(key, EventOracle())
        events = self.ask(who, "events", key, start, end, ops)
        if not log.exists:
            assert events is None
        else:
            assert same([tuple(event) for event in events], log.events(start, end, ops))
        there = [key for key, log in self.oracle.events.items() if log.exists]
        assert self.ask(who, "eventsources") == sorted(there, key=utf8)

    @rule(
        who=draw.READERS, key=draw.SEQUENCES, item=st.none() | draw.ITEMS, start=st.none() | st.integers(-6, 13),
        t=st.integers(-6, 13) | st.sampled_from([10**14, 10**15]), at=st.floats(0, 1, exclude_max=True),
        reverse=st.booleans(), limit=st.none() | st.integers(0, 5),
    )  # fmt: skip
    def read_history(
        self,
        who: str,
        key: str,
        item: str | None,
        start: int | None,
        t: int,
        at: float,
        reverse: bool,
        limit: int | None,
    ) -> None:
        """Read the history of a sequence, and a state as it was known behind one of its changes."""
        log = self.oracle.events.get(key, EventOracle())
        told = log.told()
        history = self.ask(who, "history", key)
        assert same([(one.t, one.item, one.op, one.value, one.before, one.after) for one in history], told)
        if start is not None and log.horizon is not None and start <= log.horizon:
            with pytest.raises(HorizonError):
                self.ask(who, "history", key, item, start, None, reverse, limit)
        else:
            some = [one for one in history if item in (None, one.item) and (start is None or one.t >= start)]
            found = self.ask(who, "history", key, item, start, None, reverse, limit)
            assert same([tuple(one) for one in found], [tuple(one) for one in some[:: -1 if reverse else 1][:limit]])
        if not history:
            return
        i = int(at * len(history))
        last = max(j for j, one in enumerate(history) if one.n == history[i].n)
        state = self.ask(who, "past", key, n=history[i].n)
        skipped = len(log.events()) - len(told)  # up to the horizon
        assert same_state(state, fold(log.events()[: skipped + last + 1], horizon=log.horizon))
        if log.horizon is None:
            known = history[i].recorded
            events = [
                event
                for event, one in zip(log.events(), history, strict=True)
                if one.t <= t and one.recorded <= known
            ]  # fmt: skip
            several = self.ask(who, "past", key, [t, history[i].t], known=known)
            assert same_state(several[0], fold(events) if events else None)
