"""Waiting for a file that somebody else has locked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.006
_LONG_S: Final = 0.5
_SLOW_PAUSE_S: Final = 0.02


def waiter(timeout_s: float) -> Callable[[int], bool]:
    """Return what a connection calls while the file is locked: it sleeps, and says whether to try once more.

    Not SQLite's own, whose pauses grow to 100 ms: of several who write without a pause, those that wait longest ask
    least often, and some of them got no turn for three seconds. These are random, and short for as long as such a wait
    is likely to be one of writers taking turns; asking that often takes some hundredths of a core.
    """
    begun = 0.0

    def wait(tries: int) -> bool:
        nonlocal begun
        now = time.monotonic()
        if tries == 0:
            begun = now
        left_s = begun + timeout_s - now
        if left_s <= 0:
            return False
        longest = min(_FIRST_PAUSE_S * 2 ** min(tries, 8), _LONGEST_PAUSE_S if now - begun < _LONG_S else _SLOW_PAUSE_S)
        time.sleep(min(left_s, longest * random.random()))  # noqa: S311 - spreads those who wait
        return True

    return wait
