"""Changes made by the thousand are, byte by byte, those that are made one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstore.codec.change_batch import Batch, Encoded, encode_values
from rstore.codec.change_columns import ChangeColumns, pack_changes
from rstore.codec.changes import OP_CODES, OPS, UNARY_CODES, Step, StoredChange, Tip, next_digest, pack_change
from rstore.codec.formats import Pickle
from rstore.codec.serializers import Codec
from rstore.errors import SerializationError

CODEC = Codec(Pickle())
OPERANDS = st.integers(-3, 2**65) | st.floats() | st.booleans() | st.text(max_size=3) | st.just(Encoded(b"\x01\x80"))
STEPS = st.tuples(st.sampled_from(["a", "b", "\u00e9\u00e9"]), st.integers(0, len(OPS) - 1), OPERANDS)
NOTES = st.sampled_from([b"", b"\x01n"])
CHANGES = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1), st.lists(STEPS, min_size=1, max_size=3), st.sampled_from([b"", b"\x01n"])
    ),
    min_size=1,
    max_size=20,
)


def make_batch(changes: list[Any], first_n: int, recorded: int, *, tagged: bool) -> Batch:
    steps = [step for _, these, _ in changes for step in these]
    operands = [None if code in UNARY_CODES else operand for _, code, operand in steps]
    encoded, column = encode_values(operands, CODEC)
    counts = [len(these) for _, these, _ in changes]
    notes = [note for _, _, note in changes]
    batch = Batch(
        np.array([t for t, _, _ in changes], np.int64),
        np.arange(len(changes)),
        np.arange(first_n, first_n + len(changes)),
        recorded,
        None if set(counts) == {1} else np.cumsum([0, *counts]),
        [item for item, _, _ in steps],
        [code for _, code, _ in steps],
        encoded,
        column,
        notes if any(notes) else None,
    )
    if tagged:
        batch.tag()
    return batch


@settings(deadline=None)
@given(CHANGES, st.sampled_from([1, 2**32 - 5, 2**40]), st.sampled_from([0, 5, 2**62, -(2**63)]), st.booleans())
def test_bodies_digest_and_columns(changes: list[Any], first_n: int, recorded: int, tagged: bool) -> None:
    batch = make_batch(changes, first_n, recorded, tagged=tagged)
    tags = [0] * len(changes) if batch.tags is None else batch.tags.tolist()
    one_by_one, digest = [], bytes(32)
    for i, (t, these, note) in enumerate(changes):
        steps = [
            Step(
                item, OPS[code], None if code in UNARY_CODES else CODEC.encode(one) if type(one) is not Encoded else one
            )
            for item, code, one in these
        ]
        change = StoredChange(t, i, first_n + i, recorded, steps, tags[i], None, note or None)
        body = pack_change(change)
        digest = next_digest(digest, t, i, body, tagged=tagged)
        one_by_one.append(change._replace(size=len(body)))
        assert batch.bodies[i] == body
    assert batch.digest(Tip()) == digest
    assert [change._replace(size=0, steps=[*change.steps]) for change in batch.changes()] == [
        change._replace(size=0) for change in one_by_one
    ]
    columns: Any = batch.columns(None).column.data
    assert pack_changes(columns) == pack_changes(ChangeColumns.of(one_by_one))
    assert columns.size() == sum(columns.sizes())


def test_the_size_of_a_change_is_that_of_its_row() -> None:
    batch = make_batch(
        [(1, [("a", OP_CODES["setitem"], 5)], b""), (2, [("b", OP_CODES["neg"], None)], b"")], 1, 9, tagged=True
    )
    assert batch.sizes() == [*map(len, batch.bodies)]


def test_a_value_that_cannot_be_dumped() -> None:
    with pytest.raises(SerializationError):
        encode_values([1, lambda: 1], CODEC)
