"""Listing the events of a sequence, or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from rstore.backends.types import FIRST, LAST, Position, ViewQuery
from rstore.codec.changes import NONE, OP_CODES, Tally
from rstore.codec.segments import Segment
from rstore.codec.upcasting import upcast_changes
from rstore.events.change import Event
from rstore.events.history import History
from rstore.events.moment import Moment
from rstore.events.operators import stored_operator
from rstore.events.step_columns import StepColumns


class EventLister(History):
    """One event sequence, whose events are listed."""

    def events(
        self,
        lo: Position,
        hi: Position,
        ops: frozenset[str] | None,
        item: str | None,
        limit: int | None,
        *,
        reverse: bool,
    ) -> list[Event] | None:
        """Return the events between two positions, as `Asking.events` does."""
        if limit is not None and (ops is not None or item is not None) and lo <= hi:
            return self._found(lo, hi, ops, item, limit, reverse=reverse)
        # Each change has an event, so that as many changes as events are enough.
        view = self._logs.view(self._key, ViewQuery(lo, hi, limit or (None if limit is None else 1), reverse))
        if view.head is None:
            return None
        events: list[Event] = []
        tally, whole = NONE, (lo, hi, limit) == (FIRST, LAST, None)
        if not view.chunks:  # a change at a time: columns pay off where there are many
            decode = self._codec.decode
            changes = [*self._logs.changes(self._key, view, lo, hi)]
            tally = Tally.of_all(changes)
            events = [
                Event(change.t, one, stored_operator(op).function, None if encoded is None else decode(encoded))
                for change in upcast_changes(changes, self._codec)
                for one, op, encoded in change.steps
                if (ops is None or op in ops) and item in (None, one)
            ]
        else:
            for segment in self._logs.segments(self._key, view, lo, hi):
                tally = tally.joined(*segment.column.data.tally())
                events += self._of(segment, ops, item)
        if whole:  # nothing tells whether a part is
            self.check_whole(view.head, tally)
        return events[::-1][:limit] if reverse else events[:limit]

    def _found(
        self,
        lo: Position,
        hi: Position,
        ops: frozenset[str] | None,
        item: str | None,
        limit: int,
        *,
        reverse: bool,
    ) -> list[Event] | None:
        """Return a few events, and read no further than to the last of them."""
        found: list[Event] = []
        with self._logs.snapshot(self._key, lo, hi) as snapshot:
            if snapshot.view.head is None:
                return None
            moment = Moment(self._logs, self._key, snapshot)
            sections = range(len(moment))
            for segment in moment.segments(sections[::-1] if reverse else sections, lo, hi):
                events = self._of(segment, ops, item)
                found += islice(reversed(events) if reverse else events, limit - len(found))
                if len(found) == limit:
                    break
        return found

    def _of(self, segment: Segment, ops: frozenset[str] | None, item: str | None) -> Sequence[Event]:
        steps = StepColumns.of(segment, self._codec)
        if item is not None:
            steps = steps.of_item(item)
        if ops is not None:
            codes = {OP_CODES[name] for name in ops}
            steps = steps.where([code in codes for code in steps.codes])
        return [*steps.events(self._codec)]
