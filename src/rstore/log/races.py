"""Races for a log: a commit on conditions that a concurrent one overtook is tried again, in the end under a lock."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from typing import Any, Final, Self, TypeVar

from rstore.backends.types import Log, RolledBack, close_scope
from rstore.errors import TamperedError, WrongKeyError
from rstore.log.writer import LogWriter

T = TypeVar("T")

RACES: Final = 3
"""After so many lost races, the next tries hold the lock."""

MAX_RACES: Final = 10
"""After so many, a transaction that was rolled back although it held the lock fails."""


class RacingLogs(LogWriter):
    """Logs whose commits may lose races, and several of which change together."""

    def retry_conflicts(self, key: str, attempt: Callable[[Self], T | None]) -> T:
        """Return the result of the first attempt that no concurrent commit overtook; None says that one did.

        After some lost races the attempts hold the lock of the log. Each has to work through the logs it is given.

        Raises `StoreBusyError` if all attempts until the time-out lost, even those under the lock.
        """
        for _ in range(RACES):
            if (won := self.attempted(attempt)) is not None:
                return won
        races = count(RACES)
        # Under the lock no commit overtakes, unless the log contradicts itself.
        return self._writable.until_won(
            f"concurrent writers keep changing {self._writable.place(key)}",
            lambda: self._with_lock(key, attempt, last=next(races) >= MAX_RACES),
        )

    def _with_lock(self, key: str, attempt: Callable[[Self], T | None], *, last: bool) -> T | None:
        scope = self._backend.exclusive(Log(self._model, key))
        try:
            with scope as tx:
                return self.within(tx).attempted(attempt)
        except RolledBack:
            if last:
                raise
            return None
        finally:
            close_scope(scope)

    def attempted(self, attempt: Callable[[Self], T | None]) -> T | None:
        """Return the result of an attempt; None also if the namespace was replaced while it read."""
        envelope = self.envelope
        try:
            return attempt(self)
        except (WrongKeyError, TamperedError):
            if not self._namespace.refresh(envelope):
                raise
            return None

    def _in_transaction(self, keys: Collection[str], work: Callable[[Self], T], *, create: bool) -> T:
        """Return the result of `work` on several logs, done in one transaction, if need be more than once."""
        races = 0
        while True:
            locked = sorted(keys) if races >= RACES else ()
            scopes: list[AbstractContextManager[Any]] = []
            try:
                with ExitStack() as stack:
                    tx = self._backend
                    for key in locked:
                        scopes.append(tx.exclusive(Log(self._model, key)))
                        tx = stack.enter_context(scopes[-1])
                    scopes.append(tx.transaction(create=create, serializable=False))
                    return work(self.within(stack.enter_context(scopes[-1])))
            except RolledBack:
                races += 1
                if races == MAX_RACES:
                    raise
            finally:
                for scope in reversed(scopes):
                    close_scope(scope)
