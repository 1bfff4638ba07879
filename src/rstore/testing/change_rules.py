"""The rules of the state machine for changes that take back others, and for changes in bulk."""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from rstore import ChangeRefusedError, HorizonError, InvalidValueError, StoreIntegrityError
from rstore.testing import strategies as draw
from rstore.testing.event_rules import EventRules
from rstore.testing.oracle import EventOracle, PrunedError, TakenError, same_state


class ChangeRules(EventRules):
    """Loads, reverts and undoes."""

    @rule(
        who=draw.WRITERS,
        changes=st.lists(
            st.tuples(
                draw.SEQUENCES,
                st.sampled_from([-5, *range(12), 10**15]),
                st.dictionaries(draw.ITEMS, draw.CHANGES, max_size=2),
            ),
            max_size=6,
        ),
    )
    def load(self, who: str, changes: list[tuple[str, int, dict[str, Any]]]) -> None:
        """Load a few changes, which may be refused: then all are, since so few are checked together."""
        self._load(who, [change for change in changes if change[2]], len(changes))

    @rule(who=draw.WRITERS, key=draw.SEQUENCES, start=st.sampled_from([20, 10**6]), n=st.sampled_from([130, 1100]))
    def load_many(self, who: str, key: str, start: int, n: int) -> None:
        """Load so many changes that there are checkpoints, and chunks."""
        first: dict[str, Any] = {"count": 0, "text": ""}
        changes = [(key, start + 2 * i, {"count": (operator.add, 1), "text": f"{i}"} if i else first) for i in range(n)]
        self._load(who, changes, n)

    def _load(self, who: str, changes: list[tuple[str, int, dict[str, Any]]], n: int) -> None:
        refused: type[StoreIntegrityError] | None = None
        loaded: dict[str, EventOracle] = {}
        for key in sorted({key for key, _, _ in changes}):
            log = loaded[key] = deepcopy(self.log(key))
            try:
                log.load([(t, state) for other, t, state in changes if other == key])
            except (PrunedError, TakenError):
                refused = StoreIntegrityError
            except (KeyError, TypeError, ValueError, ArithmeticError):
                refused = ChangeRefusedError
            if refused is not None:
                break
        if refused is not None:
            with pytest.raises(refused):
                self.ask(who, "apply_many", changes)
            return
        assert self.ask(who, "apply_many", changes) == len(changes) <= n
        self.oracle.events |= loaded

    @rule(
        who=draw.WRITERS,
        key=draw.SEQUENCES,
        t=st.integers(-6, 13) | st.sampled_from([10**6, 10**15]),
        items=st.none() | st.lists(draw.ITEMS),
    )
    def revert(self, who: str, key: str, t: int, items: list[str] | None) -> None:
        """Return to a state of the past."""
        log = self.log(key)
        if not log.changes:
            assert self.ask(who, "revert", key, t, items) is None
            return
        try:
            _, then = log.past(t) or (0, {})
        except PrunedError:
            with pytest.raises(HorizonError):
                self.ask(who, "revert", key, t, items)
            return
        expected = dict((log.current() or (0, {}))[1])
        for item in {**expected, **then} if items is None else items:
            expected.pop(item, None)
            if item in then:
                expected[item] = then[item]
        assert same_state(self.ask(who, "revert", key, t, items), expected)
        self._record_last(who, key)

    @rule(who=draw.WRITERS, key=draw.SEQUENCES, n=st.integers(-1, 30))
    def undo(self, who: str, key: str, n: int) -> None:
        """Take back a change, which may be refused."""
        try:
            state = self.ask(who, "undo", key, n)
        except (ChangeRefusedError, HorizonError, InvalidValueError):
            return
        self._record_last(who, key)
        assert same_state(state, (self.log(key).current() or (0, None))[1])

    def _record_last(self, who: str, key: str) -> None:
        """Record the change that the store made of a verb, if it recorded one."""
        log = self.log(key)
        events = (self.ask(who, "events", key) or [])[len(log.events()) :]
        if events:
            changed = {item: (op, value) for _, item, op, value in events}
            log.apply(changed, events[0][0], last=True)
