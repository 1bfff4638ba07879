"""Waiting for what others do in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_PATIENCE_S: Final = 30.0


def until(
    condition: Callable[[], object], what: str, *, pause_s: float = 0.01, patience_s: float = _PATIENCE_S
) -> None:
    """Wait until something is so; give up with what is amiss after half a minute, which a busy machine may take."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(pause_s)
