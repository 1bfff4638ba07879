"""Decoders against damaged bytes: the right error, whatever they are fed, and never a wrong size."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstore import CorruptionError, StoreError
from rstore.codec import chunks, columns, packing
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import (
    Facts,
    Step,
    StoredChange,
    Tally,
    Tip,
    pack_change,
    pack_facts,
    pack_state,
    pack_tip,
    unpack_change,
    unpack_facts,
    unpack_state,
    unpack_tip,
)
from rstore.codec.chunk_meta import pack_meta, unpack_meta
from rstore.codec.columns import Blobs, Column, Kind
from rstore.codec.formats import Json, Pickle
from rstore.codec.keys import Passphrase, check_keys, find_keyring
from rstore.codec.segments import Segment, merge
from rstore.codec.serializers import Codec

CODEC = Codec(Pickle())
N = 300
EXAMPLES: dict[str, list[Any]] = {
    "ints": [i * i - 5000 for i in range(N)],
    "floats": [i / 7 for i in range(N)],
    "bools": [i % 3 == 0 for i in range(N)],
    "few strings": [f"word {i % 5}" for i in range(N)],
    "one string": ["word"] * N,
    "many strings": [f"text {i} é" for i in range(N)],
    "anything": [{"i": i, "big": 2**70} if i % 2 else None for i in range(N)],
}


def packed(values: list[Any]) -> bytes:
    t = np.arange(len(values), dtype=np.int64) * 1000 - 7
    return chunks.pack_chunk(Segment(t, None, columns.column_of(values, CODEC)))


def damaged(body: bytes, how: str, at: int, by: int) -> bytes:
    at %= max(1, len(body))
    if how == "cut":
        return body[:at]
    if how == "insert":
        return body[:at] + bytes([by]) + body[at:]
    return body[:at] + bytes([body[at] ^ (by or 1)]) + body[at + 1 :]


@pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
def test_a_chunk_comes_back_as_it_went_in(values: list[Any]) -> None:
    segment = chunks.unpack_chunk(packed(values), N)
    assert segment.column.values(CODEC) == values
    assert segment.t.tolist() == [i * 1000 - 7 for i in range(N)]


@pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
@given(how=st.sampled_from(["flip", "cut", "insert"]), at=st.integers(0, 10**6), by=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_chunk_is_an_error_or_as_long_as_before(values: list[Any], how: str, at: int, by: int) -> None:
    body = damaged(packed(values), how, at, by)
    try:
        segment = chunks.unpack_chunk(body, N)
    except CorruptionError:
        return
    assert len(segment) == len(segment.column) == N


@given(st.binary(max_size=200), st.integers(0, 20000))
@settings(max_examples=300, deadline=None)
def test_a_chunk_of_random_bytes_is_an_error(body: bytes, n: int) -> None:
    with pytest.raises(CorruptionError):
        chunks.unpack_chunk(body, n)


META = pack_meta(Segment(np.arange(3, dtype=np.int64), None, columns.column_of([3, -4, 2**62], CODEC)))
STEPS = [Step("item", "setitem", b"\x13abc"), Step("é", "delitem", None), Step("n", "add", b"\x10" + bytes(8))]
CHANGES = [
    StoredChange(1, 0, 1, 1, STEPS),
    StoredChange(2, 0, 2**33, 10**12, [Step("item", "delitem", None)], 2**63, "an id", b"\x13note", 7),
    StoredChange(-(2**63), 5, 3, 2**62, STEPS[2:]),
]
SEGMENT = Segment(np.arange(3, dtype=np.int64), None, Column(Kind.CHANGES, ChangeColumns.of(CHANGES)))
STATE = pack_state([("a", b"\x13abc"), ("b", b"")], Tally(2, 3, 4))
READERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "meta": (lambda meta: unpack_meta(meta, 3, 2), META),
    "change": (partial(unpack_change, 1, 0), pack_change(CHANGES[0])),
    "change with a header": (partial(unpack_change, 2, 0), pack_change(CHANGES[1])),
    "changes": (partial(chunks.unpack_chunk, n=3), chunks.pack_chunk(SEGMENT)),
    "version": (unpack_tip, pack_tip(Tip(3, 4, bytes(range(32)), Tally(3, 2, 3), 5))),
    "state": (unpack_state, STATE),
    "facts": (unpack_facts, pack_facts(Facts(1, 2, 3, 4))),
    "json value": (Codec(Json()).decode, b'\x02{"a":1}'),
    "int": (CODEC.decode, b"\x10" + bytes(8)),
    "float": (CODEC.decode, b"\x11" + bytes(8)),
    "salt and cost": (lambda salted: Passphrase("x").derive(salted), bytes(26)),
    "key facts": (lambda fact: find_keyring([Passphrase("x"), *check_keys(bytes(32))], [fact], b""), bytes(58)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("read", "body"), READERS.values(), ids=READERS)
@given(how=st.sampled_from(["flip", "cut", "insert"]), at=st.integers(0, 10**6), by=st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_damaged_bytes_are_read_or_an_error_of_ours(
    read: Callable[[bytes], object], body: bytes, how: str, at: int, by: int
) -> None:
    broken = damaged(body, how, at, by)
    if not broken:
        return  # nothing is ever stored as no bytes at all
    try:
        read(broken)
    except StoreError:
        return


def test_meta_says_what_its_chunk_holds() -> None:
    meta = unpack_meta(META, 3, 2)
    assert (CODEC.decode(meta.first or b""), CODEC.decode(meta.last or b"")) == (3, 2**62)
    assert meta.stats is not None
    assert meta.stats[:4] == (3, -4, 2**62, 2**62 - 1)
    assert meta.gaps == (1, 1)


def test_the_sum_of_a_chunk_of_large_ints_does_not_wrap_around() -> None:
    values = [-(2**63)] * 1000 + [2**63 - 1] * 10
    segment = Segment(np.arange(1010, dtype=np.int64), None, columns.column_of(values, CODEC))
    stats = unpack_meta(pack_meta(segment), 1010, 1009).stats
    assert stats is not None
    assert stats[:4] == (len(values), -(2**63), 2**63 - 1, sum(values))


def test_a_column_of_damaged_bools_is_refused_as_each_of_them_is() -> None:
    with pytest.raises(CorruptionError, match="neither true nor false"):
        CODEC.decode(b"\x12\x02")
    with pytest.raises(CorruptionError, match="neither true nor false"):
        columns.column_of_encoded([b"\x12\x01", b"\x12\x02"])


@given(st.lists(st.binary(max_size=20), max_size=50), st.data())
def test_blobs_are_a_list_of_bytes(parts: list[bytes], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(parts)))
    stop = data.draw(st.integers(start, len(parts)))
    column = Column(Kind.ENCODED, Blobs.of(parts)).slice(start, stop)
    assert column.encoded() == parts[start:stop]
    again = packing.unpack(Kind.ENCODED, packing.pack(column), stop - start)
    assert again.encoded() == parts[start:stop]


positions = st.tuples(st.integers(-5, 5), st.integers(0, 3))


@given(st.lists(st.dictionaries(positions, st.integers(-9, 9)), max_size=4))
def test_merging_segments_is_updating_a_dict(layers: list[dict[tuple[int, int], int]]) -> None:
    expected: dict[tuple[int, int], int] = {}
    segments = []
    for layer in layers:
        expected |= layer
        rows = sorted(layer.items())
        t = np.array([position[0] for position, _ in rows], np.int64)
        seq = np.array([position[1] for position, _ in rows], np.int64)
        segments.append(Segment(t, seq, columns.column_of([value for _, value in rows], CODEC)))
    merged = merge(segments)
    found = {merged.position(i): value for i, value in enumerate(merged.column.values(CODEC))}
    assert list(found.items()) == sorted(expected.items())


@given(st.dictionaries(positions, st.integers()), positions, positions)
def test_what_lies_between_two_positions(
    rows: dict[tuple[int, int], int], lo: tuple[int, int], hi: tuple[int, int]
) -> None:
    ordered = sorted(rows)
    t = np.array([position[0] for position in ordered], np.int64)
    seq = np.array([position[1] for position in ordered], np.int64)
    segment = Segment(t, seq, columns.column_of([rows[position] for position in ordered], CODEC))
    expected = [position for position in ordered if lo <= position <= hi]
    found = segment.between(lo, hi) if lo <= hi else segment.slice(0, 0)
    assert [found.position(i) for i in range(len(found))] == expected
