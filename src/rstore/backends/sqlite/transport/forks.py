"""Holding the connections of this process: to close those to one file, or all of them for a fork.

SQLite's table of locks is inherited by a child, the locks are not: a child that merely opens a connection of its own
can lose acknowledged commits when the parent closes its one. So no connection is open at the moment of a fork.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import inf

import apsw

from rstore.backends.common.backoff import Deadline
from rstore.backends.sqlite.transport.filelock import forget_inherited
from rstore.backends.sqlite.transport.slot import Slot, all_slots, gate
from rstore.errors import StoreBusyError

_held_for_fork: list[Slot] = []
# A transaction goes on in the parent, so that its connection stays open. The child keeps what it inherited of it, and
# never touches it: even closing it would write to memory that it shares with the parent.
_inherited: list[apsw.Connection] = []
lost_paths: set[str] = set()
"""The real paths of files that cannot be opened in this process any more."""


@contextmanager
def held(chosen: Callable[[Slot], bool], timeout_s: float = inf) -> Generator[list[Slot], None, None]:
    """Hold the gate and the locks of some slots, once their calls have ended.

    Raises `StoreBusyError` if that takes too long: a thread may stay inside a transaction for as long as it likes.
    """
    slots = _hold(chosen, timeout_s)
    try:
        yield slots
    finally:
        _release(slots)


def _hold(chosen: Callable[[Slot], bool], timeout_s: float) -> list[Slot]:
    deadline = Deadline(timeout_s)
    while True:
        taken: list[Slot] = []
        gate.acquire()
        try:
            for slot in filter(chosen, all_slots()):
                if not slot.lock.acquire(timeout=0.01):
                    break
                taken.append(slot)
            else:
                return taken
        except BaseException:
            _release(taken)
            raise
        # Its owner may be waiting for the gate, in order to open a connection: let it.
        _release(taken)
        if deadline.is_over:
            raise StoreBusyError(
                f"{slot.path!r} is to be opened anew, and another thread of this process has been using it for "
                f"{timeout_s:g} s: end its transaction"
            )
        time.sleep(0.001)


def _release(taken: list[Slot]) -> None:
    for slot in taken:
        slot.lock.release()
    gate.release()


def _before_fork() -> None:
    _held_for_fork[:] = _hold(lambda _: True, inf)
    for slot in _held_for_fork:
        if slot.transaction is None:
            slot.close()


def _after_fork() -> None:
    taken = _held_for_fork[:]
    _held_for_fork.clear()
    _release(taken)


def _after_fork_in_child() -> None:
    for slot in _held_for_fork:
        if slot.transaction is not None:
            if slot.connection is not None:
                _inherited.append(slot.connection)
            slot.transaction = slot.connection = slot.statements = slot.file_lock = None
            lost_paths.add(os.path.realpath(slot.path))
    forget_inherited()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
