"""The cache of states: how much it keeps, and what time it is at the backend."""

from __future__ import annotations

import pytest

from rstore.codec.formats import Pickle
from rstore.codec.serializers import Codec
from rstore.events import state_cache
from rstore.events.heads import NEVER_PRUNED
from rstore.events.replay import Replay
from rstore.events.state import State
from rstore.events.state_cache import StateCache


def _replay(size: int) -> Replay:
    return Replay(None, NEVER_PRUNED, State(Codec(Pickle()), None, {"item": bytes(size)}), 0)


@pytest.mark.parametrize(("size", "most"), [(100, 4096), (100_000, 64), (300_000, 0)])
def test_what_is_kept_has_a_bound(size: int, most: int) -> None:
    states, every = StateCache(), [f"{i}" for i in range(5000)]
    for key in every:
        states.put(key, _replay(size))
    assert [key for key in every if states.get(key)] == every[len(every) - most :]


def test_what_grows_or_shrinks_is_kept_once() -> None:
    states = StateCache()
    for size in (100, 100_000, 100, 300_000):
        states.put("k", latest := _replay(size))
        assert states.get("k") is (latest if size < 300_000 else None)


def test_an_answer_that_was_long_on_its_way_does_not_set_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(state_cache, "monotonic", lambda: now_s)
    states = StateCache()
    assert not states.has_time
    states.asked(5000)
    now_s += 0.75
    states.asked(5100)
    assert states.now_ms() == 5750
    states.asked(5800)  # it runs ahead of what was thought
    assert states.now_ms() == 5800
    now_s += 1.25
    assert not states.has_time  # too long ago
    states.asked(5000)  # the backend's clock was set back
    assert states.now_ms() == 5000
