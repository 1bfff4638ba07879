"""Stored names: bytes, which damage may have made invalid UTF-8."""

from __future__ import annotations


def is_name(raw: bytes) -> bool:
    """Return whether bytes can be read as a name."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
