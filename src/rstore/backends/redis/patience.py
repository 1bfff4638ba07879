"""How often a call is tried again, and for how long."""

from __future__ import annotations

import time
from typing import Final

_FREE_TRIES: Final = 5
"""So often a call is redirected, or a script sent with its source, before a try costs waiting time."""
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05


class Patience:
    """How long a call may still be tried again, within the time-out."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._pause_s = _FIRST_PAUSE_S
        self._free = _FREE_TRIES
        self.must_wait = False
        self.rediscover = False

    def retry(self, *, waiting: bool) -> bool:
        """Return whether there may be another try; `waiting` if only time can help."""
        if waiting or self._free == 0:
            self.must_wait = True
            return time.monotonic() < self._deadline
        self._free -= 1
        return True

    def pause(self) -> bool:
        """Return whether to sleep before the next round."""
        waits, self.must_wait = self.must_wait, False
        return waits

    def next_pause(self) -> float:
        """Return how long to sleep: longer each time."""
        pause_s = max(0.0, min(self._pause_s, self._deadline - time.monotonic()))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s

    def wait(self) -> bool:
        """Sleep a little; return False if the time is up."""
        if not self.retry(waiting=True):
            return False
        time.sleep(self.next_pause())
        return True
