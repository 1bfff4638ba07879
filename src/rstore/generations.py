"""The namespace of an open store, from one discarding to the next: what goes with a write, and what seals it.

Nouns: a *generation* (a namespace between its creation and its discarding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rstore.backends.base import Backend
from rstore.backends.nouns import NamespaceGone
from rstore.codec.envelope import Envelope
from rstore.codec.keys import Passphrase, new_passphrase_fact, resolve_keys

_PASSPHRASE_FACT: Final = "passphrase"  # noqa: S105 - the name of a fact, no secret
FACTS: Final = (_PASSPHRASE_FACT,)
"""All facts that there are about a namespace."""


class Generation(NamedTuple):
    """A namespace between its creation and its discarding: its birth, and the envelope that seals for it.

    Whoever writes takes the birth first and seals then: if the namespace is replaced meanwhile, the birth that goes
    with the write is no longer the one in the store, and the write is refused instead of sealed under a dead key.
    """

    birth: bytes
    envelope: Envelope


class Generations:
    """The generations of one namespace, of which the last one is `now`. Threads share it."""

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        keys: Sequence[bytes | Passphrase],
        *,
        frozen: bool,
        allow_plaintext: bool,
    ) -> None:
        self.namespace = namespace
        self.opens_plaintext = not keys or allow_plaintext
        self._backend = backend
        self._keys = keys
        self._frozen = frozen
        self._passphrase_fact: bytes | None = None
        self.now = self._begin()

    def revive(self) -> None:
        """Create the namespace again after somebody discarded it."""
        self.now = self._begin()

    def _begin(self) -> Generation:
        birth = b"" if self._frozen else self._backend.create()
        envelope = Envelope(
            self.namespace,
            resolve_keys(self._keys, self._fetch_passphrase_fact),
            allow_plaintext=self.opens_plaintext,
            refresh=self._refresh if any(isinstance(key, Passphrase) for key in self._keys) else None,
        )
        return Generation(birth, envelope)

    def _refresh(self, envelope: Envelope) -> Envelope | None:
        """Return another envelope if the salt of the passphrase is another: somebody discarded the namespace."""
        if self.now.envelope is not envelope:
            return self.now.envelope  # another thread was faster
        if self._backend.fact(_PASSPHRASE_FACT) == self._passphrase_fact:
            return None
        self.now = self._begin()
        return self.now.envelope

    def _fetch_passphrase_fact(self) -> bytes | None:
        fact = self._backend.fact(_PASSPHRASE_FACT)
        while fact is None and not self._frozen:
            try:
                fact = self._backend.add_fact(_PASSPHRASE_FACT, new_passphrase_fact())
            except NamespaceGone:
                self._backend.create()
        self._passphrase_fact = fact
        return fact
