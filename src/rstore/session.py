"""What the verbs of an open store work with.

Nouns: a *session* (backend, codec, envelope and the two kinds of logs) and *verbs* (the base of the three models).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from random import Random
from struct import Struct
from typing import Any, Final, NoReturn, TypeVar, cast

from rstore.arguments import check_key
from rstore.backends.common.after_commit import behind_commit
from rstore.backends.contract import WriteTransaction
from rstore.backends.telemetry import Telemetry
from rstore.backends.types import LARGE_BYTES, Found, Model, NamespaceGone, RolledBack, Writes
from rstore.codec.compression import compress
from rstore.codec.envelope import Cell, Envelope
from rstore.codec.failures import cannot_load
from rstore.codec.serializers import Codec, stamped
from rstore.errors import (
    CorruptionError,
    FrozenStoreError,
    NotSupportedError,
    SerializationError,
    StoreClosedError,
    StoreError,
)
from rstore.events.state import StateCache
from rstore.incarnation import Incarnations
from rstore.log.writer import Logs
from rstore.retry import Patience

T = TypeVar("T")

_STAMP_BYTES: Final = 8
BODY_AT: Final = 1 + _STAMP_BYTES
"""Where the body of a plain record begins."""
_many_stamps: Final = Struct(f"{_STAMP_BYTES}s" * 64)
_NO_LOADS: Final[list[Callable[[Any], Any] | None]] = [None] * 256
_SWEEP_EVERY: Final = 500
"""How many records are written, on average, between two sweeps. At random, for the same reasons as in the log."""
_SWEEP_AT_LEAST: Final = 2 * _SWEEP_EVERY
"""So many expired records one sweep reclaims at least: more than expire meanwhile, where all of them do."""


class Session:
    """Everything that an open store holds. Threads share it."""

    def __init__(
        self,
        backend: WriteTransaction,
        codec: Codec,
        incarnations: Incarnations,
        timeout_s: float,
        telemetry: Telemetry,
    ) -> None:
        self.backend = backend
        self.codec = codec
        self.incarnations = incarnations
        self.timeout_s = timeout_s
        self.telemetry = telemetry
        self.closed = False
        self.begun_with: WriteTransaction | None = None
        """In a transaction, the backend that it began with: another one looks more closely at what is replaced."""
        self._encode = self._encode_compressed if codec.compresses else codec.encode
        self.plain_loads = codec.loads_by_byte if incarnations.opens_plaintext else _NO_LOADS
        """What loads the body of a plain record, by its codec byte; None where the envelope has to decide."""
        self.series = Logs(self, Model.SERIES)
        self.events = Logs(self, Model.EVENTS)
        self.readings = StateCache()
        self._random = Random(os.urandom(8))  # noqa: S311 - spreads work, keeps no secret
        self._until_sweep = self._random.randrange(2 * _SWEEP_EVERY)

    @property
    def incarnation(self) -> bytes:
        """The incarnation that goes with whatever is sealed from now on."""
        return self.incarnations.now.incarnation

    @property
    def envelope(self) -> Envelope:
        """What seals and opens."""
        return self.incarnations.now.envelope

    def within(self, backend: WriteTransaction) -> Session:
        """Return the session of a transaction of the backend."""
        inside = Session(backend, self.codec, self.incarnations, self.timeout_s, self.telemetry)
        inside.readings = self.readings
        inside.begun_with = self.incarnations.backend
        return inside

    def check_open(self) -> None:
        """Raise `StoreClosedError` if the store was closed, for verbs that are lazy, and those that wait."""
        if self.closed:
            raise StoreClosedError("the store was closed meanwhile")

    def revive(self, patience: Patience | None = None) -> Patience:
        """Look again at a namespace that was discarded, which creates it, or that got another key.

        Returns how long that may go on, for the next time.

        Raises `StoreBusyError` when the time is up.
        """
        patience = self.again(
            patience, f"the namespace {self.incarnations.namespace!r} keeps being discarded concurrently"
        )
        self.incarnations.revive(self.backend)
        if self.begun_with not in (None, self.incarnations.backend):
            raise RolledBack("the namespace got another key during a transaction; nothing was applied")
        return patience

    def again(self, patience: Patience | None, what: str) -> Patience:
        """Return how long a verb may try again; None begins to count now, since most verbs need no other try.

        Raises `StoreBusyError` when the time is up.
        """
        if patience is None:
            return Patience(self.timeout_s, what, self.telemetry)
        patience.wait()
        return patience

    def adopt(self, backend: WriteTransaction) -> None:
        """Go on with the backend of another generation."""
        self.backend = backend

    def take_away(self, take: Callable[[WriteTransaction, bytes], T]) -> T:
        """Take something away from the generation of now, and return it."""
        patience = None
        while True:
            incarnation = (
                self.incarnations.now.incarnation
            )  # first: the backend may be the one that goes with a later incarnation
            try:
                return take(self.backend, incarnation)
            except NamespaceGone:
                patience = self.revive(patience)

    # -- values -------------------------------------------------------------------------------------------------------

    def place(self, key: str) -> str:
        """Return a key as messages name it."""
        return f"{key!r} in namespace {self.incarnations.namespace!r}"

    def named(self, error: StoreError, what: str) -> StoreError:
        """Return an error of the codec with the place that it does not know."""
        if "in namespace" in str(error):
            return error
        return type(error)(f"{what} in namespace {self.incarnations.namespace!r}: {error}")

    @contextmanager
    def naming(self, what: str) -> Generator[None, None, None]:
        """Say of what inside cannot be dumped, loaded or unpacked what it is."""
        try:
            yield
        except (SerializationError, CorruptionError) as error:
            raise self.named(error, what) from error.__cause__ or error

    # -- key/value records --------------------------------------------------------------------------------------------

    def make_record(self, key: str, value: Any) -> bytes:
        """Return the record of a value: sealed or, where nothing is sealed, with a random stamp behind its codec byte.

        The stamp, or the nonce of what is sealed, is the entry's version: it costs no read before a write and never
        repeats.
        """
        envelope = self.incarnations.now.envelope
        try:
            if not envelope.keyed:
                # Not drawn ahead: a copy of the process, or of its machine, would give the same ones to other values.
                return self._encode(value, os.urandom(_STAMP_BYTES))
            encoded = self._encode(value, b"")
        except SerializationError as error:
            raise self.named(error, f"the value of {key!r}") from error.__cause__ or error
        return envelope.seal(encoded, envelope.where(Cell.VALUE, key))

    def encode_values(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, bytes]:
        """Return the encoded values of many keys, which are not checked yet; stamped where nothing is sealed.

        One by one, as they come: whoever hands in an iterator may give one object again and again, changed meanwhile.
        """
        encode, encoded = self._encode, dict[str, bytes]()
        stamps = repeat(b"") if self.envelope.keyed else chain.from_iterable(iter(_draw_stamps, []))
        for (key, value), stamp in zip(pairs, stamps, strict=False):
            checked = check_key(key)
            try:
                encoded[checked] = encode(value, stamp)
            except SerializationError as error:
                raise self.named(error, f"the value of {key!r}") from error.__cause__ or error
        return encoded

    def encode_alike(self, pairs: dict[Any, Any]) -> dict[str, bytes] | None:
        """Return the same of a dict, in less time; None if its values have to be looked at one by one."""
        if self.codec.compresses:
            return None
        pairs = dict(pairs)  # which another thread may change meanwhile
        values, encoded = [*pairs.values()], list[bytes]()
        stamps = repeat(b"") if self.envelope.keyed else _draw_stamps(len(values))
        keys, each = [*map(check_key, pairs)], self.codec.encode_alike(values, stamps)
        if each is None:
            return None
        try:
            encoded.extend(each)
        except SerializationError as error:
            raise self.named(error, f"the value of {keys[len(encoded)]!r}") from error.__cause__ or error
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # whatever a value's own __reduce__ raises
            at = len(encoded)
            raise self.named(self.codec.cannot_dump(values[at], error), f"the value of {keys[at]!r}") from error
        return dict(zip(keys, encoded, strict=True))

    def _encode_compressed(self, value: Any, stamp: bytes) -> bytes:
        return stamped(compress(self.codec.encode(value)), stamp)

    def wrote(self, n: int) -> None:
        """Count records that were written, and now and then reclaim the space of some that have expired."""
        self._until_sweep -= n
        if self._until_sweep < 0:
            self._until_sweep = self._random.randrange(2 * _SWEEP_EVERY)
            with behind_commit(f"a sweep of namespace {self.incarnations.namespace!r}"):  # what is left is found again
                self.backend.sweep(_SWEEP_AT_LEAST + 2 * n)

    def seal_values(self, encoded: Mapping[str, bytes], ttl_ms: int | None) -> Writes:
        """Return what puts many encoded values."""
        records = self.envelope.seal_all(Cell.VALUE, encoded) if self.envelope.keyed else encoded.values()
        return [*zip(encoded, records, repeat(ttl_ms), strict=False)]

    def open_value(self, key: str, record: bytes) -> Any:
        """Return the value of a record."""
        # Written out instead of asking envelope and codec, whose frames would take a tenth of a lookup.
        load = self.plain_loads[record[0]] if len(record) >= BODY_AT else None
        try:
            return self._unseal(key, record) if load is None else load(record[BODY_AT:])
        except (SerializationError, CorruptionError) as error:
            raise self.named(error, f"the value of {key!r}") from error.__cause__ or error
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # whatever a value's own __setstate__ or a subclass raises
            raise self.named(cannot_load(record[BODY_AT:], error), f"the value of {key!r}") from error

    def reread(self, key: str, value: Any, record: bytes) -> Any:
        """Return the value that reading `record`, which was made of `value`, will return."""
        # Of a large value one copy more would be held, and pickle gives back an equal one.
        as_it_is = self.codec.is_exact(value) or (self.codec.pickles and len(record) > LARGE_BYTES)
        return value if as_it_is else self.open_value(key, record)

    def _unseal(self, key: str, record: bytes) -> Any:
        encoded = self.envelope.open(record, self.envelope.where(Cell.VALUE, key))
        if encoded is record and len(record) < BODY_AT:
            raise CorruptionError("the record was cut short")
        return self.codec.decode(encoded if encoded is not record else record[:1] + record[BODY_AT:])

    def open_pairs(self, found: Iterable[Found]) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of records."""
        loads, open_value = self.plain_loads, self.open_value
        sealed_loads, unseal = self.codec.loads, self.envelope.opener(Cell.VALUE)
        for key, record, _ in found:
            if not BODY_AT <= len(record) <= LARGE_BYTES:
                yield key, open_value(key, record)
                continue
            try:  # as above, and without its frames
                if (load := loads[record[0]]) is not None:
                    value = load(record[BODY_AT:])
                else:
                    encoded = unseal(key, record)
                    value = sealed_loads[encoded[0]](encoded[1:])
            except Exception:  # noqa: BLE001 - the other one raises it, with its name
                value = open_value(key, record)
            yield key, value

    def check_value(self, key: str, record: bytes) -> None:
        """Raise what `open_value` would, without loading a value that is a pickle."""
        encoded = self.envelope.open(record, self.envelope.where(Cell.VALUE, key))
        if encoded is record and len(record) < BODY_AT:
            raise CorruptionError("the record was cut short")
        self.codec.check(encoded if encoded is not record else record[:1] + record[BODY_AT:])


def _draw_stamps(n: int = 1) -> list[bytes]:
    """Return that many stamps, or some more: for each of them alone the system would have to be called."""
    times = -(-n * _STAMP_BYTES // _many_stamps.size)
    return [*chain.from_iterable(_many_stamps.iter_unpack(os.urandom(times * _many_stamps.size)))]


def refuse_dunder(name: str) -> None:
    """Let inspecting tools see that there is no such method."""
    if name.startswith("__"):  # what inspecting tools ask of any object
        raise AttributeError(name)


class _Closed:
    """Stands where the session of a closed store would be, so that no verb has to ask whether it is open."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise StoreClosedError("the store is not open: use it inside `with store:`, or call open() first")


class _Frozen:
    """Stands where the session of a frozen store would be for the verbs that write."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse_dunder(name)
        raise FrozenStoreError("the store is read-only: open it with frozen=False to write")


CLOSED: Final = cast("Session", _Closed())
FROZEN: Final = cast("Session", _Frozen())


class Verbs:
    """The base of the three models: every verb begins with one of these two."""

    _reader: Session = CLOSED
    _writer: Session = CLOSED

    def _in_transaction(self) -> bool:
        """Return whether what this thread asks for is part of a transaction."""
        return False

    def _check_alone(self, verb: str) -> None:
        """Refuse inside of a transaction what is no part of one."""
        if self._in_transaction():
            raise NotSupportedError(f"{verb} is a verb of the store alone, outside of a transaction: end that first")

    def _while_open(self, items: Iterator[T]) -> Iterator[T]:
        """Return what streams, for as long as it may."""
        return items
