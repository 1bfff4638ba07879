"""The incarnation of a namespace, which goes with every write, and the envelope that seals for it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

from rstore.backends.contract import ReadTransaction, WriteTransaction
from rstore.backends.types import NamespaceGone, identity_of
from rstore.codec.envelope import Envelope
from rstore.codec.keys import CheckedKey, Keyring, Passphrase, find_keyring, new_key_fact
from rstore.errors import StoreBusyError, UnencryptedWarning, WrongKeyError

_TRIES: Final = 100
_KEY_FACT: Final = "key "
"""The beginning of the name of a key fact; a number follows."""
ORIGIN_FACT: Final = "origin"
"""The name of a fact of copies: the incarnation of the original, which their values are sealed for."""


class Incarnation(NamedTuple):
    """A namespace between its creation and its discarding: its incarnation, and the envelope that seals for it.

    A writer takes the incarnation first and seals then. If the namespace is replaced meanwhile, or gets another key,
    the write carries an incarnation that is no longer the one in the store: it is refused, instead of being sealed
    under a dead key or put over what this store cannot open.
    """

    incarnation: bytes
    envelope: Envelope
    is_guarded: bool
    """Whether the namespace holds values that the keys at hand do not open."""
    facts: tuple[bytes | None, dict[str, bytes]]
    """The incarnation and the facts, as the backend returned them."""


def sealed_for(incarnation: bytes | None, facts: dict[str, bytes]) -> bytes:
    """Return the identity that the keys of a namespace are bound to."""
    return facts.get(ORIGIN_FACT, b"" if incarnation is None else identity_of(incarnation))


class Incarnations:
    """Finds the incarnation of one namespace, under the keys of one store. Threads share it."""

    def __init__(self, name: str, keys: Sequence[CheckedKey], *, frozen: bool, allow_plaintext: bool) -> None:
        self.name = name
        self.opens_plaintext = not keys or allow_plaintext
        self._keys = keys
        self._frozen = frozen
        self._warns = not (frozen or keys or allow_plaintext)

    def elsewhere(self) -> Incarnations:
        """Return the same for a namespace of this name in another store, to be written under the same keys."""
        return Incarnations(self.name, self._keys, frozen=False, allow_plaintext=self.opens_plaintext)

    def find(self, backend: WriteTransaction) -> Incarnation:
        """Return the incarnation of now; in a store that is not frozen create the namespace, and register the key."""
        for _ in range(_TRIES):
            if not self._frozen:
                backend.create()
            incarnation, facts = found = backend.facts()
            if incarnation is None and not self._frozen:
                continue  # discarded in between
            keyring = self._find_keyring(incarnation, facts)
            if not (incarnation is None or self._frozen or not self._keys or keyring.known):
                self._register(backend, incarnation, facts)
                continue
            if keyring.lacking and self._warns:
                self._warns = False
                warnings.warn(
                    f"the namespace {self.name!r} holds encrypted values, and this store, opened for writing without "
                    "a key, stores what it is given unencrypted: pass key=…, or allow_plaintext=True if that is meant",
                    UnencryptedWarning,
                    stacklevel=7,
                )
            return self._incarnation(found, keyring)
        raise StoreBusyError(f"the namespace {self.name!r} keeps being changed concurrently; nothing was applied")

    def look(self, snapshot: ReadTransaction) -> Incarnation:
        """Return the incarnation in a snapshot."""
        incarnation, facts = found = snapshot.facts()
        return self._incarnation(found, self._find_keyring(incarnation, facts))

    def differs(self, backend: ReadTransaction, known: Incarnation) -> bool:
        """Return whether the namespace was discarded or got other keys since `known` was found."""
        return bool(self._keys) and backend.facts() != known.facts

    def _incarnation(self, found: tuple[bytes | None, dict[str, bytes]], keyring: Keyring) -> Incarnation:
        envelope = Envelope(
            self.name,
            keyring.roots,
            incarnation=sealed_for(*found),
            keyed=bool(self._keys),
            allow_plaintext=self.opens_plaintext,
        )
        return Incarnation(found[0] or b"", envelope, bool(keyring.lacking), found)

    def _find_keyring(self, incarnation: bytes | None, facts: dict[str, bytes]) -> Keyring:
        keyring = find_keyring(self._keys, _key_facts(facts), sealed_for(incarnation, facts))
        if keyring is None:
            one = any(isinstance(key, Passphrase) for key in self._keys)
            raise WrongKeyError(
                f"the namespace {self.name!r} is encrypted under another key"
                + (" or passphrase, or the salt of its passphrase was altered" if one else "")
                + "; a new key goes in front of an old one: key=[new, old]"
            )
        return keyring

    def _register(self, backend: WriteTransaction, incarnation: bytes, facts: dict[str, bytes]) -> None:
        """Register the key that seals from now on; the caller looks again, since another store may have been faster."""
        # Bound to the incarnation: in another one no key at hand would open it, and all stores would be shut out.
        fact = new_key_fact(self._keys[0], _key_facts(facts), sealed_for(incarnation, facts))
        # Under the first free number: of several keys registered at once in a new namespace, one becomes the first.
        names = (f"{_KEY_FACT}{n}" for n in count())
        with suppress(NamespaceGone):
            backend.add_fact(next(name for name in names if name not in facts), fact, incarnation)


def _key_facts(facts: dict[str, bytes]) -> list[bytes]:
    """Return the key facts, the oldest first."""
    names = (name for name in facts if name.startswith(_KEY_FACT))
    return [facts[name] for name in sorted(names, key=lambda name: (len(name), name))]
