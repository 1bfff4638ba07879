"""The envelope, against vectors that a few lines of its own compute: so that another program could read a store."""

import hashlib
import hmac
import json
import random
from base64 import urlsafe_b64decode
from collections import Counter
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rstore import EncryptionError, Store, TamperedError, generate_key
from rstore.codec import envelope as module
from rstore.codec.envelope import Cell, Envelope
from rstore.codec.keys import Root
from rstore.codec.secrets import Secret

PATH = Path(__file__).parents[1] / "vectors" / "envelope.json"
VECTORS = cast("list[dict[str, Any]]", json.loads(PATH.read_text())["vectors"])
IDS = [vector["name"] for vector in VECTORS]


def lp(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "big") + text.encode()


def seal(vector: dict[str, Any]) -> bytes:
    """The envelope as docs/format.md draws it, written down once more."""
    key, salt, nonce = urlsafe_b64decode(vector["key"]), bytes.fromhex(vector["salt"]), bytes.fromhex(vector["nonce"])
    root = hmac.new(key, b"rstore/1/root", hashlib.sha512).digest()
    derived = hmac.new(root, b"rstore/1/seal" + salt, hashlib.sha512).digest()
    header = b"\xc1\x01" + salt + derived[32:] + nonce
    incarnation = bytes.fromhex(vector["incarnation"])
    place = (
        len(incarnation).to_bytes(4, "big")
        + incarnation
        + lp(vector["namespace"])
        + bytes([vector["cell"]])
        + lp(vector["cell_key"])
        + bytes.fromhex(vector["position"])
    )
    return header + AESGCM(derived[:32]).encrypt(nonce, bytes.fromhex(vector["plaintext"]), header + place)


def envelope_of(vector: dict[str, Any]) -> Envelope:
    incarnation = bytes.fromhex(vector["incarnation"])
    return Envelope(
        vector["namespace"], [Root(Secret(urlsafe_b64decode(vector["key"])), incarnation)], incarnation=incarnation
    )


def open_with_library(vector: dict[str, Any], sealed: bytes) -> bytes:
    envelope = envelope_of(vector)
    where = envelope.where(Cell(vector["cell"]), vector["cell_key"])
    return envelope.open(sealed, where, bytes.fromhex(vector["position"]))


@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_the_published_bytes_are_what_the_layout_says(vector: dict[str, Any]) -> None:
    assert seal(vector).hex() == vector["sealed"]


@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_the_library_opens_the_published_bytes(vector: dict[str, Any]) -> None:
    assert open_with_library(vector, bytes.fromhex(vector["sealed"])).hex() == vector["plaintext"]


@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_the_layout_opens_what_the_library_seals(vector: dict[str, Any]) -> None:
    envelope = envelope_of(vector)
    where = envelope.where(Cell(vector["cell"]), vector["cell_key"])
    sealed = envelope.seal(bytes.fromhex(vector["plaintext"]), where, bytes.fromhex(vector["position"]))
    drawn = vector | {"salt": sealed[2:18].hex(), "nonce": sealed[50:62].hex()}
    assert seal(drawn) == sealed


@pytest.mark.parametrize("field", ["incarnation", "namespace", "cell_key", "position", "cell"])
@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_bytes_that_were_moved_are_refused(vector: dict[str, Any], field: str) -> None:
    moved = {
        "incarnation": vector["incarnation"] + "00",
        "namespace": vector["namespace"] + "x",
        "cell_key": vector["cell_key"] + "x",
        "position": vector["position"] + "00",
        "cell": vector["cell"] % len(Cell) + 1,
    }
    with pytest.raises(TamperedError):
        open_with_library(vector | {field: moved[field]}, bytes.fromhex(vector["sealed"]))


@pytest.mark.parametrize("vector", VECTORS, ids=IDS)
def test_every_single_flipped_bit_is_refused(vector: dict[str, Any]) -> None:
    sealed = bytes.fromhex(vector["sealed"])
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError if bit >= 8 * 50 else EncryptionError):
            open_with_library(vector, bytes(flipped))


@pytest.mark.parametrize("size", [2**20 - 40, 2**20 + 1, 2**21 + 5])
def test_what_is_sealed_in_pieces_is_sealed_as_the_layout_says(size: int) -> None:
    body = random.Random(size).randbytes(size)
    vector: dict[str, Any] = VECTORS[0] | {"plaintext": body.hex(), "cell": int(Cell.VALUE), "position": ""}
    sealed = seal(vector)
    assert open_with_library(vector, sealed) == body
    envelope = envelope_of(vector)
    ours = envelope.seal(body, envelope.where(Cell.VALUE, vector["cell_key"]))
    assert seal(vector | {"salt": ours[2:18].hex(), "nonce": ours[50:62].hex()}) == ours
    for at in (50, 62, size // 2, -17, -1):
        flipped = bytearray(sealed)
        flipped[at] ^= 1
        with pytest.raises(TamperedError):
            open_with_library(vector, bytes(flipped))
    with pytest.raises(TamperedError):
        open_with_library(vector, sealed[:-1])
    with pytest.raises(TamperedError):
        open_with_library(vector | {"cell_key": "elsewhere"}, sealed)


def test_there_is_a_vector_for_every_kind_of_cell() -> None:
    assert {vector["cell"] for vector in VECTORS} == set(Cell)


def test_no_key_is_derived_for_more_than_its_share_and_no_nonce_is_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_SEALS", 10)
    pairs = {f"{i:02}": i for i in range(36)}
    with Store(str(tmp_path / "store.db"), frozen=False, key=generate_key()) as store:
        store.set_many(pairs)
        store["36"] = 36
        for i in range(37, 60):
            store[f"{i}"] = i
        assert dict(store.items()) == {f"{i:02}": i for i in range(60)}
    file = apsw.Connection(str(tmp_path / "store.db"))
    sealed = [row[0] for row in file.execute("SELECT record FROM records")]
    file.close()
    assert sorted(Counter(record[2:18] for record in sealed).values()) == [10] * 6
    assert len({record[50:62] for record in sealed}) == 60
