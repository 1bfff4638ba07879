"""What is remembered of sequences: how much of it, and what time it is at the backend."""

from __future__ import annotations

import pytest

from rstore import states
from rstore.codec.formats import Pickle
from rstore.codec.serializers import Codec
from rstore.events.state import CheckpointPolicy, Reading, State, StateCache


def _reading(size: int) -> Reading:
    return Reading(None, None, State(Codec(Pickle()), None, {"item": bytes(size)}), None, CheckpointPolicy(), 0)


@pytest.mark.parametrize(("size", "most"), [(100, 4096), (100_000, 64), (300_000, 0)])
def test_what_is_kept_has_a_bound(size: int, most: int) -> None:
    readings, every = StateCache(), [f"{i}" for i in range(5000)]
    for key in every:
        readings.put(key, _reading(size))
    assert [key for key in every if readings.get(key)] == every[len(every) - most :]


def test_what_grows_or_shrinks_is_kept_once() -> None:
    readings = StateCache()
    for size in (100, 100_000, 100, 300_000):
        readings.put("k", latest := _reading(size))
        assert readings.get("k") is (latest if size < 300_000 else None)


def test_an_answer_that_was_long_on_its_way_does_not_set_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(states, "monotonic", lambda: now_s)
    readings = StateCache()
    assert not readings.has_time
    readings.asked(5000)
    now_s += 0.75
    readings.asked(5100)
    assert readings.now_ms() == 5750
    readings.asked(5800)  # it runs ahead of what was thought
    assert readings.now_ms() == 5800
    now_s += 1.25
    assert not readings.has_time  # too long ago
    readings.asked(5000)  # somebody has set the backend's clock back
    assert readings.now_ms() == 5000
