"""The state of an event sequence: what its changes fold to.

Nouns: a *state* (item -> encoded value) and a *fold* (one step applied to a state).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rstore.codec.changes import Step, pack_state, unpack_state
from rstore.codec.serializers import Codec
from rstore.errors import SerializationError
from rstore.operators import stored_operator

CHECKPOINT_CHANGES: Final = 128
"""A checkpoint is due after so many changes, if they also take more bytes than the state itself."""

_ITEM_BYTES: Final = 6

_CAUSES: Final = (TypeError, ValueError, ArithmeticError, SerializationError, MemoryError, RecursionError)


class CannotFold(Exception):  # noqa: N818 - a signal to the layer above, chained from what the operator raised
    """A step does not compute."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.op)
        self.step = step


class State:
    """Item -> encoded value.

    Values stay encoded until somebody asks: a `setitem` then costs no loading, and a computed value is what it will be
    after it was stored and read back, wherever checkpoints fall.
    """

    __slots__ = ("_codec", "_horizon", "_items")

    def __init__(self, codec: Codec, horizon: int | None, items: dict[str, bytes] | None = None) -> None:
        self._codec = codec
        self._horizon = horizon
        self._items = {} if items is None else items

    @classmethod
    def unpack(cls, codec: Codec, horizon: int | None, body: bytes) -> State | None:
        """Return the state of a checkpoint; None if it was made under other fold rules."""
        items = unpack_state(body)
        return None if items is None else cls(codec, horizon, items)

    def pack(self) -> bytes:
        """Return the bytes of a checkpoint."""
        return pack_state(self._items.items())

    def __len__(self) -> int:
        return len(self._items)

    def size(self) -> int:
        """Return about how many bytes a checkpoint would take; goes through all items."""
        return sum(map(len, self._items)) + sum(map(len, self._items.values())) + _ITEM_BYTES * len(self._items)

    def values(self) -> dict[str, Any]:
        """Return the state as a dict of fresh Python values, which is the caller's to change."""
        decode = self._codec.decode
        return {item: decode(encoded) for item, encoded in self._items.items()}

    def fold(self, steps: Iterable[Step], recorded_at: int | None) -> None:
        """Apply the steps of a change; `recorded_at` is its time, or None if it is about to be recorded.

        Raises `CannotFold` at the first one that does not compute, its item untouched.
        """
        items = self._items
        for step in steps:
            item, name, encoded = step
            if name == "setitem" and encoded is not None:
                items[item] = encoded
            elif name == "delitem" and item in items:
                del items[item]
            elif name == "delitem" and self._is_pruned(recorded_at):
                pass  # and so was what it deleted
            else:
                items[item] = self._compute(step)

    def _is_pruned(self, recorded_at: int | None) -> bool:
        return recorded_at is not None and self._horizon is not None and recorded_at <= self._horizon

    def _compute(self, step: Step) -> bytes:
        item, name, encoded = step
        operator = stored_operator(name)
        known = self._items.get(item)
        if known is None:
            raise CannotFold(step) from KeyError(f"{name} needs the item {item!r}, which is not there")
        # Outside of the `try`: what cannot be loaded says so itself, and is no fault of the change.
        value, operand = self._codec.decode(known), None if encoded is None else self._codec.decode(encoded)
        try:
            return self._codec.encode(operator.compute(value, operand, len(known) + len(encoded or b"")))
        except _CAUSES as error:
            raise CannotFold(step) from error
