"""Pruning an event sequence: steps that are superseded go, or all before a time are folded into a baseline.

Noun: a *form* of pruning, which sees all changes once, and then says of each what stays and what goes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from rstore.backends.types import FIRST, LAST, MIN_INT64, Commit, Head, Position, Row
from rstore.codec.changes import Facts, Step, StoredChange, Tally, Tip, new_tag, next_digest, pack_change
from rstore.codec.serializers import Codec
from rstore.codec.upcasting import upcast_change
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.heads import seal_facts, seal_tip
from rstore.events.history import History
from rstore.events.operators import stored_operator
from rstore.events.passage import Layout, passage
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.log.packing import Logs
from rstore.log.reader import LogReader
from rstore.log.writer import new_stamp
from rstore.session import ReadSession

Keep: TypeAlias = "Callable[[str, int, Facts, Callable[[], Iterator[StoredChange]]], None]"
"""Keeps the changes of a key and a birth that are about to go; it may go through them more than once."""


class PruningForm(ABC):
    """One form of pruning."""

    def __init__(self, codec: Codec, facts: Facts) -> None:
        self._codec = codec
        self._facts = facts
        self.total = 0
        """The number of all steps."""

    def see(self, change: StoredChange) -> None:
        """Take note of the next change."""
        self.total += len(change.steps)

    @abstractmethod
    def count(self) -> int:
        """Return how many steps go; all changes were seen, here and in what follows."""

    @abstractmethod
    def leaves_nothing(self) -> bool:
        """Return whether the sequence is to be deleted, where empty ones are."""

    @abstractmethod
    def split(self, change: StoredChange) -> tuple[StoredChange | None, StoredChange | None]:
        """Return a change as it stays, and the part of it that goes; None for nothing."""

    @abstractmethod
    def facts(self, tip: Tip) -> Facts:
        """Return the facts of the pruned sequence."""

    def _pruned(self, tip: Tip, t: int, recorded: int) -> Facts:
        facts = self._facts
        horizon = t if facts.horizon is None else max(facts.horizon, t)
        known_from = max(facts.known_from, recorded)
        pruned_n = max(facts.pruned_n, tip.n)  # an archive stays one
        return facts._replace(horizon=horizon, known_from=known_from, pruned_n=pruned_n, prunes=facts.prunes + 1)


@dataclass(slots=True)
class _PrunedItem:
    """Notes on one item."""

    steps: int = 0
    """How many there were since its last reset, that one included."""
    reset_at: Position | None = None
    recorded: int = 0
    is_set: bool = False
    supersedes: bool = False


class Superseding(PruningForm):
    """Steps go that a later `setitem` or `delitem` of the same item supersedes. It keeps a little for each item."""

    def __init__(self, codec: Codec, facts: Facts) -> None:
        super().__init__(codec, facts)
        self._items: dict[str, _PrunedItem] = {}
        self._count = 0

    def see(self, change: StoredChange) -> None:
        """Take note of the items of a change."""
        super().see(change)
        for step in change.steps:
            item = self._items.setdefault(step.item, _PrunedItem())
            if stored_operator(step.op).resets:
                self._count += item.steps
                item.supersedes |= item.steps > 0
                item.steps, item.reset_at, item.recorded = 0, change.position, change.recorded
                item.is_set = step.op == "setitem"
            item.steps += 1

    def count(self) -> int:
        """Return how many steps are superseded."""
        return self._count

    def leaves_nothing(self) -> bool:
        """Return whether the current state is empty."""
        return not any(item.is_set for item in self._items.values())  # all other operators need an item that is there

    def split(self, change: StoredChange) -> tuple[StoredChange | None, StoredChange | None]:
        """Return a change without its superseded steps, and one of these."""
        gone = [step for step in change.steps if self._is_superseded(step, change.position)]
        if not gone:
            return change, None
        kept = [step for step in change.steps if not self._is_superseded(step, change.position)]
        return change._replace(steps=kept) if kept else None, change._replace(steps=gone)

    def _is_superseded(self, step: Step, at: Position) -> bool:
        reset_at = self._items[step.item].reset_at
        return reset_at is not None and at < reset_at

    def facts(self, tip: Tip) -> Facts:
        """Return the facts with the last reset as the horizon."""
        latest = [item for item in self._items.values() if item.supersedes and item.reset_at is not None]
        t = max(item.reset_at[0] for item in latest if item.reset_at is not None)
        return self._pruned(tip, t, max(item.recorded for item in latest))


class Folding(PruningForm):
    """All changes before a time become one, the baseline, at the position of the last of them."""

    def __init__(self, codec: Codec, facts: Facts, before: int, *, tagged: bool) -> None:
        super().__init__(codec, facts)
        self._before = before
        self._tag = new_tag() if tagged else 0
        self._state = State(codec, facts.horizon)
        self._last: StoredChange | None = None
        self._steps = self._n = 0
        self._recorded = MIN_INT64
        self._goes_on = False

    def see(self, change: StoredChange) -> None:
        """Fold a change before the time."""
        super().see(change)
        if change.t >= self._before:
            self._goes_on = True
            return
        self._state.fold(upcast_change(change, self._codec).steps, change.t)
        self._steps += len(change.steps)
        self._n, self._recorded = max(self._n, change.n), max(self._recorded, change.recorded)
        self._last = change

    def count(self) -> int:
        """Return how many steps go: all but those that the baseline has as they are."""
        if self._last is None:
            return 0
        baseline = {step.item: step for step in self._state.steps()}
        return self._steps - sum(step == baseline.get(step.item) for step in self._last.steps)

    def leaves_nothing(self) -> bool:
        """Return whether all changes fold to an empty state."""
        return not (self._goes_on or len(self._state))

    def split(self, change: StoredChange) -> tuple[StoredChange | None, StoredChange | None]:
        """Return the baseline for the last change that is folded, and nothing for those ahead of it."""
        if change.t >= self._before:
            return change, None
        if self._last is None or change.position != self._last.position or not len(self._state):
            return None, change
        # The highest number and the latest recorded time of those that were folded: unique, and in order still.
        steps, schema = self._state.steps(), self._codec.schema_version
        return StoredChange(*change.position, self._n, self._recorded, steps, self._tag, schema=schema), change

    def facts(self, tip: Tip) -> Facts:
        """Return the facts with the time of the baseline as the horizon."""
        t = MIN_INT64 if self._last is None else self._last.t
        pruned = self._pruned(tip, t, self._recorded)
        return pruned._replace(baseline=t, baseline_n=self._n if len(self._state) else 0)


class Pruner(History):
    """One event sequence, to be pruned.

    It goes through the changes two or three times, and holds the state, the new chunks, which are compressed, and the
    new checkpoints, but no more than a few thousand changes.
    """

    def __init__(self, session: ReadSession, key: str, logs: LogReader | None = None) -> None:
        super().__init__(session, key, logs)

    def count(self, before: int | None, *, remove: bool) -> int:
        """Return how many steps would go."""
        with self._logs.snapshot(self._key, FIRST, LAST) as snapshot:
            head = snapshot.view.head
            if head is None:
                return 0
            form, _ = self._seen(head, before, lambda: passage(self._logs, self._key, snapshot))
            return form.total if remove and form.leaves_nothing() else form.count()

    def try_prune(self, logs: Logs, before: int | None, *, remove: bool, keep: Keep | None) -> int | None:
        """Drop what goes; return how many steps, or None if a concurrent change was faster."""
        key, incarnation = self._key, logs.incarnation
        with logs.snapshot(key, FIRST, LAST) as snapshot:
            head = snapshot.view.head
            if head is None:
                return 0
            logs.check_kind(key, head)

            def changes() -> Iterator[StoredChange]:
                return passage(logs, key, snapshot)

            form, tip = self._seen(head, before, changes)
            nothing, n = remove and form.leaves_nothing(), form.count()
            if keep is not None and (n or nothing):
                # First: where it ends between the two, they are in both places, and the next prune goes on from there.
                keep(key, tip.birth, self.facts(head), lambda: _gone(form, changes(), everything=nothing))
            if nothing:
                return form.total if logs.drop(key, if_version=head.version) else None
            if not n:
                return 0
            facts = form.facts(tip)
            commit = self._rewritten(logs, head, facts, tip, (form.split(change)[0] for change in changes()))
            drop_chunks = [chunk.first for chunk in snapshot.view.chunks]
            commit = commit._replace(drop_rows=snapshot.view.rows, drop_chunks=drop_chunks)
            return n if logs.commit(key, commit, incarnation) else None

    def _seen(
        self, head: Head, before: int | None, changes: Callable[[], Iterator[StoredChange]]
    ) -> tuple[PruningForm, Tip]:
        """Return the form after it has seen all changes, and the last commit."""
        facts = self.facts(head)
        form: PruningForm = Superseding(self._codec, facts)
        if before is not None:
            form = Folding(self._codec, facts, before, tagged=self._envelope.keyed)
        n = tags = top = 0
        change = None
        try:
            for change in changes():
                form.see(change)
                n, tags, top = n + 1, tags + change.tag, max(top, change.n)
            form.count()  # computes what was left for later
        except CannotFold as error:
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__
        return form, self.check_whole(head, Tally().joined(n, tags, top))

    def _rewritten(
        self, logs: Logs, old: Head, facts: Facts, tip: Tip, changes: Iterator[StoredChange | None]
    ) -> Commit:
        """Return the commit that makes a sequence of what stays, without what it drops."""
        key, envelope = self._key, self._envelope
        head = old._replace(facts=seal_facts(envelope, key, facts))
        replay, layout = Replay(head, facts, State(self._codec, facts.horizon), 0), Layout(logs, key, head)
        checkpoints: list[Row] = []
        digest = Tip().digest
        change = None
        try:
            for kept in changes:
                if kept is None:
                    continue
                body = pack_change(kept)
                change = kept._replace(size=len(body))
                digest = next_digest(digest, *change.position, body, tagged=change.tag > 0)
                layout.add(change)
                if replay.fold(upcast_change(change, self._codec)):
                    place = key, head, change.position
                    checkpoints.append(seal_checkpoint(envelope, *place, replay.state, replay.tally))
        except CannotFold as error:
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__
        rows, chunks = layout.finish()
        return Commit(
            if_version=old.version,
            if_epoch=old.epoch,
            version=seal_tip(envelope, key, head, tip._replace(digest=digest, tally=replay.tally)),
            epoch=new_stamp(),
            facts=head.facts,
            put_rows=rows,
            put_chunks=chunks,
            drop_checkpoints_from=FIRST,
            put_checkpoints=checkpoints,
        )


def _gone(form: PruningForm, changes: Iterator[StoredChange], *, everything: bool) -> Iterator[StoredChange]:
    """Yield the part of each change that goes."""
    for change in changes:
        gone = change if everything else form.split(change)[1]
        if gone is not None:
            yield gone
