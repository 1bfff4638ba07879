"""The sequences that were used last, each replayed to its end, and the backend's clock."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final

from rstore.events.replay import Replay

_CARRIED_S: Final = 1.0
"""A backend's clock that was read once is carried on for so long: no clock drifts by a millisecond meanwhile."""
_SMALL_BYTES: Final = 2048
_MAX_SMALL: Final = 4096
_OBJECT_BYTES: Final = 160
"""The memory that an item takes beside its bytes."""
_LARGE_BYTES: Final = 256 * 1024
"""A larger state is folded again each time: reading and writing it takes long anyway."""
_MAX_LARGE: Final = 64
"""Together no more than about 30 MB, and mostly far less."""


class StateCache:
    """Keeps the replays of the sequences that were used last, and the backend's clock.

    Threads share the replays, so that no caller may change their states.
    """

    def __init__(self) -> None:
        # No lock, which a fork could leave taken: each change of a dict is one step of the interpreter.
        self._small: OrderedDict[str, Replay] = OrderedDict()
        self._large: OrderedDict[str, Replay] = OrderedDict()
        self._clock = 0, -inf  # POSIX milliseconds of the backend, and when it was asked

    def get(self, key: str) -> Replay | None:
        """Return the replay that was kept of a sequence; whether it is still true is for the caller to ask."""
        return self._small.get(key) or self._large.get(key)

    def put(self, key: str, replay: Replay) -> None:
        """Keep a replay; where there are too many, let go of the one that was put longest ago."""
        self._small.pop(key, None)
        self._large.pop(key, None)
        size = replay.state.size() + _OBJECT_BYTES * len(replay.state)
        if size <= _SMALL_BYTES:
            _keep(self._small, key, replay, _MAX_SMALL)
        elif size <= _LARGE_BYTES:
            _keep(self._large, key, replay, _MAX_LARGE)

    def drop(self, key: str) -> None:
        """Let go of the replay of a sequence."""
        self._small.pop(key, None)
        self._large.pop(key, None)

    def asked(self, now_ms: int) -> None:
        """Take note of the time that the backend told just now; an answer that was long on its way is older."""
        if not self.has_time or now_ms >= self.now_ms():
            self._clock = now_ms, monotonic()

    @property
    def has_time(self) -> bool:
        """Whether the backend was asked for the time so lately that its clock can be carried on."""
        return monotonic() - self._clock[1] <= _CARRIED_S

    def now_ms(self) -> int:
        """Return the time of the backend's clock; it was asked before."""
        now_ms, asked_at = self._clock
        return now_ms + int((monotonic() - asked_at) * 1000)


def _keep(replays: OrderedDict[str, Replay], key: str, replay: Replay, most: int) -> None:
    replays[key] = replay
    if len(replays) > most:
        with suppress(KeyError):  # another thread was faster
            replays.popitem(last=False)
