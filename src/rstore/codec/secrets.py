"""Secret bytes that no traceback, log or debugger shows among the locals of a frame."""

from __future__ import annotations

from hmac import digest
from typing import NoReturn


class Secret:
    """Bytes that a frame holds as this object where it can raise, and takes out only in the middle of an expression.

    Tools that show the locals of a traceback (pytest -l, Sentry, cgitb, rich) show a repr.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def reveal(self) -> bytes:
        """Return the bytes; use them inside an expression, without giving them a name."""
        return self._raw

    def digest(self, message: bytes) -> Secret:
        """Return the HMAC-SHA512 of a message under it."""
        return Secret(digest(self._raw, message, "sha512"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")
