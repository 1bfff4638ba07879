"""The state of a sequence: what it keeps of the values it told is what it would load again."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import uuid4

import pytest

from rstore import InvalidValueError, Store
from rstore.codec.changes import Step
from rstore.codec.formats import Pickle
from rstore.codec.serializers import Codec
from rstore.events.state import State
from rstore.testing.oracle import same


class Huge(bytes):
    """Claims to be larger than a change can say."""

    def __len__(self) -> int:
        return 2**32


VALUES: list[Any] = [0, 2**40, 2**70, -1.5, True, "text", "", None, [1], {"a": 1}, (1, 2), b"bytes"]


def test_what_was_told_is_what_is_stored() -> None:
    random, codec = Random(1), Codec(Pickle())
    for _ in range(200):
        state = State(codec, None)
        for _ in range(30):
            item, value = f"item {random.randrange(6)}", random.choice(VALUES)
            step = Step(item, "setitem", codec.encode(value))
            if item in state.values() and random.random() < 0.3:
                step = Step(item, random.choice(["delitem", "not_"]), None)
            kept = state.copy() if random.random() < 0.8 else state
            kept.fold([step], random.choice([None, None, None, 5]))
            kept.settle()
            again = State(codec, None, dict(kept._items))  # noqa: SLF001 - which knows nothing but the bytes
            assert same(kept.values(), again.values())
            assert kept.size() == again.size()
            if kept is not state:
                assert same(state.values(), State(codec, None, dict(state._items)).values())  # noqa: SLF001 - as above
            state = kept


def test_told_values_are_the_callers() -> None:
    codec = Codec(Pickle())
    state = State(codec, None, {"a": codec.encode([1]), "b": codec.encode(1)})
    told = state.values()
    told["a"].append(2)
    del told["b"]
    assert state.values() == {"a": [1], "b": 1}


def test_what_a_change_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(f"memory://{uuid4()}", frozen=False) as store:
        store.apply("k", {"a": 1}, 1)
        monkeypatch.setattr(store._writer.codec, "encode", lambda _: Huge(b"\x05x"))  # noqa: SLF001 - not 4 GiB of it
        every: list[dict[str, Any]] = [{"note": 1}, {"t": 0}, {}]
        for given in every:
            with pytest.raises(InvalidValueError, match="less than 4 GiB"):
                store.apply("k", {"a": 2}, **given)
        monkeypatch.undo()
        assert store.current("k") == {"a": 1}
