"""Telling a history: each event with the value of its item before and behind it, forwards or backwards."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Final, NamedTuple

from rstore.backends.types import FIRST, LAST, MAX_INT64, Position, position_before
from rstore.codec.segments import Segment
from rstore.errors import ConflictError, HorizonError
from rstore.events.change import Change
from rstore.events.reading import Beginning, Reading
from rstore.events.state import CannotFold, State
from rstore.events.step_columns import StepColumns
from rstore.events.unfolding import Unfolding

_ENOUGH: Final = 4 * 1024 * 1024
"""Values of so many bytes or elements are held at once to tell changes backwards, of more than one change."""


class Part(NamedTuple):
    """The changes of one section between two positions, both included."""

    section: int
    lo: Position
    hi: Position


class Wanted(NamedTuple):
    """The changes that are asked for: from a position on, of one item or of all, of commits up to a number."""

    lo: Position
    item: str | None
    upto: int


class Teller(Reading):
    """One event sequence, whose changes are told."""

    def tell(
        self, start: int | None, end: int | None, item: str | None, *, reverse: bool, limit: int | None
    ) -> Iterator[Change]:
        """Yield changes, as `Asking.history` does."""
        lo = FIRST if start is None else (start, 0)
        hi = LAST if end is None else (end, LAST[1])
        if lo > hi:
            return
        changes = self._backwards(hi, start, item) if reverse else self._forwards(lo, hi, start, item)
        with closing(changes):
            try:
                yield from islice(changes, limit)
            except CannotFold as error:
                raise self._unreplayable(error.t, error) from error.__cause__

    def _first_told(self, begun: Beginning, start: int | None) -> Position:
        """Return the first position whose change can be told with the value before it.

        Raises `HorizonError` if the caller asks for an earlier one.
        """
        horizon = begun.facts.horizon
        if horizon is None:
            return FIRST if start is None else (start, 0)
        if start is not None and start <= horizon:
            raise HorizonError(
                f"the history of {self._place} was pruned: no change can be told of t={start}, only after t={horizon}",
                key=self._key,
                horizon=horizon,
            )
        after = (horizon + 1, 0) if horizon < MAX_INT64 else LAST
        return after if start is None else max(after, (start, 0))

    def _unfolding(self, begun: Beginning, state: State, item: str | None) -> Unfolding:
        items = state.encoded()
        if item is not None:
            items = {item: items[item]} if item in items else {}
        return Unfolding(self._codec, begun.facts.horizon, items)

    def _steps(self, segment: Segment, item: str | None, upto: int = MAX_INT64) -> StepColumns:
        steps = StepColumns.of(segment, self._codec)
        if upto < MAX_INT64 and max(steps.n, default=0) > upto:
            steps = steps.where([n <= upto for n in steps.n])
        return steps if item is None else steps.of_item(item)

    def _forwards(
        self, lo: Position, hi: Position, start: int | None, item: str | None
    ) -> Generator[Change, None, None]:
        with self.begun(position_before(lo), hi) as begun:
            if begun is None:
                return
            first, tally = self._first_told(begun, start), begun.tally
            values = self._unfolding(begun, begun.state, item)
            for segment in begun.moment.segments(range(len(begun.moment)), _behind(begun.last), hi):
                cut = segment.index(first)
                if cut:
                    values.skip(self._steps(segment.slice(0, cut), item))
                if cut < len(segment):
                    yield from values.tell(self._steps(segment.slice(cut, len(segment)), item))
                tally = tally.joined(*segment.column.data.tally())
            if hi == LAST:
                self.check_whole(begun.head, tally)

    # -- backwards ----------------------------------------------------------------------------------------------------

    def _backwards(self, hi: Position, start: int | None, item: str | None) -> Generator[Change, None, None]:
        """Yield the changes from the last one on: those near the end, then the others, if they are asked for."""
        with self.begun(self.near_end(hi), hi) as begun:
            if begun is None:
                return
            facts, tip, rest = begun.facts, self.tip(begun.head), begun.last
            wanted = Wanted(self._first_told(begun, start), item, tip.n)
            parts = [Part(i, _behind(rest), hi) for i in range(len(begun.moment))]
            if parts:
                yield from self._stretch(begun, self._unfolding(begun, begun.state, item), parts, wanted)
        if rest is None or rest < wanted.lo:
            return
        with self.begun(None, rest) as begun:
            # Of the same moment: changes that were recorded since are left out, and nothing else changes.
            if begun is None or begun.facts != facts or not self.tip(begun.head).follows(tip):
                raise ConflictError(f"the event sequence {self._place} was pruned or removed while it was read")
            yield from self._earlier(begun, rest, wanted)

    def _earlier(self, begun: Beginning, hi: Position, wanted: Wanted) -> Iterator[Change]:
        """Yield the changes from a position back, a stretch between two checkpoints at a time."""
        moment = begun.moment
        while hi >= wanted.lo and (section := moment.index(hi)) >= 0:
            before = position_before(max(moment.first(section), wanted.lo))
            found = None if before is None else self.checkpoint_in(begun, before, wanted.upto)
            state, last = found or (State(self._codec, begun.facts.horizon), None)
            first = 0 if last is None else max(moment.index(last), 0)
            parts = [Part(i, _behind(last), hi) for i in range(first, section + 1)]
            yield from self._stretch(begun, self._unfolding(begun, state, wanted.item), parts, wanted)
            if last is None:
                return
            hi = last

    def _stretch(self, begun: Beginning, values: Unfolding, parts: Sequence[Part], wanted: Wanted) -> Iterator[Change]:
        """Yield the changes of some parts backwards; `values` are those before the first one.

        Going backwards takes the values of each position. So a stretch is told by halves, the later one first, down to
        parts whose changes can be held at once: the values of a few positions are held, however long it is.
        """
        if len(parts) > 1:
            middle = len(parts) // 2
            earlier, later = parts[:middle], parts[middle:]
            ahead = values.copy()
            for part in earlier:
                ahead.skip(self._steps(self._open(begun, part), wanted.item, wanted.upto))
            yield from self._stretch(begun, ahead, later, wanted)
            if begun.moment.first(later[0].section) > wanted.lo:
                yield from self._stretch(begun, values, earlier, wanted)
            return
        segment = self._open(begun, parts[0])
        changes = self._held(values.copy(), segment, wanted)
        if changes is not None:
            yield from reversed(changes)
            return
        section, lo, hi = parts[0]
        at = segment.position(len(segment) // 2)
        before = position_before(at) or FIRST
        ahead = values.copy()
        ahead.skip(self._steps(segment.slice(0, len(segment) // 2), wanted.item, wanted.upto))
        yield from self._stretch(begun, ahead, [Part(section, at, hi)], wanted)
        yield from self._stretch(begun, values, [Part(section, lo, before)], wanted)

    def _open(self, begun: Beginning, part: Part) -> Segment:
        return begun.moment.open(part.section).between(part.lo, part.hi)

    def _held(self, values: Unfolding, segment: Segment, wanted: Wanted) -> list[Change] | None:
        """Return the changes of a segment that are wanted; None if their values are too much to hold at once."""
        changes: list[Change] = []
        cut = segment.index(wanted.lo)
        if cut:
            values.skip(self._steps(segment.slice(0, cut), wanted.item, wanted.upto))
            segment = segment.slice(cut, len(segment))
        size, several = 0, len(segment) > 1
        for change in values.tell(self._steps(segment, wanted.item, wanted.upto)):
            changes.append(change)
            if type(change.after) in _SIZED:
                size += len(change.after)
                if size > _ENOUGH and several:
                    return None
        return changes


_SIZED: Final = frozenset({str, bytes, list, tuple})


def _behind(position: Position | None) -> Position:
    return FIRST if position is None else (position[0], position[1] + 1)
