"""What the verbs of an open store work with.

Nouns: a *session* (backend, codec, envelope and the two kinds of logs) and *verbs* (the base of the three models).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

from rstore.backends.base import Backend, Model
from rstore.codec.envelope import MAGIC, Cell, Envelope
from rstore.codec.keys import Passphrase, new_passphrase_fact, resolve_keys
from rstore.codec.serializers import Codec
from rstore.errors import FrozenStoreError, StoreClosedError
from rstore.log import Logs

_PASSPHRASE_FACT: Final = "passphrase"  # noqa: S105 - the name of a fact, no secret
_STAMP_BYTES: Final = 8
_BODY_AT: Final = 1 + _STAMP_BYTES


class Session:
    """Everything that an open store holds. Threads share it."""

    def __init__(
        self,
        backend: Backend,
        codec: Codec,
        namespace: str,
        keys: Sequence[bytes | Passphrase],
        *,
        frozen: bool,
        allow_plaintext: bool,
    ) -> None:
        self.backend = backend
        self.codec = codec
        self._keys = keys
        self._frozen = frozen
        self._load = codec.load
        self._reads_plaintext = allow_plaintext or not keys
        self._passphrase_fact: bytes | None = None
        remembered = any(isinstance(key, Passphrase) for key in keys)
        material = resolve_keys(keys, self._fetch_passphrase_fact)
        self.envelope = Envelope(
            namespace, material, allow_plaintext=allow_plaintext, refresh=self._refresh_keys if remembered else None
        )
        self.series = Logs(backend, self.envelope, Model.SERIES, self.revive)
        self.events = Logs(backend, self.envelope, Model.EVENTS, self.revive)

    def revive(self) -> None:
        """Create the namespace again after somebody discarded it."""
        self.backend.create()
        self._refresh_keys()

    def _fetch_passphrase_fact(self) -> bytes | None:
        self._passphrase_fact = self.backend.fact(_PASSPHRASE_FACT)
        if self._passphrase_fact is None and not self._frozen:
            self._passphrase_fact = self.backend.add_fact(_PASSPHRASE_FACT, new_passphrase_fact())
        return self._passphrase_fact

    def _refresh_keys(self) -> bool:
        """Derive the keys from passphrases again if somebody discarded the namespace, and its salt with it."""
        known = self._passphrase_fact
        if known is None or self._fetch_passphrase_fact() == known:
            return False
        self.envelope.use(resolve_keys(self._keys, lambda: self._passphrase_fact))
        return True

    # -- key/value records --------------------------------------------------------------------------------------------

    def seal_value(self, key: str, encoded: bytes) -> bytes:
        """Return the record of an encoded value: sealed, or with a random stamp behind its codec byte.

        The nonce or the stamp is the entry's version: it costs no read before a write and never repeats.
        """
        if self.envelope.keyed:
            return self.envelope.seal(encoded, self.envelope.where(Cell.VALUE, key))
        return encoded[:1] + os.urandom(_STAMP_BYTES) + encoded[1:]

    def open_value(self, key: str, record: bytes) -> Any:
        """Return the value of a record."""
        codec = record[0]
        if codec != MAGIC and self._reads_plaintext:
            return self._load(codec, record[_BODY_AT:])
        return self.codec.decode(self.envelope.open(record, self.envelope.where(Cell.VALUE, key)))


def _refuse_dunder(name: str) -> None:
    if name.startswith("__"):  # what inspecting tools ask of any object
        raise AttributeError(name)


class _Closed:
    """Stands where the session of a closed store would be, so that no verb has to ask whether it is open."""

    def __getattr__(self, name: str) -> NoReturn:
        _refuse_dunder(name)
        raise StoreClosedError("the store is not open: use it inside `with store:`, or call open() first")


class _Frozen:
    """Stands where the session of a frozen store would be for the verbs that write."""

    def __getattr__(self, name: str) -> NoReturn:
        _refuse_dunder(name)
        raise FrozenStoreError("the store is read-only: open it with frozen=False to write")


CLOSED: Final = cast("Session", _Closed())
FROZEN: Final = cast("Session", _Frozen())


class Verbs:
    """The base of the three models: every verb begins with one of these two."""

    _reader: Session = CLOSED
    _writer: Session = CLOSED
