"""An open namespace as its records, series and event sequences see it, and how they go on when it has changed.

Nouns: a *namespace* (the store, or a transaction of it), a *read namespace* (one of these, or a snapshot) and
*retries* (the further tries of a verb that a concurrent writer overtook).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, Final, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from rstore.backends.common.backoff import Backoff, Deadline
from rstore.backends.contract import ReadTransaction, WriteTransaction
from rstore.backends.telemetry import Occurrence, Telemetry
from rstore.backends.types import NamespaceGone, RolledBack
from rstore.codec.envelope import Envelope
from rstore.codec.serializers import Codec
from rstore.errors import (
    CorruptionError,
    SerializationError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    TamperedError,
    WrongKeyError,
)
from rstore.incarnation import Incarnation, Incarnations
from rstore.notes import Notes

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
B_co = TypeVar("B_co", bound=ReadTransaction, covariant=True)

_log: Final = logging.getLogger("rstore.store")


class Retries:
    """The further tries of one verb."""

    __slots__ = ("_backoff", "_deadline", "_reason", "_telemetry")

    def __init__(self, timeout_s: float, reason: str, telemetry: Telemetry) -> None:
        """`reason` begins the message of the error: why the verb has to be tried again."""
        self._telemetry = telemetry
        self._reason = reason
        self._deadline = Deadline(timeout_s)
        self._backoff = Backoff(self._deadline)

    def check(self) -> None:
        """Raise `StoreBusyError` when the time is up."""
        if self._deadline.is_over:
            raise StoreBusyError(
                f"{self._reason} for longer than the time-out, {self._deadline.timeout_s:g} s; nothing was stored"
            )

    def wait(self) -> None:
        """Sleep before the next try.

        Raises `StoreBusyError` when the time is up.
        """
        self.check()
        self._telemetry.note(_log, Occurrence.RETRY, "tried again: %s", self._reason)
        self._backoff.pause()


class Setup(NamedTuple):
    """Belongs to all sessions of an open store."""

    codec: Codec
    incarnations: Incarnations
    timeout_s: float
    telemetry: Telemetry
    notes: Notes
    id_ttl_ms: int | None
    """How long the id of a change is kept."""


class ReadNamespace(Generic[B_co]):
    """A namespace that can be read."""

    def __init__(self, backend: B_co, setup: Setup, now: Incarnation) -> None:
        """`backend` is the backend itself, or the transaction or the snapshot of it through which all calls go."""
        self.backend = backend
        self.setup = setup
        self.codec = setup.codec
        self.now = now
        self.closed = False

    @property
    def envelope(self) -> Envelope:
        """Seals and opens bytes."""
        return self.now.envelope

    @property
    def name(self) -> str:
        """The name of the namespace."""
        return self.setup.incarnations.name

    def place(self, key: str) -> str:
        """Return a key as messages name it."""
        return f"{key!r} in namespace {self.name!r}"

    def check_open(self) -> None:
        """Raise `StoreClosedError` if the store was closed, for verbs that are lazy, and those that wait."""
        if self.closed:
            raise StoreClosedError("the store was closed meanwhile")

    def named(self, error: StoreError, what: str) -> StoreError:
        """Return an error of the codec with the place that it does not know."""
        if "in namespace" in str(error):
            return error
        return type(error)(f"{what} in namespace {self.name!r}: {error}")

    def retries(self, reason: str) -> Retries:
        """Return the further tries of a verb; `reason` says why there are any."""
        return Retries(self.setup.timeout_s, reason, self.setup.telemetry)

    def until_won(self, reason: str, attempt: Callable[[], T | None]) -> T:
        """Return the result of an attempt that no other writer overtook; None says that one did.

        Raises `StoreBusyError`, which begins with the `reason`, when the time is up.
        """
        retries = None
        while True:
            envelope = self.envelope
            try:
                if (won := attempt()) is not None:
                    return won
            except (WrongKeyError, TamperedError):  # perhaps of another incarnation, as of `rereads`
                if not self.refresh(envelope):
                    raise
            retries = retries or self.retries(reason)  # most verbs need none
            retries.wait()

    def reread(self, read: Callable[[], T]) -> T:
        """Return the result of a reading that was not disturbed by a concurrent `discard`, or a new key."""
        return self.until_won("the namespace keeps being discarded concurrently", lambda: (read(),))[0]

    def refresh(self, envelope: Envelope) -> bool:
        """Replace an envelope that refused bytes; return False if neither keys nor incarnation have changed."""
        if self.now.envelope is envelope:
            if not self.setup.incarnations.differs(self.backend, self.now):
                return False
            self._find_incarnation()
        return True

    def _find_incarnation(self) -> None:
        self.now = self.setup.incarnations.look(self.backend)

    @contextmanager
    def naming(self, what: str) -> Generator[None, None, None]:
        """Name the place in errors of the codec that are raised inside."""
        try:
            yield
        except (SerializationError, CorruptionError) as error:
            raise self.named(error, what) from error.__cause__ or error


class Namespace(ReadNamespace[WriteTransaction]):
    """A namespace that can be written: that of a store, which threads share, or as a transaction sees it."""

    def __init__(self, backend: WriteTransaction, setup: Setup, now: Incarnation, outer: Namespace | None) -> None:
        """`outer` is the namespace that a transaction is part of, None for the store itself."""
        super().__init__(backend, setup, now)
        self._outer = outer

    @property
    def incarnation(self) -> bytes:
        """The incarnation that goes with every write: to be taken before anything is sealed for it."""
        return self.now.incarnation

    def within(self, transaction: WriteTransaction) -> Namespace:
        """Return the namespace as a transaction of its backend sees it."""
        return Namespace(transaction, self.setup, self.now, self)

    def note(self, logger: logging.Logger, occurrence: Occurrence, message: str, *args: object) -> None:
        """Count and log an occurrence."""
        self.setup.telemetry.note(logger, occurrence, message, *args)

    def revive(self) -> None:
        """Find the incarnation anew; create the namespace if it was discarded.

        Raises `RolledBack` in a transaction that would have to look more closely at what it has replaced.
        """
        self.adopt(self.setup.incarnations.find(self.backend))

    def _find_incarnation(self) -> None:
        self.revive()

    def revived(self, retries: Retries | None) -> Retries:
        """Find the incarnation anew for a write that was refused, and return the tries that are left to it.

        Raises `StoreBusyError` when the time is up.
        """
        if retries is None:
            retries = self.retries(f"the namespace {self.name!r} keeps being discarded concurrently")
        else:
            retries.wait()
        self.revive()
        return retries

    def adopt(self, found: Incarnation) -> None:
        """Go on with another incarnation, unless this is a transaction that may have replaced what it could not open.

        Raises `RolledBack`; the next transaction looks before it replaces.
        """
        if self._outer is not None:
            self._outer.adopt(found)
            if found.is_guarded or self.now.is_guarded:
                raise RolledBack("the namespace got another key during a transaction; nothing was applied")
        self.now = found


class Reads(Protocol):
    """An object that reads a namespace."""

    @property
    def _namespace(self) -> ReadNamespace[ReadTransaction]: ...


class Writes(Protocol):
    """An object that writes a namespace."""

    @property
    def _writable(self) -> Namespace: ...


class ReadVerbs(Protocol):
    """The verbs that read a namespace."""

    @property
    def _reader(self) -> ReadNamespace[ReadTransaction]: ...


R = TypeVar("R", bound=Reads)
W = TypeVar("W", bound=Writes)


def reopens(method: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T]:
    """Call a method that opens sealed bytes once more, where the namespace has other keys than were known."""

    @wraps(method)
    def call(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        envelope = self._namespace.envelope
        try:
            return method(self, *args, **kwargs)
        except (WrongKeyError, TamperedError):
            if not self._namespace.refresh(envelope):
                raise
        return method(self, *args, **kwargs)

    return call


def rereads(verb: F) -> F:
    """Call a verb that reads anew where the namespace was replaced, or got other keys, while it read.

    Bytes that were read of one incarnation may meet the envelope of the next one, by which they look altered. If the
    namespace is the same as before the reading, they are.
    """

    @wraps(verb)
    def call(self: ReadVerbs, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return verb(self, *args, **kwargs)
        except (WrongKeyError, TamperedError):
            if any(isinstance(one, Iterator) for one in (*args, *kwargs.values())):
                raise  # it is used up: read with what is left of it, the answer would be another one
        return self._reader.reread(lambda: verb(self, *args, **kwargs))

    return cast("F", call)  # which keeps the overloads of a verb


def revives(method: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """Call a method that writes anew where the namespace was discarded, or has another incarnation, until it is done.

    Raises `StoreBusyError` when the time is up.
    """

    @wraps(method)
    def call(self: W, /, *args: P.args, **kwargs: P.kwargs) -> T:
        retries = None
        while True:
            try:
                return method(self, *args, **kwargs)
            except NamespaceGone:
                retries = self._writable.revived(retries)

    return call
