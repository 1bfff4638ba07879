"""The rule of the state machine for followers: a state that is kept by what they tell."""

from __future__ import annotations

from typing import Any

from hypothesis.stateful import rule

from rstore import Followed, HorizonError, InvalidValueError, Store
from rstore.testing import strategies as draw
from rstore.testing.handles import Handles
from rstore.testing.oracle import EventOracle, same, same_state


def follow_on(store: Store, after: str) -> tuple[list[Followed], str, bool]:
    """Return the changes behind a cursor, the cursor behind them, and whether some were lost before they were told."""
    told: list[Followed] = []
    lost = False
    with store.follow(after=after, timeout=0) as changes:
        while True:
            try:
                told.append(next(changes))
            except StopIteration:
                return told, changes.cursor, lost
            except HorizonError:
                lost = True


def without_none(state: dict[str, Any] | None) -> dict[str, Any]:
    """Return a state without the items that are None: a change tells those that are not there as None, too."""
    return {item: value for item, value in (state or {}).items() if value is not None}


class FollowingRules(Handles):
    """Follows all sequences through one handle or another, from one cursor to the next."""

    _cursor = ""
    _copies: dict[str, dict[str, Any]]
    _numbers: dict[str, int | None]
    """None: not known, since changes were lost."""

    @rule(who=draw.READERS)
    def follow(self, who: str) -> None:
        """Go on from where the handle before has stopped, and compare the states that the changes lead to."""
        try:
            told, cursor, lost = self._follow_on(who, self._cursor)
        except InvalidValueError:  # of a namespace that was discarded since
            self._cursor = ""
            told, cursor, lost = self._follow_on(who, "")
        logs = {key: log for key, log in self.oracle.events.items() if log.changes}
        if not self._cursor:
            self._copies, self._numbers = {}, {}
            lost = lost or any(log.horizon is not None for log in logs.values())
        self._cursor = cursor
        for change in told:
            copy = self._copies.setdefault(change.key, {})
            if not lost:
                number = self._numbers.get(change.key, 0)
                assert number is None or change.n - number in (0, 1)
                assert same(change.before, copy.get(change.item))
            self._numbers[change.key] = change.n
            copy[change.item] = change.after
        if lost:
            self._copies = {key: dict((log.current() or (0, {}))[1]) for key, log in logs.items()}
            self._numbers = dict.fromkeys(logs)
            again, self._cursor, lost = self._follow_on(who, cursor)
            assert not again
            assert not lost
            return
        for key in {*self._copies, *logs}:
            current = (logs.get(key, EventOracle()).current() or (0, {}))[1]
            assert same_state(without_none(self._copies.get(key)), without_none(current))

    def _follow_on(self, who: str, after: str) -> tuple[list[Followed], str, bool]:
        if who != "process":
            return follow_on(self.stores[who], after)
        if self.worker is not None:
            found: tuple[list[Followed], str, bool] = self.worker.run(follow_on, after)
            return found
        return follow_on(self.stores["second"], after)
