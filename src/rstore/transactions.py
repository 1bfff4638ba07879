"""Several verbs as one: transactions, which write, and snapshots, which read.

Nouns: a *transaction* (all or nothing, of all three models), its *parts* (transactions inside it), a *snapshot* (the
store as it was at one moment) and a *stack* (the transactions of one thread, each a part of the one before it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident, local
from typing import Any, Final, NoReturn, TypeVar
from weakref import ref

from rstore.backends.common.forwarding import Forwarding
from rstore.backends.contract import WriteTransaction
from rstore.backends.types import Found, RolledBack, ScanQuery, close_scope
from rstore.errors import ConflictError, FrozenStoreError, NotSupportedError, StoreClosedError, StoreError
from rstore.models import Models
from rstore.session import ReadSession, Session, SnapshotSession

T = TypeVar("T")

_ENDED: Final = "the transaction is over: use it inside its `with`"
_OUTLIVED: Final = (
    "the transaction was undone when the one ended that it is a part of: end them in the reverse order of their "
    "beginning; nothing was applied"
)
SNAPSHOT_ENDED: Final = "the snapshot is over: use it inside its `with`"


class _Ended(Forwarding):
    """Stands where the backend of a transaction or a snapshot was, for a verb that is in the middle of its work."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> NoReturn:  # of `_inner`, which it lacks
        raise StoreClosedError(self._why)


class _Within(Models):
    """The common base of a transaction and of a snapshot: their streams end with their `with`."""

    _over = ""
    """Why it cannot be used any more."""

    def __init__(self, session: ReadSession, freq: int | None) -> None:
        self._session = session
        self._freq = freq
        self._pages_read: dict[int, list[Found]] = {}  # by their id: those that are being iterated over

    def _check_usable(self) -> None:
        if self._over:
            raise StoreClosedError(self._over)

    def _get_reader(self) -> ReadSession:
        self._check_usable()
        return self._session

    def _pages(self, session: ReadSession, query: ScanQuery, limit: int | None) -> Iterator[list[Found]]:
        for page in super()._pages(session, query, limit):
            self._pages_read[id(page)] = page
            try:
                yield page
            finally:
                self._pages_read.pop(id(page), None)
            self._reader.check_open()

    def _while_open(self, items: Iterator[T]) -> Iterator[T]:
        for item in items:
            yield item
            self._reader.check_open()

    def _end(self, why: str) -> None:
        """Refuse all verbs from now on."""
        self._over = why
        self._session.backend = _Ended(why)
        for page in [*self._pages_read.values()]:
            page.clear()  # so that its iterator asks for the next page, and is refused, without a check at each record


class Transaction(_Within):
    """The verbs of all three models, to be done together or not at all. `Store.transaction` yields it.

    It belongs to the thread that began it, up to the end of its `with`: used elsewhere it raises `StoreClosedError`.
    """

    _session: Session

    def __init__(
        self,
        session: Session,
        freq: int | None,
        scope: AbstractContextManager[WriteTransaction],
        stack: TransactionStack,
    ) -> None:
        super().__init__(session, freq)
        self._scope = scope
        self._stack = stack
        self._owner = os.getpid(), get_ident()

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
        with transaction(self._writer, self._freq, self._stack) as inner:
            yield inner

    def _check_usable(self) -> None:
        super()._check_usable()
        if (os.getpid(), get_ident()) != self._owner:
            raise StoreClosedError(
                "the transaction is open in another thread or process: begin one of its own here, and end it here"
            )

    def _get_writer(self) -> Session:
        self._check_usable()
        return self._session

    def _undo(self) -> None:
        """End this transaction before the one that it is a part of."""
        self._end(_OUTLIVED)
        error = StoreClosedError(_OUTLIVED)
        with suppress(StoreError):  # the outer transaction reports the outcome
            self._scope.__exit__(type(error), error, None)  # its own end, later, finds nothing left to do


class Snapshot(_Within):
    """The reading verbs of all three models, as of one moment. `Store.snapshot` yields it, and ends it.

    Threads may share it, up to the end of its `with`. Its writing verbs raise `FrozenStoreError`.
    """

    def __init__(self, session: SnapshotSession, freq: int | None) -> None:
        super().__init__(session, freq)
        self._reader = session

    def _get_writer(self) -> Session:
        raise FrozenStoreError("a snapshot is read-only: write to the store itself")

    def _end(self, why: str) -> None:
        self.__dict__.pop("_reader", None)
        super()._end(why)


@contextmanager
def transaction(outer: Session, freq: int | None, stack: TransactionStack) -> Generator[Transaction, None, None]:
    """Begin a transaction of this thread, or a part of the one that is open, and end it.

    Raises `ConflictError` if a concurrent write changed what it had read or written.
    """
    stack.check_task()
    before = stack.parts
    scope = outer.backend.transaction()
    try:
        with scope as backend:
            session = Session(backend, outer.setup, outer.now, outer.states, outer)
            part = Transaction(session, freq, scope, stack)
            try:
                stack.begin(part)
                yield part
                part._check_usable()  # noqa: SLF001 - as everything that begins and ends it, here and below
                stack.check_end(part)
            finally:
                # No call stands before this: an interrupt in it would leave the thread inside for good.
                ended = stack.parts
                if part in ended:  # else an outer transaction has ended, and this one with it
                    stack.parts = before
                    for inner in reversed(ended[len(before) + 1 :]):  # its parts end first, and are undone
                        inner._undo()  # noqa: SLF001
                    part._end(_ENDED)  # noqa: SLF001
    except RolledBack as error:
        raise ConflictError(
            f"a concurrent write changed what a transaction in namespace {outer.name!r} had read or written; "
            "nothing was applied: run(fn) tries again"
        ) from error
    finally:
        close_scope(scope)
    # No writer waits for the end any more.
    outer.catch_up(session)


class TransactionStack:
    """The transactions of one thread that are open in a store, each a part of the one before it."""

    def __init__(self) -> None:
        self.parts: tuple[Transaction, ...] = ()
        self._pid = 0
        self._task: ref[Any] | None = None  # not the task itself: that would keep it from being collected

    @property
    def innermost(self) -> Session | None:
        """The session of the innermost transaction, if there is any."""
        return self.parts[-1]._session if self.parts else None  # noqa: SLF001 - it keeps it for this

    @property
    def is_here(self) -> bool:
        """Whether a transaction is open that this process began."""
        return bool(self.parts) and self._pid == os.getpid()

    def begin(self, part: Transaction) -> None:
        """Add a transaction that begins."""
        if not self.parts:
            self._pid, self._task = os.getpid(), _task()
        self.parts = (*self.parts, part)

    def check_end(self, part: Transaction) -> None:
        """Refuse to end a transaction before its parts."""
        if self.parts[-1] is not part:
            raise StoreClosedError(
                "a part of the transaction is open at its end: end them in the reverse order of their beginning; "
                "nothing was applied"
            )

    def check_task(self) -> None:
        """Refuse an asyncio task other than the one that began the transactions."""
        if self.is_here and self._task != _task():
            raise NotSupportedError(
                "a transaction of another asyncio task is open in this thread: do not await inside of one, or do each "
                "in a thread of its own (asyncio.to_thread)"
            )

    def check_outside(self) -> None:
        """Refuse a verb of the store itself while a transaction of this thread is open.

        It would wait for the transaction, or be done although the transaction is undone.
        """
        self.check_task()
        if self.is_here:
            raise NotSupportedError(
                "a transaction of this thread is open: use `tx` of `with store.transaction() as tx:`"
            )


def _task() -> ref[Any] | None:
    """Return the asyncio task that runs in this thread, without importing asyncio."""
    current_task = getattr(sys.modules.get("asyncio"), "current_task", None)
    try:
        task = None if current_task is None else current_task()
    except RuntimeError:  # no event loop runs
        return None
    return None if task is None else ref(task)


class ThreadOwn(local):
    """The state of one thread in a store."""

    def __init__(self) -> None:
        self.stack = TransactionStack()
