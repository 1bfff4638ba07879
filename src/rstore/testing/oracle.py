"""The answers that a store must give, worked out with dicts, lists and the `operator` module.

Nouns: a *series oracle* and an *event oracle* (one series, one sequence) and the *oracle* (a whole namespace).
Nothing here shares code with the store that it judges, and little is fast.
"""

from __future__ import annotations

import copy
import marshal
import math
import operator
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, TypeAlias

Op: TypeAlias = Callable[..., Any]
Point: TypeAlias = tuple[int, Any]
FlatEvent: TypeAlias = tuple[int, str, Op, Any]

UNARY: tuple[Op, ...] = (operator.delitem, operator.neg, operator.not_)
BINARY: tuple[Op, ...] = (
    operator.setitem,
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.concat,
)

_PLAIN = {int, float, str, bytes, bool, type(None)}


def utf8(key: str) -> bytes:
    """Return the bytes by which keys are ordered."""
    return key.encode()


def same(left: Any, right: Any) -> bool:
    """Return whether two values are the same to the type and to the bit: 1 is not True, 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if type(left) is list and _is_plain(left) and _is_plain(right):
        # A faster way to the same answer: each object is written with its type and all of its bits.
        return marshal.dumps(left, 2) == marshal.dumps(right, 2)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        # The order is part of it: a dict comes back in the order it went in.
        return same(list(left.items()), list(right.items()))
    return bool(left == right)


def _is_plain(points: list[Any]) -> bool:
    """Return whether all items are tuples of plain objects."""
    return set(map(type, points)) <= {tuple} and set(map(type, chain.from_iterable(points))) <= _PLAIN


def same_state(left: dict[str, Any] | None, right: dict[str, Any] | None) -> bool:
    """Return whether two states are the same to the type and to the bit; the order of their items does not count."""
    if left is None or right is None:
        return left is right
    return same(dict(sorted(left.items())), dict(sorted(right.items())))


def matches(pattern: str, key: str) -> bool:
    """Return whether the whole key matches: `*` is anything, `?` one character, everything else itself."""
    reached = {0}
    for character in pattern:
        if character == "*":
            reached = set(range(min(reached), len(key) + 1)) if reached else set()
        else:
            reached = {i + 1 for i in reached if i < len(key) and character in ("?", key[i])}
    return len(key) in reached


class SeriesOracle(dict[int, Any]):
    """One time series: a dict of timestamps."""

    def points(self, start: int | None = None, end: int | None = None) -> list[Point]:
        """Return the points from `start` to `end`, both included."""
        return [
            (t, self[t])
            for t in sorted(self)
            if (start is None or t >= start) and (end is None or t <= end)
        ]  # fmt: skip

    def range(
        self, start: int | None = None, *, n: int | None = None, end: int | None = None, freq: int | None = None
    ) -> list[Point]:
        """Return the expected result of `Store.range`."""
        kept: list[Point] = []
        for point in self.points(start, end):
            if freq is None or not kept or point[0] >= kept[-1][0] + freq:
                kept.append(point)
        return kept if n is None else kept[:n]

    def missing(self, start: int, end: int | None = None, *, freq: int) -> list[int]:
        """Return the expected result of `Store.missing`."""
        return [t for t in range(start, (start if end is None else end) + 1, freq) if t not in self]

    def at(self, t: int, method: str, tolerance: int | None = None) -> Point | None:
        """Return the expected result of `Store.at`."""
        known = sorted(self)
        i = bisect_left(known, t)
        after = known[i] if i < len(known) else None
        before = t if after == t else known[i - 1] if i else None
        far = math.inf if tolerance is None else tolerance
        if method == "linear" and t not in self:
            if before is None or after is None or max(t - before, after - t) > far:
                return None
            share = (t - before) / (after - before)
            return t, self[before] + (self[after] - self[before]) * share
        found = {"previous": before, "next": after}.get(method, t if t in self else None)
        if method == "nearest":
            both = [one for one in (before, after) if one is not None]
            found = min(both, key=lambda one: abs(one - t), default=None)
        return (found, self[found]) if found is not None and abs(found - t) <= far else None

    def gaps(self, freq: int) -> list[tuple[int, int]]:
        """Return the expected result of `Store.gaps`, without bounds."""
        return [(one, other) for one, other in pairwise(sorted(self)) if other - one > freq]

    def remove(self, start: int | None = None, end: int | None = None) -> None:
        """Forget the points from `start` to `end`, both included."""
        for t, _ in self.points(start, end):
            del self[t]


class TakenError(Exception):
    """The explicit timestamp of a change is taken."""


class PrunedError(Exception):
    """A read before the horizon, or a change at or before it."""


@dataclass(frozen=True)
class ExpectedChange:
    """One change, as `apply` recorded it."""

    t: int
    seq: int
    items: dict[str, tuple[Op, Any]]


def change_of(state: Mapping[str, Any]) -> dict[str, tuple[Op, Any]]:
    """Return the operator and the operand of every item; a tuple that does not begin with an operator is a value."""
    items: dict[str, tuple[Op, Any]] = {}
    for item, given in state.items():
        if isinstance(given, tuple) and len(given) == 2 and given[0] in UNARY + BINARY:
            items[item] = (given[0], given[1])
        else:
            items[item] = (operator.setitem, given)
    return copy.deepcopy(items)


def fold_one(state: dict[str, Any], item: str, op: Op, value: Any) -> None:
    """Compute one item of a state; errors of Python go through."""
    if op is operator.setitem:
        state[item] = copy.deepcopy(value)
    elif op is operator.delitem:
        del state[item]
    elif op in UNARY:
        state[item] = op(state[item])
    else:
        state[item] = op(state[item], value)


def fold(events: Iterable[FlatEvent], *, horizon: int | None = None) -> dict[str, Any]:
    """Return the state that events fold to."""
    state: dict[str, Any] = {}
    for t, item, op, value in events:
        if op is operator.delitem and item not in state and horizon is not None and t <= horizon:
            continue
        fold_one(state, item, op, value)
    return state


@dataclass
class EventOracle:
    """One event sequence: a plain list of changes, folded from scratch for every read."""

    changes: list[ExpectedChange] = field(default_factory=list)
    horizon: int | None = None
    baseline: int | None = None
    """The time of the last change that was folded."""

    @property
    def exists(self) -> bool:
        """Whether the key is known."""
        return bool(self.changes) or self.baseline is not None

    def check(self, state: Mapping[str, Any], t: int | None) -> None:
        """Raise an error if a change at `t`, or after all others, is impossible."""
        new = change_of(state)
        if t is None:
            # Not folded as part of the log, which skips a `delitem` of an absent item at or before the horizon.
            folded = fold(self._flat(self.changes), horizon=self.horizon)
            for item, (op, value) in new.items():
                fold_one(folded, item, op, value)
            return
        if self.horizon is not None and t <= self.horizon:
            raise PrunedError
        if any(change.t == t for change in self.changes):
            raise TakenError
        fold(self._flat(self._with(ExpectedChange(t, 0, new))), horizon=self.horizon)

    def apply(self, state: Mapping[str, Any], t: int, *, last: bool = False) -> None:
        """Record a change at `t`; `last` if the store chose `t`, which may then be a timestamp that is taken."""
        self.check(state, None if last else t)
        seq = max((change.seq + 1 for change in self.changes if change.t == t), default=0)
        self.changes = self._with(ExpectedChange(t, seq, change_of(state)))

    def load(self, changes: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Record several changes, as `apply_many` does: those of one time are in their order."""
        taken = {change.t for change in self.changes}
        seqs: dict[int, int] = {}
        loaded = list(self.changes)
        for t, state in changes:
            if self.horizon is not None and t <= self.horizon:
                raise PrunedError
            if t in taken:
                raise TakenError
            seq = seqs[t] = seqs.get(t, -1) + 1
            loaded.append(ExpectedChange(t, seq, change_of(state)))
        loaded.sort(key=lambda change: (change.t, change.seq))
        fold(self._flat(loaded), horizon=self.horizon)
        self.changes = loaded

    def _with(self, change: ExpectedChange) -> list[ExpectedChange]:
        return sorted([*self.changes, change], key=lambda change: (change.t, change.seq))

    def current(self) -> tuple[int, dict[str, Any]] | None:
        """Return the last timestamp and the state."""
        if not self.changes:
            return None if self.baseline is None else (self.baseline, {})
        return self.changes[-1].t, fold(self._flat(self.changes), horizon=self.horizon)

    def past(self, t: int) -> tuple[int, dict[str, Any]] | None:
        """Return the last timestamp at or before `t`, and the state at `t`."""
        if self.horizon is not None and t < self.horizon:
            raise PrunedError
        before = [change for change in self.changes if change.t <= t]
        if not before:
            return None if self.baseline is None else (self.baseline, {})
        return before[-1].t, fold(self._flat(before), horizon=self.horizon)

    def events(
        self, start: int | None = None, end: int | None = None, ops: Sequence[Op] | None = None
    ) -> list[FlatEvent]:
        """Return the events from `start` to `end`, both included, of some operators."""
        return [
            event
            for event in self._flat(self.changes)
            if (start is None or event[0] >= start)
            and (end is None or event[0] <= end)
            and (ops is None or event[2] in ops)
        ]

    def told(self) -> list[tuple[int, str, Op, Any, Any, Any]]:
        """Return each event after the horizon, with the value of its item before and behind it."""
        state: dict[str, Any] = {}
        told = []
        for t, item, op, value in self._flat(self.changes):
            before = copy.deepcopy(state.get(item))
            if op is not operator.delitem or item in state:  # or the item that it deleted was pruned, too
                fold_one(state, item, op, value)
            if self.horizon is None or t > self.horizon:
                told.append((t, item, op, value, before, copy.deepcopy(state.get(item))))
        return told

    def prune(self) -> int:
        """Forget the events that a later `setitem` or `delitem` of the same item supersedes; return how many."""
        removed = 0
        kept: list[ExpectedChange] = []
        superseded: dict[str, int] = {}
        for change in reversed(self.changes):
            items: dict[str, tuple[Op, Any]] = {}
            for item, (op, value) in change.items.items():
                if item in superseded:
                    removed += 1
                    self.horizon = max(superseded[item], superseded[item] if self.horizon is None else self.horizon)
                else:
                    items[item] = (op, value)
                    if op in (operator.setitem, operator.delitem):
                        superseded[item] = change.t
            if items:
                kept.append(ExpectedChange(change.t, change.seq, items))
        self.changes = kept[::-1]
        return removed

    def prune_before(self, before: int) -> int:
        """Fold the changes before a time into one; return how many events are not there any more as they were."""
        folded = [change for change in self.changes if change.t < before]
        if not folded:
            return 0
        last, state = folded[-1], fold(self._flat(folded), horizon=self.horizon)
        stay = sum(op is operator.setitem for op, _ in last.items.values())
        gone = sum(len(change.items) for change in folded) - stay
        if gone:
            self.horizon = last.t if self.horizon is None else max(self.horizon, last.t)
            self.baseline = last.t
            items = {item: (operator.setitem, value) for item, value in state.items()}
            baseline = [ExpectedChange(last.t, last.seq, items)] if items else []
            self.changes = baseline + self.changes[len(folded) :]
        return gone

    @staticmethod
    def _flat(changes: Iterable[ExpectedChange]) -> list[FlatEvent]:
        return [(change.t, item, op, value) for change in changes for item, (op, value) in change.items.items()]


@dataclass
class Oracle:
    """The expected content of a namespace, of all three models."""

    values: dict[str, Any] = field(default_factory=dict)
    series: dict[str, SeriesOracle] = field(default_factory=dict)
    events: dict[str, EventOracle] = field(default_factory=dict)
    ids: dict[tuple[str, str], tuple[str, int | None]] = field(default_factory=dict)
    """By sequence and id: the change that was applied, as text, and its time."""

    def prune(self, key: str, *, remove: bool = True) -> None:
        """Prune a sequence, and forget it if its current state is empty."""
        sequence = self.events.get(key)
        if sequence is None:
            return
        sequence.prune()
        if remove and sequence.current() is not None and not fold(sequence.events(), horizon=sequence.horizon):
            del self.events[key]

    def empty(self) -> bool:
        """Return whether the namespace holds nothing."""
        return not (
            self.values or any(self.series.values()) or any(log.exists for log in self.events.values())
        )  # fmt: skip

    def clear(self) -> None:
        """Forget everything."""
        self.values.clear()
        self.series.clear()
        self.events.clear()
        self.ids.clear()
