"""Checkpoints: the states of a sequence that are kept, so that reading need not fold all changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rstore.backends.types import Head, Model, Position, Row
from rstore.codec.changes import Tally
from rstore.codec.envelope import Cell, Envelope, at_position
from rstore.codec.serializers import Codec
from rstore.events.state import State
from rstore.log.reader import mark_of

CHECKPOINT_CHANGES: Final = 96
"""A checkpoint is due after so many changes, if they also take more bytes than the state itself."""


@dataclass(slots=True)
class CheckpointPolicy:
    """Says when a checkpoint is due, by the changes that were folded since the last one, and their bytes."""

    changes: int = 0
    size: int = 0
    enough: int = 0
    """The state was larger than this when it was last measured, which takes going through it."""

    def due(self, size: int, state: State) -> bool:
        """Count a change of this size, and return whether a checkpoint of the state behind it is due.

        Both conditions bound a cost: a fold decodes at most 96 changes or about one state's size, and checkpoints
        never take more bytes than the changes.
        """
        self.changes += 1
        self.size += size
        if self.changes < CHECKPOINT_CHANGES or self.size <= self.enough:
            return False
        self.enough = state.size()
        if self.size <= self.enough:
            return False
        self.changes = self.size = self.enough = 0
        return True


def seal_checkpoint(envelope: Envelope, key: str, head: Head | None, at: Position, state: State, tally: Tally) -> Row:
    """Return the checkpoint of a state at a position, behind these changes."""
    return Row(*at, envelope.seal_block(state.pack(tally), *_place(envelope, key, head, at)))


def open_checkpoint(
    envelope: Envelope, codec: Codec, key: str, head: Head | None, checkpoint: Row, horizon: int | None
) -> tuple[State, Tally] | None:
    """Return the state of a checkpoint, and behind which changes.

    None if it was made under other fold rules, or another schema version.
    """
    place = _place(envelope, key, head, (checkpoint.t, checkpoint.seq))
    return State.unpack(codec, horizon, envelope.open_block(checkpoint.body, *place))


def _place(envelope: Envelope, key: str, head: Head | None, at: Position) -> tuple[bytes, bytes]:
    return envelope.where(Cell.CHECKPOINT, key), at_position(*at) + mark_of(Model.EVENTS, head)
