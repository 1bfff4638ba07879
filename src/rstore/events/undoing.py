"""Taking back: the changes that return a sequence to a state of the past, or undo one of its commits.

Nouns: a *touch* (one step on one item, with the value of the item before and behind it).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from rstore.backends.types import MAX_SEQ, Position, position_before
from rstore.codec.changes import Step, StoredChange
from rstore.errors import ChangeRefusedError, HorizonError, InvalidValueError
from rstore.events.operators import OPERATORS, stored_operator
from rstore.events.recording import Recorder
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.events.states import StateReader
from rstore.log.packing import Logs
from rstore.session import Session

Outcome = tuple[dict[str, Any] | None]
"""The current state, in a tuple of its own: None is the state of a sequence that there is not."""

_INVERSES: Final[dict[str, tuple[str, ...]]] = {
    "add": ("sub",),
    "sub": ("add",),
    "mul": ("floordiv", "truediv"),
    "truediv": ("mul",),
    "neg": ("neg",),
    "not_": ("not_",),
}
"""The operators that may take back another one; whether they do so exactly is computed."""


class Touch(NamedTuple):
    """One step on one item, with its encoded value before and behind it; None where it is not there."""

    change: StoredChange
    step: Step
    before: bytes | None
    after: bytes | None


class Undoer(Recorder):
    """One event sequence, of which changes are taken back."""

    def __init__(self, session: Session, key: str, logs: Logs, note: bytes | None = None) -> None:
        super().__init__(session, key, logs, note=note)
        self._states_of = StateReader(session, key, logs)

    def try_revert(self, t: int, items: Collection[str] | None) -> Outcome | None:
        """Return to the state of time `t`; return the current state, or None if a concurrent change was faster."""
        incarnation = self._writer.incarnation
        replay = self.read()
        if replay.last is None or replay.head is None:
            return (None,)
        self.check_horizon(replay.facts.horizon, t)
        past = self.read((t, MAX_SEQ))
        if past.head is None or past.head.version != replay.head.version:
            return None
        then, now = past.state.encoded(), replay.state.encoded()
        chosen = {**now, **then} if items is None else items
        return self._take_back(
            replay, [_restoring(item, now.get(item), then.get(item)) for item in chosen], incarnation
        )

    def try_undo(self, n: int) -> Outcome | None:
        """Take back the change of commit `n`; return the current state, or None if a concurrent change was faster.

        Raises `ChangeRefusedError` if a later change builds upon it.
        """
        incarnation = self._writer.incarnation
        replay = self.read()
        if (at := self._states_of.position_of(n)) is None:
            raise InvalidValueError(f"there is no event sequence {self._place}, and no commit {n} of it")
        horizon = replay.facts.horizon
        # At the horizon itself may stand changes that were recorded behind the prune: nothing before them is unknown.
        if horizon is not None and at[0] <= horizon and n <= replay.facts.pruned_n:
            raise HorizonError(
                f"the history of {self._place} was pruned: the value before the change of commit {n} may be gone",
                key=self._key,
                horizon=horizon,
            )
        found = self._touches(at, replay)
        if found is None:
            return None
        now = replay.state.encoded()
        return self._take_back(
            replay, [self._undoing(touches, now.get(item)) for item, touches in found.items()], incarnation
        )

    def _take_back(self, replay: Replay, needed: Iterable[Step | None], incarnation: bytes) -> Outcome | None:
        """Record the steps that are needed."""
        steps = [step for step in needed if step is not None]
        if not steps:
            return (replay.state.values(),)
        state = self._commit(self._propose(replay, steps, None, replay.now_ms), incarnation)
        return None if state is None else (state,)

    def _touches(self, at: Position, replay: Replay) -> dict[str, list[Touch]] | None:
        """Return all steps on the items of the change at a position, from that change on.

        None if the sequence is another one than that of the replay, since a concurrent change was faster.
        """
        start, changes = self._begin(position_before(at))
        if start.head is None or replay.head is None or start.head.version != replay.head.version:
            return None
        state, found, change = start.state, dict[str, list[Touch]](), None
        try:
            for change in changes:
                if change.position == at:
                    found = {step.item: [] for step in change.steps}
                touched = [step for step in change.steps if step.item in found]
                values = [state.encoded().get(step.item) for step in touched]
                state.fold(change.steps, change.t)
                for step, value in zip(touched, values, strict=True):
                    found[step.item].append(Touch(change, step, value, state.encoded().get(step.item)))
            state.settle()
        except CannotFold as error:
            raise self._unreplayable(0 if change is None else change.t, error) from error.__cause__
        return found

    def _undoing(self, touches: Sequence[Touch], now: bytes | None) -> Step | None:
        """Return the step that takes the first of these back; None if nothing is left to do.

        Raises `ChangeRefusedError` if a later one builds upon it.
        """
        first, later = touches[0], _standing(touches[1:])
        item, op, operand = first.step
        blocking: Sequence[Touch] = later
        for name in _INVERSES.get(op, ()):
            inverse = Step(item, name, operand)
            if not (blocking := self._blocking(first, inverse, later)):
                return inverse
        if later:
            raise self._built_upon(first.change.n, blocking[0])
        return _restoring(item, now, first.before)

    def _blocking(self, first: Touch, inverse: Step, later: Sequence[Touch]) -> Sequence[Touch]:
        """Return the steps from the first one on behind which the inverse gives another value than without `first`."""
        item, without = first.step.item, first.before
        for i, touch in enumerate(later):
            without = None if stored_operator(touch.step.op).resets else self._folded(item, without, touch.step)
            if without is None or self._folded(item, touch.after, inverse) != without:
                return later[i:]
        return () if later or self._folded(item, first.after, inverse) == without else [first]

    def _folded(self, item: str, value: bytes | None, step: Step) -> bytes | None:
        """Return the encoded value of an item behind a step; None if that does not compute."""
        state = State(self._codec, None, {} if value is None else {item: value})
        try:
            state.fold([step], None)
        except CannotFold:
            return None
        return state.encoded().get(item)

    def _built_upon(self, n: int, later: Touch) -> ChangeRefusedError:
        change, step = later.change, later.step
        return ChangeRefusedError(
            f"commit {n} of {self._place} cannot be undone, nothing was recorded: "
            f"{step.op} on the item {step.item!r} in commit {change.n} at t={change.t} builds upon it",
            key=self._key,
            t=change.t,
            item=step.item,
            op=OPERATORS[step.op].function,
            n=change.n,
        )


def _restoring(item: str, now: bytes | None, then: bytes | None) -> Step | None:
    """Return the step that gives an item the value that it had; None if it has it."""
    if now == then:
        return None
    return Step(item, "delitem", None) if then is None else Step(item, "setitem", then)


def _standing(touches: Iterable[Touch]) -> list[Touch]:
    """Return the steps of which something is left: not those behind which the item is again what it was before them."""
    left: list[Touch] = []
    for touch in touches:
        same = next((i for i, earlier in enumerate(left) if earlier.before == touch.after), None)
        if same is None:
            left.append(touch)
        else:
            del left[same:]
    return left
