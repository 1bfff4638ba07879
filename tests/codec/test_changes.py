"""Changes as rows and as columns: both give back what went in, whatever part is looked at."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rstore.codec import chunks
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import OPS, Step, StoredChange, Tally, pack_change, unpack_change
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
