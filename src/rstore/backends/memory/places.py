"""Where namespaces are kept in this process, and which transaction may write there.

Nouns: a *place* (all namespaces of one name) and its *turn* (the right to write there for longer than one call).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Condition, RLock

from rstore.backends.common.backoff import Deadline
from rstore.backends.memory.dicts import MemoryNamespace
from rstore.errors import StoreBusyError

# Guards everything below and inside, for one step and no longer. A fork waits for it, so that the child finds no
# half-done change.
lock = RLock()
changed = Condition(lock)
"""Notified when something was written, and when a turn has ended."""
writes: Counter[tuple[str, str, bool]] = Counter()
"""How often each namespace was written to, also one that is gone."""


class MemoryPlace:
    """All namespaces of one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespaces: dict[str, MemoryNamespace] = {}
        self.turn: object = None  # of the transaction that has it

    def wait(self, timeout_s: float) -> None:
        """Wait, with `lock` held, until no transaction has the turn.

        Raises `StoreBusyError` if one has it for longer than the time-out.
        """
        deadline = Deadline(timeout_s)
        while self.turn is not None:
            if not changed.wait(deadline.left_s) and deadline.is_over:
                raise StoreBusyError(
                    f"memory://{self.name} was busy: another transaction was open for longer than the time-out, "
                    f"{timeout_s:g} s; nothing was applied"
                )

    @contextmanager
    def take_turn(self, timeout_s: float) -> Generator[Callable[[], bool], None, None]:
        """Hold the turn, after waiting for it; yield a function that says whether it is still held."""
        turn = object()
        try:
            with lock:
                self.wait(timeout_s)
                self.turn = turn
            yield lambda: self.turn is turn
        finally:
            with lock:
                if self.turn is turn:
                    self.turn = None
                    changed.notify_all()


_places: dict[str, MemoryPlace] = {}


def place_of(name: str) -> MemoryPlace:
    """Return the place of a name."""
    return _places.setdefault(name, MemoryPlace(name))


def _after_fork_in_child() -> None:
    for place in _places.values():
        place.turn = None  # a thread of the parent has it
    lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)
