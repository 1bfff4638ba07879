"""Waiting for a file that somebody else has locked."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import SystemRandom
from typing import Final, TypeVar

import apsw

T = TypeVar("T")

_INSIDE_MS: Final = 3
"""So long SQLite itself waits: a pause of 1 ms and one of 2 ms."""
_PAUSE_S: Final = 0.003
_LONG_S: Final = 0.5
_SLOW_PAUSE_S: Final = 0.02

_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it


def set_patience(connection: apsw.Connection, timeout_s: float) -> None:
    """Let SQLite wait for a lock as long as is good for those who take turns."""
    connection.set_busy_timeout(min(_INSIDE_MS, int(timeout_s * 1000)))


class Turn:
    """How long one call waits for a lock that others have, between one try and the next.

    Not all of it inside of SQLite, whose pauses grow to 100 ms: of several who write without a pause, those that wait
    longest ask least often, and some of them got no turn for three seconds. These are random, and short for as long as
    such a wait is likely to be one of writers taking turns. And not in a function that SQLite calls meanwhile: signal
    handlers run there, too, and the connection must not be used by what they call.
    """

    def __init__(self, timeout_s: float) -> None:
        self._begun = time.monotonic()
        self._timeout_s = timeout_s

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() - self._begun >= self._timeout_s

    def wait(self) -> None:
        """Let the others go on for a moment."""
        waited_s = time.monotonic() - self._begun
        longest_s = _PAUSE_S if waited_s < _LONG_S else _SLOW_PAUSE_S
        time.sleep(max(0.0, min(self._timeout_s - waited_s, longest_s * _random.random())))


def take_turn(attempt: Callable[[], T], turn: Turn) -> T:
    """Return what an attempt returns, tried until nobody else has the file locked, or the time is up."""
    while True:
        try:
            return attempt()
        except apsw.BusyError:
            if turn.is_over:
                raise
        turn.wait()
