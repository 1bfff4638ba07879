"""Several verbs as one: transactions, which write, and snapshots, which read.

Nouns: a *transaction* (all or nothing, of all three models), a *snapshot* (the store as it was at one moment), a
*guard* (keeps a transaction to its thread and to its time) and what is *opened* (the transactions of one thread).
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident, local
from typing import Any, Final, NoReturn, TypeVar, cast
from weakref import ref

from rstore.backends.contract import WriteTransaction
from rstore.backends.types import Found, RolledBack, close_scope
from rstore.errors import ConflictError, FrozenStoreError, NotSupportedError, StoreClosedError, StoreError
from rstore.incarnation import Incarnations
from rstore.models import Models
from rstore.session import Session, refuse_dunder

T = TypeVar("T")

_ENDED: Final = "the transaction is over: use it inside its `with`"
_OUTLIVED: Final = (
    "the transaction was undone when the one ended that it is a part of: end them in the reverse order of their "
    "beginning; nothing was applied"
)


class _Within(Models):
    """What a transaction and a snapshot have in common: with their `with`, what they stream ends, too."""

    def __init__(self) -> None:
        self._given: dict[int, list[Found]] = {}  # the pages at hand, by their id

    def _pages(self, session: Session, start: str, stop: str | None, **options: Any) -> Iterator[list[Found]]:
        for page in super()._pages(session, start, stop, **options):
            self._given[id(page)] = page
            try:
                yield page
            finally:
                self._given.pop(id(page), None)
            self._reader.check_open()

    def _end(self, over: _Over) -> None:
        self._reader = cast("Session", over)
        for page in [*self._given.values()]:
            page.clear()  # so that whoever is in the middle of it asks for the next one, without a look at each record

    def _while_open(self, items: Iterator[T]) -> Iterator[T]:
        for item in items:
            yield item
            self._reader.check_open()


class Transaction(_Within):
    """The verbs of all three models, to be done together or not at all. What `Store.transaction` returns.

    It belongs to the thread that began it, up to the end of its `with`: used elsewhere it raises `StoreClosedError`.
    """

    def __init__(self, session: _Inside, freq: int | None) -> None:
        super().__init__()
        self._reader = self._writer = session
        self._opened = session.opened
        self._freq = freq
        session.end_also = self._end

    def _end(self, over: _Over) -> None:
        super()._end(over)
        self._writer = self._reader

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
        with transaction(self._writer, self._freq, self._opened) as inner:
            yield inner

    def _in_transaction(self) -> bool:
        return True


class Snapshot(_Within):
    """The reading verbs of all three models, as of one moment. What `Store.snapshot` returns.

    Threads may share it, up to the end of its `with`. Its writing verbs raise `FrozenStoreError`.
    """

    def __init__(self, session: Session, freq: int | None) -> None:
        super().__init__()
        self._reader, self._writer = session, _READ_ONLY
        self._freq = freq


@contextmanager
def transaction(session: Session, freq: int | None, opened: Opened) -> Generator[Transaction, None, None]:
    """Begin a transaction of this thread, or a part of the one that is open, and end it.

    Raises `ConflictError` if somebody else changed what it had read or written.
    """
    opened.check_task()
    before = opened.parts
    inside: _Inside | None = None
    scope = session.backend.transaction()
    try:
        with scope as backend:
            guard = _Guard(backend, session.incarnations)
            inside = _Inside(session, guard, scope, opened)
            try:
                opened.begin(inside)
                yield Transaction(inside, freq)
                guard.check_end()
                opened.check_end(inside)
            finally:
                # Without a call before it is done, in which an interrupt could come: a thread would be inside for good.
                ended = opened.parts
                if inside in ended:  # else it was itself open inside of one that has ended
                    opened.parts = before
                    _end(ended[len(before) :])
    except RolledBack as error:
        raise ConflictError(
            f"others changed what a transaction in namespace {session.incarnations.namespace!r} had read or written; "
            "nothing was applied: run(fn) tries again"
        ) from error
    finally:
        close_scope(scope)
    if inside is not None:
        inside.catch_up()


@contextmanager
def snapshot(session: Session, freq: int | None) -> Generator[Snapshot, None, None]:
    """Read as of one moment."""
    scope = session.incarnations.bare.snapshot()
    try:
        with scope as backend:
            inside = Session(
                cast("WriteTransaction", backend),
                session.codec,
                session.incarnations,
                session.timeout_s,
                session.telemetry,
            )
            view = Snapshot(inside, freq)
            try:
                yield view
            finally:
                view._end(_SNAPSHOT_OVER)  # noqa: SLF001 - a part of its own
                inside.backend = cast("WriteTransaction", _SNAPSHOT_OVER)  # for what another thread is in the middle of
    finally:
        close_scope(scope)


class _Inside(Session):
    """The session of a transaction: it puts off what can wait until others need not wait for it."""

    def __init__(
        self, outer: Session, guard: _Guard, scope: AbstractContextManager[WriteTransaction], opened: Opened
    ) -> None:
        super().__init__(
            cast("WriteTransaction", guard), outer.codec, outer.incarnations, outer.timeout_s, outer.telemetry
        )
        self.opened = opened
        self.end_also: Callable[[_Over], None] = _nothing  # ends what has been given to the user
        self._guard = guard
        self._scope = scope
        self.readings = outer.readings
        self._outer = outer
        self._records = 0
        self._points: Counter[str] = Counter()
        self._changes: Counter[str] = Counter()
        self.series.put_off = _adding(self._points)
        self.events.put_off = _adding(self._changes)

    def wrote(self, n: int) -> None:
        self._records += n

    def within(self, backend: WriteTransaction) -> Session:
        inside = super().within(backend)
        inside.series.put_off, inside.events.put_off = self.series.put_off, self.events.put_off
        return inside

    def end(self, why: str = _ENDED) -> None:
        """Refuse whatever is asked for from now on."""
        self._guard.over = why
        end_also, self.end_also = self.end_also, _nothing
        end_also(_Over(why))

    def undo(self) -> None:
        """End it before what it is a part of ends."""
        self.end(_OUTLIVED)
        error = StoreClosedError(_OUTLIVED)
        with suppress(StoreError):  # the end of what it is a part of says what became of that
            self._scope.__exit__(type(error), error, None)  # its own end, later, finds nothing left to do

    def catch_up(self) -> None:
        """Do what was put off."""
        outer = self._outer
        if self._records:
            outer.wrote(self._records)
        for key, rows in self._points.items():
            outer.series.wrote(key, rows)
        for key, rows in self._changes.items():
            outer.events.wrote(key, rows)


def _end(parts: Sequence[_Inside]) -> None:
    """End a transaction, after those that are open inside of it; these are undone, the last one first."""
    for part in reversed(parts[1:]):
        part.undo()
    parts[0].end()


def _nothing(_: _Over) -> None:
    pass


def _adding(counter: Counter[str]) -> Callable[[str, int], None]:
    def add(key: str, rows: int) -> None:
        counter[key] += rows

    return add


class _Guard:
    """Stands before the backend of a transaction: a backend binds transactions to threads, and would not notice."""

    def __init__(self, backend: WriteTransaction, incarnations: Incarnations) -> None:
        self.over = ""  # why it cannot be used any more
        self._backend = backend
        self._generations = incarnations
        self._begun_with = incarnations.backend
        self._owner = os.getpid(), get_ident()

    def __getattr__(self, name: str) -> Any:
        refuse_dunder(name)
        if self.over:
            raise StoreClosedError(self.over)
        self._check_thread()
        if self._generations.backend is not self._begun_with:
            raise RolledBack("the namespace got another key during a transaction; nothing was applied")
        return getattr(self._backend, name)

    def check_end(self) -> None:
        """Refuse to end anywhere but where it began, or once more."""
        if self.over:
            raise StoreClosedError(self.over)
        self._check_thread()

    def _check_thread(self) -> None:
        if (os.getpid(), get_ident()) != self._owner:
            raise StoreClosedError(
                "the transaction is open in another thread or process: begin one of its own here, and end it here"
            )


class Opened:
    """The transactions of one thread that are open in a store, each a part of the one before it."""

    def __init__(self) -> None:
        self.parts: tuple[_Inside, ...] = ()
        self._pid = 0
        self._task: ref[Any] | None = None  # not the task itself: what it has begun would never be collected with it

    @property
    def innermost(self) -> Session | None:
        """The session of the last one, if there is any."""
        return self.parts[-1] if self.parts else None

    @property
    def is_here(self) -> bool:
        """Whether there is one, which was not inherited by a fork."""
        return bool(self.parts) and self._pid == os.getpid()

    def begin(self, part: _Inside) -> None:
        """Add one that begins."""
        if not self.parts:
            self._pid, self._task = os.getpid(), _task()
        self.parts = (*self.parts, part)

    def check_end(self, part: _Inside) -> None:
        """Refuse to end one before what is a part of it."""
        if self.parts[-1] is not part:
            raise StoreClosedError(
                "a part of the transaction is open at its end: end them in the reverse order of their beginning; "
                "nothing was applied"
            )

    def check_task(self) -> None:
        """Refuse to be used by another task than the one that has begun."""
        if self.is_here and self._task != _task():
            raise NotSupportedError(self.refusal)

    @property
    def refusal(self) -> str:
        """Why a verb of the store is refused."""
        if self._task != _task():
            return (
                "a transaction of another asyncio task is open in this thread: do not await inside of one, or do each "
                "in a thread of its own (asyncio.to_thread)"
            )
        return "a transaction of this thread is open: use `tx` of `with store.transaction() as tx:`"


def _task() -> ref[Any] | None:
    """Return the asyncio task that runs in this thread; whoever has none need not import what knows it."""
    current_task = getattr(sys.modules.get("asyncio"), "current_task", None)
    try:
        task = None if current_task is None else current_task()
    except RuntimeError:  # no event loop runs
        return None
    return None if task is None else ref(task)


class Own(local):
    """What belongs to one thread of a store."""

    def __init__(self) -> None:
        self.opened = Opened()


class _Gate:
    """Stands where the session of a store would be while transactions are open: their threads are to use these.

    A verb of the store in such a thread would wait for itself, or be done although the transaction is undone.
    """

    def __init__(self, session: Session, own: Own) -> None:
        self._session = session
        self._own = own

    def __getattr__(self, name: str) -> Any:
        refuse_dunder(name)
        opened = self._own.opened
        if opened.is_here:
            raise NotSupportedError(opened.refusal)
        return getattr(self._session, name)


def gated(session: Session, own: Own) -> Session:
    """Return the session for all threads but those in which a transaction is open."""
    return cast("Session", _Gate(session, own))


class _Over:
    """Stands where a session or a backend was."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise StoreClosedError(self._why)


class _ReadOnly:
    """Stands where the session of a snapshot would be for the verbs that write."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise FrozenStoreError("a snapshot is read-only: write to the store itself")


_SNAPSHOT_OVER: Final = _Over("the snapshot is over: use it inside its `with`")
_READ_ONLY: Final = cast("Session", _ReadOnly())
