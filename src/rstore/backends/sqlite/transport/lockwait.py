"""Waiting for a file that another connection has locked."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import SystemRandom
from typing import Final, TypeVar

import apsw

from rstore.backends.common.backoff import Deadline

T = TypeVar("T")

_INSIDE_MS: Final = 3
"""How long SQLite itself waits: a pause of 1 ms and one of 2 ms."""
_PAUSE_S: Final = 0.003
_LONG_S: Final = 0.5
_SLOW_PAUSE_S: Final = 0.02

_random = SystemRandom()  # the generator of the module belongs to the program, which may have seeded it


def limit_waiting_inside(connection: apsw.Connection, timeout_s: float) -> None:
    """Let SQLite itself wait for a lock only shortly: `LockWait` does the rest."""
    connection.set_busy_timeout(min(_INSIDE_MS, int(timeout_s * 1000)))


class LockWait(Deadline):
    """The deadline of one call that waits for a lock, and the pauses between its tries.

    Not inside of SQLite, whose pauses grow to 100 ms, nor `Backoff`: of several writers that never rest, those that
    wait longest would ask least often, and starve. These are short for as long as the writers are likely to take turns.
    And not in a function that SQLite calls meanwhile: signal handlers run there, too, and must not use the connection.
    """

    __slots__ = ()

    def pause(self) -> None:
        """Let the others go on for a moment."""
        left_s = self.left_s
        longest_s = _PAUSE_S if self.timeout_s - left_s < _LONG_S else _SLOW_PAUSE_S
        time.sleep(min(left_s, longest_s * _random.random()))

    def until_done(self, attempt: Callable[[], T]) -> T:
        """Return the result of an attempt, repeated until the file is not locked, or the time is up."""
        while True:
            try:
                return attempt()
            except apsw.BusyError:
                if self.is_over:
                    raise
            self.pause()
