"""Key material: the `key` that users pass, and the secret bytes that envelopes derive from it.

Nouns: a *root* (the secret of one key), a *key fact* (the namespace's record of one key that seals in it) and a
*keyring* (the keys of a store that are valid in one namespace).
"""

from __future__ import annotations

import binascii
import os
import struct
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any, Final, NamedTuple, TypeAlias

from rstore.codec.ciphers import Cipher
from rstore.codec.secrets import Secret
from rstore.errors import CorruptionError, InvalidTypeError, InvalidValueError, NotSupportedError

KEY_BYTES: Final = 32

# RFC 9106, section 4, the second recommended option: 64 MiB, 3 passes, 4 lanes.
_DEFAULT_COST: Final = (3, 64 * 1024, 4)
# A writer of the database can write the cost, too: below these bounds guessing gets cheap, above them opening slow.
_LOWEST_COST: Final = (2, 19 * 1024, 1)
_HIGHEST_COST: Final = (4, 256 * 1024, 8)
_SALT_BYTES: Final = 16
_COMMITMENT_BYTES: Final = 32
_salted = struct.Struct(">BIIB16s")
_RAW: Final = b"\x01"
_PASSPHRASE: Final = b"\x02"
_MAX_PASSPHRASES: Final = 16
"""The most that one namespace knows: finding out which of them is given takes one run of Argon2id each."""
_MAX_WORK: Final = _MAX_PASSPHRASES * _DEFAULT_COST[0] * _DEFAULT_COST[1]
"""The most work to find one, in passes over a KiB: that of so many runs at today's cost."""


class Root:
    """The secret from which all derived keys of one key come, and its commitment to one incarnation."""

    __slots__ = ("_incarnation", "_secret")

    def __init__(self, key: Secret, incarnation: bytes) -> None:
        self._secret = key.digest(b"rstore/1/root")
        self._incarnation = incarnation

    def derive(self, salt: bytes) -> tuple[Cipher, bytes]:
        """Return the key that seals under a salt, and the commitment to it."""
        derived = self._secret.digest(b"rstore/1/seal" + salt)
        return Cipher(Secret(derived.reveal()[:KEY_BYTES])), derived.reveal()[KEY_BYTES:]

    def fingerprint(self, told: bytes) -> bytes:
        """Return 64 bytes that tell nothing of what they are made of without the key."""
        return self._secret.digest(b"rstore/1/id" + told).reveal()

    def commit(self, told: bytes) -> bytes:
        """Return the key fact of this key: a description of it, and the proof that a holder of the key wrote it."""
        return told + self._secret.digest(b"rstore/1/key" + self._incarnation + told).reveal()[:_COMMITMENT_BYTES]

    def made(self, fact: bytes) -> bool:
        """Return whether a holder of this key wrote every byte of a key fact."""
        return compare_digest(self.commit(fact[:-_COMMITMENT_BYTES]), fact)


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
            raise InvalidValueError("a passphrase is not empty: is the variable set that it comes from?")
        self._secret = passphrase.encode("utf-8", "surrogatepass")

    def __repr__(self) -> str:
        return "Passphrase(…)"

    def derive(self, salted: bytes) -> Secret:
        """Return the key for a salt and a cost that a namespace keeps.

        Raises `CorruptionError` if the cost is out of bounds: it was altered.
        """
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id  # loads OpenSSL: only where it is needed

        (passes, memory, lanes), salt = _unpack(salted)
        kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=passes, lanes=lanes, memory_cost=memory)
        return Secret(kdf.derive(self._secret))


def _unpack(salted: bytes) -> tuple[tuple[int, int, int], bytes]:
    """Return cost and salt."""
    if len(salted) != _salted.size or salted[:1] != _PASSPHRASE:
        raise CorruptionError("the salt and cost of the passphrase are damaged, or written by a newer version")
    _, passes, memory, lanes, salt = _salted.unpack(salted)
    cost = passes, memory, lanes
    if not all(low <= one <= high for low, one, high in zip(_LOWEST_COST, cost, _HIGHEST_COST, strict=True)):
        raise CorruptionError("the cost of the passphrase was altered: it is out of bounds")
    return cost, salt


Key: TypeAlias = str | bytes | Passphrase
"""A Fernet-style key (44 characters of URL-safe base64), 32 raw bytes, or a `Passphrase`."""
CheckedKey: TypeAlias = Secret | Passphrase


def check_keys(key: Key | Sequence[Key] | None) -> list[CheckedKey]:
    """Return the list of keys that `key` stands for, base64 decoded."""
    if key is None:
        return []
    several: Sequence[Any] = key if isinstance(key, list | tuple) else [key]
    if not several:
        raise InvalidValueError("a list of keys is not empty; key=None stores values unencrypted")
    return [_check_key(one) for one in several]


def _check_key(key: Any) -> CheckedKey:
    if isinstance(key, Passphrase):
        return key
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return Secret(key)
    if not isinstance(key, str | bytes):
        raise InvalidTypeError(_describe_other(key))
    try:
        # The content of a file or an environment variable may end with a newline.
        raw = b64decode(key.strip(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise InvalidValueError(
            ("the key is empty: is the variable set that it comes from? " if not key.strip() else "")
            + "a key is 32 bytes, raw or as 44 characters of URL-safe base64: rstore.generate_key() makes one, "
            "and rstore.Passphrase('…') takes words instead; of a file, pass what is in it and not its path"
        )
    return Secret(raw)


def _describe_other(key: Any) -> str:
    if key is None:
        return "None in a list of keys: is the variable set that it comes from?"
    if isinstance(key, os.PathLike):
        return "a key is a str, bytes or Passphrase, not a path: pass what is in the file, Path(…).read_text()"
    return f"a key is a str, bytes or Passphrase, not {type(key).__name__}"


class Keyring(NamedTuple):
    """The keys of a store in one namespace."""

    roots: Sequence[Root]
    """All of them open, the first one seals; a frozen store may have none."""
    known: bool
    """Whether the namespace knows the key that seals."""
    lacking: bool
    """Whether the namespace has keys that are not among them."""


def find_keyring(keys: Sequence[CheckedKey], facts: Sequence[bytes], incarnation: bytes) -> Keyring | None:
    """Return the keyring of keys in a namespace with these key facts, the oldest first; None if all facts are others'.

    Raises `CorruptionError` if the salt or the cost of a passphrase was altered.
    """
    roots: list[Root | None] = [Root(key, incarnation) if isinstance(key, Secret) else None for key in keys]
    found = {i for i, root in enumerate(roots) if root is not None and any(map(root.made, facts))}
    opened = sum(any(root is not None and root.made(fact) for root in roots) for fact in facts)
    # The newest first: mostly the first one is it, and the others need not be derived.
    left = _MAX_WORK * sum(isinstance(key, Passphrase) for key in keys)
    for fact in [fact for fact in facts[::-1] if fact[:1] == _PASSPHRASE]:
        for i, key in enumerate(keys):
            if isinstance(key, Passphrase) and roots[i] is None and left > 0:
                salted = fact[:-_COMMITMENT_BYTES]
                (passes, memory, _), _ = _unpack(salted)
                left -= passes * memory
                root = Root(key.derive(salted), incarnation)
                if root.made(fact):
                    roots[i], opened = root, opened + 1
                    found.add(i)
                    break
    if facts and keys and not found:
        return None
    return Keyring([root for root in roots if root is not None], known=0 in found, lacking=opened < len(facts))


def new_key_fact(key: CheckedKey, facts: Sequence[bytes], incarnation: bytes) -> bytes:
    """Return the fact by which a namespace knows a key from now on; of a passphrase with a fresh salt and the cost."""
    if isinstance(key, Secret):
        return Root(key, incarnation).commit(_RAW)
    if sum(fact[:1] == _PASSPHRASE for fact in facts) >= _MAX_PASSPHRASES:
        raise NotSupportedError(
            f"a namespace knows {_MAX_PASSPHRASES} passphrases at most: move what is in it to another namespace"
        )
    salted = _salted.pack(_PASSPHRASE[0], *_DEFAULT_COST, os.urandom(_SALT_BYTES))
    return Root(key.derive(salted), incarnation).commit(salted)
