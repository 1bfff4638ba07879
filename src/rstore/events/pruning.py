"""Pruning an event sequence: steps that a later `setitem` or `delitem` supersedes go, and their history with them."""

from __future__ import annotations

from collections.abc import Sequence

from rstore.backends.types import FIRST, Commit, Row
from rstore.codec.changes import Step, Tally, repack, unpack_change
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.heads import seal_horizon, seal_tally
from rstore.events.history import History
from rstore.events.operators import stored_operator
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.log.packing import Logs
from rstore.log.writer import new_stamp
from rstore.session import Session


class Pruner(History):
    """One event sequence, to be pruned."""

    def __init__(self, session: Session, key: str, logs: Logs) -> None:
        super().__init__(session, key, logs)
        self._writer = logs

    def try_prune(self, *, remove: bool) -> int | None:
        """Drop the steps that are superseded; return how many, or None if a concurrent change was faster."""
        logs, key = self._writer, self._key
        incarnation = logs.incarnation
        view = logs.view(key)
        if view.head is None:
            return 0
        logs.check_kind(key, view.head)
        changes = [(change, unpack_change(change.body)) for change in logs.rows(key, view)]
        kept, obsolete, superseded_at = _superseded(changes)
        horizon = max((one for one in (self._horizon(view.head), superseded_at) if one is not None), default=None)
        facts = seal_horizon(self._envelope, key, horizon)
        head = view.head._replace(facts=facts)
        self.check_whole(view.head, Tally.of_all([change.body for change, _ in changes]))
        replay, checkpoints = Replay(head, horizon, State(self._codec, horizon), view.now_ms), []
        for change in kept:
            try:
                if replay.fold(change):
                    at = change.t, change.seq
                    checkpoints.append(seal_checkpoint(self._envelope, key, head, at, replay.state, replay.tally))
            except CannotFold as error:
                raise self._unreplayable(change.t, error) from error.__cause__
        if remove and not len(replay.state):
            n = sum(len(steps) for _, steps in changes)
            return n if logs.drop(key, if_version=view.head.version) else None
        if not obsolete:
            return 0
        rows, chunks = logs.lay_out(key, kept, head)
        commit = Commit(
            if_version=view.head.version,
            if_epoch=view.head.epoch,
            version=seal_tally(self._envelope, key, head, replay.tally) or new_stamp(),
            epoch=new_stamp(),
            facts=facts,
            drop_rows=view.rows,
            drop_chunks=[chunk.first for chunk in view.chunks],
            put_rows=rows,
            put_chunks=chunks,
            drop_checkpoints_from=FIRST,
            put_checkpoints=checkpoints,
        )
        return obsolete if logs.commit(key, commit, incarnation) else None


def _superseded(changes: Sequence[tuple[Row, list[Step]]]) -> tuple[list[Row], int, int | None]:
    """Return (the changes without superseded steps, how many steps these were, the time of the latest supersession).

    A step is superseded by a later `setitem` or `delitem` of the same item.
    """
    kept: list[Row] = []
    reset_at: dict[str, int] = {}
    obsolete = 0
    horizon: int | None = None
    for change, steps in reversed(changes):
        needed = [step for step in steps if step.item not in reset_at]
        for step in steps:
            if step.item in reset_at:
                horizon = reset_at[step.item] if horizon is None else max(horizon, reset_at[step.item])
        reset_at |= {step.item: change.t for step in needed if stored_operator(step.op).resets}
        obsolete += len(steps) - len(needed)
        if len(needed) == len(steps):
            kept.append(change)
        elif needed:
            kept.append(change._replace(body=repack(change.body, needed)))
    return kept[::-1], obsolete, horizon
