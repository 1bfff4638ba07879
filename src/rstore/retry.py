"""Further tries of a verb that a concurrent writer overtook, until the store's time-out is over."""

from __future__ import annotations

import logging
from typing import Final

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.errors import StoreBusyError

_log: Final = logging.getLogger("rstore.store")


class Retries:
    """The further tries of one verb."""

    __slots__ = ("_backoff", "_deadline", "_reason", "_telemetry")

    def __init__(self, timeout_s: float, reason: str, telemetry: Telemetry) -> None:
        """`reason` begins the message of the error: why the verb has to be tried again."""
        self._telemetry = telemetry
        self._reason = reason
        self._deadline = Deadline(timeout_s)
        self._backoff = Backoff(self._deadline)

    def check(self) -> None:
        """Raise `StoreBusyError` when the time is up."""
        if self._deadline.is_over:
            raise StoreBusyError(
                f"{self._reason} for longer than the time-out, {self._deadline.timeout_s:g} s; nothing was stored"
            )

    def wait(self) -> None:
        """Sleep before the next try.

        Raises `StoreBusyError` when the time is up.
        """
        self.check()
        self._telemetry.note(_log, Occurrence.RETRY, "tried again: %s", self._reason)
        self._backoff.pause()
