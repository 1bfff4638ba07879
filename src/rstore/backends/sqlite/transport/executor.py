"""What runs a call's statements: the file itself, a transaction or a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import apsw

T = TypeVar("T")


class Reader(Protocol):
    """Runs statements that read."""

    @property
    def path(self) -> str:
        """The file, as messages name it."""
        ...

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return what `work` reads from a connection; it may be called again where nothing came of it."""
        ...

    def know(self, connection: apsw.Connection, number: int) -> None:
        """Keep the statements on one key of a namespace, for this connection."""
        ...


class Executor(Reader, Protocol):
    """Runs statements that read or write."""

    def write(self, work: Callable[[apsw.Connection], T], *, create: bool = True, arm: bool = True) -> T:
        """Return what `work` does to the file that bears the name now, as one step.

        `create`: whether to make the file if it is not there; not for calls that only take away.
        `arm`: whether the work may remove or replace records.
        """
        ...
