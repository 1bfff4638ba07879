"""Bytes <-> sealed bytes: AES-256-GCM with key commitment, bound to the place where the bytes are kept.

0        0xC1              not a pickle opcode, not UTF-8, unused in msgpack
1        suite             0x01
2..17    salt              16 random bytes, drawn once per open handle
18..49   commitment        32 bytes
50..61   nonce             12 random bytes
62..     ciphertext, tag   over: codec byte, body
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from hashlib import sha512
from hmac import compare_digest
from typing import Final

from rstore.backends.types import LARGE_BYTES
from rstore.codec.ciphers import HEADER_BYTES, NONCE_BYTES, PREFIX_BYTES, TAG_BYTES, Cipher
from rstore.codec.keys import Root
from rstore.errors import (
    CorruptionError,
    EncryptionError,
    KeyRequiredError,
    PlaintextError,
    TamperedError,
    WrongKeyError,
)
from rstore.forks import renewed_in_child

MAGIC: Final = 0xC1
SUITE: Final = 0x01
_MARK: Final = bytes((MAGIC, SUITE))
_SALT_BYTES: Final = 16
_CRC_BYTES: Final = 4
_MAX_SEALS: Final = 2**30
# Only salts whose commitment was verified get in, one for every handle that ever wrote.
_MAX_CACHED_SALTS: Final = 4096


class Cell(IntEnum):
    """The kind of sealed bytes; the numbers are part of the layout."""

    VALUE = 1
    POINT = 2
    CHANGE = 3
    POINTS = 4
    CHANGES = 5
    META = 6
    CHECKPOINT = 7
    FACT = 8


_PHRASES: Final = {
    Cell.VALUE: "the value",
    Cell.POINT: "a point",
    Cell.CHANGE: "a change",
    Cell.POINTS: "a chunk of points",
    Cell.CHANGES: "a chunk of changes",
    Cell.META: "the summary of a chunk",
    Cell.CHECKPOINT: "a checkpoint",
    Cell.FACT: "the horizon",
}

_time = struct.Struct(">q")
_position = struct.Struct(">qI")
_run = struct.Struct(">qIqII")


def at_time(t: int) -> bytes:
    """Return the position of a point."""
    return _time.pack(t)


def at_position(t: int, seq: int) -> bytes:
    """Return the position of a change or a checkpoint."""
    try:
        return _position.pack(t, seq)
    except struct.error as error:
        raise CorruptionError(f"{(t, seq)} is no position") from error


def at_run(first: tuple[int, int], last: tuple[int, int], n: int) -> bytes:
    """Return the position of a chunk or its meta."""
    try:
        return _run.pack(*first, *last, n)
    except struct.error as error:
        raise CorruptionError(f"{n} rows from {first} to {last} are no chunk") from error


def _prefixed(name: str) -> bytes:
    raw = name.encode()
    return len(raw).to_bytes(4, "big") + raw


class Envelope:
    """Seals and opens the bytes of one namespace, for one open handle.

    The first key seals, all open. Without a key, bytes go through as they are, and blocks get a checksum. Threads may
    share an envelope.
    """

    def __init__(
        self,
        namespace: str,
        roots: Sequence[Root] = (),
        *,
        incarnation: bytes = b"",
        keyed: bool = False,
        allow_plaintext: bool = False,
    ) -> None:
        self.keyed: Final = keyed or bool(roots)
        # Unsealed bytes stay valid in a copy, which has another incarnation.
        self._bound = len(incarnation).to_bytes(4, "big") + incarnation if self.keyed else b""
        self._place = self._bound + _prefixed(namespace)
        self._cells = {cell: self._place + bytes((cell,)) for cell in Cell}
        self._allow_plaintext = allow_plaintext
        self._roots = roots
        self._opened: dict[bytes, Cipher] = {}
        self.renew()
        _envelopes.add(self)

    def renew(self) -> None:
        """Draw another salt with the next seal."""
        # A bound for each salt, and a new salt behind it: so random nonces stay unique under one derived key.
        self._seals_left = _MAX_SEALS
        self._seal: tuple[bytes, Cipher] | None = None

    def where(self, cell: Cell, key: str) -> bytes:
        """Return the part of a place that all positions of a key share: incarnation, namespace, kind and key."""
        return self._cells[cell] + _prefixed(key)

    def admits(self, *, sealed: bool) -> bool:
        """Return whether this handle writes sealed bytes (or unsealed ones)."""
        return sealed == self.keyed

    def seal(self, body: bytes, where: bytes, position: bytes = b"") -> bytes:
        """Return `body` sealed at its place, or as it is without a key."""
        return self._seal_as(os.urandom(NONCE_BYTES), body, where + position) if self.keyed else body

    def open(self, data: bytes, where: bytes, position: bytes = b"") -> bytes:
        """Return the bytes that were sealed at this place; unencrypted bytes as they are, where they are allowed.

        Raises `KeyRequiredError` or `PlaintextError`. Raises `WrongKeyError` or `TamperedError`, also where the
        namespace has got another key or incarnation: the layer above then makes another envelope and tries again.
        """
        if data[:1] != b"\xc1":
            if self.keyed and not self._allow_plaintext:
                raise PlaintextError(
                    f"{self._describe(where)} is not encrypted, and the store was opened with a key: "
                    "it may have been replaced (allow_plaintext=True reads it all the same)"
                )
            return data
        if (size := len(data)) < HEADER_BYTES + TAG_BYTES:
            raise TamperedError(f"{self._describe(where)} was cut short") if self.keyed else self.refusal(where)
        cipher = self._opened.get(data[:PREFIX_BYTES]) or self._find_key(data, where)
        header = data[:HEADER_BYTES]
        try:
            if size > LARGE_BYTES:
                return cipher.decrypt_large(data, where + position)
            return cipher.decrypt(header[PREFIX_BYTES:], data[HEADER_BYTES:], header + where + position)
        except _invalid_tag() as error:
            raise TamperedError(f"{self._describe(where)} was altered, or moved here from another place") from error

    def fingerprints(self, key: str, told: bytes) -> list[bytes]:
        """Return 64 bytes that tell bytes of a key from others: under each encryption key, first the one that seals.

        Without any it is a plain hash.
        """
        told = self._place + _prefixed(key) + told
        return [root.fingerprint(told) for root in self._roots] or [sha512(told).digest()]

    def seal_all(self, cell: Cell, bodies: Mapping[str, bytes]) -> list[bytes]:
        """Return the bodies of many keys sealed, each at its place, in order."""
        # As `seal`, with all nonces drawn at once: each draw is a system call (benchmarks: `paths`).
        nonces, kind = os.urandom(NONCE_BYTES * len(bodies)), self._cells[cell]
        return [
            self._seal_as(nonces[at : at + NONCE_BYTES], body, kind + _prefixed(key))
            for at, (key, body) in zip(range(0, len(nonces), NONCE_BYTES), bodies.items(), strict=True)
        ]

    def _seal_as(self, nonce: bytes, body: bytes, place: bytes) -> bytes:
        if self._seals_left <= 0:
            self.renew()
        self._seals_left -= 1
        prefix, cipher = self._seal or self._new_salt()
        header = prefix + nonce
        if len(body) > LARGE_BYTES:
            return cipher.encrypt_large(header, body, place)
        return header + cipher.encrypt(nonce, body, header + place)

    def opener(self, cell: Cell) -> Callable[[str, bytes], bytes]:
        """Return a function that opens the bytes of one key after another, without the checks of `open`.

        It raises any error for bytes that are not sealed under a key known by now: `open` then says why.
        """
        opened, kind = self._opened, self._cells[cell]

        def open_one(key: str, data: bytes) -> bytes:
            header = data[:HEADER_BYTES]
            place = header + kind + _prefixed(key)
            return opened[data[:PREFIX_BYTES]].decrypt(header[PREFIX_BYTES:], data[HEADER_BYTES:], place)

        return open_one

    def seal_block(self, body: bytes, where: bytes, position: bytes = b"") -> bytes:
        """Return `body` sealed, or with a checksum without a key.

        Most flipped bits of a compressed column would otherwise decode to wrong numbers in silence.
        """
        if self.keyed:
            return self.seal(body, where, position)
        return body + zlib.crc32(body, zlib.crc32(where + position)).to_bytes(_CRC_BYTES, "big")

    def open_block(self, data: bytes, where: bytes, position: bytes = b"") -> bytes:
        """Return the body of a block; raises `CorruptionError` if its checksum differs."""
        opened = self.open(data, where, position)
        if opened is not data:
            return opened
        body, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        place = where[len(self._bound) :] + position
        if crc != zlib.crc32(body, zlib.crc32(place)).to_bytes(_CRC_BYTES, "big"):
            raise CorruptionError(f"{self._describe(where)} is damaged: its checksum differs")
        return body

    def _new_salt(self) -> tuple[bytes, Cipher]:
        salt = os.urandom(_SALT_BYTES)
        cipher, commitment = self._roots[0].derive(salt)
        prefix = _MARK + salt + commitment
        self._opened[prefix] = cipher
        self._seal = prefix, cipher
        return self._seal

    def holds(self, head: bytes) -> bool:
        """Return whether bytes with this beginning are unsealed, or sealed under a key of this envelope."""
        return head[:1] != b"\xc1" or head[:PREFIX_BYTES] in self._opened or self._look_for_key(head) is not None

    def emptied(self, where: bytes) -> EncryptionError:
        """Return the error for sealed bytes that are missing."""
        return TamperedError(f"{self._describe(where)} was removed") if self.keyed else self.refusal(where)

    def refusal(self, where: bytes) -> EncryptionError:
        """Return the error for bytes sealed under a key that this envelope lacks."""
        if not self.keyed:
            return KeyRequiredError(f"{self._describe(where)} is encrypted: open the store with key=…")
        return WrongKeyError(f"{self._describe(where)} is encrypted under a key that this store was not given")

    def _describe(self, where: bytes) -> str:
        where = where[len(self._bound) :]
        size = int.from_bytes(where[:4], "big")
        namespace, cell, key = where[4 : 4 + size], where[4 + size], where[9 + size :]
        return f"{_PHRASES[Cell(cell)]} of {key.decode()!r} in namespace {namespace.decode()!r}"

    def _find_key(self, data: bytes, where: bytes) -> Cipher:
        if self.keyed and data[1] != SUITE:
            raise EncryptionError(
                f"{self._describe(where)} is sealed with suite 0x{data[1]:02X}, which is unknown here"
            )
        if (cipher := self._look_for_key(data)) is not None:
            return cipher
        raise self.refusal(where)

    def _look_for_key(self, data: bytes) -> Cipher | None:
        for root in self._roots:
            cipher, commitment = root.derive(data[2 : 2 + _SALT_BYTES])
            if compare_digest(commitment, data[2 + _SALT_BYTES : PREFIX_BYTES]):
                if len(self._opened) >= _MAX_CACHED_SALTS:
                    self._opened.clear()
                self._opened[data[:PREFIX_BYTES]] = cipher
                return cipher
        return None


def _invalid_tag() -> type[Exception]:
    from cryptography.exceptions import InvalidTag

    return InvalidTag


# A child must not go on with its parent's salt: with a shared count of seals, nonces could repeat.
_envelopes = renewed_in_child(Envelope.renew)
