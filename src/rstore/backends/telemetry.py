"""Events behind the calls of an open store: counted, and told to `logging`; never with a value or a secret.

Nouns: an *occurrence* (one kind of event that an operator counts).
"""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from typing import Final

logging.getLogger("rstore").addHandler(logging.NullHandler())  # a library prints nothing by itself


class Occurrence(StrEnum):
    """A kind of event; the values are the names of the counters."""

    RETRY = "retries"
    """A verb, or a step of it, was done again, since others were faster or a server asked for it."""
    WAIT = "waits"
    """A call waited for a lock, a place in the pool, or another caller's value."""
    RECONNECTION = "reconnections"
    """A connection was lost, and another one was made."""
    FAILOVER = "failovers"
    """Another server answers for the data now."""
    LOST_REPLY = "lost_replies"
    """A server was gone before it said whether a write was done."""
    PACK = "seals"
    """Points or changes were packed into chunks; the counter keeps its older name."""


_LEVELS: Final = {
    Occurrence.RECONNECTION: logging.INFO,
    Occurrence.FAILOVER: logging.WARNING,
    Occurrence.LOST_REPLY: logging.WARNING,
}


class Telemetry:
    """Counts and logs for one store object. Threads share it; two that count at once may lose one count."""

    def __init__(self) -> None:
        self._counts = Counter[Occurrence]()

    def note(self, logger: logging.Logger, occurrence: Occurrence, message: str, *args: object) -> None:
        """Count an occurrence, and log it, most kinds at the level DEBUG."""
        self._counts[occurrence] += 1
        logger.log(_LEVELS.get(occurrence, logging.DEBUG), message, *args)

    def counts(self) -> dict[str, int]:
        """Return how often each occurrence was noted, all of them in order."""
        return {str(occurrence): self._counts[occurrence] for occurrence in Occurrence}
