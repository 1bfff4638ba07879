"""Loading changes in bulk: all new ones of one sequence are validated, folded, and recorded in one commit."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from heapq import merge as merge_sorted
from typing import Any, NamedTuple

import numpy as np

from rstore.backends.types import ANY, FIRST, LAST, Commit, Head, Position, Row, View, ViewQuery, position_before
from rstore.codec.change_batch import Batch
from rstore.codec.changes import Step, StoredChange, Tally, Tip, new_birth
from rstore.codec.columns import Kind
from rstore.codec.segments import merge
from rstore.codec.serializers import is_native
from rstore.errors import InvalidValueError, StoreIntegrityError
from rstore.events.checkpoints import CHECKPOINT_CHANGES
from rstore.events.gathering import Gathered
from rstore.events.heads import NEVER_PRUNED, problem_of, seal_facts, seal_tip
from rstore.events.live_state import LiveState
from rstore.events.recording import Recorder
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.log.packing import DIRECT_ROWS
from rstore.log.writer import new_stamp


class LoadPlan(NamedTuple):
    """The commit that records a batch, and the replay behind it if it is the end of the sequence."""

    commit: Commit
    incarnation: bytes
    replay: Replay | None


class Loader(Recorder):
    """One event sequence, into which many changes are loaded."""

    def try_load(self, given: Gathered, open_t: int | None) -> int | None:
        """Record changes if all of them can be replayed; return how many, or None if a concurrent one was faster.

        `open_t` is a time to which more changes may be added, since the same call recorded those that are there.
        """
        plan = self.try_plan(given, open_t)
        return None if plan is None or not self.carry_out(plan) else len(given)

    def try_plan(self, given: Gathered, open_t: int | None) -> LoadPlan | None:
        """Return the plan of recording changes, all of which can be replayed; None if a concurrent one was faster."""
        try:
            return self._try_plan(given, open_t)
        except struct.error as error:
            raise InvalidValueError(
                f"a change of {self._place} has values and a note of less than 4 GiB each; nothing was recorded"
            ) from error

    def _try_plan(self, given: Gathered, open_t: int | None) -> LoadPlan | None:
        incarnation = self._writer.incarnation
        replay = self.read()
        self._writer.check_kind(self._key, replay.head)
        t = np.array(given.t, np.int64)
        order = None if bool((t[1:] >= t[:-1]).all()) else np.argsort(t, kind="stable")
        first = int(t.min())
        if replay.last is None or first > replay.last[0] or first == replay.last[0] == open_t:
            base = replay.last[1] + 1 if replay.last is not None and replay.last[0] == first else 0
            batch = self._batch(given, t, order, replay, {first: base})
            return self._append(batch, given, order, replay.copy(), incarnation)
        self.check_horizon(replay.facts.horizon, first, writing=True)
        return self._insert_batch(given, t, order, open_t, incarnation)

    def carry_out(self, plan: LoadPlan) -> bool:
        """Commit a plan; return whether no concurrent change was faster."""
        if not self._writer.commit(self._key, plan.commit, plan.incarnation):
            return False
        if plan.replay is not None:
            self._states.put(self._key, plan.replay)
        return True

    def _batch(self, given: Gathered, t: Any, order: Any, replay: Replay, bases: dict[int, int]) -> Batch:
        """Return the changes with their positions and commit numbers; `bases` are the first sequence numbers."""
        size = len(t)
        rising = t if order is None else t[order]
        begins = np.zeros(size, np.int64)
        begins[1:] = np.where(rising[1:] != rising[:-1], np.arange(1, size), 0)
        seq = np.arange(size) - np.maximum.accumulate(begins)
        for time, base in bases.items():
            if base:
                seq[rising == time] += base
        if order is not None:
            placed = np.empty(size, np.int64)
            placed[order] = seq
            seq = placed
        tip, starts, notes = replay.tip, None, None
        if given.ends[-1] != size:
            starts = np.array(given.ends, np.int64)
        if given.notes:
            notes = [given.notes.get(i, b"") for i in range(size)]
        n = np.arange(tip.n + 1, tip.n + 1 + size)
        recorded = max(replay.now_ms, tip.recorded)
        columns = given.items, given.codes, given.encoded, given.column
        batch = Batch(t, seq, n, recorded, starts, *columns, notes, self._codec.schema_version)
        if self._envelope.keyed:
            batch.tag()
        return batch

    # -- at the end ---------------------------------------------------------------------------------------------------

    def _append(self, batch: Batch, given: Gathered, order: Any, replay: Replay, incarnation: bytes) -> LoadPlan:
        before, head, create = replay.tally, replay.head, None
        if head is None:
            head = create = self._writer.new_head(seal_facts(self._envelope, self._key, NEVER_PRUNED))
            replay.head = head
        if order is None:
            checkpoints = self._fold_batch(batch, given, replay)
            last = int(batch.t[-1]), int(batch.seq[-1])
        else:
            checkpoints = []
            changes = sorted(batch.changes())
            self._fold_all(changes, batch, replay, checkpoints)
            last = changes[-1].position
        replay.tally = _behind(before, batch)
        self._check_loadable(batch, replay)
        replay.last = last
        return self._plan(batch, order, head, replay, checkpoints, incarnation, create=create)

    def _fold_batch(self, batch: Batch, given: Gathered, replay: Replay) -> list[Row]:
        """Fold changes in order of position, and return the checkpoints that are due behind some of them."""
        state = LiveState(self._codec, replay.facts.horizon, replay.state.encoded())
        columns = given.items, given.codes, given.operands, given.encoded
        starts = None if batch.starts is None else batch.starts.tolist()
        size, policy, checkpoints = len(batch), replay.policy, []
        sizes = np.array(batch.sizes(), np.int64)
        ends = np.cumsum(sizes)
        tags = None if batch.tags is None else np.cumsum(batch.tags, dtype=np.uint64)
        done, base = 0, replay.tally
        try:
            while done < size:
                # The first change behind which both conditions of the policy may hold.
                before = int(ends[done - 1]) if done else 0
                enough = int(np.searchsorted(ends, before + policy.enough - policy.size, "right"))
                due = max(done, done + CHECKPOINT_CHANGES - 1 - policy.changes, enough)
                stop = min(due + 1, size)
                state.fold_new(columns, *((done, stop) if starts is None else (starts[done], starts[stop])))
                policy.changes += stop - 1 - done
                policy.size += int(ends[stop - 1] - sizes[stop - 1]) - before
                if policy.due(int(sizes[stop - 1]), state):
                    sum_of_tags = 0 if tags is None else int(tags[stop - 1])
                    replay.tally = base.joined(stop, sum_of_tags, int(batch.n[stop - 1]))
                    replay.state = state
                    checkpoints.append(self._checkpoint((int(batch.t[stop - 1]), int(batch.seq[stop - 1])), replay))
                done = stop
            state.settle()
        except CannotFold as error:
            at = state.at if starts is None else bisect_right(starts, state.at) - 1
            raise self._not_computed(error, int(batch.t[at])) from error.__cause__
        replay.state = state.plain()
        return checkpoints

    def _check_loadable(self, batch: Batch, replay: Replay) -> None:
        """Refuse values that cannot be loaded, even if later ones replace them: they must not be recorded."""
        values: list[bytes | None] = [*replay.state.encoded().values()]
        if batch.column is not None and batch.column.kind is Kind.ENCODED:
            values += batch.encoded
        for encoded in values:
            if encoded is not None and not is_native(encoded):
                self._codec.decode(encoded)

    # -- in the past --------------------------------------------------------------------------------------------------

    def _insert_batch(
        self, given: Gathered, t: Any, order: Any, open_t: int | None, incarnation: bytes
    ) -> LoadPlan | None:
        """Plan changes of which some lie in the past, after all later ones were replayed on top of them."""
        first = int(t.min()), 0
        view, replay = self._before(position_before(first))
        if replay.head is None:
            return None
        self._writer.check_kind(self._key, replay.head)
        replay.tip = self.tip(replay.head)
        self.check_horizon(replay.facts.horizon, first[0], writing=True)
        behind = FIRST if view.checkpoint is None else (view.checkpoint.t, view.checkpoint.seq + 1)
        existing, times = [*self._upcast_changes(view, behind)], set(given.t)
        bases: dict[int, int] = {}
        for change in existing:
            if change.t in times:
                if change.t != open_t:
                    raise StoreIntegrityError(
                        f"the timestamp {change.t} of {self._place} is taken: nothing of this sequence was loaded"
                    )
                bases[change.t] = change.seq + 1
        batch = self._batch(given, t, order, replay, bases)
        expected = _behind(replay.tip.tally, batch)
        checkpoints: list[Row] = []
        self._fold_all(merge_sorted(existing, sorted(batch.changes())), batch, replay, checkpoints)
        if (problem := problem_of(replay.tally, expected)) is not None:
            raise self._logs.unsound(self._key, problem)
        self._check_loadable(batch, replay)
        return self._plan(batch, order, replay.head, replay, checkpoints, incarnation, view=view, first=first)

    def _before(self, position: Position | None) -> tuple[View, Replay]:
        """Return a view from the newest checkpoint up to a position on, and the replay at that checkpoint."""
        view = self._logs.view(self._key, ViewQuery(from_checkpoint=position))
        facts = self.facts(view.head)
        replay = Replay(view.head, facts, State(self._codec, facts.horizon), view.now_ms)
        if view.checkpoint is not None:
            opened = self._open_checkpoint(view.head, view.checkpoint, facts.horizon)
            if opened is None:  # made under other rules
                return self._before(None)
            replay.state, replay.tally = opened
            replay.last = view.checkpoint.t, view.checkpoint.seq
        return view, replay

    def _fold_all(self, changes: Iterable[StoredChange], batch: Batch, replay: Replay, checkpoints: list[Row]) -> None:
        """Fold changes in order of position, those of the batch among others."""
        first_n, touched = int(batch.n[0]), dict[str, tuple[int, Step]]()
        change = None
        try:
            for change in changes:
                if change.n < first_n:
                    replay.state.fold(change.steps, change.t)
                else:
                    replay.state.settle()
                    self._fold_new(replay.state, change.t, change.steps)
                    touched |= {step.item: (change.t, step) for step in change.steps}
                if replay.count(change):
                    checkpoints.append(self._checkpoint(change.position, replay))
            replay.state.settle()
        except CannotFold as error:
            if (found := touched.get(error.step.item)) is not None:
                behind = "" if change is None else f" at t={change.t}"
                t, step = found
                raise self._refusal(step, t, f"it would break the {error.step.op}{behind}") from error.__cause__
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__

    # -- the commit ---------------------------------------------------------------------------------------------------

    def _plan(
        self,
        batch: Batch,
        order: Any,
        head: Head,
        replay: Replay,
        checkpoints: list[Row],
        incarnation: bytes,
        *,
        create: Head | None = None,
        view: View | None = None,
        first: Position | None = None,
    ) -> LoadPlan:
        is_new = create is not None
        birth = replay.tip.birth or new_birth()
        tip = Tip(int(batch.n[-1]), batch.recorded, batch.digest(replay.tip), replay.tally, birth)
        version = seal_tip(self._envelope, self._key, head, tip)
        commit = Commit(
            create=create,
            if_version=None if is_new else head.version,
            # As for one change in the past: it depends on where the rows of the past are.
            if_epoch=ANY if is_new or (view is None and len(batch) < DIRECT_ROWS) else head.epoch,
            version=version,
            drop_checkpoints_from=first,
            put_checkpoints=checkpoints,
        )
        commit = self._laid_out(commit, batch, order, head, view)
        if view is not None:
            return LoadPlan(commit, incarnation, None)
        replay.head, replay.tip = head._replace(version=version, epoch=commit.epoch or head.epoch), tip
        return LoadPlan(commit, incarnation, replay)

    def _laid_out(self, commit: Commit, batch: Batch, order: Any, head: Head, view: View | None) -> Commit:
        """Return the commit with the rows: hot ones if they are few, else chunks."""
        if len(batch) < DIRECT_ROWS:
            rows = sorted(zip(batch.t.tolist(), batch.seq.tolist(), batch.bodies, strict=True))
            return commit._replace(put_rows=self._writer.seal_rows(self._key, rows, head))
        segment = batch.columns(order)
        if view is not None:
            segment = merge([*self._logs.segments(self._key, view, FIRST, LAST), segment])
            commit = commit._replace(drop_rows=view.rows, drop_chunks=[chunk.first for chunk in view.chunks])
        chunks = self._writer.seal_chunks(self._key, segment, head)
        return commit._replace(epoch=new_stamp(), put_chunks=chunks)


def _behind(before: Tally, batch: Batch) -> Tally:
    """Return the tally behind a batch."""
    tags = 0 if batch.tags is None else int(batch.tags.sum(dtype=np.uint64))
    return before.joined(len(batch), tags, int(batch.n[-1]))
