"""The slots of a Redis Cluster."""

from __future__ import annotations

import binascii
from typing import Final

SLOTS: Final = 16384


def slot_of(name: bytes) -> int:
    """Return the slot that a name falls on."""
    start = name.find(b"{")
    if start >= 0 and (end := name.find(b"}", start)) > start + 1:
        name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS
