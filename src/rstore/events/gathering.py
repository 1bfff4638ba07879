"""Changes as `apply_many` is given them, checked and put together by sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rstore.arguments import check_item, check_key, check_timestamp
from rstore.backends.types import MAX_INT64, MIN_INT64
from rstore.codec.change_batch import Encoded, encode_values
from rstore.codec.changes import OP_CODES
from rstore.codec.columns import Column
from rstore.errors import InvalidArgumentError, InvalidTypeError, SerializationError
from rstore.events.operators import OPERATORS
from rstore.events.steps import encode_note, steps_of
from rstore.session import Session

MAX_STEPS: Final = 2**20
"""So many events are held at once; then those of each sequence are committed, and the next ones gathered."""
MAX_BYTES: Final = 2**28
"""The same for bytes of large values."""

_SETITEM: Final = OP_CODES["setitem"]
_CODES: Final[dict[Callable[..., Any], int]] = {
    one.function: OP_CODES[one.name] for one in OPERATORS.values() if not one.unary
}
_BUILTIN: Final = type(next(iter(_CODES)))
_SIMPLE: Final = frozenset({int, float, bool, str})
"""Immutable, so that they can be encoded later, all at once."""


@dataclass(slots=True)
class Gathered:
    """Changes of one sequence, in the order in which they were given."""

    t: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    """Change `i` has the steps from `ends[i]` to `ends[i + 1]`."""
    items: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    operands: list[Any] = field(default_factory=list)
    """`Encoded` where they are not simple, None of unary operators."""
    notes: dict[int, bytes] = field(default_factory=dict)
    """By change."""
    encoded: list[bytes | None] = field(default_factory=list)
    column: Column | None = None

    def __len__(self) -> int:
        return len(self.t)

    def encode(self, session: Session, key: str) -> None:
        """Encode the simple operands."""
        with session.naming(f"the event sequence {key!r}"):
            self.encoded, self.column = encode_values(self.operands, session.codec)


def gather(session: Session, changes: Iterable[Any]) -> Iterator[dict[str, Gathered]]:
    """Yield the changes by sequence, as many at once as are held."""
    if isinstance(changes, str | bytes | Mapping) or not isinstance(changes, Iterable):
        raise InvalidTypeError(f"changes are an iterable of (key, t, state), not {type(changes).__name__}")
    numbered, more = enumerate(changes, 1), True
    while more:
        found, more = _some(session, numbered)
        there = {key: one for key, one in found.items() if len(one)}
        for key, one in there.items():
            one.encode(session, key)
        yield there


def _some(session: Session, numbered: Iterator[tuple[int, Any]]) -> tuple[dict[str, Gathered], bool]:
    """Return the next changes by sequence, and whether there may be more."""
    found: dict[str, Gathered] = {}
    plain: dict[str, str] = {}
    typed, noted = session.codec.typed, session.setup.notes.merged(None) is not None
    steps = size = number = 0
    one, last = Gathered(), None
    items, codes, operands = one.items, one.codes, one.operands
    try:
        for number, given in numbered:  # noqa: B007 - for the message
            if type(given) is tuple and len(given) == 3:
                (key, t, state), note = given, None
            else:
                key, t, state, note = _parts(given)
            if type(key) is not str or key != last:
                last = check_key(key)
                if last not in found:
                    found[last] = Gathered()
                one = found[last]
                items, codes, operands = one.items, one.codes, one.operands
            if type(t) is not int or not MIN_INT64 <= t <= MAX_INT64:
                t = check_timestamp(t)
            if type(state) is not dict and not isinstance(state, Mapping):
                raise InvalidTypeError(
                    f"a change is a mapping {{item: value or (op, operand)}}, not {type(state).__name__}"
                )
            for item, value in state.items():
                name = plain.get(item) if type(item) is str else None
                if name is None:
                    name = check_item(item)
                    plain[name] = name
                    size += len(name)
                code, operand = _SETITEM, value
                if type(value) is tuple and len(value) == 2 and type(value[0]) is _BUILTIN and value[0] in _CODES:
                    code, operand = _CODES[value[0]], value[1]
                if type(operand) not in _SIMPLE or not typed:
                    (step,) = steps_of(session, {name: value})
                    code, operand = OP_CODES[step.op], None
                    if step.encoded is not None:
                        operand = Encoded(step.encoded)
                        size += len(operand)
                elif type(operand) is str:
                    size += len(operand)
                items.append(name)
                codes.append(code)
                operands.append(operand)
            end = len(items)
            if end == one.ends[-1]:
                continue  # an empty change records nothing
            if note is not None or noted:
                encoded = encode_note(session, key, session.setup.notes.merged(note))
                one.notes[len(one)] = encoded or b""
                size += len(encoded or b"")
            steps += end - one.ends[-1]
            one.t.append(t)
            one.ends.append(end)
            if steps >= MAX_STEPS or size >= MAX_BYTES:
                return found, True
    except (InvalidArgumentError, SerializationError) as error:
        raise type(error)(f"change number {number} of those given: {error}") from error.__cause__ or error
    return found, False


def _parts(given: Any) -> tuple[Any, Any, Any, Any]:
    if isinstance(given, tuple | list) and len(given) in (3, 4):
        key, t, state, *rest = given
        return key, t, state, rest[0] if rest else None
    raise InvalidTypeError("a change to load is a tuple (key, t, state), or (key, t, state, note)")
