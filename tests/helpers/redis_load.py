"""Writers that remember what was acknowledged, while somebody does harm to the servers."""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rstore import OutcomeUnknownError, Store, StoreError


@dataclass
class Acknowledged:
    """What one writer was told is stored, and what it cannot know."""

    who: int
    done: list[tuple[int, float]] = field(default_factory=list)
    """Numbers, with the time at which each was acknowledged."""
    unknown: set[int] = field(default_factory=set)
    refused: list[StoreError] = field(default_factory=list)
    tried: int = 0

    def write_one(self, store: Store) -> None:
        """Write the next number to all three models."""
        i = self.tried
        self.tried += 1
        store.set(f"{self.who} {i}", i)
        store.extend(f"series {self.who}", (i, i))
        store.apply(f"sequence {self.who}", {"count": (operator.add, 1), f"{i}": i})

    def check(self, store: Store, *, until: float = float("inf")) -> None:
        """Assert that what was acknowledged before a moment is there, and nothing that was never written."""
        points = dict(store.range(f"series {self.who}"))
        state = store.current(f"sequence {self.who}") or {}
        count = state.pop("count", 0)
        for i, at in self.done:
            if at < until:
                assert store.get(f"{self.who} {i}") == i, f"{self.who} {i} is lost"
                assert points.get(i) == i, f"point {i} of {self.who} is lost"
                assert state.get(f"{i}") == i, f"change {i} of {self.who} is lost"
        # Each change was applied once: those that are there add up to the count.
        assert count == len(state)
        assert set(points) <= set(range(self.tried))


@contextmanager
def writers(
    opened: Callable[[], Store], n: int = 3, *, expected: tuple[type[StoreError], ...] = (OutcomeUnknownError,)
) -> Generator[list[Acknowledged], None, None]:
    """Yield what writers have written so far, while they go on in threads of their own.

    An error that is expected makes the number unknown, or refused if it says that nothing was applied; every other
    error is raised here.
    """
    stop = threading.Event()
    results = [Acknowledged(who) for who in range(n)]
    errors: list[BaseException] = []

    def work(result: Acknowledged, store: Store) -> None:
        while not stop.is_set():
            i = result.tried
            try:
                result.write_one(store)
                result.done.append((i, time.monotonic()))
            except expected as error:
                result.unknown.add(i)
                result.refused.append(error)
                time.sleep(0.01)

    def run(result: Acknowledged, store: Store) -> None:
        try:
            work(result, store)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    stores = [opened().open() for _ in range(n)]
    for result, store in zip(results, stores, strict=True):
        store.apply(f"sequence {result.who}", {"count": 0}, 0)
    threads = [threading.Thread(target=run, args=pair) for pair in zip(results, stores, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for store in stores:
            store.close()
    if errors:
        raise errors[0]


def after(results: list[Acknowledged], n: int) -> None:
    """Wait until each writer has written so many more."""
    wanted = [len(result.done) + n for result in results]
    deadline = time.monotonic() + 30
    while any(len(result.done) < least for result, least in zip(results, wanted, strict=True)):
        assert time.monotonic() < deadline, "the writers do not get on"
        time.sleep(0.005)
