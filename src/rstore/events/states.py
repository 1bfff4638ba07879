"""States of the past: at several positions in one pass, as they were known at some moment, or behind one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from rstore.backends.types import FIRST, HEAD_ONLY, Position, position_before
from rstore.codec.changes import StoredChange
from rstore.codec.upcasting import upcast_segment
from rstore.events.commits import CommitFinder
from rstore.events.moment import Moment
from rstore.events.reading import Beginning, end_of
from rstore.events.state import CannotFold

_FAR: Final = 200
"""So many changes are folded rather than looking for a checkpoint behind them."""


_FEW: Final = 4
"""So many states are read one by one: that takes no list of the chunks between them."""
_Found: TypeAlias = tuple[int, dict[str, bytes]] | None
"""The time of the last change, and the encoded items, not to be changed; None if nothing had happened."""


class StateReader(CommitFinder):
    """One event sequence, whose states are read."""

    def states(self, at: Sequence[Position], known: int | None = None) -> list[_Found]:
        """Return the states at some positions, in their order.

        With `known`, only changes that were recorded up to then take part.

        Raises `HorizonError` for a position, or a moment, that pruning made unknown.
        """
        rising = sorted(set(at))
        if known is None and len(rising) <= _FEW and (found := self._each(rising)) is not None:
            return [found[position] for position in at]
        near = rising[0] if known is None else min(rising[0], end_of(known))
        for checkpoint in (near, None):
            with self.begun(checkpoint, rising[-1]) as begun:
                if begun is None:
                    return [None for _ in at]
                self.check_told(begun.facts, rising[0][0], known)
                if known is not None and known >= self.tip(begun.head).recorded:
                    known = None
                if known is not None and checkpoint is not None and not self._was_known(begun, known):
                    continue
                if known is not None and checkpoint is None:
                    self._skip_known(begun, rising[0], known)
                found = dict(self._fold_to(begun, rising, known))
                return [found[position] for position in at]
        raise AssertionError  # from the beginning on, all is known

    def check_commit(self, n: int, position: Position) -> None:
        """Refuse a commit whose change pruning has left, at this position, and not the state behind it.

        States are exact from the end of the horizon on: of the changes at that very time, only that of the last one is.
        And a baseline bears the highest number of the changes in it, wherever among them that one was.
        """
        facts = self.facts(self._logs.view(self._key, HEAD_ONLY).head)
        t, horizon = position[0], facts.horizon
        if horizon is not None and t == horizon and (n == facts.baseline_n or self.read(end_of(t)).last != position):
            raise self.pruned_away(n, horizon)

    def _each(self, rising: Sequence[Position]) -> dict[Position, _Found] | None:
        """Return the states at a few positions, each read on its own; None if there was a change between two reads."""
        replays = {position: self.read(position) for position in rising}
        heads = {None if replay.head is None else replay.head.version for replay in replays.values()}
        if len(heads) > 1:
            return None
        self.check_horizon(replays[rising[0]].facts.horizon, rising[0][0])
        return {
            position: None if replay.last is None else (replay.last[0], replay.state.encoded())
            for position, replay in replays.items()
        }

    def _skip_known(self, begun: Beginning, at: Position, known: int) -> None:
        """Move the beginning of a reading on to a checkpoint up to a position of which all changes were known."""
        moment, lo = begun.moment, 0
        hi = moment.index(at) + 1
        while lo < hi:  # as if recorded times rose with positions, which most do
            middle = (lo + hi) // 2
            commits = moment.commits(middle)
            if commits is not None and commits.first_recorded <= known:
                lo = middle + 1
            else:
                hi = middle
        some = [moment.commits(i) for i in range(max(0, lo - 2), lo)]
        upto = max((one.last_n for one in some if one is not None and one.last_recorded <= known), default=0)
        before = at if lo == len(moment) else min(at, position_before(moment.first(lo)) or FIRST)
        if upto and (found := self.checkpoint_in(begun, before, upto)) is not None:
            begun.state, begun.last = found

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
    ) -> Iterator[tuple[Position, _Found]]:
        """Yield the states at rising positions."""
        moment, state, last = begun.moment, begun.state, begun.last
        done = last
        section = 0 if last is None else max(moment.index(last), 0)
        for position in rising:
            index = moment.index(position)
            if known is None and self._is_far(moment, section, done, position):
                found = self._checkpoint(position)
                if found is not None and found[3].version == begun.head.version and (done is None or found[2] > done):
                    state, last = found[0], found[2]
                    section, done = max(moment.index(last), 0), last
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
            baseline = begun.facts.baseline
            if last is None and baseline is not None and (baseline, 0) <= position:
                yield position, (baseline, {})  # one without items, which has no row
            else:
                yield position, None if last is None else (last[0], dict(items))

    def _is_far(self, moment: Moment, section: int, done: Position | None, position: Position) -> bool:
        """Return whether many changes lie between two positions."""
        index = moment.index(position)
        if index < section:
            return False
        if index > section or done is None:
            return True
        segment = moment.open(section)
        return segment.index(position) - segment.index(done) > _FAR

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

    def _change_at(self, position: Position) -> StoredChange | None:
        """Return the change at a position."""
        with self._logs.snapshot(self._key, position, position) as snapshot:
            moment = Moment(self._logs, self._key, snapshot)
            for segment in moment.segments(range(len(moment)), position, position):
                found: StoredChange = segment.column.data.changes(segment.t, segment.seq)[0]
                return found
        return None
