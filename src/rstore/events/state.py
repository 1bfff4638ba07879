"""The state of an event sequence: what its changes fold to.

Nouns: a *state* (item -> encoded value), a *fold* (one step applied to a state), a *run* (a text or list that is
appended to), a *reading* (the state of a sequence at one position, and what it took to fold it) and a *ledger* (counts
what was folded since the last checkpoint, and says when the next is due).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from struct import Struct
from time import monotonic
from typing import Any, Final

from rstore.backends.types import Head, Model, Position
from rstore.codec.changes import NONE, Step, Tally, pack_horizon, pack_state, unpack_horizon, unpack_state
from rstore.codec.envelope import Cell, Envelope
from rstore.codec.serializers import Codec
from rstore.errors import SerializationError, TamperedError
from rstore.events.operators import SEQUENCES, stored_operator
from rstore.log.reader import mark_of

CHECKPOINT_CHANGES: Final = 96
"""A checkpoint is due after so many changes, if they also take more bytes than the state itself."""

_ITEM_BYTES: Final = 6
_CARRIED_S: Final = 1.0
"""So long a clock that was read once goes on by one's own: no clock drifts by a millisecond meanwhile."""
_SMALL_BYTES: Final = 2048
_MAX_SMALL: Final = 4096
_OBJECT_BYTES: Final = 160
"""What an item takes in memory beside its bytes."""
_LARGE_BYTES: Final = 256 * 1024
"""A larger state is folded again each time: reading and writing it takes long anyway."""
_MAX_LARGE: Final = 64
"""Together no more than about 30 MB, and mostly far less."""

_tally = Struct(">IQ")
_UNKNOWN: Final = -1
_SHORTAGES: Final = (MemoryError, RecursionError)
_CAUSES: Final = (TypeError, ValueError, ArithmeticError, SerializationError, *_SHORTAGES)


class CannotFold(Exception):  # noqa: N818 - a signal to the layer above, chained from what the operator raised
    """A step does not compute."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.op)
        self.step = step


class Run:
    """A str, bytes, list or tuple that is appended to; it becomes one again when it is asked for.

    A sequence that is made anew with every change takes the square of the time: 16,384 empty strings appended to 4 MB,
    which compression stores in 300 bytes, took more than a minute.
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

    Values stay encoded until somebody asks: a `setitem` then costs no loading, and a computed value is what it will be
    after it was stored and read back, wherever checkpoints fall. What changes that were recorded compute is encoded
    when they are all folded, not behind each: every serializer gives back what it was given, and a subclass that
    may not is asked each time.
    """

    __slots__ = ("_codec", "_computed", "_horizon", "_items")

    def __init__(self, codec: Codec, horizon: int | None, items: dict[str, bytes] | None = None) -> None:
        self._codec = codec
        self._horizon = horizon
        self._items = {} if items is None else items
        self._computed: dict[str, tuple[Any, Step]] = {}
        """Values that are not encoded yet, and the step that computed each; a sequence may be a `Run`."""

    @classmethod
    def unpack(cls, codec: Codec, horizon: int | None, body: bytes) -> tuple[State, Tally] | None:
        """Return the state of a checkpoint, and behind which changes; None if it was made under other fold rules."""
        found = unpack_state(body)
        return None if found is None else (cls(codec, horizon, found[0]), found[1])

    def copy(self) -> State:
        """Return a state of its own with the same items."""
        self.settle()
        return State(self._codec, self._horizon, self._items.copy())

    def pack(self, tally: Tally) -> bytes:
        """Return the bytes of a checkpoint behind these changes."""
        self.settle()
        return pack_state(self._items.items(), tally)

    def __len__(self) -> int:
        return len(self._items)

    def size(self) -> int:
        """Return about how many bytes a checkpoint would take; goes through all items."""
        self.settle()
        return sum(map(len, self._items)) + sum(map(len, self._items.values())) + _ITEM_BYTES * len(self._items)

    def values(self) -> dict[str, Any]:
        """Return the state as a dict of fresh Python values, which is the caller's to change."""
        self.settle()
        decode = self._codec.decode
        return {item: decode(encoded) for item, encoded in self._items.items()}

    def settle(self) -> None:
        """Encode what was computed. From then on threads may share the state, as long as nobody folds.

        Raises `CannotFold` for a value that cannot be stored.
        """
        while self._computed:
            item, (value, step) = self._computed.popitem()
            try:
                self._items[item] = self._codec.encode(value.whole() if type(value) is Run else value)
            except SerializationError as error:
                if _is_shortage(error):
                    raise
                raise CannotFold(step) from error

    def fold(self, steps: Iterable[Step], recorded_at: int | None) -> None:
        """Apply the steps of a change; `recorded_at` is its time, or None if it is about to be recorded.

        Raises `CannotFold` at the first one that does not compute, its item untouched; of one that was recorded, what
        it lacks where that is memory or stack.
        """
        items = self._items
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
                pass  # and so was what it deleted
            elif recorded_at is not None and self._codec.typed:
                self._compute_later(step)
            else:
                items[item] = self._compute(step, recorded=recorded_at is not None)

    def _is_pruned(self, recorded_at: int | None) -> bool:
        return recorded_at is not None and self._horizon is not None and recorded_at <= self._horizon

    def _compute(self, step: Step, *, recorded: bool) -> bytes:
        self.settle()
        value, operand, size = self._operands(step)
        try:
            return self._codec.encode(stored_operator(step.op).compute(value, operand, size))
        except _CAUSES as error:
            if recorded and _is_shortage(error):
                raise
            raise CannotFold(step) from error

    def _compute_later(self, step: Step) -> None:
        """Compute a step that was recorded, and leave the result as it is."""
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
        except _CAUSES as error:
            if _is_shortage(error):
                raise
            raise CannotFold(step) from error

    def _operands(self, step: Step) -> tuple[Any, Any, int]:
        """Return the value of an item, the operand, and how many bytes both take, if the value was not computed."""
        item, name, encoded = step
        known = self._items.get(item)
        if known is None:
            raise CannotFold(step) from KeyError(f"{name} needs the item {item!r}, which is not there")
        # Not where it is computed: what cannot be loaded says so itself, and is no fault of the change.
        operand = None if encoded is None else self._codec.decode(encoded)
        if self._computed and (computed := self._computed.get(item)) is not None:
            return computed[0], operand, _UNKNOWN
        return self._codec.decode(known), operand, len(known) + len(encoded or b"")


def _is_shortage(error: Exception) -> bool:
    # What was computed once can be computed: a process that is short of memory or stack now says just that.
    return isinstance(error.__cause__ or error, _SHORTAGES)


def seal_tally(envelope: Envelope, key: str, head: Head | None, tally: Tally) -> bytes | None:
    """Return the next version of a sealed event sequence that then has these changes; None without a key.

    It tells which they are, so that none of them can be taken away, and no checkpoint put back that a change in the
    past made void, without putting back an older version and all that goes with it: then it is the sequence as it once
    was. Their number alone would let another one be taken away than the last. Their tags are known to the holders of
    the key only, so that nobody else can find changes of the same sum.
    """
    if not envelope.keyed:
        return None
    return envelope.seal(_tally.pack(*tally), *_version_place(envelope, key, head))


def tally_of(envelope: Envelope, key: str, head: Head) -> Tally | None:
    """Return which changes an event sequence has, by its version; None if it is not sealed."""
    if not head.sealed:
        return None
    opened = envelope.open(head.version, *_version_place(envelope, key, head))
    if opened is head.version or len(opened) != _tally.size:
        raise TamperedError(f"the version of the event sequence {key!r} is none that was written here")
    return Tally(*_tally.unpack(opened))


def problem_of(found: Tally, told: Tally) -> str | None:
    """Return why a sequence with these changes is not the one that its version tells of."""
    if found.n != told.n:
        return f"it has {found.n:,} changes instead of {told.n:,}"
    return None if found == told else "some of its changes are others than it had"


def _version_place(envelope: Envelope, key: str, head: Head | None) -> tuple[bytes, bytes]:
    return envelope.where(Cell.FACT, key), b"n" + mark_of(Model.EVENTS, head)


@dataclass(slots=True)
class CheckpointPolicy:
    """What was folded since the last checkpoint: how many changes, and how many bytes of them."""

    changes: int = 0
    size: int = 0
    enough: int = 0
    """The state was larger than this when it was last measured, which takes going through it."""

    def due(self, body: bytes, state: State) -> bool:
        """Count a change, and return whether a checkpoint of the state behind it is due.

        Both conditions: a fold then decodes at most 96 changes or about one state's size, and checkpoints never
        take more bytes than the changes.
        """
        self.changes += 1
        self.size += len(body)
        if self.changes < CHECKPOINT_CHANGES or self.size <= self.enough:
            return False
        self.enough = state.size()
        if self.size <= self.enough:
            return False
        self.changes = self.size = self.enough = 0
        return True


@dataclass(slots=True)
class Reading:
    """A sequence at one position. `head` is None if it is unknown, `last` if nothing happened until then."""

    head: Head | None
    horizon: int | None
    state: State
    last: Position | None
    ledger: CheckpointPolicy
    now_ms: int
    """The backend's clock at that time, POSIX milliseconds."""
    tally: Tally = NONE
    """Which changes there are up to `last`."""
    trusted: bool = True
    """Whether it is likely still true: nobody else had written when the backend was asked after the one before."""

    def copy(self) -> Reading:
        """Return a reading of one's own, to go on from."""
        ledger = CheckpointPolicy(self.ledger.changes, self.ledger.size, self.ledger.enough)
        return Reading(
            self.head, self.horizon, self.state.copy(), self.last, ledger, self.now_ms, self.tally, self.trusted
        )


class StateCache:
    """The readings of the sequences that were used last, and the backend's clock.

    Threads share them, so that nobody changes their states.
    """

    def __init__(self) -> None:
        # No lock, which a fork could leave taken: whatever is done to one of these is one step of the interpreter.
        self._small: OrderedDict[str, Reading] = OrderedDict()
        self._large: OrderedDict[str, Reading] = OrderedDict()
        self._clock = 0, -inf  # POSIX milliseconds of the backend, and when it was asked

    def get(self, key: str) -> Reading | None:
        """Return what was kept of a sequence; whether it is still true is for the caller to ask."""
        return self._small.get(key) or self._large.get(key)

    def put(self, key: str, reading: Reading) -> None:
        """Keep a reading, and let go of the one that was put longest ago where there are too many."""
        self._small.pop(key, None)
        self._large.pop(key, None)
        size = reading.state.size() + _OBJECT_BYTES * len(reading.state)
        if size <= _SMALL_BYTES:
            _keep(self._small, key, reading, _MAX_SMALL)
        elif size <= _LARGE_BYTES:
            _keep(self._large, key, reading, _MAX_LARGE)

    def asked(self, now_ms: int) -> None:
        """Take note of what the backend's clock said just now; an answer that was long on its way is older."""
        if not self.has_time or now_ms >= self.now_ms():
            self._clock = now_ms, monotonic()

    @property
    def has_time(self) -> bool:
        """Whether the backend was asked for the time so lately that its clock can be carried on."""
        return monotonic() - self._clock[1] <= _CARRIED_S

    def now_ms(self) -> int:
        """Return what the backend's clock says about now; it was asked before."""
        now_ms, asked_at = self._clock
        return now_ms + int((monotonic() - asked_at) * 1000)


def _keep(readings: OrderedDict[str, Reading], key: str, reading: Reading, most: int) -> None:
    readings[key] = reading
    if len(readings) > most:
        with suppress(KeyError):  # another thread was faster
            readings.popitem(last=False)


def seal_horizon(envelope: Envelope, key: str, horizon: int | None) -> bytes:
    """Return the facts of an event sequence. With a key, that it has no horizon is sealed, too."""
    if horizon is None and not envelope.keyed:
        return b""
    return envelope.seal_block(pack_horizon(horizon), envelope.where(Cell.FACT, key))


def open_horizon(envelope: Envelope, key: str, head: Head) -> int | None:
    """Return the horizon of an event sequence.

    Raises `TamperedError` if it was taken out of one that is sealed: what was pruned would seem to have never been.
    """
    where = envelope.where(Cell.FACT, key)
    if not head.facts and head.sealed:
        raise envelope.emptied(where)
    return unpack_horizon(head.facts and envelope.open_block(head.facts, where))
