"""Backends without a store above them."""

from __future__ import annotations

import os

from rstore.backends.contract import Backend
from rstore.backends.registry import check_dsn, make_checked_backend
from rstore.backends.types import Options


def make_backend(dsn: str | os.PathLike[str], namespace: str, options: Options) -> Backend:
    """Return the backend for a dsn, not open yet."""
    return make_checked_backend(*check_dsn(dsn), namespace, options)
