"""States of the past: at several positions in one pass, as they were known at some moment, or behind one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rstore.backends.types import FIRST, LAST, Position
from rstore.codec.changes import StoredChange
from rstore.codec.upcasting import upcast_segment
from rstore.errors import HorizonError, InvalidValueError
from rstore.events.moment import Moment
from rstore.events.reading import Beginning, Reading, end_of
from rstore.events.state import CannotFold

_FAR: Final = 2
"""So many sections are folded rather than looking for a checkpoint behind them."""


class StateReader(Reading):
    """One event sequence, whose states are read."""

    def states(self, at: Sequence[Position], known: int | None = None) -> list[tuple[int, dict[str, bytes]] | None]:
        """Return the states at some positions, in their order: the time of the last change, and its encoded items.

        With `known`, only changes that were recorded up to then take part. None stands where there is none.

        Raises `HorizonError` for a position, or a moment, that pruning made unknown.
        """
        rising = sorted(set(at))
        known_at = rising[0] if known is None else min(rising[0], end_of(known))
        for checkpoint in (known_at, None):
            with self.begun(checkpoint, rising[-1]) as begun:
                if begun is None:
                    return [None for _ in at]
                self.check_told(begun.facts, rising[0][0], known)
                if known is not None and known >= self.tip(begun.head).recorded:
                    known = None
                if known is not None and not self._was_known(begun, known):
                    continue
                found = dict(self._fold_to(begun, rising, known))
                return [found[position] for position in at]
        raise AssertionError  # from the beginning on, all is known

    def _was_known(self, begun: Beginning, known: int) -> bool:
        """Return whether all changes behind a checkpoint were recorded up to a moment."""
        if begun.last is None:
            return True
        # Recorded times never fall from one commit to the next: a later commit that was known proves it.
        top = begun.tally.top
        if len(begun.moment):
            segment = begun.moment.open(0)
            n, recorded = segment.column.data.n, segment.t + segment.column.data.lags
            if bool(((n > top) & (recorded <= known)).any()):
                return True
        found = self._change_at(begun.last)
        return found is not None and found.n >= top and found.recorded <= known

    def _fold_to(
        self, begun: Beginning, rising: Sequence[Position], known: int | None
    ) -> Iterator[tuple[Position, tuple[int, dict[str, bytes]] | None]]:
        """Yield the states at rising positions."""
        moment, state, last = begun.moment, begun.state, begun.last
        section, done = 0, last
        for position in rising:
            index = moment.index(position)
            if known is None and index > section + _FAR and (found := self._checkpoint(position)) is not None:
                jumped, _, there, head = found
                if head.version == begun.head.version and (done is None or there > done):
                    state, last, done = jumped, there, there
                    section = max(moment.index(there), 0)
            while section <= index:
                for change in self._changes(moment, section, done, position, known):
                    try:
                        state.fold(change.steps, change.t)
                    except CannotFold as error:
                        raise self._unreplayable(change.t, error) from error.__cause__
                    last = change.position
                if section == index:
                    break
                section += 1
            done = position if done is None else max(done, position)
            try:
                items = state.encoded()
            except CannotFold as error:
                raise self._unreplayable(position[0], error) from error.__cause__
            yield position, None if last is None else (last[0], dict(items))

    def _changes(
        self, moment: Moment, section: int, done: Position | None, position: Position, known: int | None
    ) -> Sequence[StoredChange]:
        """Return the changes of a section behind `done` up to a position, which were known."""
        if known is not None:
            commits = moment.commits(section)
            if commits is not None and commits.first_recorded > known:
                return ()
        segment = moment.open(section)
        start = 0 if done is None else segment.index(done, after=True)
        stop = segment.index(position, after=True)
        if start >= stop:
            return ()
        changes = upcast_segment(segment.slice(start, stop), self._codec)
        return changes if known is None else [change for change in changes if change.recorded <= known]

    # -- one commit ---------------------------------------------------------------------------------------------------

    def _change_at(self, position: Position) -> StoredChange | None:
        """Return the change at a position."""
        with self._logs.snapshot(self._key, position, position) as snapshot:
            moment = Moment(self._logs, self._key, snapshot)
            for segment in moment.segments(range(len(moment)), position, position):
                found: StoredChange = segment.column.data.changes(segment.t, segment.seq)[0]
                return found
        return None

    def position_of(self, n: int) -> Position | None:
        """Return the position of the change of one commit; None if the sequence is unknown.

        Raises `InvalidValueError` for a commit that there is not, `HorizonError` for one whose change was pruned away.
        """
        near = self.near_end(LAST)
        for lo, hi in ((near or FIRST, LAST), (FIRST, near)):
            if hi is None:
                continue
            with self._logs.snapshot(self._key, lo, hi) as snapshot:
                moment = Moment(self._logs, self._key, snapshot)
                if moment.head is None:
                    return None
                tip, facts = self.tip(moment.head), self.facts(moment.head)
                for section in _likely(moment, n) if 0 < n <= tip.n else ():
                    if (position := moment.find(section, n)) is not None:
                        return position
        if facts.horizon is not None and 0 < n <= facts.pruned_n:
            raise HorizonError(
                f"the history of {self._place} was pruned: the change of commit {n} is gone",
                key=self._key,
                horizon=facts.horizon,
            )
        raise InvalidValueError(f"{self._place} has no commit {n}: its last one is {tip.n}")


def _likely(moment: Moment, n: int) -> Iterator[int]:
    """Yield the sections that may have the change of a commit, the likeliest ones first."""
    lo, hi, seen = 0, len(moment), set[int]()
    while lo < hi:  # as if the commits were in the order of their positions, which most are
        middle = (lo + hi) // 2
        commits = moment.commits(middle)
        if commits is None or commits.first_n <= n <= commits.last_n:
            seen.add(middle)
            yield middle
        if commits is None or n < commits.first_n:
            hi = middle
        else:
            lo = middle + 1
    for i in range(len(moment)):
        if i not in seen:
            commits = moment.commits(i)
            if commits is None or commits.first_n <= n <= commits.last_n:
                yield i
