"""The answers about the past of a sequence, worked out from a list of its changes.

Noun: a *chronicle* (each change with its position, its commit number and its recorded time).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rstore import Change, Store, Transaction
from rstore.testing.oracle import Op, change_of, fold_one


@dataclass(frozen=True)
class Entered:
    """One change, as it was recorded."""

    t: int
    seq: int
    n: int
    recorded: int
    items: dict[str, tuple[Op, Any]]


@dataclass
class Chronicle:
    """All changes of one sequence, in order of position; every answer is folded from scratch."""

    changes: list[Entered] = field(default_factory=list)

    def apply(self, store: Store | Transaction, key: str, state: Mapping[str, Any], t: int | None = None) -> None:
        """Apply a change to a store, and enter it."""
        items = change_of(state)
        store.apply(key, state, t)
        n = len(self.changes) + 1
        [*_, last] = (change for change in store.history(key) if change.n == n)
        seq = sum(change.t == last.t for change in self.changes)
        assert seq == 0 or t is None
        assert last.recorded >= max((change.recorded for change in self.changes), default=last.recorded)
        entered = Entered(last.t, seq, n, last.recorded, items)
        self.changes = sorted([*self.changes, entered], key=lambda change: (change.t, change.seq))

    def past(self, t: int, known: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """Return the expected result of `Store.past` with its timestamp."""
        return _answer(
            [
                change
                for change in self.changes
                if change.t <= t and (known is None or change.recorded <= known)
            ]
        )  # fmt: skip

    def behind(self, n: int) -> tuple[int, dict[str, Any]] | None:
        """Return the expected result of `Store.past` of a commit."""
        [at] = [(change.t, change.seq) for change in self.changes if change.n == n]
        return _answer([change for change in self.changes if (change.t, change.seq) <= at])

    def history(self, item: str | None = None, start: int | None = None, end: int | None = None) -> list[Change]:
        """Return the expected items of `Store.history`."""
        state: dict[str, Any] = {}
        told: list[Change] = []
        for change in self.changes:
            for one, (op, value) in change.items.items():
                before = copy.deepcopy(state.get(one))
                fold_one(state, one, op, value)
                after = copy.deepcopy(state.get(one))
                told.append(Change(change.n, change.recorded, change.t, one, op, value, before, after))
        return [
            change
            for change in told
            if item in (None, change.item)
            and (start is None or change.t >= start)
            and (end is None or change.t <= end)
        ]  # fmt: skip


def _answer(changes: list[Entered]) -> tuple[int, dict[str, Any]] | None:
    state: dict[str, Any] = {}
    for change in changes:
        for item, (op, value) in change.items.items():
            fold_one(state, item, op, value)
    return (changes[-1].t, state) if changes else None
