"""A replay: a sequence folded up to one position, and all that is needed to go on from there."""

from __future__ import annotations

from dataclasses import dataclass, field

from rstore.backends.types import Head, Position
from rstore.codec.changes import NONE, Facts, StoredChange, Tally, Tip
from rstore.events.checkpoints import CheckpointPolicy
from rstore.events.state import State


@dataclass(slots=True)
class Replay:
    """A sequence at one position. `head` is None if there is no sequence, `last` if nothing happened until then."""

    head: Head | None
    facts: Facts
    state: State
    now_ms: int
    """The backend's clock at that time, POSIX milliseconds."""
    last: Position | None = None
    policy: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    tally: Tally = NONE
    """The changes up to `last`."""
    tip: Tip = Tip()  # noqa: RUF009 - immutable
    """The last commit of the sequence; only of a replay of all of it."""
    trusted: bool = True
    """Whether it is likely still true: no other writer was seen when the backend was asked the time before."""
    outdated: bool = False
    """Whether the newest checkpoint was made under other rules, so that the sequence lacks those that help."""

    def copy(self) -> Replay:
        """Return a replay of its own, to go on from."""
        policy = CheckpointPolicy(self.policy.changes, self.policy.size, self.policy.enough)
        state = self.state.copy()
        kept = self.last, policy, self.tally, self.tip, self.trusted, self.outdated
        return Replay(self.head, self.facts, state, self.now_ms, *kept)

    def fold(self, change: StoredChange) -> bool:
        """Apply a recorded change, and return whether a checkpoint behind it is due.

        Raises `CannotFold`.
        """
        self.state.fold(change.steps, change.t)
        return self.count(change)

    def count(self, change: StoredChange) -> bool:
        """Count a change that was folded, and return whether a checkpoint behind it is due."""
        self.tally = self.tally.plus(change)
        return self.policy.due(change.size, self.state)
