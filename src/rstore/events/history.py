"""Event sequences as logs: reading a state, appending and inserting a change, pruning what is superseded.

Every verb reads, computes, and commits if nobody was faster; what was read is kept for the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from rstore.backends.types import ANY, FIRST, LAST, MAX_SEQ, MIN_INT64, Commit, Head, Model, Position, Row
from rstore.codec.changes import Step, Tally, new_tag, pack_change, repack, tag_of, unpack_change
from rstore.codec.envelope import Cell, Envelope, at_position
from rstore.errors import (
    ChangeRefusedError,
    CorruptionError,
    EncryptionError,
    HorizonError,
    SerializationError,
    StoreError,
    StoreIntegrityError,
)
from rstore.events.operators import OPERATORS, Oversized, Unfit, stored_operator
from rstore.events.state import (
    CannotFold,
    CheckpointPolicy,
    Reading,
    State,
    open_horizon,
    problem_of,
    seal_horizon,
    seal_tally,
    tally_of,
)
from rstore.log.reader import mark_of
from rstore.log.writer import Logs, new_stamp
from rstore.session import Session


class History:
    """One event sequence of an open store."""

    def __init__(self, session: Session, key: str, logs: Logs | None = None) -> None:
        self._key = key
        self._session = session
        self._codec = session.codec
        self._logs = session.events if logs is None else logs

    @property
    def _envelope(self) -> Envelope:
        return self._session.envelope

    @property
    def _place(self) -> str:
        return self._session.place(self._key)

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, hi: Position = LAST) -> Reading:
        """Return the sequence as it stands behind position `hi`; the state may be shared, and is not to be changed."""
        known = self._session.readings.get(self._key)
        if known is not None and (known.last is None or known.last > hi):
            known = None
        reading, changes = self._begin(checkpoint=hi, hi=hi, known=known)
        if known is not None and reading.state is known.state:  # nothing has happened since
            if hi == LAST:
                self._session.readings.put(self._key, reading)
            return reading
        state, ledger, change = reading.state, reading.ledger, None
        before, tags = ledger.changes, reading.tally.tags
        try:
            for change in changes:
                state.fold(unpack_change(change.body), change.t)
                ledger.changes += 1
                ledger.size += len(change.body)
                tags += tag_of(change.body)
            state.settle()
        except CannotFold as error:
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__
        reading.tally = Tally.of(reading.tally.n + ledger.changes - before, tags)
        if change is not None:
            reading.last = change.t, change.seq
        if hi == LAST and reading.head is not None:
            self.check_whole(reading.head, reading.tally)
            self._session.readings.put(self._key, reading)
        return reading

    def _begin(
        self, checkpoint: Position | None, hi: Position = LAST, known: Reading | None = None
    ) -> tuple[Reading, Iterable[Row]]:
        """Return the reading at the newest checkpoint up to a position, and the changes from there to `hi`.

        Where nothing has happened since `known`, that is the reading, and there are none.
        """
        version = None if known is None or known.head is None else known.head.version
        # Where it is likely to have changed, all is asked for at once: on a server, to ask whether is one call more.
        glance = None if known is None or not known.trusted else version
        view = self._logs.view(self._key, hi=hi, from_checkpoint=checkpoint, unless_version=glance)
        self._session.readings.asked(view.now_ms)
        if known is not None and view.head is not None and view.head.version == version:
            return Reading(
                view.head, known.horizon, known.state, known.last, known.ledger, view.now_ms, known.tally
            ), ()
        horizon = self._horizon(view.head, known)
        state, trusted = State(self._codec, horizon), known is None
        reading = Reading(view.head, horizon, state, None, CheckpointPolicy(), view.now_ms, trusted=trusted)
        if view.checkpoint is None:
            return reading, self._logs.rows(self._key, view, hi=hi)
        t, seq, sealed = view.checkpoint
        where = self._envelope.where(Cell.CHECKPOINT, self._key)
        place = at_position(t, seq) + mark_of(Model.EVENTS, view.head)
        kept = State.unpack(self._codec, horizon, self._envelope.open_block(sealed, where, place))
        if kept is None:  # made under other fold rules: a cache, so the changes tell it all again
            return self._begin(None, hi)
        (reading.state, reading.tally), reading.last = kept, (t, seq)
        return reading, self._logs.rows(self._key, view, (t, seq + 1), hi)

    def check_whole(self, head: Head | None, tally: Tally) -> None:
        """Refuse a sequence of which changes are missing, before a state is made of the others, and kept."""
        if head is None:
            return
        told = tally_of(self._envelope, self._key, head)
        if told is not None and (problem := problem_of(tally, told)) is not None:
            raise self._logs.unsound(self._key, problem)

    def _unreplayable(self, t: int, error: CannotFold) -> CorruptionError:
        item = error.step.item
        return CorruptionError(f"the event sequence {self._place} cannot be replayed at t={t}, item {item!r}")

    def _horizon(self, head: Head | None, known: Reading | None = None) -> int | None:
        if head is None:
            return None
        if known is not None and known.head is not None and known.head.facts == head.facts:
            return known.horizon
        return open_horizon(self._envelope, self._key, head)

    def check_horizon(self, horizon: int | None, t: int, *, writing: bool = False) -> None:
        """Refuse a time whose history was pruned away."""
        if horizon is not None and (t <= horizon if writing else t < horizon):
            raise HorizonError(
                f"the history of {self._place} was pruned: nothing can be "
                + (
                    f"applied at t={t}, only after t={horizon}"
                    if writing
                    else f"told of t={t}, only from t={horizon} on"
                ),
                key=self._key,
                horizon=horizon,
            )

    # -- applying -----------------------------------------------------------------------------------------------------

    def try_apply(self, steps: Sequence[Step], t: int | None) -> dict[str, Any] | None:
        """Record a change if it can be replayed; return the current state, or None if somebody else was faster."""
        readings = self._session.readings
        if not self._logs.is_remote:  # where to ask takes less than to find out by the commit
            reading = self.read()
            return self._append(reading, steps, t, reading.now_ms)
        known = readings.get(self._key)
        if known is not None and known.trusted and readings.has_time:
            # Mostly nobody has written since: to find out otherwise by the commit takes no longer than to ask first.
            with suppress(StoreIntegrityError, SerializationError, EncryptionError):
                if (state := self._append(known, steps, t, readings.now_ms())) is not None:
                    return state
            known.trusted = False  # what is refused is refused for what is there now
        return self._append(self.read(), steps, t, readings.now_ms())

    def _append(self, reading: Reading, steps: Sequence[Step], t: int | None, now_ms: int) -> dict[str, Any] | None:
        incarnation = self._logs.incarnation
        self._logs.check_kind(self._key, reading.head)
        # What was read is shared with other threads, and a change that is refused must not leave a trace in it.
        reading = reading.copy()
        if t is not None and reading.last is not None and t <= reading.last[0]:
            return self._try_insert(steps, t, incarnation)
        at = _next(reading.last, now_ms) if t is None else (t, 0)
        body = self._pack(steps)
        self._fold_new(reading.state, at[0], steps)
        reading.tally = reading.tally.plus(body)
        due = reading.ledger.due(body, reading.state)
        return self._commit(reading, at, body, [self._checkpoint(at, reading)] if due else [], incarnation)

    def _try_insert(self, steps: Sequence[Step], t: int, incarnation: bytes) -> dict[str, Any] | None:
        """Record a change in the past: everything behind it is replayed on top of it first."""
        reading, changes = self._begin((t - 1, MAX_SEQ) if t > MIN_INT64 else None)
        self.check_horizon(reading.horizon, t, writing=True)
        body, at = self._pack(steps), (t, 0)
        for step in steps:
            if step.encoded is not None:
                self._codec.decode(step.encoded)  # what cannot be loaded must not be recorded, even to be replaced
        checkpoints: list[Row] = []
        placed = False
        change: Row | None = None

        def place() -> None:
            nonlocal placed
            reading.state.settle()
            placed = True
            self._fold_new(reading.state, t, steps)
            reading.tally = reading.tally.plus(body)
            if reading.ledger.due(body, reading.state):
                checkpoints.append(self._checkpoint(at, reading))

        try:
            for change in changes:
                if change.t == t:
                    raise StoreIntegrityError(
                        f"the timestamp {t} of {self._place} is taken: pick another, or none for now"
                    )
                if change.t > t and not placed:
                    place()
                reading.state.fold(unpack_change(change.body), change.t)
                reading.tally = reading.tally.plus(change.body)
                if reading.ledger.due(change.body, reading.state):
                    checkpoints.append(self._checkpoint((change.t, change.seq), reading))
            if not placed:
                place()  # what was behind it is gone since
            reading.state.settle()
        except CannotFold as error:
            raise self._broken(error, change, steps if placed else (), t) from error.__cause__
        tally = reading.tally
        self.check_whole(reading.head, Tally.of(tally.n - 1, tally.tags - tag_of(body)))
        return self._commit(reading, at, body, checkpoints, incarnation, insert=True)

    def _pack(self, steps: Sequence[Step]) -> bytes:
        return pack_change(steps, new_tag() if self._envelope.keyed else b"")

    def _fold_new(self, state: State, t: int, steps: Sequence[Step]) -> None:
        try:
            state.fold(steps, None)
        except CannotFold as error:
            cause = error.__cause__
            raise self._refusal(error.step, t, _why(cause, error.step)) from cause

    def _broken(self, error: CannotFold, change: Row | None, steps: Sequence[Step], t: int) -> StoreError:
        """Return the error for a change behind time `t` that does not compute any more, or never did."""
        # Every operator reads and writes one item, so that only a step on the same item can have broken it.
        step = next((step for step in steps if step.item == error.step.item), None)
        if step is not None:
            behind = "" if change is None else f" at t={change.t}"
            return self._refusal(step, t, f"it would break the {error.step.op}{behind}")
        return self._unreplayable(t if change is None else change.t, error)

    def _refusal(self, step: Step, t: int, why: str) -> ChangeRefusedError:
        return ChangeRefusedError(
            f"{step.op} on the item {step.item!r} of {self._place} at t={t} is refused, nothing was recorded: {why}",
            key=self._key,
            t=t,
            item=step.item,
            op=OPERATORS[step.op].function,
        )

    def _checkpoint(self, at: Position, reading: Reading) -> Row:
        where = self._envelope.where(Cell.CHECKPOINT, self._key)
        place = at_position(*at) + mark_of(Model.EVENTS, reading.head)
        return Row(*at, self._envelope.seal_block(reading.state.pack(reading.tally), where, place))

    def _commit(
        self,
        reading: Reading,
        at: Position,
        body: bytes,
        checkpoints: list[Row],
        incarnation: bytes,
        *,
        insert: bool = False,
    ) -> dict[str, Any] | None:
        head = reading.head
        # Only where there is none: the stamps of a new one are what a commit is recognised by where its answer is lost.
        create = self._logs.new_head(seal_horizon(self._envelope, self._key, None)) if head is None else None
        commit = Commit(
            create=create,
            if_version=None if head is None else head.version,
            # Sealing leaves the version alone, so that a busy sequence can be sealed while changes are appended. A
            # change in the past also depends on where the rows of the past are.
            if_epoch=head.epoch if insert and head is not None else ANY,
            version=seal_tally(self._envelope, self._key, head or create, reading.tally) or new_stamp(),
            put_rows=self._logs.seal_rows(self._key, [(*at, body)], head or create),
            drop_checkpoints_from=at if insert else None,
            put_checkpoints=checkpoints,
        )
        values = reading.state.values()  # first: a state that cannot be loaded must not be recorded
        if not self._logs.commit(self._key, commit, incarnation):
            return None
        begun = head or create
        if not insert and begun is not None and commit.version is not None:
            reading.head, reading.last = begun._replace(version=commit.version), at
            self._session.readings.put(self._key, reading)
        return values

    # -- pruning ------------------------------------------------------------------------------------------------------

    def try_prune(self, *, remove: bool) -> int | None:
        """Drop the steps that are superseded; return how many, or None if somebody else was faster."""
        incarnation = self._logs.incarnation
        view = self._logs.view(self._key)
        if view.head is None:
            return 0
        self._logs.check_kind(self._key, view.head)
        changes = [(change, unpack_change(change.body)) for change in self._logs.rows(self._key, view)]
        kept, obsolete, superseded_at = _superseded(changes)
        horizon = max((one for one in (self._horizon(view.head), superseded_at) if one is not None), default=None)
        facts = seal_horizon(self._envelope, self._key, horizon)
        head = view.head._replace(facts=facts)
        self.check_whole(view.head, Tally.of_all([change.body for change, _ in changes]))
        state, checkpoints = State(self._codec, horizon), []
        reading = Reading(head, horizon, state, None, CheckpointPolicy(), view.now_ms)
        for change in kept:
            try:
                state.fold(unpack_change(change.body), change.t)
                reading.tally = reading.tally.plus(change.body)
                if reading.ledger.due(change.body, state):
                    checkpoints.append(self._checkpoint((change.t, change.seq), reading))
            except CannotFold as error:
                raise self._unreplayable(change.t, error) from error.__cause__
        if remove and not len(state):
            n = sum(len(steps) for _, steps in changes)
            return n if self._logs.drop(self._key, if_version=view.head.version) else None
        if not obsolete:
            return 0
        commit = Commit(
            if_version=view.head.version,
            if_epoch=view.head.epoch,
            version=seal_tally(self._envelope, self._key, head, reading.tally) or new_stamp(),
            epoch=new_stamp(),
            facts=facts,
            drop_rows=view.rows,
            drop_chunks=[chunk.first for chunk in view.chunks],
            drop_checkpoints_from=FIRST,
            put_checkpoints=checkpoints,
            **self._logs.lay_out(self._key, kept, head),
        )
        return obsolete if self._logs.commit(self._key, commit, incarnation) else None


def _next(last: Position | None, now_ms: int) -> Position:
    """Return the position of a change that is to be the last one."""
    return (now_ms, 0) if last is None or now_ms > last[0] else (last[0], last[1] + 1)


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


def _why(cause: BaseException | None, step: Step) -> str:
    """Return why a step does not compute, without the values that its cause may tell."""
    if isinstance(cause, KeyError):
        return f"{step.item!r} is not there; set it first"
    if isinstance(cause, Unfit | Oversized) or type(cause) is TypeError:  # of builtin types: it names no more than them
        return f"{cause}"
    return f"{type(cause).__name__}, see its cause"
