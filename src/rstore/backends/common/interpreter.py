"""The end of the interpreter, when modules are taken down while objects still run their `__del__`."""

from __future__ import annotations

import sys

from rstore.errors import StoreClosedError


def check_running(what: str) -> None:
    """Refuse a call that imports modules once the interpreter is ending.

    Raises `StoreClosedError`.
    """
    if sys.is_finalizing():
        raise StoreClosedError(f"the interpreter is ending, and {what} any more; nothing was applied")
