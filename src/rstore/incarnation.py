"""The namespace of an open store, from one discarding to the next: what goes with a write, and what seals it.

Nouns: a *generation* (a namespace between its creation and its discarding, with the facts that it has).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

from rstore.backends.contract import Backend, WriteTransaction
from rstore.backends.types import NamespaceGone, identity_of
from rstore.codec.envelope import Envelope
from rstore.codec.keys import CheckedKey, Keyring, Passphrase, find_keyring, new_key_fact
from rstore.errors import StoreBusyError, UnencryptedWarning, WrongKeyError
from rstore.guard import GuardedTransaction

_TRIES: Final = 100
_KEY_FACT: Final = "key "
"""The beginning of the name of a key fact; a number follows."""
ORIGIN_FACT: Final = "origin"
"""The name of the fact that says, of a copy, which incarnation its values are sealed for: that of the namespace copied."""


class Incarnation(NamedTuple):
    """A namespace between its creation and its discarding: its incarnation, and the envelope that seals for it.

    Whoever writes takes the incarnation first and seals then: if the namespace is replaced meanwhile, or gets another key,
    the incarnation that goes with the write is no longer the one in the store, and the write is refused instead of sealed
    under a dead key, or put over what this store cannot open.
    """

    incarnation: bytes
    envelope: Envelope


def sealed_for(incarnation: bytes | None, facts: dict[str, bytes]) -> bytes:
    """Return the identity that the keys of a namespace are bound to."""
    return facts.get(ORIGIN_FACT, b"" if incarnation is None else identity_of(incarnation))


class Incarnations:
    """The incarnations of one namespace, of which the last one is `now`. Threads share it.

    `backend` is what writes go through: one that guards what the keys at hand do not open, where there is any.
    """

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        keys: Sequence[CheckedKey],
        *,
        frozen: bool,
        allow_plaintext: bool,
    ) -> None:
        self.namespace = namespace
        self.opens_plaintext = not keys or allow_plaintext
        self.backend: WriteTransaction = backend
        self.adopt: Callable[[WriteTransaction], None] = _nothing
        """Takes the backend of another generation, before anything can be written to that."""
        self.bare = backend
        self._keys = keys
        self._frozen = frozen
        self._warns = not (frozen or keys or allow_plaintext)
        self._found: tuple[bytes | None, dict[str, bytes]] = (None, {})
        self._begin(backend)

    def revive(self, through: WriteTransaction) -> None:
        """Look again at a namespace that was discarded, which creates it, or that got another key."""
        self._begin(through)

    def _begin(self, through: WriteTransaction) -> None:
        for _ in range(_TRIES):
            if not self._frozen:
                through.create()
            incarnation, facts = self._found = through.facts()
            if incarnation is None and not self._frozen:
                continue  # discarded in between
            keyring = self._find_keyring(incarnation, facts)
            if self._frozen or not self._keys or keyring.known:
                break
            self._register(through, incarnation, facts)
        else:
            raise StoreBusyError(f"the namespace {self.namespace!r} is changed again and again; nothing was applied")
        envelope = Envelope(
            self.namespace,
            keyring.roots,
            incarnation=sealed_for(incarnation, facts),
            keyed=bool(self._keys),
            allow_plaintext=self.opens_plaintext,
        )
        # In this order: whoever takes the new incarnation writes through what goes with it.
        self.backend = GuardedTransaction(self.bare, envelope) if keyring.lacking else self.bare
        self.adopt(self.backend)
        self.now = Incarnation(incarnation or b"", envelope)
        if keyring.lacking and self._warns:
            self._warns = False
            warnings.warn(
                f"the namespace {self.namespace!r} holds encrypted values, and this store, opened for writing without "
                "a key, stores what it is given unencrypted: pass key=…, or allow_plaintext=True if that is meant",
                UnencryptedWarning,
                stacklevel=7,
            )

    def _find_keyring(self, incarnation: bytes | None, facts: dict[str, bytes]) -> Keyring:
        keyring = find_keyring(self._keys, _key_facts(facts), sealed_for(incarnation, facts))
        if keyring is None:
            one = any(isinstance(key, Passphrase) for key in self._keys)
            raise WrongKeyError(
                f"the namespace {self.namespace!r} is encrypted under another key"
                + (" or passphrase, or the salt of its passphrase was altered" if one else "")
                + "; a new key goes in front of an old one: key=[new, old]"
            )
        return keyring

    def _register(self, through: WriteTransaction, incarnation: bytes | None, facts: dict[str, bytes]) -> None:
        """Let the namespace know the key that seals from now on, unless others were faster: then look again."""
        fact = new_key_fact(self._keys[0], _key_facts(facts), sealed_for(incarnation, facts))
        # Under the first number that is free: of several keys that come at once to a new namespace, one is the first.
        names = (f"{_KEY_FACT}{n}" for n in count())
        with suppress(NamespaceGone):
            through.add_fact(next(name for name in names if name not in facts), fact)

    def refreshed(self, envelope: Envelope) -> Envelope | None:
        """Return another envelope if the namespace was discarded meanwhile, or has other keys.

        For callers that an envelope has refused by `WrongKeyError` or `TamperedError`: with the other one they open
        once more, at the place (`where`) that this one gives.
        """
        if not self._keys:
            return None
        if self.now.envelope is not envelope:
            return self.now.envelope  # another thread was faster
        if self.bare.facts() == self._found:
            return None
        self._begin(self.bare)
        return self.now.envelope


def _key_facts(facts: dict[str, bytes]) -> list[bytes]:
    """Return the key facts, the oldest first."""
    names = (name for name in facts if name.startswith(_KEY_FACT))
    return [facts[name] for name in sorted(names, key=lambda name: (len(name), name))]


def _nothing(_: WriteTransaction) -> None:
    pass
