"""Bounded waiting: the deadline of a call, and the pauses between its tries."""

from __future__ import annotations

import time
from random import SystemRandom
from typing import Final

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05

_random = SystemRandom()  # the generator of the module belongs to the program, which may have seeded it


class Deadline:
    """The moment at which a call's time-out is over."""

    __slots__ = ("_at", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._at = time.monotonic() + timeout_s

    def extended(self, by_s: float) -> Deadline:
        """Return the deadline `by_s` seconds after this one."""
        later = Deadline(self.timeout_s + by_s)
        later._at = self._at + by_s
        return later

    @property
    def left_s(self) -> float:
        """How many seconds are left, 0 at the least."""
        return max(0.0, self._at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._at


class Backoff:
    """The pauses between tries, each up to twice as long as the one before.

    Random: two callers that lost a race to each other would meet again after equal pauses.
    """

    __slots__ = ("_deadline", "_longest_s", "_pause_s")

    def __init__(
        self, deadline: Deadline, *, first_s: float = _FIRST_PAUSE_S, longest_s: float = _LONGEST_PAUSE_S
    ) -> None:
        self._deadline = deadline
        self._pause_s = first_s
        self._longest_s = longest_s

    def pause(self) -> bool:
        """Sleep before the next try; return False, at once, if the deadline is over."""
        if self._deadline.is_over:
            return False
        time.sleep(min(self._deadline.left_s, self.draw_s()))
        return True

    def draw_s(self) -> float:
        """Return the length of the next pause, for a caller that has something else to wait for as well."""
        pause_s = self._pause_s * _random.random()
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        return pause_s
