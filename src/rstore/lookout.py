"""A lookout: an iterator that waits for what happens without asking all the time.

Noun: a *lookout* (holds a watcher of the backend, looks when that has heard something, and tells what it has found).
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from math import inf
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Final, Self, TypeVar

from rstore.backends.types import Watcher
from rstore.errors import StoreClosedError

T = TypeVar("T")

_SLICE_S: Final = 0.1
"""The longest wait in one piece: so soon a lookout notices that another thread has closed it or the store."""
_SELDOM: Final = 20
"""Unprompted looks use at most 1/20 of the time; those that a writer prompted use at most half of it."""


class Lookout(Iterator[T]):
    """The base of a watch and of a follower. Threads may share it; what happens is told to one of them."""

    _verb: str
    """The verb that returns it."""

    def __init__(self, watcher: AbstractContextManager[Watcher], check: Callable[[], None], timeout_s: float) -> None:
        self._check = check  # raises if the store is closed, or this thread is inside a transaction
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._closed = False
        self._lock = Lock()  # guards everything below, and what a subclass has of its own
        self._held = ExitStack()
        self._look_at = self._rest_until = -inf  # when to look although nothing was heard, and when not to look yet
        self._watcher = self._held.enter_context(watcher)
        try:
            self._look_once(first=True)
        except BaseException:
            self._held.close()
            raise

    @abstractmethod
    def _look(self, *, first: bool) -> float:
        """Find what has happened since the last look; return in how many seconds something will without being heard."""

    @abstractmethod
    def _tell(self) -> T | None:
        """Return the next thing that was found; None if nothing is left to be told."""

    @abstractmethod
    def _is_told(self) -> bool:
        """Return whether nothing is left to be told."""

    def __next__(self) -> T:
        if os.getpid() != self._pid:
            raise StoreClosedError(
                f"a {self._verb} does not outlive a fork: it is the parent's; call {self._verb}() in this process"
            )
        try:
            with self._lock:
                return self._next()
        except StopIteration:
            self._closed = True
            raise
        finally:
            if self._closed:
                self.close()

    def at_hand(self) -> T | None:
        """Return the next thing that was found when it was looked last, without waiting; None if all are told."""
        with self._lock:
            self._check()
            return self._tell()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread, and let go of the connection."""
        self._closed = True
        if self._lock.acquire(blocking=False):  # else its holder closes when it is done
            try:
                self._held.close()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self.close()

    def _next(self) -> T:
        deadline = monotonic() + self._timeout_s
        while not self._closed:
            self._check()
            if (found := self._tell()) is not None:
                return found
            now = monotonic()
            over = now >= deadline
            if now < self._rest_until and not over:
                time.sleep(min(self._rest_until - now, deadline - now, _SLICE_S))
                continue
            heard = self._watcher.wait(max(0.0, min(deadline - now, self._look_at - now, _SLICE_S)))
            # A change that is not always heard has to be looked for before the wait ends without one.
            if heard or monotonic() >= self._look_at or (over and self._watcher.every_s is not None):
                self._look_once()
            if over and self._is_told():
                break
        raise StopIteration

    def _look_once(self, *, first: bool = False) -> None:
        self._look_at = -inf  # if this fails
        began = monotonic()
        due_s = self._look(first=first)
        ended = monotonic()
        took_s, every_s = ended - began, self._watcher.every_s
        self._rest_until = ended + took_s
        self._look_at = ended + min(due_s, inf if every_s is None else max(every_s, _SELDOM * took_s))
