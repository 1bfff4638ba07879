"""Recording a change: appended to an event sequence, or inserted into its past if all later changes still compute.

Nouns: a *proposal* (a change on top of the sequence that was read) and a *recorder* (commits proposals).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from rstore.backends.types import ANY, MAX_SEQ, MIN_INT64, Commit, Expected, Head, Position, Row
from rstore.codec.changes import Step, StoredChange, Tip, new_birth, new_tag, next_digest, pack_change
from rstore.errors import (
    ChangeRefusedError,
    ConflictError,
    EncryptionError,
    InvalidValueError,
    SerializationError,
    StoreError,
    StoreIntegrityError,
)
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.heads import NEVER_PRUNED, problem_of, seal_facts, seal_tip, told_version
from rstore.events.history import History
from rstore.events.ids import Once
from rstore.events.operators import OPERATORS, Oversized, Unfit
from rstore.events.renewing import renew_checkpoints
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.events.steps import Steps
from rstore.log.packing import Logs
from rstore.log.reader import LogReader
from rstore.session import ReadSession, Session


class Overtaken(Exception):  # noqa: N818 - a signal to the recorder
    """A concurrent change came between the state that a function was given, and its change."""


class Proposal(NamedTuple):
    """A change that can be replayed."""

    replay: Replay
    """The sequence behind it."""
    change: StoredChange
    body: bytes
    checkpoints: list[Row]
    inserted: bool
    """Whether it lies in the past."""


class Proposing(History):
    """One event sequence, with a change that is tried on it and may be recorded."""

    once: Once | None = None
    """The id under which the change is recorded."""

    def __init__(
        self, session: ReadSession, key: str, logs: LogReader, expected: Expected = ANY, note: bytes | None = None
    ) -> None:
        """`expected` is the version that the change depends on, as `told_version` tells it; `note` is encoded."""
        super().__init__(session, key, logs)
        self._expected = expected
        self._note = note
        self._seen: Expected = ANY
        """The whole version of the state that a function made the change of."""

    def try_out(self, steps: Steps, t: int | None) -> dict[str, Any] | None:
        """Return the current state behind a change; it is not recorded.

        Raises the errors of recording it.
        """
        replay = self.read()
        change = steps(_values(replay) or {})
        if not change:
            return _values(replay)
        return self._propose(replay, change, t, replay.now_ms).replay.state.values()

    def _check_version(self, head: Head | None) -> None:
        if self._expected is ANY:
            return
        actual = None if head is None else told_version(head)
        if actual != self._expected:
            what = "is not there" if actual is None else "is there already" if self._expected is None else "was changed"
            raise ConflictError(
                f"the event sequence {self._place} {what}; nothing was recorded",
                expected=self._expected,
                actual=actual,
            )

    def _propose(self, replay: Replay, steps: Sequence[Step], t: int | None, now_ms: int) -> Proposal:
        """Return a change behind the sequence, or before the end of it."""
        self._check_version(replay.head)
        if t is not None and _is_past(t, replay):
            return self._insert(steps, t)
        self._logs.check_kind(self._key, replay.head)
        # The replay is shared with other threads, and a refused change must not leave a trace in it.
        replay = replay.copy()
        at = _next(replay.last, now_ms) if t is None else (t, 0)
        change, body = self._new_change(at, steps, replay.tip, now_ms)
        self._fold_new(replay.state, at[0], steps)
        checkpoints = [self._checkpoint(at, replay)] if replay.count(change) else []
        return Proposal(replay, change, body, checkpoints, inserted=False)

    def _insert(self, steps: Sequence[Step], t: int) -> Proposal:
        """Return a change in the past, after all later changes were replayed on top of it.

        Raises `Overtaken`.
        """
        replay, changes = self._begin((t - 1, MAX_SEQ) if t > MIN_INT64 else None)
        self._check_version(replay.head)
        if self._seen not in (ANY, None if replay.head is None else replay.head.version):
            raise Overtaken
        self._logs.check_kind(self._key, replay.head)
        self.check_horizon(replay.facts.horizon, t, writing=True)
        at = t, 0
        replay.tip = Tip() if replay.head is None else self.tip(replay.head)
        new, body = self._new_change(at, steps, replay.tip, replay.now_ms)
        for step in steps:
            if step.encoded is not None:
                self._codec.decode(step.encoded)  # refuses what cannot be loaded, even to be replaced
        checkpoints: list[Row] = []
        placed = False
        change: StoredChange | None = None

        def place() -> None:
            nonlocal placed
            replay.state.settle()
            placed = True
            self._fold_new(replay.state, t, steps)
            if replay.count(new):
                checkpoints.append(self._checkpoint(at, replay))

        try:
            for change in changes:
                if change.t == t:
                    raise StoreIntegrityError(
                        f"the timestamp {t} of {self._place} is taken: pick another, or none for now"
                    )
                if change.t > t and not placed:
                    place()
                if replay.fold(change):
                    checkpoints.append(self._checkpoint(change.position, replay))
            if not placed:
                place()  # the later changes are gone since
            replay.state.settle()
        except CannotFold as error:
            raise self._broken(error, change, steps if placed else (), t) from error.__cause__
        if (problem := problem_of(replay.tally, replay.tip.tally.plus(new))) is not None:
            raise self._logs.unsound(self._key, problem)
        return Proposal(replay, new, body, checkpoints, inserted=True)

    def _new_change(self, at: Position, steps: Sequence[Step], tip: Tip, now_ms: int) -> tuple[StoredChange, bytes]:
        """Return the change that the next commit puts at a position, and the body of its row."""
        tag = new_tag() if self._envelope.keyed else 0
        id_, schema = None if self.once is None else self.once.id, self._codec.schema_version
        change = StoredChange(*at, tip.n + 1, max(now_ms, tip.recorded), steps, tag, id_, self._note, schema)
        try:
            body = pack_change(change)
        except struct.error as error:
            raise InvalidValueError(
                f"a change of {self._place} has values and a note of less than 4 GiB each; nothing was recorded"
            ) from error
        return StoredChange(*change[:-1], len(body)), body  # not `_replace`, which takes three times as long

    def _fold_new(self, state: State, t: int, steps: Sequence[Step]) -> None:
        try:
            state.fold(steps, None)
        except CannotFold as error:
            raise self._not_computed(error, t) from error.__cause__

    def _not_computed(self, error: CannotFold, t: int) -> ChangeRefusedError:
        return self._refusal(error.step, t, _why(error.__cause__, error.step))

    def _broken(self, error: CannotFold, change: StoredChange | None, steps: Sequence[Step], t: int) -> StoreError:
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

    def _checkpoint(self, at: Position, replay: Replay) -> Row:
        return seal_checkpoint(self._envelope, self._key, replay.head, at, replay.state, replay.tally)


class Recorder(Proposing):
    """One event sequence, to be changed.

    A change is computed on the state that was read, and committed if no concurrent change was faster. Its result is
    kept for the next one.
    """

    def __init__(
        self, session: Session, key: str, logs: Logs, expected: Expected = ANY, note: bytes | None = None
    ) -> None:
        super().__init__(session, key, logs, expected, note)
        self._session = session
        self._writer = logs

    def try_apply(self, steps: Sequence[Step], t: int | None) -> dict[str, Any] | None:
        """Record a change if it can be replayed; return the current state, or None if a concurrent one was faster.

        Raises `ConflictError` if the sequence has another version than the expected one.
        """
        incarnation, states = self._writer.incarnation, self._states
        known = states.get(self._key)
        if t is not None and known is not None and _is_past(t, known):  # before any state is read or copied
            return self._commit(self._insert(steps, t), incarnation)
        if known is not None and known.trusted and (now_ms := self._now_ms()) is not None:
            # Mostly no other writer was here since: finding out by the commit takes less than asking first.
            try:
                if (state := self._commit(self._propose(known, steps, t, now_ms), incarnation)) is not None:
                    return state
            except (StoreIntegrityError, ConflictError, SerializationError, EncryptionError):
                pass  # a change is refused for the state of now only
            known.trusted = False
        replay = self.read()
        now_ms = states.now_ms() if self._writer.is_remote else replay.now_ms
        return self._commit(self._propose(replay, steps, t, now_ms), incarnation)

    def _now_ms(self) -> int | None:
        """Return the time of the backend's clock; None if it would have to be asked."""
        if not self._writer.is_remote:
            return self._writer.clock_ms()
        return self._states.now_ms() if self._states.has_time else None

    def try_steps(self, steps: Sequence[Step], t: int | None) -> tuple[dict[str, Any]] | None:
        """Do the same as `try_apply`, and return the state in a tuple, as `try_change` does."""
        state = self.try_apply(steps, t)
        return None if state is None else (state,)

    def try_change(self, steps: Steps, t: int | None) -> tuple[dict[str, Any] | None] | None:
        """Record the change that a function makes of the current state; None if a concurrent one was faster.

        Returns the current state in a tuple of its own: it is None if there is no sequence, and the change is empty.
        """
        incarnation = self._writer.incarnation
        replay = self.read()
        self._check_version(replay.head)
        change = steps(_values(replay) or {})
        if not change:
            return (_values(replay),)
        self._seen = None if replay.head is None else replay.head.version
        try:
            proposal = self._propose(replay, change, t, replay.now_ms)
        except Overtaken:
            return None
        state = self._commit(proposal, incarnation)
        return None if state is None else (state,)

    def _commit(self, proposal: Proposal, incarnation: bytes) -> dict[str, Any] | None:
        if self.once is not None and self.once.incarnation != incarnation:
            return None  # the namespace was discarded since the id was looked for
        replay, change, body, checkpoints, inserted = proposal
        head, at = replay.head, change.position
        # Only if there is no head: a commit whose answer is lost is recognised by the stamps of a new one.
        create = self._writer.new_head(seal_facts(self._envelope, self._key, NEVER_PRUNED)) if head is None else None
        begun = head or create
        digest = next_digest(replay.tip.digest, *at, body, tagged=change.tag > 0)
        tip = Tip(change.n, change.recorded, digest, replay.tally, replay.tip.birth or new_birth())
        commit = Commit(
            create=create,
            if_version=None if head is None else head.version,
            # Packing leaves the version alone, so that a busy sequence can be packed while changes are appended. A
            # change in the past also depends on where the rows of the past are.
            if_epoch=head.epoch if inserted and head is not None else ANY,
            version=seal_tip(self._envelope, self._key, begun, tip),
            put_rows=self._writer.seal_rows(self._key, [(*at, body)], begun),
            drop_checkpoints_from=at if inserted else None,
            put_checkpoints=checkpoints,
            put_ids=() if self.once is None else self.once.put,
            drop_ids=() if self.once is None else self.once.drop,
        )
        values = replay.state.values()  # first: a state that cannot be loaded must not be recorded
        if not self._writer.commit(self._key, commit, incarnation):
            return None
        if replay.outdated and self._writer.written is None:  # in a transaction, concurrent writers would wait for it
            renew_checkpoints(self._session, self._key, self._writer)
            replay.outdated = False
        if not inserted and begun is not None and commit.version is not None:
            replay.head = Head(begun.epoch, commit.version, begun.sealed, begun.facts)
            replay.last, replay.tip = at, tip
            self._states.put(self._key, replay)
        return values


def _values(replay: Replay) -> dict[str, Any] | None:
    """Return a state of the caller's own; None if there is no sequence."""
    return None if replay.last is None else replay.state.values()


def _is_past(t: int, replay: Replay) -> bool:
    return replay.last is not None and t <= replay.last[0]


def _next(last: Position | None, now_ms: int) -> Position:
    """Return the position of a change that is to be the last one."""
    return (now_ms, 0) if last is None or now_ms > last[0] else (last[0], last[1] + 1)


def _why(cause: BaseException | None, step: Step) -> str:
    """Return why a step does not compute, without the values that its cause may tell."""
    if isinstance(cause, KeyError):
        return f"{step.item!r} is not there; set it first"
    if isinstance(cause, Unfit | Oversized) or type(cause) is TypeError:  # of builtin types: it names no more than them
        return f"{cause}"
    return f"{type(cause).__name__}, see its cause"
