"""How long a verb tries again: until the store's time-out, then it says so."""

from __future__ import annotations

import logging
import time
from random import SystemRandom
from typing import Final

from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError

_log: Final = logging.getLogger("rstore.store")
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05

_random = SystemRandom()  # the one of the module belongs to the program, which may have seeded it


class Patience:
    """How long a verb tries again what others were faster at."""

    def __init__(self, timeout_s: float, what: str, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._longest_s = _FIRST_PAUSE_S
        self._what = what

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    def check(self) -> None:
        """Raise `StoreBusyError` when the time is up."""
        if self.is_over:
            raise StoreBusyError(
                f"{self._what} for longer than the time-out, {self._timeout_s:g} s; nothing was stored"
            )

    def wait(self) -> None:
        """Sleep a little, longer each time; a random time, since two that lost a race to each other would meet again.

        Raises `StoreBusyError` when the time is up.
        """
        self.check()
        self._telemetry.note(_log, Occurrence.RETRY, "tried again: %s", self._what)
        left_s = max(0.0, self._deadline - time.monotonic())
        time.sleep(min(left_s, self._longest_s * _random.random()))
        self._longest_s = min(2 * self._longest_s, _LONGEST_PAUSE_S)
