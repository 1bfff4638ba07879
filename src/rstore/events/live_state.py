"""A live state: new changes are folded into it by the thousand."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add, mul, sub
from typing import Any, Final

from rstore.codec.changes import OP_CODES, OPS, Step
from rstore.codec.serializers import FLOAT, INT, Codec
from rstore.events.state import State

_SETITEM: Final = OP_CODES["setitem"]
_DIRECT: Final = {OP_CODES[function.__name__]: function for function in (add, sub, mul)}
_OF_NUMBERS: Final = frozenset({bytes((INT,)), bytes((FLOAT,))})
_SMALL: Final = 2**62
"""Numbers below it are computed without a look at how large the result may be, and can be encoded."""
_ENCODES: Final = Step("", "add", None)
"""Stands for the step that computed a small number, which no error names."""


class LiveState(State):
    """A state whose numbers are at hand: to decode and encode each result takes most of the time of folding it."""

    __slots__ = ("_live", "at")

    def __init__(self, codec: Codec, horizon: int | None, items: dict[str, bytes]) -> None:
        super().__init__(codec, horizon, items)
        self._live: dict[str, Any] = {}
        """Values of items that were set or computed last, as far as they are known."""
        self.at = 0
        """The step that was folded last, by its place among those of the batch."""

    def fold_new(
        self,
        columns: tuple[Sequence[str], Sequence[int], Sequence[Any], Sequence[bytes | None]],
        start: int,
        stop: int,
    ) -> None:
        """Fold steps that are about to be recorded: their items, codes of operators, operands and encoded operands.

        Raises `CannotFold`; `at` tells the step.
        """
        known, computed, live = self._items, self._computed, self._live
        self._bytes = None
        steps = zip(*(column[start:stop] for column in columns), strict=True)
        for at, (item, code, operand, encoded) in enumerate(steps, start):
            if code == _SETITEM and encoded is not None:
                known[item] = encoded
                live[item] = operand
                if computed:
                    computed.pop(item, None)
                continue
            value = live.get(item)
            if value is None and known.get(item, b"")[:1] in _OF_NUMBERS and item not in computed:
                value = self._codec.decode(known[item])
            if (
                code in _DIRECT
                and (type(value) is int or type(value) is float)
                and (type(operand) is int or type(operand) is float)
                and -_SMALL < value < _SMALL
                and -_SMALL < operand < _SMALL
                and -_SMALL < (result := _DIRECT[code](value, operand)) < _SMALL
            ):
                live[item] = result
                computed[item] = result, _ENCODES
                continue
            live.pop(item, None)
            self.at = at
            self.fold((Step(item, OPS[code], encoded),), None)

    def plain(self) -> State:
        """Return the state as one to keep."""
        return State(self._codec, self._horizon, self.encoded())
