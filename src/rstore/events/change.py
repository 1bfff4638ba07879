"""Events and changes as a caller gets them.

Nouns: an *event* (what was asked for), a *change* (what came of it, and when it was recorded), `ABSENT` (an item that
is not there).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Literal, NamedTuple


class Event(NamedTuple):
    """One operator applied to one item: POSIX milliseconds, the item, the operator function, and its operand."""

    timestamp: int
    item: str
    op: Callable[..., Any]
    value: Any


class Change(NamedTuple):
    """One event of a sequence with all that is known of it; those of one `apply` share all that concerns the call."""

    n: int
    """The number of its commit in the sequence, from 1 on without a gap."""
    recorded: int
    """When it was committed, by the backend's clock in POSIX milliseconds."""
    t: int
    """When it happened, in POSIX milliseconds."""
    item: str
    op: Callable[..., Any]
    """The operator: a function of the module `operator`."""
    value: Any
    """The operand; None of a unary operator."""
    before: Any
    """The value of the item before; None also if there was none."""
    after: Any
    """The value of the item behind it; None also if there is none, which only `delitem` brings about."""
    note: Any = None
    id: str | None = None
    cursor: str = ""
    """Where `follow` goes on behind it; empty unless it comes from there."""


class Absence(Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return self.name

    def __bool__(self) -> Literal[False]:
        return False


ABSENT: Final = Absence.ABSENT
"""Stands in a `diff` for an item that is not there."""
