"""Schema versions where changes are packed into chunks, and states kept as checkpoints, every few changes."""

from __future__ import annotations

import operator
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import shrink

from rstore import Store
from rstore.backends.types import Log, Model
from rstore.codec.change_columns import ChangeColumns
from rstore.codec.changes import Step, StoredChange, unpack_state
from rstore.codec.columns import Column, Kind
from rstore.codec.formats import Pickle
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec
from rstore.codec.upcasting import upcast_changes, upcast_segment
from rstore.testing.upcasting import UpcastingSuite

CODEC = Codec(Pickle(), schema_version=3, upcast=lambda item, value, version: (item, value, version))


class _Small(UpcastingSuite):
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shrink(monkeypatch.setattr)


class TestSmallInMemory(_Small):
    persistent = False

    @pytest.fixture
    def dsn(self) -> str:
        return f"memory://{uuid.uuid4()}"


class TestSmallOnSqlite(_Small):
    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/store.db"


def _step(item: str, op: str, value: Any) -> Step:
    return Step(item, op, None if op in ("delitem", "neg", "not_") else CODEC.encode(value))


STEPS = st.builds(
    _step,
    st.sampled_from(["a", "b", "\u00fc"]),
    st.sampled_from(["setitem", "setitem", "add", "delitem", "neg"]),
    st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.none(), max_size=2) | st.floats(),
)


@given(
    st.lists(st.tuples(st.lists(STEPS, min_size=1, max_size=3), st.integers(0, 3)), min_size=1, max_size=20),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_columns_are_upcast_as_changes_are(drawn: list[tuple[list[Step], int]], least: int) -> None:
    changes = [
        StoredChange(t, 0, t + 1, t, steps, schema=max(schema, least)) for t, (steps, schema) in enumerate(drawn)
    ]
    columns = ChangeColumns.of(changes)
    segment = Segment(np.arange(len(changes)), None, Column(Kind.CHANGES, columns))
    expected = [
        [
            _step(item, op, (item, CODEC.decode(encoded), change.schema))
            if op == "setitem" and encoded is not None and change.schema < 3
            else Step(item, op, encoded)
            for item, op, encoded in change.steps
        ]
        for change in changes
    ]
    for found in upcast_changes(changes, CODEC), upcast_segment(segment, CODEC):
        assert [[*change.steps] for change in found] == expected
        assert [change.schema for change in found] == [change.schema for change in changes]
    assert [change.steps for change in columns.changes(segment.t, None)] == [change.steps for change in changes]


class Old(Store):
    pass


class New(Store):
    _schema_version = 1
    calls = 0

    def _upcast(self, item: str, value: Any, version: int) -> Any:
        assert (item, version) == ("x", 0)
        type(self).calls += 1
        return value


def _versions_of_checkpoints(store: Store) -> set[int]:
    session = store._alone("a test")  # noqa: SLF001 - no verb tells what a checkpoint bears
    found = set()
    for checkpoint in session.whole.checkpoints(Log(Model.EVENTS, "k")):
        fits = [version for version in range(3) if unpack_state(checkpoint.body[:-4], version) is not None]
        found |= {*fits}
    return found


@pytest.mark.parametrize("how", ["now", "in the past", "in a transaction"])
def test_the_first_change_of_a_version_makes_the_checkpoints_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    shrink(monkeypatch.setattr)
    path, n = tmp_path / "store.db", 200
    with Old(path, frozen=False) as store:
        for t in range(n):
            store.apply("k", {"x": t} if t % 2 else {"x": (operator.add, 1)} if t else {"x": 0}, 2 * t)
        assert _versions_of_checkpoints(store) == {0}
    with New(path, frozen=False) as store:
        assert store.past("k", 300) == {"x": 150}
        New.calls = 0
        assert store.past("k", 300) == {"x": 150}
        assert New.calls > 70, "all from the beginning on"
        if how == "in a transaction":
            with store.transaction() as tx:
                tx.apply("k", {"y": 0})
            assert 0 in _versions_of_checkpoints(store), "others wait for the end of a transaction"
        store.apply("k", {"y": 1}, 301 if how == "in the past" else None)
        assert _versions_of_checkpoints(store) == {1}
        New.calls = 0
        assert (store.past("k", 300) or {})["x"] == 150
        assert New.calls < 20
        assert store.check() == []
