"""Reading a sequence of one moment from the newest checkpoint on that helps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rstore.backends.types import FIRST, LAST, MAX_SEQ, Head, Position, ViewQuery
from rstore.codec.changes import NONE, Facts, Tally
from rstore.errors import HorizonError
from rstore.events.history import History
from rstore.events.moment import Moment
from rstore.events.state import State

_NEAR: Final = 1024
"""About so many changes at the end are looked at before all chunks are listed."""
_TRIES: Final = 3
"""How often a checkpoint is looked for that concurrent changes make doubtful."""


@dataclass(slots=True)
class Beginning:
    """Where a reading begins: a state, the changes behind which it is, and what follows, of one moment."""

    moment: Moment
    head: Head
    facts: Facts
    state: State
    last: Position | None = None
    """None at the very beginning of the sequence."""
    tally: Tally = NONE


class Reading(History):
    """One event sequence, to be read in order, a section at a time."""

    @contextmanager
    def begun(self, at: Position | None, hi: Position = LAST) -> Generator[Beginning | None, None, None]:
        """Hold a sequence from the newest checkpoint up to `at`, or from its beginning, to `hi`; None if there is none.

        The checkpoint and the changes are asked for one after the other: if a concurrent change came between them, all
        are asked for again, and in the end without a checkpoint.
        """
        for i in range(_TRIES + 1):
            found = None if at is None or i == _TRIES else self._checkpoint(at)
            lo = FIRST if found is None else (found[2][0], found[2][1] + 1)
            with self._logs.snapshot(self._key, lo, max(lo, hi)) as snapshot:
                head = snapshot.view.head
                if head is None:
                    yield None
                    return
                if found is not None and found[3].version != head.version:
                    continue
                facts, moment = self.facts(head), Moment(self._logs, self._key, snapshot)
                if found is None:
                    yield Beginning(moment, head, facts, State(self._codec, facts.horizon))
                else:
                    state, tally, last, _ = found
                    yield Beginning(moment, head, facts, state, last, tally)
                return

    def _checkpoint(self, at: Position) -> tuple[State, Tally, Position, Head] | None:
        """Return the newest checkpoint up to a position, and the head that it was read with."""
        query = ViewQuery(hi=FIRST, rows=False, bodies=False, from_checkpoint=at)
        view = self._logs.view(self._key, query)
        if view.head is None or view.checkpoint is None:
            return None
        opened = self._open_checkpoint(view.head, view.checkpoint, self.facts(view.head).horizon)
        return None if opened is None else (*opened, view.checkpoint[:2], view.head)

    def near_end(self, hi: Position) -> Position | None:
        """Return a position about a thousand changes before `hi`; None if there are hardly more."""
        view = self._logs.view(self._key, ViewQuery(hi=hi, limit=_NEAR, reverse=True, bodies=False))
        if len(view.rows) < _NEAR:
            return view.chunks[-1].first if view.chunks else None
        return view.rows[0][:2]

    def checkpoint_in(self, begun: Beginning, at: Position, upto: int) -> tuple[State, Position] | None:
        """Return a checkpoint up to a position that belongs to a reading of all changes of the commits up to `upto`.

        While it is read, concurrent changes go on, and in the past as well. A checkpoint belongs to it if as many
        changes are behind it, and none that was recorded later.
        """
        moment, back = begun.moment, 1
        index: int = moment.index(at)
        while index >= 0:
            if (found := self._checkpoint(at)) is None:
                return None
            state, tally, position, head = found
            if head.version == begun.head.version and tally.top <= upto:
                return state, position
            i = moment.index(position)
            if head.facts == begun.head.facts and tally.top <= upto and i >= 0:
                before = sum(moment.n(j) for j in range(i)) + moment.open(i).index(position, after=True)
                if before == tally.n:
                    return state, position
            index, back = i - back, 2 * back
            at = moment.first(max(index, 0))
        return None

    def check_told(self, facts: Facts, t: int, known: int | None = None) -> None:
        """Refuse a time, or what was known at a time, that pruning made unknown."""
        self.check_horizon(facts.horizon, t)
        if known is not None and facts.horizon is not None and known < facts.known_from:
            raise HorizonError(
                f"the history of {self._place} was pruned: nothing can be told of what was known at {known}, "
                f"only from {facts.known_from} on",
                key=self._key,
                horizon=facts.horizon,
            )


def end_of(t: int) -> Position:
    """Return the last position of a time."""
    return t, MAX_SEQ
