"""Ids of changes: their rows are the documented ones, and equal changes have equal digests."""

from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import sha512
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstore import Store
from rstore.backends.types import Log, Model
from rstore.codec.envelope import Envelope
from rstore.codec.keys import Root, check_keys
from rstore.events.canonical import told_of

VECTORS = Path(__file__).parents[1] / "vectors" / "ids.json"
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.frozensets(SCALARS, max_size=3)
    ),
    max_leaves=8,
)


@dataclass
class Pair:
    a: Any
    b: Any


class Colour(Enum):
    RED = 1


def told(value: Any) -> bytes:
    return told_of(value, lambda _: pytest.fail("it was not taken apart"))


def prefixed(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(4, "big") + raw


def fingerprint(case: dict[str, Any], what: bytes) -> bytes:
    """Compute a fingerprint as docs/format.md says it."""
    place = prefixed(case["namespace"]) + prefixed(case["key"]) + what
    if case["encryption_key"] is None:
        return sha512(place).digest()
    root = hmac.digest(urlsafe_b64decode(case["encryption_key"]), b"rstore/1/root", "sha512")
    return hmac.digest(root, b"rstore/1/id" + prefixed(bytes.fromhex(case["incarnation"])) + place, "sha512")


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text(encoding="utf-8")), ids=lambda case: case["id"])
def test_the_vectors(case: dict[str, Any]) -> None:
    t, note, state = case["change"]
    digests = {item: ("setitem", told(value)) for item, value in state.items()}
    assert sha512(told([t, told(note), digests])).hexdigest() == case["digest"]
    name, incarnation = case["id"].encode(), bytes.fromhex(case["incarnation"])
    at = fingerprint(case, b"id" + name)
    body = fingerprint(case, b"change" + bytes.fromhex(case["digest"]) + name)[:16]
    t, seq = int.from_bytes(at[:8], "big", signed=True), int.from_bytes(at[8:12], "big") & 0x7FFFFFFF
    assert [t, seq, body.hex()] == [case["t"], case["seq"], case["fingerprint"]]
    roots = [Root(key, incarnation) for key in check_keys(case["encryption_key"])]  # type: ignore[arg-type]
    envelope = Envelope(case["namespace"], roots, incarnation=incarnation)
    assert envelope.fingerprints(case["key"], b"id" + name) == [at]


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text(encoding="utf-8")), ids=lambda case: case["id"])
def test_a_plain_store_writes_them(case: dict[str, Any]) -> None:
    if case["encryption_key"] is not None:
        pytest.skip("its place depends on the incarnation, which is random")
    t, note, state = case["change"]
    assert note is None
    with Store("memory://vectors", case["namespace"], frozen=False) as store:
        store.apply(case["key"], state, t, id=case["id"])
        (row,) = store._reader.backend.view(Log(Model.IDS, case["key"])).rows  # noqa: SLF001 - no verb tells it
        store.discard()
    assert [row.t, row.seq, row.body[8:].hex()] == [case["t"], case["seq"], case["fingerprint"]]


@given(VALUES, VALUES)
def test_a_digest_tells_values_apart(a: Any, b: Any) -> None:
    assert told(a) == told(a)
    if repr(a) == repr(b):
        assert told(a) == told(b) or "nan" in repr(a)
    elif a != b or not isinstance(a, dict | frozenset):
        assert told(a) != told(b)


def test_values_of_one_digest_each() -> None:
    values: list[Any] = [
        None, False, 0, 0.0, -0.0, "", b"", bytearray(), [], (), {}, set(), frozenset(), [None], [[]], [[], []], "0",
        {1: 2}, {2: 1}, {1, 2}, [1, 2], (1, 2), [1, [2]], 1, True, 1.0, "1", b"1", Decimal(1), Decimal("1.0"),
        Fraction(1), Pair(1, 2), Pair(2, 1), Colour.RED, OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), int, len,
        defaultdict(int, a=1), defaultdict(list, a=1), np.int64(1), np.arange(3), np.arange(3.0), 2**70, ["a", "b"],
        ["ab"], ["ab", ""], 1j, range(3), slice(1, 2),
    ]  # fmt: skip
    digests = [told(value) for value in values]
    assert len(set(digests)) == len(values)


def test_what_cannot_be_taken_apart_has_the_told_of_its_bytes() -> None:
    loop: list[Any] = []
    loop.append(loop)
    digests = {told_of(loop, lambda _, body=body: body) for body in (b"a", b"b", b"b")}  # type: ignore[misc]
    assert len(digests) == 2
    assert told_of([None], lambda _: b"a") not in digests


def test_a_digest_is_the_same_in_another_process() -> None:
    """Where strings hash in another way, and sets are in another order."""
    program = (
        "from rstore.events.canonical import told_of; from decimal import Decimal; import numpy as np\n"
        "value = [{'a', 'b', 'c', 'd'}, {'x': {1.5, 'y'}, 'z': Decimal('1.50')}, np.arange(5), frozenset('hello')]\n"
        "print(told_of(value, None).hex())"
    )
    source = str(Path(__file__).parents[2] / "src")
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": source, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(digests) == 1
