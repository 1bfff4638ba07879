"""Unfolding: changes folded one by one, and each told with the value of its item before and behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from types import NoneType
from typing import Any, Final

from rstore.codec.changes import OP_CODES, OPS, UNARY_CODES, Step
from rstore.codec.serializers import Codec
from rstore.events.change import Change
from rstore.events.operators import SEQUENCES, stored_operator
from rstore.events.state import CAUSES, CannotFold, is_shortage
from rstore.events.step_columns import FUNCTIONS, StepColumns

_FIXED: Final = frozenset({int, float, bool, str, NoneType})
"""Types of values that every serializer gives back as they are, and that callers may share: no one can change them."""
_SET: Final = OP_CODES["setitem"]
_ADD: Final = OP_CODES["add"]
_SUMS: Final = (_ADD, OP_CODES["sub"])
_NUMBERS: Final = (int, float)
_new: Final = tuple.__new__


class Unfolding:
    """The values of the items at one position, from which changes are told.

    A value of a fixed type is kept as it is, and every other one encoded, as bytes: each of its readers gets an object
    of its own.
    """

    def __init__(self, codec: Codec, horizon: int | None, items: Mapping[str, Any]) -> None:
        self._codec = codec
        self._horizon = horizon
        self._items = dict(items)

    def copy(self) -> Unfolding:
        """Return the same values, to be unfolded on their own."""
        return Unfolding(self._codec, self._horizon, self._items)

    def skip(self, steps: StepColumns) -> None:
        """Fold steps that are not told."""
        for _ in self.tell(steps):
            pass

    def tell(self, steps: StepColumns) -> Iterator[Change]:
        """Fold steps, and yield each as a change.

        Raises `CannotFold` at the first one that does not compute.
        """
        items, decode, typed, encoded = self._items, self._codec.decode, self._codec.typed, steps.encoded
        get, functions, gone = items.get, FUNCTIONS, self
        # Written out, since every change of a history passes through it.
        for n, recorded, t, item, code, value, id_, note in zip(
            steps.n,
            steps.recorded,
            steps.t,
            steps.items,
            steps.codes,
            steps.values,
            steps.ids or repeat(None),
            steps.notes or repeat(None),
            strict=False,
        ):
            held = get(item, gone)
            operand = decode(value) if encoded and code not in UNARY_CODES else value
            if code == _SET:
                if type(operand) in _FIXED and (typed or not encoded):
                    items[item] = after = operand
                else:
                    items[item] = value
                    after = decode(value)
            elif code in _SUMS and type(held) is type(operand) in _NUMBERS and typed:
                items[item] = after = held + operand if code == _ADD else held - operand
            else:
                after = self._fold(t, Step(item, OPS[code], value if encoded else None), held, operand)
            before = decode(held) if type(held) is bytes else None if held is gone else held
            head = n, recorded, t, item, functions[code], operand, before, after
            yield _new(Change, (*head, None if not note else decode(note), id_ or None, ""))

    def _fold(self, t: int, step: Step, held: Any, operand: Any) -> Any:
        """Fold a step of any operator but `setitem`, and return the value behind it."""
        item, name, encoded = step
        if held is self:
            if name == "delitem" and self._horizon is not None and t <= self._horizon:
                return None  # the item that it deleted was pruned, too
            raise CannotFold(step, t) from KeyError(f"{name} needs the item {item!r}, which is not there")
        if name == "delitem":
            del self._items[item]
            return None
        codec, size = self._codec, len(encoded or b"")
        value = held
        if type(held) is bytes:
            value = codec.decode(held)
            size += len(held)
        try:
            if name in ("add", "concat") and type(value) is type(operand) in SEQUENCES:
                result = value + operand  # unbounded, as where a state is folded: it was recorded
            else:
                result = stored_operator(name).compute(value, operand, size)
            if type(result) in _FIXED and codec.typed:
                self._items[item] = result
                return result
            stored = codec.encode(result)
        except CAUSES as error:
            if is_shortage(error):
                raise
            raise CannotFold(step, t) from error
        self._items[item] = stored
        return codec.decode(stored)
