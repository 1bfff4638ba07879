"""The deadline of a call, one for all of its steps, and the retries of a loop in it, which never outlast it."""

from __future__ import annotations

import time
from threading import local
from typing import Final

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.redis.transport.connection import SHORTEST_TIMEOUT_S

_FREE_TRIES: Final = 5
"""How often a call is redirected, or a script sent with its source, before a try costs waiting time."""
_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.1
_SOON: Final = 0.05
"""A step that begins within this share of the time waits for as long as the sockets do by themselves."""


class CallDeadline(local):
    """The deadline of the call that a thread is in the middle of; each thread sees its own.

    A call without bounds (a scan, the deletion of garbage) begins anew with each step that was answered.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.answer_s = max(timeout_s, SHORTEST_TIMEOUT_S)
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

    @property
    def left_s(self) -> float:
        """How long an answer may still take; below zero when the time is up."""
        return self.began + self.answer_s - time.monotonic()

    @property
    def wait_ms(self) -> int:
        """How long replicas may take to confirm a write: half of what is left."""
        return max(1, int(self.left_s * 500))


class CallRetries:
    """The tries of one loop, within the deadline that the call has when the first of them fails."""

    __slots__ = ("_answered_by", "_backoff", "_call", "_free", "_must_wait", "_until")

    def __init__(self, call: CallDeadline) -> None:
        self._call = call
        self._backoff: Backoff | None = None
        self._free = _FREE_TRIES
        self._must_wait = False

    def allows(self, *, waiting: bool) -> bool:
        """Return whether there may be another try; `waiting` if only time can help."""
        if self._backoff is None:
            self._until = Deadline(self._call.began + self._call.timeout_s - time.monotonic())
            self._answered_by = Deadline(self._call.left_s)
            self._backoff = Backoff(self._until, first_s=_FIRST_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        if waiting or self._free == 0:
            self._must_wait = True
            return not self._until.is_over
        self._free -= 1
        return not self._answered_by.is_over

    def pause(self) -> None:
        """Sleep before the next try, if it has to wait."""
        if self._must_wait and self._backoff is not None:
            self._must_wait = False
            self._backoff.pause()

    def wait(self) -> bool:
        """Sleep before the next try; return False if the time is up."""
        if not self.allows(waiting=True):
            return False
        self.pause()
        return True
