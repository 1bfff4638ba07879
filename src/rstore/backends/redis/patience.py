"""Until when a call has to be over, and how often a step of it is tried again until then.

Nouns: the *deadline* of a call, one for all of its steps, and the *patience* of a loop in it, which never outlasts it.
"""

from __future__ import annotations

import time
from threading import local
from typing import Final

_SHORTEST_ANSWER_S: Final = 1.0
"""A time-out of less is one for what others hold up; an answer is waited for so long at the least."""
_FREE_TRIES: Final = 5
"""So often a call is redirected, or a script sent with its source, before a try costs waiting time."""
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05
_SOON: Final = 0.05
"""A step that begins within this share of the time waits for as long as the sockets do by themselves."""


class Revivals(local):
    """How often in a row a thread made the namespace anew, and did not get to write into it."""

    n = 0
    since = 0.0


class Deadline(local):
    """When the call that a thread is in the middle of began; each thread sees its own.

    A call without bounds (a scan, the deletion of garbage) begins anew with each step that was answered.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.answer_s = max(timeout_s, _SHORTEST_ANSWER_S)
        self.soon_s = _SOON * self.answer_s
        self.began = time.monotonic()
        self._extended = 0.0  # what `began` was extended to

    def begin(self) -> None:
        """Begin a call, or go on with one that has made progress."""
        self.began = time.monotonic()

    def extend(self) -> None:
        """Leave a moment, once a call, for finding out what became of a write whose reply did not come in time."""
        if self.began != self._extended:
            self.began = self._extended = max(self.began, time.monotonic() - self.answer_s + self.soon_s)

    def left_s(self) -> float:
        """Return how long an answer may still take."""
        return self.began + self.answer_s - time.monotonic()


class Patience:
    """How long something may still be tried again, within the deadline of the call."""

    def __init__(self, deadline: Deadline) -> None:
        self._until = deadline.began + deadline.timeout_s
        self._answered_by = deadline.began + deadline.answer_s
        self._pause_s = _FIRST_PAUSE_S
        self._free = _FREE_TRIES
        self.must_wait = False
        self.rediscover = False

    def retry(self, *, waiting: bool) -> bool:
        """Return whether there may be another try; `waiting` if only time can help."""
        if waiting or self._free == 0:
            self.must_wait = True
            return time.monotonic() < self._until
        self._free -= 1
        return time.monotonic() < self._answered_by

    def pause(self) -> bool:
        """Return whether to sleep before the next round."""
        waits, self.must_wait = self.must_wait, False
        return waits

    def next_pause(self) -> float:
        """Return how long to sleep: longer each time."""
        pause_s = max(0.0, min(self._pause_s, self._until - time.monotonic()))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def wait(self) -> bool:
        """Sleep a little; return False if the time is up."""
        if not self.retry(waiting=True):
            return False
        time.sleep(self.next_pause())
        return True
