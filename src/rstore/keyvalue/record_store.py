"""Key/value records: encoding and sealing values into them, reading and writing them.

Nouns: a *record* (the bytes of one key: a codec byte, a stamp and a body, or all of it sealed), a *stamp* (8 random
bytes, the version of a plain record; that of a sealed one is its nonce) and *pairs* (keys with encoded values).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from random import Random
from struct import Struct
from typing import Any, Final, NamedTuple, TypeVar

from rstore.arguments import check_key
from rstore.backends.common.after_commit import behind_commit
from rstore.backends.common.pages import pages_of
from rstore.backends.contract import ReadTransaction
from rstore.backends.types import LARGE_BYTES, Found, NamespaceGone, ScanQuery, Ttl, Write, version_of
from rstore.codec.compression import compress
from rstore.codec.envelope import Cell
from rstore.codec.failures import cannot_load
from rstore.codec.serializers import stamped
from rstore.errors import CorruptionError, SerializationError, StoreError, TamperedError, WrongKeyError
from rstore.namespace import Namespace, ReadNamespace, revives

T = TypeVar("T")

_STAMP_BYTES: Final = 8
_BODY_AT: Final = 1 + _STAMP_BYTES
"""Where the body of a plain record begins."""
_many_stamps: Final = Struct(f"{_STAMP_BYTES}s" * 64)
_PAGE: Final = 1000
_NO_LOADS: Final[list[Callable[[Any], Any] | None]] = [None] * 256
_SWEEP_EVERY: Final = 500
"""How many records are written, on average, between two sweeps. At random, for the same reasons as in the log."""
_SWEEP_AT_LEAST: Final = 2 * _SWEEP_EVERY
"""One sweep reclaims at least so many expired records: more than expire meanwhile, where all of them do."""


class Entry(NamedTuple):
    """A key with its value and what the store knows about it.

    `version` are bytes that every write replaces: what `if_version` takes. `expires` is when the entry expires, in
    POSIX milliseconds of the backend's clock; None if it does not.
    """

    key: str
    value: Any
    version: bytes
    expires: int | None


class Stored(NamedTuple):
    """The version of a record that was put, and its value as it will be read."""

    version: bytes
    value: Any


class RecordReader:
    """Reads the records of a namespace."""

    def __init__(self, namespace: ReadNamespace[ReadTransaction]) -> None:
        self._namespace = namespace
        self._decode = namespace.codec.decode
        opens_plaintext = namespace.setup.incarnations.opens_plaintext
        self._plain_loads = namespace.codec.loads_by_byte if opens_plaintext else _NO_LOADS
        """Loads the body of a plain record, by its codec byte; None where the envelope has to decide."""

    def find(self, key: str) -> bytes | None:
        """Return the record of a key."""
        backend = self._namespace.backend
        record = backend.peek(key)
        return backend.get(key) if record is None else record

    def open_value(self, key: str, record: bytes) -> Any:
        """Return the value of a record."""
        load = self._plain_loads[record[0]] if len(record) >= _BODY_AT else None
        try:
            return self._decode(self._opened(key, record)) if load is None else load(record[_BODY_AT:])
        except (SerializationError, CorruptionError) as error:
            raise self._namespace.named(error, f"the value of {key!r}") from error.__cause__ or error
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # a value's own __setstate__, or a subclass, may raise any
            raise self._namespace.named(cannot_load(record[_BODY_AT:], error), f"the value of {key!r}") from error

    def open_entry(self, found: Found) -> Entry | None:
        """Return the entry of a record; if its namespace is gone, that of the record which is there now, or None."""
        key, record, expires_ms = found
        if expires_ms is not None and type(expires_ms) is not int:
            raise CorruptionError(f"the expiry of {self._namespace.place(key)} is damaged")
        try:
            return Entry(key, self.open_value(key, record), version_of(record), expires_ms)
        except (WrongKeyError, TamperedError):  # or it was held for a while, and sealed for an earlier incarnation
            pass
        return self.find_entry(key)

    def find_entry(self, key: str) -> Entry | None:
        """Return the entry of a key, read in the namespace of now."""
        return self._namespace.reread(lambda: self._find_entry(key))

    def _find_entry(self, key: str) -> Entry | None:
        for _, record, expires_ms in self._namespace.backend.fetch([key]):
            return Entry(key, self.open_value(key, record), version_of(record), expires_ms)
        return None

    def open_pairs(self, found: Iterable[Found]) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of records."""
        loads = self._plain_loads
        sealed_loads, unseal = self._namespace.codec.loads, self._namespace.envelope.opener(Cell.VALUE)
        for key, record, _ in found:
            if _BODY_AT <= len(record) <= LARGE_BYTES:
                try:  # as in `open_value`, without its frames (benchmarks: `paths`)
                    if (load := loads[record[0]]) is not None:
                        value = load(record[_BODY_AT:])
                    else:
                        encoded = unseal(key, record)
                        value = sealed_loads[encoded[0]](encoded[1:])
                except Exception:  # noqa: BLE001, S110 - what follows raises the error, with its name
                    pass
                else:
                    yield key, value
                    continue
            if (entry := self.open_entry((key, record, None))) is not None:
                yield key, entry.value

    def pages(self, query: ScanQuery, limit: int | None) -> Iterator[list[Found]]:
        """Yield the records that a query asks for, at most `limit`, a page at a time."""
        return pages_of(self._namespace.backend, query._replace(limit=_PAGE), limit)

    def check(self, key: str, record: bytes) -> None:
        """Raise the errors of `open_value`, without loading a value that is a pickle."""
        self._namespace.codec.check(self._opened(key, record))

    def _opened(self, key: str, record: bytes) -> bytes:
        """Return the encoded value in a record."""
        envelope = self._namespace.envelope
        try:
            encoded = envelope.open(record, envelope.where(Cell.VALUE, key))
        except (WrongKeyError, TamperedError):
            if not self._namespace.refresh(envelope):
                raise
            envelope = self._namespace.envelope
            encoded = envelope.open(record, envelope.where(Cell.VALUE, key))
        if encoded is not record:
            return encoded
        if len(record) < _BODY_AT:
            raise CorruptionError("the record was cut short")
        return record[:1] + record[_BODY_AT:]


class RecordStore(RecordReader):
    """Reads and writes the records of a namespace."""

    def __init__(self, namespace: Namespace, *, counts: bool = False) -> None:
        """`counts`: count the records that a transaction writes, and leave the sweep to its owner."""
        super().__init__(namespace)
        self._writable = namespace
        self._counts = counts
        self.written = 0
        codec = namespace.codec
        self._encode = self._encode_compressed if codec.compresses else codec.encode
        self._random = Random(os.urandom(8))  # noqa: S311 - spreads work, keeps no secret
        self._until_sweep = self._random.randrange(2 * _SWEEP_EVERY)

    # -- values to records --------------------------------------------------------------------------------------------

    def make_record(self, key: str, value: Any) -> bytes:
        """Return the record of a value: sealed or, where nothing is sealed, with a random stamp behind its codec byte.

        The stamp, or the nonce of what is sealed, is the entry's version: it costs no read before a write and never
        repeats.
        """
        envelope = self._writable.now.envelope
        try:
            if not envelope.keyed:
                # Not drawn ahead: a copy of the process, or of its machine, would give the same ones to other values.
                return self._encode(value, os.urandom(_STAMP_BYTES))
            encoded = self._encode(value, b"")
        except SerializationError as error:
            raise self._namespace.named(error, f"the value of {key!r}") from error.__cause__ or error
        return envelope.seal(encoded, envelope.where(Cell.VALUE, key))

    def encode_values(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, bytes]:
        """Return the encoded values of many keys, which are not checked yet; stamped where nothing is sealed.

        One by one, as they come: an iterator may yield one object again and again, changed meanwhile.
        """
        encode, encoded = self._encode, dict[str, bytes]()
        stamps = repeat(b"") if self._writable.envelope.keyed else chain.from_iterable(iter(_draw_stamps, []))
        for (key, value), stamp in zip(pairs, stamps, strict=False):
            checked = check_key(key)
            try:
                encoded[checked] = encode(value, stamp)
            except SerializationError as error:
                raise self._namespace.named(error, f"the value of {key!r}") from error.__cause__ or error
        return encoded

    def encode_alike(self, pairs: dict[Any, Any]) -> dict[str, bytes] | None:
        """Return the same of a dict in less time (benchmarks: `paths`); None if some need a look of their own."""
        codec = self._namespace.codec
        if codec.compresses:
            return None
        pairs = dict(pairs)  # another thread may change it meanwhile
        values, encoded = [*pairs.values()], list[bytes]()
        stamps = repeat(b"") if self._writable.envelope.keyed else _draw_stamps(len(values))
        keys, each = [*map(check_key, pairs)], codec.encode_alike(values, stamps)
        if each is None:
            return None
        try:
            encoded.extend(each)
        except SerializationError as error:
            at = keys[len(encoded)]
            raise self._namespace.named(error, f"the value of {at!r}") from error.__cause__ or error
        except (MemoryError, StoreError):
            raise
        except Exception as error:  # a value's own __reduce__ may raise any
            at, value = keys[len(encoded)], values[len(encoded)]
            raise self._namespace.named(codec.cannot_dump(value, error), f"the value of {at!r}") from error
        return dict(zip(keys, encoded, strict=True))

    def as_stored(self, key: str, value: Any) -> Any:
        """Return a value as if it had been stored."""
        codec = self._namespace.codec
        with self._namespace.naming(f"the value of {key!r}"):
            return codec.decode(codec.encode(value))

    def _encode_compressed(self, value: Any, stamp: bytes) -> bytes:
        return stamped(compress(self._namespace.codec.encode(value)), stamp)

    def _reread(self, key: str, value: Any, record: bytes) -> Any:
        """Return the value that reading `record`, which was made of `value`, will return."""
        codec = self._namespace.codec
        # Of a large value one copy more would be held, and pickle gives back an equal one.
        as_it_is = codec.is_exact(value) or (codec.pickles and len(record) > LARGE_BYTES)
        return value if as_it_is else self.open_value(key, record)

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: Any, ttl_ms: Ttl) -> bytes:
        """Put a value, whatever was there; return its version."""
        namespace, retries = self._writable, None
        while True:  # as `revives` does, without its frame, for the most frequent write
            incarnation = namespace.now.incarnation
            # Encoded anew in each round: held meanwhile, it would be one more copy of a large value.
            record = self.make_record(key, value)
            try:
                namespace.backend.put(key, record, ttl_ms, incarnation)
            except NamespaceGone:
                retries = namespace.revived(retries)
                continue
            self.count_written(1)
            return version_of(record)

    @revives
    def put_if(
        self, key: str, value: Any, version: bytes | None, ttl_ms: Ttl = None, *, reads: bool = False
    ) -> Stored | None:
        """Put a value in place of a version (None: of nothing); return None if that is not there.

        `reads`: also return the value as a read will return it. It is loaded before it is stored, so that a value that
        cannot be loaded is refused instead.
        """
        incarnation = self._writable.incarnation
        record = self.make_record(key, value)
        stored = Stored(version_of(record), self._reread(key, value, record) if reads else None)
        done = self._writable.backend.write_if(Write(key, record, ttl_ms), version, incarnation)
        self.count_written(1)
        return stored if done else None

    @revives
    def write(self, encoded: Mapping[str, bytes], ttl_ms: int | None = None) -> None:
        """Put many encoded values, whatever was there."""
        incarnation, envelope = self._writable.incarnation, self._writable.envelope
        records = envelope.seal_all(Cell.VALUE, encoded) if envelope.keyed else encoded.values()
        self._writable.backend.write([*zip(encoded, records, repeat(ttl_ms), strict=False)], incarnation)
        self.count_written(len(encoded))

    @revives
    def take(self, key: str, version: bytes | None) -> bool:
        """Delete a record if it has this version (None: find that there is none)."""
        return self._writable.backend.write_if(Write(key, None), version, self._writable.incarnation)

    @revives
    def delete(self, keys: Sequence[str]) -> int:
        """Delete records and return how many there were."""
        incarnation = self._writable.now.incarnation  # first: the backend may be the one that goes with a later one
        return self._writable.backend.delete(keys, if_incarnation=incarnation)

    @revives
    def delete_range(self, start: str, stop: str | None) -> int:
        """Delete the records of a range and return how many there were."""
        incarnation = self._writable.incarnation
        return self._writable.backend.delete_range(start, stop, if_incarnation=incarnation)

    @revives
    def touch(self, key: str, ttl_ms: int | None) -> bool:
        """Let a record live that long from now on; return whether there is one."""
        incarnation = self._writable.incarnation
        return self._writable.backend.touch(key, ttl_ms, if_incarnation=incarnation)

    def get_or_put(self, key: str, factory: Callable[[], Any], ttl_ms: int | None = None) -> Any:
        """Return the value of a key; if there is none, that of `factory` as it will be read, after putting it."""

        def attempt() -> tuple[Any] | None:
            if (record := self.find(key)) is not None:
                return (self.open_value(key, record),)
            stored = self.put_if(key, factory(), None, ttl_ms, reads=True)
            return None if stored is None else (stored.value,)

        return self._namespace.until_won(f"concurrent writers keep changing {self._namespace.place(key)}", attempt)[0]

    def count_written(self, n: int) -> None:
        """Count records that were written, and now and then reclaim the space of some that have expired."""
        if self._counts:
            self.written += n
            return
        self._until_sweep -= n
        if self._until_sweep < 0:
            self._until_sweep = self._random.randrange(2 * _SWEEP_EVERY)
            with behind_commit(f"a sweep of namespace {self._writable.name!r}"):  # the rest is found again
                self._writable.backend.sweep(_SWEEP_AT_LEAST + 2 * n)


def _draw_stamps(n: int = 1) -> list[bytes]:
    """Return at least `n` stamps, drawn with one call of the system."""
    times = -(-n * _STAMP_BYTES // _many_stamps.size)
    return [*chain.from_iterable(_many_stamps.iter_unpack(os.urandom(times * _many_stamps.size)))]
