"""Pruning an event sequence: steps that a later `setitem` or `delitem` supersedes go, and their history with them."""

from __future__ import annotations

from collections.abc import Sequence

from rstore.backends.types import FIRST, Commit
from rstore.codec.changes import Facts, StoredChange, Tally, Tip, next_digest, pack_change
from rstore.codec.upcasting import upcast_changes
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.heads import seal_facts, seal_tip
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
        changes = [*logs.changes(key, view)]
        tip = self.check_whole(view.head, Tally.of_all(changes))
        kept, obsolete, facts = _superseded(changes, self.facts(view.head), tip)
        sealed_facts = seal_facts(self._envelope, key, facts)
        head = view.head._replace(facts=sealed_facts)
        replay, checkpoints = Replay(head, facts, State(self._codec, facts.horizon), view.now_ms), []
        for change in upcast_changes(kept, self._codec):
            try:
                if replay.fold(change):
                    place = key, head, change.position
                    checkpoints.append(seal_checkpoint(self._envelope, *place, replay.state, replay.tally))
            except CannotFold as error:
                raise self._unreplayable(change.t, error) from error.__cause__
        if remove and not len(replay.state):
            n = sum(len(change.steps) for change in changes)
            return n if logs.drop(key, if_version=view.head.version) else None
        if not obsolete:
            return 0
        bodies = [*map(pack_change, kept)]
        rows, chunks = logs.lay_out(key, [(c.t, c.seq, body) for c, body in zip(kept, bodies, strict=True)], head)
        tip = tip._replace(digest=_digest(kept, bodies), tally=replay.tally)
        commit = Commit(
            if_version=view.head.version,
            if_epoch=view.head.epoch,
            version=seal_tip(self._envelope, key, head, tip),
            epoch=new_stamp(),
            facts=sealed_facts,
            drop_rows=view.rows,
            drop_chunks=[chunk.first for chunk in view.chunks],
            put_rows=rows,
            put_chunks=chunks,
            drop_checkpoints_from=FIRST,
            put_checkpoints=checkpoints,
        )
        return obsolete if logs.commit(key, commit, incarnation) else None


def _superseded(changes: Sequence[StoredChange], facts: Facts, tip: Tip) -> tuple[list[StoredChange], int, Facts]:
    """Return (the changes without superseded steps, how many steps these were, the facts of the sequence without them).

    A step is superseded by a later `setitem` or `delitem` of the same item.
    """
    kept: list[StoredChange] = []
    reset_by: dict[str, StoredChange] = {}
    obsolete = 0
    horizon, known_from = facts.horizon, facts.known_from
    for change in reversed(changes):
        needed = [step for step in change.steps if step.item not in reset_by]
        for step in change.steps:
            if (later := reset_by.get(step.item)) is not None:
                horizon = later.t if horizon is None else max(horizon, later.t)
                known_from = max(known_from, later.recorded)
        reset_by |= {step.item: change for step in needed if stored_operator(step.op).resets}
        obsolete += len(change.steps) - len(needed)
        if len(needed) == len(change.steps):
            kept.append(change)
        elif needed:
            kept.append(change._replace(steps=needed))
    return kept[::-1], obsolete, Facts(horizon, known_from, tip.n, facts.baseline) if obsolete else facts


def _digest(changes: Sequence[StoredChange], bodies: Sequence[bytes]) -> bytes:
    """Return the digest of the changes that were kept: a chain in the order of their commits."""
    digest = Tip().digest
    for change, body in sorted(zip(changes, bodies, strict=True), key=lambda pair: pair[0].n):
        digest = next_digest(digest, change.t, change.seq, body, tagged=change.tag > 0)
    return digest
