"""Feeding a follower: the changes of one sequence behind a place, in the order of their commits.

The value of an item before and behind a change is the current one, before and behind the commit. For a change that is
the last one in time, as most are, that is its place in time as well. A change in the past may leave it as it was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Final, NamedTuple

from rstore.backends.types import FIRST, MIN_INT64, Head, Position, ViewQuery, position_before
from rstore.codec.change_meta import CommitRange, commits_of
from rstore.codec.changes import Facts, Step, StoredChange, Tip, commit_number
from rstore.codec.upcasting import upcast_segment
from rstore.errors import HorizonError, StoreIntegrityError
from rstore.events.change import Change
from rstore.events.cursors import Place
from rstore.events.moment import Moment
from rstore.events.operators import stored_operator
from rstore.events.reading import Beginning, Reading
from rstore.events.state import CannotFold, State
from rstore.events.step_columns import StepColumns
from rstore.events.unfolding import Unfolding
from rstore.log.reader import position_of

_FEW: Final = 128
"""So many changes behind a place are looked for among the hot rows before the sequence is gone through."""
_TRIES: Final = 3


class PrunedAhead(Exception):  # noqa: N818 - a signal to the follower, which tells the error
    """Changes behind the place were pruned away, up to commit `n`."""

    def __init__(self, n: int, error: HorizonError) -> None:
        super().__init__(n)
        self.n = n
        self.error = error


class Told(NamedTuple):
    """A change, and the place behind it."""

    place: Place
    change: Change


class _Fold(NamedTuple):
    """One step on an item, in the order of position."""

    n: int
    at: Position
    step: Step


@dataclass(slots=True)
class _Item:
    """All steps on one item, and its value by the commits that were told."""

    folds: list[_Fold] = field(default_factory=list)
    value: bytes | None = None
    last: Position = FIRST
    """Where the last of the steps stands that were told."""


@dataclass(slots=True)
class _End:
    """The last commit of a sequence, and from when on its history is told."""

    tip: Tip
    horizon: int | None


class Feed(Reading):
    """One sequence, whose commits are told."""

    def tell(self, birth: int, place: Place) -> Generator[Told, None, None]:
        """Yield the changes behind a place; none if the sequence of that birth is gone.

        Raises `PrunedAhead` if some of them were pruned away, `StoreIntegrityError` if there never were so many.
        """
        skip = place.skip
        try:
            for group in self._commits(birth, place):
                n, last = group[0].n, len(group) - 1
                after = place._replace(n=n, skip=0) if n < place.pruned_n else Place(n)
                for i, change in enumerate(group):
                    if i >= skip:
                        yield Told(after if i == last else place._replace(skip=i + 1), change)
                place, skip = after, 0
        except CannotFold as error:
            raise self._unreplayable(error.t, error) from error.__cause__

    def _commits(self, birth: int, place: Place) -> Iterator[list[Change]]:
        if place.n >= place.pruned_n:
            last = self._last(birth, place)
            if last is not None:
                yield from _grouped(last)
                return
        with self.begun(None) as begun:
            end = None if begun is None else self._end(begun.head, birth, place)
            if begun is None or end is None:
                return
            if place.n < place.pruned_n:
                yield from self._left(begun, place)
                place = Place(place.pruned_n)
            if place.n < end.tip.n:
                yield from self._whole(begun, place.n, end)

    def _end(self, head: Head | None, birth: int, place: Place) -> _End | None:
        """Return the last commit; None if the sequence is gone."""
        if head is None:
            return None
        tip, facts = self.tip(head), self.facts(head)
        if tip.birth != birth:
            return None
        if tip.n < place.n:
            raise StoreIntegrityError(
                f"{self._place} has {tip.n:,} commits, and {place.n:,} were told: the store was set back, to a backup "
                "or by a failover; follow it anew"
            )
        pruned_n = _pruned_upto(facts, tip)
        if pruned_n > place.n and (pruned_n, facts.prunes) != (place.pruned_n, place.prunes):
            error = HorizonError(
                f"{self._place} was pruned before all of its changes were told: some from n={place.n + 1} to "
                f"n={pruned_n} are gone, and are left out; its current state is what it was",
                key=self._key,
                horizon=MIN_INT64 if facts.horizon is None else facts.horizon,
            )
            raise PrunedAhead(pruned_n, error)
        return _End(tip, facts.horizon)

    def _last(self, birth: int, place: Place) -> Iterable[Change] | None:
        """Return the changes if they are few, hot, and the last ones in time; None if they may be others."""
        query = ViewQuery(limit=_FEW, reverse=True, bodies=False)
        for _ in range(_TRIES):
            view = self._logs.view(self._key, query)
            end = self._end(view.head, birth, place)
            if end is None or end.tip.n == place.n:
                return ()
            n = end.tip.n - place.n
            rows = view.rows[-n:]
            if n > _FEW or len(rows) < n or (view.chunks and view.chunks[-1].last >= position_of(rows[0])):
                return None
            rows = self._logs.open_rows(self._key, rows, view.head)
            if [commit_number(row.body) for row in rows] != [*range(place.n + 1, end.tip.n + 1)]:
                return None
            values = Unfolding(self._codec, end.horizon, {})
            before = position_before(position_of(rows[0]))
            if place.n and before is not None:
                replay = self.read(before)
                if replay.head is None or view.head is None or replay.head.version != view.head.version:
                    continue
                values = Unfolding(self._codec, end.horizon, replay.state.encoded())
            return values.tell(StepColumns.of(self._logs.segment(rows), self._codec))
        return None

    def _whole(self, begun: Beginning, n: int, end: _End) -> Iterator[list[Change]]:
        """Yield the commits behind `n`, a section at a time as long as they are in order of time as well."""
        moment = begun.moment
        ranges = _ranges(moment)
        first = next((i for i, one in enumerate(ranges) if one.last_n > n), None)
        if first is None:
            raise self._lacks(n, end)
        if _rise(ranges[first:]):
            state = self._state_before(begun, first, end)
            values = Unfolding(self._codec, end.horizon, state.encoded())
            for segment in moment.segments(range(first, len(moment))):
                commits = segment.column.data.n
                cut = int((commits > n).argmax())
                numbers = commits[cut:].tolist()
                if numbers != [*range(n + 1, n + 1 + len(numbers))]:
                    break
                values.skip(StepColumns.of(segment.slice(0, cut), self._codec))
                yield from _grouped(values.tell(StepColumns.of(segment.slice(cut, len(segment)), self._codec)))
                n = numbers[-1]
            else:
                if n != end.tip.n:
                    raise self._lacks(n, end)
                return
        yield from self._scattered(begun, first, n, end)

    def _lacks(self, n: int, end: _End) -> Exception:
        return self._logs.unsound(self._key, f"it lacks changes behind n={n}, though its last one is n={end.tip.n}")

    def _state_before(self, begun: Beginning, section: int, end: _End) -> State:
        """Return the state before a section."""
        moment, state, begin, lo = begun.moment, State(self._codec, end.horizon), 0, FIRST
        before = position_before(moment.first(section))
        if before is not None and (found := self.checkpoint_in(begun, before, end.tip.n)) is not None:
            state, (t, seq) = found
            begin, lo = max(moment.index((t, seq)), 0), (t, seq + 1)
        for segment in moment.segments(range(begin, section), lo):
            for change in upcast_segment(segment, self._codec):
                _fold(state, change.steps, change.t)
        return state

    def _scattered(self, begun: Beginning, section: int, n: int, end: _End) -> Iterator[list[Change]]:
        """Yield the commits behind `n`, some of which are in the past of others; `section` is the first with any.

        All steps on their items from there on are held. A value behind a change in the past takes folding those since
        the item was set last.
        """
        moment, sections = begun.moment, range(section, len(begun.moment))
        new: dict[int, StoredChange] = {}
        for segment in moment.segments(sections):
            if int(segment.column.data.n.max()) > n:
                new |= {change.n: change for change in upcast_segment(segment, self._codec) if change.n > n}
        if len(new) != end.tip.n - n:
            raise self._lacks(n, end)
        items = {step.item: _Item() for change in new.values() for step in change.steps}
        for step in self._state_before(begun, section, end).steps():
            if step.item in items:
                items[step.item].folds.append(_Fold(0, FIRST, step))
        for segment in moment.segments(sections):
            for change in upcast_segment(segment, self._codec):
                for step in change.steps:
                    if step.item in items:
                        items[step.item].folds.append(_Fold(change.n, change.position, step))
        for item in items.values():
            item.value = self._value(item, n, end)
            item.last = max((fold.at for fold in item.folds if fold.n <= n), default=FIRST)
        for number in sorted(new):
            yield [*self._unfolded(new[number], items, end)]

    def _unfolded(self, change: StoredChange, items: dict[str, _Item], end: _End) -> Iterator[Change]:
        decode = self._codec.decode
        for step in change.steps:
            name, op, encoded = step
            item = items[name]
            before = item.value
            if change.position < item.last:
                item.value = self._value(item, change.n, end)
            else:  # as most are: nothing that was told stands behind it
                state = State(self._codec, end.horizon, {} if before is None else {name: before})
                _fold(state, (step,), change.t)
                item.value, item.last = state.encoded().get(name), change.position
            value, was, now = (None if one is None else decode(one) for one in (encoded, before, item.value))
            note = None if change.note is None else decode(change.note)
            head = change.n, change.recorded, change.t, name, stored_operator(op).function
            yield Change(*head, value, was, now, note, change.id)

    def _value(self, item: _Item, n: int, end: _End) -> bytes | None:
        """Return the value of an item, of all times, by the commits up to `n`."""
        folds = item.folds
        begin = len(folds)
        while begin:
            begin -= 1
            fold = folds[begin]
            if fold.n <= n and stored_operator(fold.step.op).resets:
                begin += fold.step.encoded is None  # there is nothing to delete in an empty state
                break
        state = State(self._codec, end.horizon)
        for number, at, step in folds[begin:]:
            if number <= n:
                _fold(state, (step,), at[0])
        state.settle()
        return next(iter(state.encoded().values()), None)

    def _left(self, begun: Beginning, place: Place) -> Iterator[list[Change]]:
        """Yield the commits that pruning has left.

        Of these the state behind a commit is not known, but that of a position is: each is told with the value before
        and behind its position, so that the last one of an item in time leaves it as it is. All of them are held unless
        the sections are in order of commits as well.
        """
        moment, values = begun.moment, Unfolding(self._codec, begun.facts.horizon, {})
        in_order = _rise(_ranges(moment))
        left: list[Change] = []
        for segment in moment.segments(range(len(moment))):
            steps = StepColumns.of(segment, self._codec)
            told = values.tell(steps.where(n <= place.pruned_n for n in steps.n))
            left += (change for change in told if change.n > place.n)
            if in_order:
                yield from _grouped(sorted(left, key=_n))
                left = []
        yield from _grouped(sorted(left, key=_n))


def _fold(state: State, steps: Sequence[Step], t: int) -> None:
    try:
        state.fold(steps, t)
    except CannotFold as error:
        error.t = t
        raise


def _ranges(moment: Moment) -> list[CommitRange]:
    """Return which commits are in each section."""
    return [moment.commits(i) or commits_of(moment.open(i)) for i in range(len(moment))]


def _rise(ranges: Sequence[CommitRange]) -> bool:
    return all(a.last_n < b.first_n for a, b in pairwise(ranges))


def told_from_the_start(facts: Facts, tip: Tip) -> Place:
    """Return the place of a sequence of which all that is there is to be told."""
    pruned_n = _pruned_upto(facts, tip)
    return Place(pruned_n=pruned_n, prunes=facts.prunes) if pruned_n else Place()


def _pruned_upto(facts: Facts, tip: Tip) -> int:
    """Return the last commit that pruning may have taken something away of; 0 if there is none."""
    return 0 if facts.horizon is None else min(facts.pruned_n, tip.n)


def _n(change: Change) -> int:
    return change.n


def _grouped(changes: Iterable[Change]) -> Iterator[list[Change]]:
    for _, group in groupby(changes, _n):
        yield [*group]
