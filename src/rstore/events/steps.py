"""Changes as callers pass them <-> steps: checked, their values encoded.

Nouns: a *step* (one operator on one item) and a *change function* (makes a change of the current state).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

from rstore.arguments import check_item
from rstore.codec.changes import Step
from rstore.errors import InvalidTypeError, SerializationError
from rstore.events.operators import OPERATORS, SETITEM, Operator, check_operator
from rstore.session import ReadSession

State: TypeAlias = Mapping[str, Any]
ChangeFunction: TypeAlias = Callable[[dict[str, Any]], State]
Steps: TypeAlias = Callable[[dict[str, Any]], Sequence[Step]]
"""Makes the steps of a change from the current state."""


class FnRaised(Exception):  # noqa: N818 - a signal to the layer above
    """A change function raised; its error goes to the caller as it is, past all that translates and retries."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def check_function(change: Any) -> None:
    """Refuse a change that is no mapping, unless it is a function of the state."""
    if not callable(change):
        raise InvalidTypeError(
            f"a change is a mapping {{item: value or (op, operand)}} or a function of the state, "
            f"not {type(change).__name__}"
        )
    if iscoroutinefunction(change) or iscoroutinefunction(getattr(change, "__call__", None)):  # noqa: B004 - see it
        raise InvalidTypeError(
            "apply takes a function that returns a change, not a coroutine function: await that first, and apply its "
            "result"
        )


def steps_by(session: ReadSession, fn: ChangeFunction) -> Steps:
    """Return a function that calls a change function and makes steps of its change.

    It raises `FnRaised`.
    """
    check_function(fn)

    def steps(state: dict[str, Any]) -> list[Step]:
        try:
            change = fn(state)
        except Exception as error:
            raise FnRaised(error) from error
        if not isinstance(change, Mapping):
            raise InvalidTypeError(
                f"the function of the state returned {type(change).__name__}, not a change "
                "{item: value or (op, operand)}; nothing was recorded"
            )
        return steps_of(session, change)

    return steps


def steps_of(session: ReadSession, state: State) -> list[Step]:
    """Return the steps of a change, their values encoded."""
    steps = []
    for item, value in state.items():
        item = check_item(item)  # noqa: PLW2901 - a plain str from here on
        operator, operand = _operation(item, value)
        if not operator.unary:
            try:
                steps.append(Step(item, operator.name, session.codec.encode(operand)))
            except SerializationError as error:
                raise session.named(error, f"the item {item!r} of a change") from error.__cause__ or error
        elif operand is None:
            steps.append(Step(item, operator.name, None))
        else:
            raise InvalidTypeError(f"{operator.name} on the item {item!r} takes no operand: pass None")
    return steps


def encode_note(session: ReadSession, key: str, note: Any) -> bytes | None:
    """Return the note of a change, encoded."""
    if note is None:
        return None
    try:
        return session.codec.encode(note)
    except SerializationError as error:
        raise session.named(error, f"the note of a change of {key!r}") from error.__cause__ or error


def _operation(item: str, value: Any) -> tuple[Operator, Any]:
    """Return the operator and the operand that a value stands for: a 2-tuple led by a callable, or a plain value."""
    if type(value) is tuple and len(value) == 2:
        if callable(value[0]):
            try:
                return check_operator(value[0]), value[1]
            except InvalidTypeError as error:
                raise InvalidTypeError(f"item {item!r}: {error}") from error
        if isinstance(value[0], str) and value[0] in OPERATORS:
            raise InvalidTypeError(
                f"item {item!r}: ({value[0]!r}, …) would replace its value by a tuple: write (operator.{value[0]}, …), "
                f"or to set the tuple, (operator.setitem, ({value[0]!r}, …))"
            )
    return SETITEM, value
