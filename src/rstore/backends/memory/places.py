"""Where namespaces are kept in this process, and who may write there.

Nouns: a *place* (all namespaces of one name) and a *turn* (the right to write there for longer than one call).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from threading import Condition, RLock, local
from time import monotonic

from rstore.backends.memory.dicts import Namespace
from rstore.backends.types import NamespaceGone, Options
from rstore.errors import StoreBusyError, StoreClosedError


class Turn:
    """The right of one thread, by one open store, to write for longer than one call."""

    namespace: Namespace | None = None  # as a transaction has made it; nobody else sees that before the end
    wrote = False

    def __init__(self, *, transaction: bool) -> None:
        self.transaction = transaction


class Place:
    """All namespaces of one name."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.turn: Turn | None = None


# Guards everything below and inside, for one step and no longer. A fork waits for it, so that the child finds no
# half-done change.
lock = RLock()
changed = Condition(lock)  # something was written, or a turn has ended
places: dict[str, Place] = {}
writes: Counter[tuple[str, str]] = Counter()  # of each namespace, also of one that is gone


def _after_fork_in_child() -> None:
    for place in places.values():
        place.turn = None  # it is a thread's of the parent
    lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_after_fork_in_child)


class _Mine(local):
    """What belongs to one thread of an open store."""

    turn: Turn | None = None


class Placed:
    """One namespace of a place, as one open store has it."""

    def __init__(self, path: str, namespace: str, options: Options) -> None:
        self._name = path
        self._namespace = namespace
        self._timeout_s = options.timeout_s
        self._closed = False
        self._mine = _Mine()

    @property
    def _place(self) -> Place:
        return places.setdefault(self._name, Place())

    def _turn(self) -> Turn | None:
        """Return the turn if this thread has it, by this store."""
        turn = self._mine.turn
        return turn if turn is not None and turn is self._place.turn else None

    @contextmanager
    def _writing(self) -> Generator[None, None, None]:
        """Let one step write, when no other thread or store has the turn.

        Raises `StoreBusyError` if one has it for longer than the time-out.
        """
        with lock:
            if self._turn() is None:
                place, deadline = self._place, monotonic() + self._timeout_s
                while place.turn is not None:
                    if not changed.wait(deadline - monotonic()) and monotonic() >= deadline:
                        raise StoreBusyError(
                            f"memory://{self._name} was busy: somebody else's transaction was open for longer than the "
                            f"time-out, {self._timeout_s:g} s; nothing was applied"
                        )
            yield

    @contextmanager
    def _taking_the_turn(self, *, transaction: bool) -> Generator[Turn, None, None]:
        mine, before = vars(self._mine), self._turn()  # of this thread, wherever it ends
        turn = Turn(transaction=transaction)
        try:
            with self._writing():
                mine["turn"] = self._place.turn = turn
                found = self._place.namespaces.get(self._namespace)
                if transaction and found is not None:
                    turn.namespace = found.copy()
            yield turn
        finally:
            with lock:
                mine["turn"] = before
                if self._place.turn is turn:
                    self._place.turn = before
                    changed.notify_all()

    def _find(self) -> Namespace | None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile; nothing was applied")
        turn = self._turn()
        return turn.namespace if turn is not None and turn.transaction else self._committed

    @property
    def _committed(self) -> Namespace | None:
        return self._place.namespaces.get(self._namespace)

    def _put_namespace(self, namespace: Namespace | None) -> None:
        turn = self._turn()
        if turn is not None and turn.transaction:
            turn.namespace = namespace
        elif namespace is None:
            self._place.namespaces.pop(self._namespace, None)
        else:
            self._place.namespaces[self._namespace] = namespace

    def _expect(self, incarnation: bytes) -> Namespace:
        namespace = self._find()
        if namespace is None or namespace.incarnation != incarnation:
            raise NamespaceGone
        return namespace

    def _wrote(self) -> None:
        turn = self._turn()
        if turn is not None and turn.transaction:
            turn.wrote = True  # which others see at its end
            return
        writes[self._name, self._namespace] += 1
        changed.notify_all()
