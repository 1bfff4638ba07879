"""The state of an event sequence: the dict that its changes fold to.

Nouns: a *state* (item -> encoded value), a *fold* (one step applied to a state) and a *run* (a text or list that is
appended to).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

from rstore.codec.changes import Step, Tally, pack_state, unpack_state
from rstore.codec.serializers import NATIVE, Codec
from rstore.errors import SerializationError
from rstore.events.operators import SEQUENCES, stored_operator

_ITEM_BYTES: Final = 6
_UNKNOWN: Final = -1
_SHORTAGES: Final = (MemoryError, RecursionError)
CAUSES: Final = (TypeError, ValueError, ArithmeticError, SerializationError, *_SHORTAGES)


class CannotFold(Exception):  # noqa: N818 - a signal to the layer above, chained from what the operator raised
    """A step does not compute."""

    def __init__(self, step: Step, t: int = 0) -> None:
        """`t` is the time of its change, where the layer above does not know it."""
        super().__init__(step.op)
        self.step = step
        self.t = t


class Run:
    """A str, bytes, list or tuple that is appended to, joined when it is asked for.

    A sequence that is made anew with every change takes the square of the time: many short strings appended to a long
    one, which compression stores in a few bytes, would take minutes to replay.
    """

    __slots__ = ("_parts", "kind")

    def __init__(self, whole: Any) -> None:
        self.kind = type(whole)
        self._parts = [whole]

    def append(self, part: Any) -> None:
        """Put another one of the same type behind it."""
        self._parts.append(part)

    def whole(self) -> Any:
        """Return all of it as one."""
        if len(self._parts) > 1:
            text = self.kind in (str, bytes)
            self._parts = [self.kind().join(self._parts) if text else self.kind(chain.from_iterable(self._parts))]
        return self._parts[0]


class State:
    """Item -> encoded value.

    Values stay encoded until they are asked for: a `setitem` then costs no loading, and a computed value is the one
    that is read back later, wherever checkpoints fall. The results of recorded changes are encoded when all of them are
    folded: every serializer gives back what it was given. One that may not, a subclass, is asked behind each.

    The values that callers were told are kept if they cannot change: a new change then loads its own items alone.
    """

    __slots__ = ("_bytes", "_changeable", "_codec", "_computed", "_horizon", "_items", "_told")

    def __init__(self, codec: Codec, horizon: int | None, items: dict[str, bytes] | None = None) -> None:
        self._codec = codec
        self._horizon = horizon
        self._items = {} if items is None else items
        self._computed: dict[str, tuple[Any, Step]] = {}
        """Values that are not encoded yet, and the step that computed each; a sequence may be a `Run`."""
        self._told: dict[str, Any] | None = None
        """The values of all items, in the same order; None for those that could be changed by the caller."""
        self._changeable: frozenset[str] = frozenset()
        self._bytes: int | None = None
        """The result of `size`, once it was asked for."""

    @classmethod
    def unpack(cls, codec: Codec, horizon: int | None, body: bytes) -> tuple[State, Tally] | None:
        """Return the state of a checkpoint, and behind which changes.

        None if it was made under other fold rules, or another schema version.
        """
        found = unpack_state(body, codec.schema_version)
        return None if found is None else (cls(codec, horizon, found[0]), found[1])

    def copy(self) -> State:
        """Return a state of its own with the same items."""
        self.settle()
        state = State(self._codec, self._horizon, self._items.copy())
        if self._told is not None:
            state._told, state._changeable = self._told.copy(), self._changeable
        state._bytes = self._bytes
        return state

    def pack(self, tally: Tally) -> bytes:
        """Return the bytes of a checkpoint behind these changes."""
        self.settle()
        return pack_state(self._items.items(), tally, self._codec.schema_version)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: str) -> bool:
        return item in self._items

    def steps(self) -> list[Step]:
        """Return the steps that set all items at once."""
        self.settle()
        return [Step(item, "setitem", encoded) for item, encoded in self._items.items()]

    def size(self) -> int:
        """Return about how many bytes a checkpoint would take; it goes through all items."""
        self.settle()
        if self._bytes is None:
            sizes = sum(map(len, self._items)) + sum(map(len, self._items.values()))
            self._bytes = sizes + _ITEM_BYTES * len(self._items)
        return self._bytes

    def values(self) -> dict[str, Any]:
        """Return the state as a dict of fresh Python values, which is the caller's to change."""
        self.settle()
        items, decode = self._items, self._codec.decode
        if self._told is not None:
            values = self._told.copy()
            for item in self._changeable:
                values[item] = decode(items[item])
            return values
        values = {item: decode(encoded) for item, encoded in items.items()}
        changeable = frozenset(item for item, encoded in items.items() if encoded[0] not in NATIVE)
        self._changeable = changeable
        self._told = values | dict.fromkeys(changeable)  # last: threads share a state that is not folded any more
        return values

    def encoded(self) -> dict[str, bytes]:
        """Return the encoded value of every item, not to be changed."""
        self.settle()
        return self._items

    def settle(self) -> None:
        """Encode the computed values. From then on threads may share the state, as long as none folds.

        Raises `CannotFold` for a value that cannot be stored.
        """
        while self._computed:
            item, (value, step) = self._computed.popitem()
            try:
                self._items[item] = self._codec.encode(value.whole() if type(value) is Run else value)
            except SerializationError as error:
                if is_shortage(error):
                    raise
                raise CannotFold(step) from error

    def fold(self, steps: Iterable[Step], recorded_at: int | None) -> None:
        """Apply the steps of a change; `recorded_at` is its time, or None if it is about to be recorded.

        Raises `CannotFold` at the first step that does not compute, its item untouched. Where a recorded step fails
        for lack of memory or stack, that error goes through.
        """
        items = self._items
        if recorded_at is None:
            self._fold_new(steps)
            return
        self._told = self._bytes = None
        for step in steps:
            item, name, encoded = step
            if name == "setitem" and encoded is not None:
                items[item] = encoded
                if self._computed:
                    self._computed.pop(item, None)
            elif name == "delitem" and item in items:
                del items[item]
                self._computed.pop(item, None)
            elif name == "delitem" and self._is_pruned(recorded_at):
                pass  # the item that it deleted was pruned, too
            elif self._codec.typed:
                self._compute_later(step)
            else:
                items[item] = self._compute(step, recorded=True)

    def _fold_new(self, steps: Iterable[Step]) -> None:
        """Apply the steps of a change that is about to be recorded."""
        self.settle()
        items, told = self._items, self._told
        for step in steps:
            item, name, encoded = step
            before = items.get(item)
            if name == "delitem" and before is not None:
                del items[item]
                if told is not None:
                    del told[item]
                    self._changeable -= {item}
                if self._bytes is not None:
                    self._bytes -= len(item) + len(before) + _ITEM_BYTES
                continue
            after = encoded if name == "setitem" and encoded is not None else self._compute(step, recorded=False)
            items[item] = after
            if told is not None:
                if after[0] in NATIVE:
                    told[item] = self._codec.decode(after)
                    if item in self._changeable:
                        self._changeable -= {item}
                else:
                    told[item] = None
                    if item not in self._changeable:
                        self._changeable |= {item}
            if self._bytes is not None:
                self._bytes += len(after) + (len(item) + _ITEM_BYTES if before is None else -len(before))

    def _is_pruned(self, recorded_at: int) -> bool:
        return self._horizon is not None and recorded_at <= self._horizon

    def _compute(self, step: Step, *, recorded: bool) -> bytes:
        self.settle()
        value, operand, size = self._operands(step)
        try:
            return self._codec.encode(stored_operator(step.op).compute(value, operand, size))
        except CAUSES as error:
            if recorded and is_shortage(error):
                raise
            raise CannotFold(step) from error

    def _compute_later(self, step: Step) -> None:
        """Compute a recorded step, and keep the result unencoded."""
        value, operand, size = self._operands(step)
        name, kind = step.op, type(value)
        try:
            if name in ("add", "concat") and type(operand) is (value.kind if kind is Run else kind) in SEQUENCES:
                run = value if kind is Run else Run(value)
                run.append(operand)
                self._computed[step.item] = run, step
                return
            if kind is Run:
                value = value.whole()
            if size == _UNKNOWN:
                size = len(step.encoded or b"")
                if name == "mul" and type(value) in (list, tuple) and type(operand) is int and operand > 1:
                    size += len(self._codec.encode(value))
            self._computed[step.item] = stored_operator(name).compute(value, operand, size), step
        except CAUSES as error:
            if is_shortage(error):
                raise
            raise CannotFold(step) from error

    def _operands(self, step: Step) -> tuple[Any, Any, int]:
        """Return the value of an item, the operand, and how many bytes both take, unless the value was computed."""
        item, name, encoded = step
        known = self._items.get(item)
        if known is None:
            raise CannotFold(step) from KeyError(f"{name} needs the item {item!r}, which is not there")
        # Outside of any `except`: an operand that cannot be loaded says so itself, and is no fault of the change.
        operand = None if encoded is None else self._codec.decode(encoded)
        if self._computed and (computed := self._computed.get(item)) is not None:
            return computed[0], operand, _UNKNOWN
        return self._codec.decode(known), operand, len(known) + len(encoded or b"")


def is_shortage(error: Exception) -> bool:
    """Return whether a step failed for lack of memory or stack."""
    # A step that was computed once can be computed again: a process short of memory or stack says just that.
    return isinstance(error.__cause__ or error, _SHORTAGES)
