"""AES-256-GCM under one derived key: in one call, or piece by piece where a copy of the bytes would count."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from rstore.backends.common.interpreter import check_running
from rstore.codec.secrets import Secret

PREFIX_BYTES: Final = 50
NONCE_BYTES: Final = 12
HEADER_BYTES: Final = PREFIX_BYTES + NONCE_BYTES
TAG_BYTES: Final = 16
_PIECE_BYTES: Final = 1024 * 1024


class Cipher:
    """Encrypts and decrypts under one key."""

    __slots__ = ("_key", "decrypt", "encrypt")

    def __init__(self, key: Secret) -> None:
        check_running("nothing can be sealed or opened under a new key")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # loads OpenSSL: only where it is needed

        self._key = key
        aead = AESGCM(key.reveal())
        self.encrypt = aead.encrypt
        self.decrypt = aead.decrypt

    def _pieces(self, header: bytes) -> Any:
        check_running("nothing large can be sealed or opened")
        from cryptography.hazmat.primitives.ciphers import Cipher as Pieces
        from cryptography.hazmat.primitives.ciphers import algorithms, modes

        return Pieces(algorithms.AES(self._key.reveal()), modes.GCM(header[PREFIX_BYTES:]))

    def encrypt_large(self, header: bytes, body: bytes, place: bytes) -> bytes:
        """Return header, ciphertext and tag: the bytes that `encrypt` makes, with one copy less."""
        sealing = self._pieces(header).encryptor()
        sealing.authenticate_additional_data(header + place)
        # `getvalue` returns the buffer itself.
        sealed, whole = BytesIO(), memoryview(body)
        sealed.write(header)
        for begin in range(0, len(body), _PIECE_BYTES):
            sealed.write(sealing.update(whole[begin : begin + _PIECE_BYTES]))
        sealing.finalize()
        sealed.write(sealing.tag)
        return sealed.getvalue()

    def decrypt_large(self, sealed: bytes, place: bytes) -> bytes:
        """Return the body from header, ciphertext and tag.

        Raises `InvalidTag`.
        """
        header, end = sealed[:HEADER_BYTES], len(sealed) - TAG_BYTES
        opening = self._pieces(header).decryptor()
        opening.authenticate_additional_data(header + place)
        body, whole = BytesIO(), memoryview(sealed)
        for begin in range(HEADER_BYTES, end, _PIECE_BYTES):
            body.write(opening.update(whole[begin : min(begin + _PIECE_BYTES, end)]))
        opening.finalize_with_tag(sealed[end:])  # no byte leaves before this check
        return body.getvalue()
