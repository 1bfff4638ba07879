"""The history of an event sequence, read: its state at any position, replayed from the newest checkpoint before it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from rstore.backends.types import FIRST, LAST, Head, Position, Row, View, ViewQuery
from rstore.codec.changes import Facts, StoredChange, Tally, Tip
from rstore.codec.envelope import Envelope
from rstore.codec.upcasting import upcast_changes, upcast_segment
from rstore.errors import CorruptionError, HorizonError, SerializationError, StoreError
from rstore.events.checkpoints import open_checkpoint
from rstore.events.heads import NEVER_PRUNED, open_facts, open_tip, problem_of
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.log.reader import LogReader
from rstore.namespace import reopens
from rstore.session import ReadSession


class History:
    """One event sequence, to be read."""

    def __init__(self, session: ReadSession, key: str, logs: LogReader | None = None) -> None:
        self._key = key
        self._codec = session.codec
        self._states = session.states
        self._logs = session.events if logs is None else logs
        self._namespace = self._logs.namespace

    @property
    def _envelope(self) -> Envelope:
        return self._namespace.envelope

    @property
    def _place(self) -> str:
        return self._namespace.place(self._key)

    def read(self, hi: Position = LAST) -> Replay:
        """Return the sequence as it stands behind position `hi`; the state may be shared, and is not to be changed."""
        known = self._states.get(self._key)
        if known is not None and (known.last is None or known.last > hi):
            known = None
        replay, changes = self._begin(checkpoint=hi, hi=hi, known=known)
        if known is not None and replay.state is known.state:  # no change since
            if hi == LAST:
                self._states.put(self._key, replay)
            return replay
        # Written out, since every state that is not cached is read in this loop.
        state, policy, change = replay.state, replay.policy, None
        before, tags, top = policy.changes, 0, 0
        try:
            for change in changes:
                state.fold(change.steps, change.t)
                policy.changes += 1
                policy.size += change.size
                tags += change.tag
                top = max(top, change.n)
            state.settle()
        except CannotFold as error:
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__
        replay.tally = replay.tally.joined(policy.changes - before, tags, top)
        if change is not None:
            replay.last = change.t, change.seq
        if hi == LAST and replay.head is not None:
            replay.tip = self.check_whole(replay.head, replay.tally)
            self._states.put(self._key, replay)
        return replay

    def _begin(
        self, checkpoint: Position | None, hi: Position = LAST, known: Replay | None = None
    ) -> tuple[Replay, Iterable[StoredChange]]:
        """Return the replay at the newest checkpoint up to a position, and the changes from there to `hi`.

        If nothing has happened since `known`, it goes on from there, and there are no changes.
        """
        version = None if known is None or known.head is None else known.head.version
        # Where it is likely to have changed, all is asked for at once: on a server, to ask whether is one call more.
        glance = None if known is None or not known.trusted else version
        view = self._logs.view(self._key, ViewQuery(hi=hi, from_checkpoint=checkpoint, unless_version=glance))
        head = view.head
        self._states.asked(view.now_ms)
        if known is not None and head is not None and head.version == version:
            kept = known.state, view.now_ms, known.last, known.policy, known.tally, known.tip
            return Replay(head, known.facts, *kept, outdated=known.outdated), ()
        facts = self.facts(head, known)
        replay = Replay(head, facts, State(self._codec, facts.horizon), view.now_ms, trusted=known is None)
        if facts.baseline is not None and (facts.baseline, 0) <= hi:
            replay.last = facts.baseline, 0  # also where the baseline has no items, and so no row
        if view.checkpoint is None:
            return replay, self._upcast_changes(view, hi=hi)
        checkpoint_state = self._open_checkpoint(head, view.checkpoint, facts.horizon)
        if checkpoint_state is None:  # made under other rules: it is a cache, and all changes tell the state again
            replay, changes = self._begin(None, hi)
            replay.outdated = True
            return replay, changes
        replay.state, replay.tally = checkpoint_state
        t, seq = replay.last = view.checkpoint[:2]
        return replay, self._upcast_changes(view, (t, seq + 1), hi)

    def _upcast_changes(self, view: View, lo: Position = FIRST, hi: Position = LAST) -> Iterable[StoredChange]:
        """Return the changes of a view, from `lo` to `hi` in order, their values brought to the store's version."""
        if not view.chunks:
            return upcast_changes([*self._logs.changes(self._key, view)], self._codec)
        segments = self._logs.segments(self._key, view, lo, hi)
        return chain.from_iterable(upcast_segment(segment, self._codec) for segment in segments)

    @reopens
    def _open_checkpoint(self, head: Head | None, checkpoint: Row, horizon: int | None) -> tuple[State, Tally] | None:
        return open_checkpoint(self._envelope, self._codec, self._key, head, checkpoint, horizon)

    @reopens
    def tip(self, head: Head) -> Tip:
        """Return the last commit of the sequence."""
        return open_tip(self._envelope, self._key, head)

    def check_whole(self, head: Head, tally: Tally) -> Tip:
        """Refuse a sequence of which changes are missing, before a state is made of the others; return its last commit.

        Raises `TamperedError` with a key, else `CorruptionError`.
        """
        tip = self.tip(head)
        if (problem := problem_of(tally, tip.tally)) is not None:
            raise self._logs.unsound(self._key, problem)
        return tip

    def _unreplayable(self, t: int, error: CannotFold) -> StoreError:
        what = f"the event sequence {self._place} cannot be replayed at t={t}, item {error.step.item!r}"
        if self._codec.upcast is None:
            return CorruptionError(what)
        return SerializationError(f"{what}: what _upcast returned does not go with the {error.step.op} behind it")

    @reopens
    def facts(self, head: Head | None, known: Replay | None = None) -> Facts:
        """Return the facts of the sequence."""
        if head is None:
            return NEVER_PRUNED
        if known is not None and known.head is not None and known.head.facts == head.facts:
            return known.facts
        return open_facts(self._envelope, self._key, head)

    def check_horizon(self, horizon: int | None, t: int, *, writing: bool = False) -> None:
        """Refuse a time whose history was pruned away."""
        if horizon is None or (t > horizon if writing else t >= horizon):
            return
        refused = f"applied at t={t}, only after t={horizon}" if writing else f"told of t={t}, only from t={horizon} on"
        raise HorizonError(
            f"the history of {self._place} was pruned: nothing can be {refused}", key=self._key, horizon=horizon
        )
