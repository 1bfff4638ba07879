"""Projections: each change counts once, whenever a process dies and however many project."""

from __future__ import annotations

import operator
import random
import time
from contextlib import ExitStack

import pytest

from rstore import Followed, InvalidTypeError, InvalidValueError, Store
from rstore.testing.flavours import Flavour, pickled, sealed
from rstore.testing.suite import Opener, Suite
from rstore.testing.worker import Worker


def total(value: int, change: Followed) -> int:
    """Return a total of all items of all sequences, with one more change."""
    return value + (change.after or 0) - (change.before or 0)


def project_on(store: Store) -> None:
    """Project the total again and again, until the process is killed."""
    while True:
        store.project("total", total, prefix="acc:", initial=0, timeout=0.05)


def totalled(store: Store) -> int:
    """Return the total by the current states."""
    return sum(sum((store.current(key) or {}).values()) for key in store.eventsources() if key.startswith("acc:"))


class ProjectingSuite(Suite):
    """Values that are derived from changes."""

    @pickled
    def test_a_projection_counts_each_change_once(self, store: Store) -> None:
        for i in range(30):
            store.apply(f"acc:{i % 7}", {"balance": i})
        assert store.project("total", total, prefix="acc:", initial=0) == totalled(store)
        assert store["total"]["value"] == totalled(store)
        assert store.project("total", total, prefix="acc:", initial=0) == totalled(store)
        store.apply("acc:1", {"balance": (operator.add, 100), "more": 5})
        store.apply("acc:2", {"balance": 1}, t=3)
        store.apply("other", {"balance": 1000})
        assert store.project("total", total, prefix="acc:") == totalled(store)

        def fails(value: int, change: Followed) -> int:
            return value // (change.n - change.n)

        store.apply("acc:1", {"balance": 0})
        with pytest.raises(ZeroDivisionError):
            store.project("total", fails, prefix="acc:")
        assert store.project("total", total, prefix="acc:") == totalled(store)
        with pytest.raises(InvalidValueError, match="other keys"):
            store.project("total", total)
        store["else"] = {"value": 1}
        with pytest.raises(InvalidValueError, match="no projection"):
            store.project("else", total)
        with pytest.raises(InvalidTypeError):
            store.project("p", 1)  # type: ignore[arg-type]
        store.prune(*store.eventsources())
        assert store.project("total", total, prefix="acc:") == totalled(store)
        assert store.project("anew", total, prefix="acc:", initial=0) == totalled(store)

    @sealed
    def test_a_projection_is_killed_at_random(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        if not self.persistent:
            pytest.skip("no other process sees the store")
        dice = random.Random(2)
        with ExitStack() as stack:
            steady = stack.enter_context(Worker())
            steady.open(flavour, opener.dsn, durability="normal")
            steady.start(project_on)
            for round_ in range(5):
                with Worker() as worker:
                    worker.open(flavour, opener.dsn, durability="normal")
                    worker.start(project_on)
                    for i in range(15):
                        store.apply(f"acc:{dice.randrange(20)}", {"balance": 100 * round_ + i, f"{i % 4}": i})
                    time.sleep(dice.random() / 10)
                    worker.kill()
            steady.kill()
        assert store.project("total", total, prefix="acc:", initial=0) == totalled(store)
