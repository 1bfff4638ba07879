"""SQL that records, logs and statistics share, and the clock that goes with it."""

from __future__ import annotations

import time
from typing import Final

from rstore.backends.types import KEEP, Ttl

NS: Final = "(SELECT id FROM namespaces WHERE name = :ns)"
NS_OF_INCARNATION: Final = "(SELECT id FROM namespaces WHERE name = :ns AND birth = :incarnation)"
LIVE: Final = "(expires_ms IS NULL OR expires_ms > :now)"
RECORD: Final = "coalesce(record, (SELECT record FROM blobs WHERE id = blob), 0)"
"""0 where a large record is missing: the key must not look absent."""


def now_ms() -> int:
    """Return the clock by which records expire, POSIX milliseconds."""
    return int(time.time() * 1000)


def expires_ms(ttl_ms: Ttl) -> int | None:
    """Return when a record expires that is to live so long from now."""
    return None if ttl_ms is None or ttl_ms is KEEP else now_ms() + ttl_ms
