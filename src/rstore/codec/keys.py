"""Key material: what users pass as `key`, and how it becomes the 32 or more secret bytes that envelopes derive from."""

from __future__ import annotations

import binascii
import os
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from rstore.errors import CorruptionError, InvalidTypeError, InvalidValueError

KEY_BYTES: Final = 32

# RFC 9106, section 4, the second recommended option: 64 MiB, 3 passes, 4 lanes.
_DEFAULT_COST: Final = (3, 64 * 1024, 4)
# Whoever can write the store can write the cost too: not so low that guessing gets cheap, not so high that opening
# takes minutes or all memory.
_LOWEST_COST: Final = (2, 19 * 1024, 1)
_HIGHEST_COST: Final = (10, 1024 * 1024, 8)
_SALT_BYTES: Final = 16
_fact = struct.Struct(">BIIB16s")
_FACT_VERSION: Final = 1


def generate_key() -> str:
    """Return a new random key, URL-safe base64 as Fernet writes it.

    >>> len(generate_key())
    44
    """
    return urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


class Passphrase:
    """A key that people can remember; Argon2id turns it into key material.

    Its salt and cost are kept in the namespace, so that the same passphrase gives other keys in other namespaces.
    Opening a store with one takes about a tenth of a second and 64 MiB, on purpose.

    >>> Passphrase('correct horse battery staple')
    Passphrase(…)
    """

    __slots__ = ("_secret",)

    def __init__(self, passphrase: str) -> None:
        if not isinstance(passphrase, str):
            raise InvalidTypeError(f"a passphrase is a str, not {type(passphrase).__name__}")
        if not passphrase:
            raise InvalidValueError("a passphrase is not empty")
        self._secret = passphrase.encode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return "Passphrase(…)"

    def derive(self, fact: bytes) -> bytes:
        """Return the key material for the salt and the cost that a namespace keeps."""
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id  # loads OpenSSL: only who needs it

        if len(fact) != _fact.size or fact[0] != _FACT_VERSION:
            raise CorruptionError("the salt and cost of the passphrase are damaged, or written by a newer version")
        _, passes, memory, lanes, salt = _fact.unpack(fact)
        passes, memory, lanes = (
            min(max(cost, lowest), highest)
            for cost, lowest, highest in zip((passes, memory, lanes), _LOWEST_COST, _HIGHEST_COST, strict=True)
        )
        kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory)
        return kdf.derive(self._secret)


def new_passphrase_fact() -> bytes:
    """Return a fresh salt with the cost of today, for a namespace to keep."""
    return _fact.pack(_FACT_VERSION, *_DEFAULT_COST, os.urandom(_SALT_BYTES))


Key: TypeAlias = str | bytes | Passphrase
"""A Fernet-style key (44 characters of URL-safe base64), 32 raw bytes, or a `Passphrase`."""


def check_keys(key: Key | Sequence[Key] | None) -> list[bytes | Passphrase]:
    """Return the list of keys that `key` stands for, base64 decoded."""
    if key is None:
        return []
    keys: Sequence[Any] = key if isinstance(key, list | tuple) else [key]
    if not keys:
        raise InvalidValueError("a list of keys is not empty; key=None stores values unencrypted")
    return [_check_key(one) for one in keys]


def _check_key(key: Any) -> bytes | Passphrase:
    if isinstance(key, Passphrase):
        return key
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return key
    if not isinstance(key, str | bytes):
        raise InvalidTypeError(f"a key is a str, bytes or Passphrase, not {type(key).__name__}")
    try:
        raw = b64decode(key, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise InvalidValueError(
            "a key is 32 bytes, raw or as 44 characters of URL-safe base64: rstore.generate_key() makes one, "
            "and rstore.Passphrase('…') takes words instead"
        )
    return raw


def resolve_keys(keys: Sequence[bytes | Passphrase], fact: Callable[[], bytes | None]) -> list[bytes]:
    """Return the key material of all keys; `fact` returns the salt and cost that the namespace keeps."""
    material: list[bytes] = []
    for key in keys:
        if isinstance(key, bytes):
            material.append(key)
        elif (kept := fact()) is not None:
            material.append(key.derive(kept))
        else:
            # A frozen store in whose namespace no passphrase ever sealed anything: a key that opens nothing.
            material.append(os.urandom(KEY_BYTES))
    return material
