"""Changes as rows and as columns: both give back what went in, whatever part is looked at."""

from __future__ import annotations

import json
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstore.codec import chunks
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import OPS, Step, StoredChange, Tally, next_digest, pack_change, unpack_change
from rstore.codec.columns import Column, Kind
from rstore.codec.formats import Pickle
from rstore.codec.segments import Segment, merge
from rstore.codec.serializers import Codec
from rstore.events.operators import OPERATORS

CODEC = Codec(Pickle())
ENCODED = st.sampled_from([1, -5, 2.5, "", "é", True, None, {"a": 1}]).map(CODEC.encode)
SET_STEPS = st.builds(Step, st.sampled_from(["a", "bé", "c" * 300]), st.sampled_from(["setitem", "add"]), ENCODED)
STEPS = st.one_of(SET_STEPS, st.builds(Step, st.just("a"), st.sampled_from(["delitem", "neg", "not_"]), st.none()))
CHANGES = st.builds(
    StoredChange,
    t=st.integers(-(2**63), 2**63 - 1),
    seq=st.integers(0, 2**31 - 1),
    n=st.integers(1, 2**63 - 1),
    recorded=st.integers(-(2**63), 2**63 - 1),
    steps=st.one_of(st.lists(STEPS, min_size=1, max_size=3), st.lists(SET_STEPS, min_size=1, max_size=1)),
    tag=st.integers(0, 2**64 - 1),
    id=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)),
    note=st.one_of(st.none(), ENCODED),
    schema=st.integers(0, 2**16 - 1),
    size=st.just(0),
)


def segment_of(changes: list[StoredChange]) -> Segment:
    t = np.array([change.t for change in changes], np.int64)
    seq = np.array([change.seq for change in changes], np.int64)
    return Segment(t, seq, Column(Kind.CHANGES, ChangeColumns.of(changes)))


def changes_of(segment: Segment) -> list[StoredChange]:
    found = segment.column.data.changes(segment.t, segment.seq)
    return [change._replace(size=0) for change in found]


@given(CHANGES)
def test_a_row_comes_back_as_it_went_in(change: StoredChange) -> None:
    body = pack_change(change)
    assert body[0] != 0xC1, "it could be taken for a sealed one"
    assert unpack_change(change.t, change.seq, body) == change._replace(size=len(body))


@given(st.lists(CHANGES, min_size=1, max_size=12), st.data())
def test_columns_come_back_as_they_went_in(changes: list[StoredChange], data: st.DataObject) -> None:
    segment = segment_of(changes)
    assert changes_of(segment) == changes
    again = chunks.unpack_chunk(chunks.pack_chunk(segment), len(changes))
    assert changes_of(again) == changes
    assert again.column.encoded() == [pack_change(change) for change in changes]
    assert again.column.sizes() == segment.column.sizes()
    start = data.draw(st.integers(0, len(changes)))
    stop = data.draw(st.integers(start, len(changes)))
    assert changes_of(again.slice(start, stop)) == changes[start:stop]
    indexes = data.draw(st.lists(st.integers(0, len(changes) - 1)))
    assert again.column.data.take(indexes).encoded() == [pack_change(changes[i]) for i in indexes]


@given(st.lists(st.dictionaries(st.integers(0, 9), CHANGES, min_size=1), min_size=1, max_size=4))
def test_merging_is_updating_a_dict(layers: list[dict[int, StoredChange]]) -> None:
    expected: dict[int, StoredChange] = {}
    segments = []
    for layer in layers:
        moved = {t: change._replace(t=t, seq=0) for t, change in layer.items()}
        expected |= moved
        segments.append(segment_of([moved[t] for t in sorted(moved)]))
    assert changes_of(merge(segments)) == [expected[t] for t in sorted(expected)]


def test_what_is_alike_takes_next_to_nothing() -> None:
    def size(changes: list[StoredChange]) -> int:
        return len(chunks.pack_chunk(segment_of(changes)))

    plain = [StoredChange(t, 0, t, t, [Step("a", "setitem", CODEC.encode(1))]) for t in range(1, 1025)]
    assert size(plain) < 300
    assert size([change._replace(recorded=change.t + 5, schema=2) for change in plain]) < 400


def test_operators_have_the_codes_of_the_format() -> None:
    assert set(OPS) == set(OPERATORS)
    assert {name for name in OPS if OPERATORS[name].unary} == {"delitem", "neg", "not_"}


@given(st.lists(CHANGES, max_size=5))
def test_a_tally_is_that_of_its_parts(changes: list[StoredChange]) -> None:
    tally = Tally()
    for change in changes:
        tally = tally.plus(change)
    assert tally == Tally.of_all(changes)


# -- vectors, read by a few lines that know docs/format.md alone ------------------------------------------------------

PATH: Final = Path(__file__).parents[1] / "vectors" / "changes.json"
VECTORS: Final = cast("list[dict[str, Any]]", json.loads(PATH.read_text())["changes"])
NAMES: Final = ["setitem", "delitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "concat", "neg", "not_"]


def read_body(t: int, body: bytes) -> dict[str, Any]:
    flags, at = body[0] - 0x40, 9 if body[0] & 32 else 5
    found: dict[str, Any] = {"n": int.from_bytes(body[1:at], "big"), "recorded": t, "tag": 0, "id": None, "note": None}
    found["schema"] = 0
    if flags & 2:
        found["recorded"], at = t + struct.unpack_from(">q", body, at)[0], at + 8
    if flags & 16:
        found["schema"], at = struct.unpack_from(">H", body, at)[0], at + 2
    if flags & 4:
        found["id"], at = body[at + 1 : at + 1 + body[at]].decode(), at + 1 + body[at]
    if flags & 8:
        size = struct.unpack_from(">I", body, at)[0]
        found["note"], at = body[at + 4 : at + 4 + size].hex(), at + 4 + size
    end = len(body)
    if flags & 1:
        end -= 8
        found["tag"] = int.from_bytes(body[end:], "big")
    steps = []
    while at < end:
        op, item, value = struct.unpack_from(">BHI", body, at)
        at += 7
        encoded = body[at + item : at + item + value].hex() if value else None
        steps.append([body[at : at + item].decode(), NAMES[op], encoded])
        at += item + value
    return found | {"steps": steps}


@pytest.mark.parametrize("i", range(len(VECTORS)))
def test_the_bytes_are_those_of_the_format(i: int) -> None:
    vector = dict(VECTORS[i])
    body, digest = bytes.fromhex(vector.pop("body")), bytes.fromhex(vector.pop("digest"))
    t, seq = vector.pop("t"), vector.pop("seq")
    assert read_body(t, body) == vector
    steps = [Step(item, op, value and bytes.fromhex(value)) for item, op, value in vector["steps"]]
    note = vector["note"] and bytes.fromhex(vector["note"])
    change = StoredChange(t, seq, vector["n"], vector["recorded"], steps, vector["tag"], vector["id"], note)
    assert pack_change(change._replace(schema=vector["schema"])) == body
    before = bytes.fromhex(VECTORS[i - 1]["digest"]) if i else bytes(32)
    covered = body[:-8] if vector["tag"] else body
    assert sha256(before + sha256(struct.pack(">qI", t, seq) + covered).digest()).digest() == digest
    assert next_digest(before, t, seq, body, tagged=vector["tag"] > 0) == digest
