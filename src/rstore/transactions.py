"""Several verbs as one: transactions, which write, and snapshots, which read.

Nouns: a *transaction* (all or nothing, of all three models), a *snapshot* (the store as it was at one moment) and a
*guard* (keeps a transaction to its thread and to its time).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import get_ident, local
from typing import Any, Final, NoReturn, TypeVar, cast

from rstore.backends.base import Backend
from rstore.backends.nouns import Undone
from rstore.errors import ConflictError, FrozenStoreError, NotSupportedError, StoreClosedError
from rstore.models import Models
from rstore.session import Session, refuse_dunder

T = TypeVar("T")


class Transaction(Models):
    """The verbs of all three models, to be done together or not at all. What `Store.transaction` returns.

    It belongs to the thread that began it, up to the end of its `with`: used elsewhere it raises `StoreClosedError`.
    """

    def __init__(self, session: Session, freq: int | None) -> None:
        self._reader = self._writer = session
        self._freq = freq

    @contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Do a part of it all or not at all: if this one is left by an exception, what was done before it stays.

        >>> with store.transaction() as tx:
        ...     tx['kept'] = 1
        ...     try:
        ...         with tx.transaction() as inner:
        ...             inner['dropped'] = 2
        ...             raise RuntimeError
        ...     except RuntimeError:
        ...         pass
        >>> store.keys()
        ['kept']
        """
        with transaction(self._writer, self._freq) as inner:
            yield inner

    def _in_transaction(self) -> bool:
        return True


class Snapshot(Models):
    """The reading verbs of all three models, as of one moment. What `Store.snapshot` returns.

    Threads may share it, up to the end of its `with`. Its writing verbs raise `FrozenStoreError`.
    """

    def __init__(self, session: Session, freq: int | None) -> None:
        self._reader, self._writer = session, _READ_ONLY
        self._freq = freq


@contextmanager
def transaction(session: Session, freq: int | None) -> Generator[Transaction, None, None]:
    """Begin a transaction of this thread, or a part of the one that is open, and end it.

    Raises `ConflictError` if somebody else changed what it had read or written.
    """
    inside: _Inside | None = None
    try:
        with session.backend.transaction():
            guard = _Guard(session.backend)
            inside = _Inside(session, cast("Backend", guard))
            try:
                yield Transaction(inside, freq)
                guard.check_thread()
            finally:
                guard.over = True
    except Undone as error:
        raise ConflictError(
            f"others changed what a transaction in namespace {session.generations.namespace!r} had read or written; "
            "nothing was applied: run(fn) tries again"
        ) from error
    if inside is not None:
        inside.catch_up()


@contextmanager
def snapshot(session: Session, freq: int | None) -> Generator[Snapshot, None, None]:
    """Read as of one moment."""
    with session.backend.moment() as backend:
        inside = Session(backend, session.codec, session.generations, session.timeout_s)
        try:
            yield Snapshot(inside, freq)
        finally:
            inside.backend = cast("Backend", _OVER)


class _Inside(Session):
    """The session of a transaction: it puts off what can wait until others need not wait for it."""

    def __init__(self, outer: Session, backend: Backend) -> None:
        super().__init__(backend, outer.codec, outer.generations, outer.timeout_s)
        self.readings = outer.readings
        self._outer = outer
        self._records = 0
        self._points: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self.series.put_off = _adding(self._points)
        self.events.put_off = _adding(self._changes)

    def wrote(self, n: int) -> None:
        self._records += n

    def catch_up(self) -> None:
        """Do what was put off."""
        outer = self._outer
        if self._records:
            outer.wrote(self._records)
        for key, rows in self._points.items():
            outer.series.wrote(key, rows)
        for key, rows in self._changes.items():
            outer.events.wrote(key, rows)


def _adding(counter: Counter[str]) -> Callable[[str, int], None]:
    def add(key: str, rows: int) -> None:
        counter[key] += rows

    return add


class _Guard:
    """Stands before the backend of a transaction: a backend binds transactions to threads, and would not notice."""

    def __init__(self, backend: Backend) -> None:
        self.over = False
        self._backend = backend
        self._owner = os.getpid(), get_ident()

    def __getattr__(self, name: str) -> Any:
        refuse_dunder(name)
        if self.over:
            raise StoreClosedError("the transaction is over: use it inside its `with`")
        self.check_thread()
        return getattr(self._backend, name)

    def check_thread(self) -> None:
        """Refuse to go on, or to end, anywhere but where it began."""
        if (os.getpid(), get_ident()) != self._owner:
            raise StoreClosedError(
                "the transaction is open in another thread or process: begin one of its own here, and end it here"
            )


class Own(local):
    """What belongs to one thread of a store: the session of its innermost transaction, and its process."""


class _Gate:
    """Stands where the session of a store would be while transactions are open: their threads are to use these.

    A verb of the store in such a thread would wait for itself, or be done although the transaction is undone.
    """

    def __init__(self, session: Session, own: Own) -> None:
        self._session = session
        self._own = own

    def __getattr__(self, name: str) -> Any:
        refuse_dunder(name)
        own = vars(self._own)
        if own.get("inside") is not None and own["pid"] == os.getpid():
            raise NotSupportedError(
                "a transaction of this thread is open: use `tx` of `with store.transaction() as tx:`"
            )
        return getattr(self._session, name)


def gated(session: Session, own: Own) -> Session:
    """Return the session for all threads but those in which a transaction is open."""
    return cast("Session", _Gate(session, own))


class _Over:
    """Stands where the backend of a snapshot was."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise StoreClosedError("the snapshot is over: use it inside its `with`")


class _ReadOnly:
    """Stands where the session of a snapshot would be for the verbs that write."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise FrozenStoreError("a snapshot is read-only: write to the store itself")


_OVER: Final = _Over()
_READ_ONLY: Final = cast("Session", _ReadOnly())
