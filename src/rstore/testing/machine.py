"""A state machine that drives a store at random through several handles, and compares every answer with the oracle.

Nouns: a *rule* (one thing that a handle is asked to do). Keys and timestamps are few, so that rules meet each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rstore.testing import strategies as draw
from rstore.testing.event_rules import EventRules
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.oracle import matches, same, utf8
from rstore.testing.series_rules import SeriesRules
from rstore.testing.worker import Worker


class StoreMachine(SeriesRules, EventRules):
    """All rules: those of the other files, of key/value pairs, and of several who write at once."""

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES)
    def set(self, who: str, key: str, value: Any) -> None:
        """Set a key."""
        self.ask(who, "set", key, value)
        self.oracle.values[key] = value

    @rule(who=draw.WRITERS, pairs=st.dictionaries(draw.KEYS, draw.VALUES, max_size=4))
    def update(self, who: str, pairs: dict[str, Any]) -> None:
        """Set several keys."""
        self.ask(who, "update", pairs)
        self.oracle.values.update(pairs)

    @rule(who=draw.WRITERS, keys=st.lists(draw.KEYS, max_size=4))
    def delete(self, who: str, keys: list[str]) -> None:
        """Delete several keys."""
        there = [key for key in set(keys) if key in self.oracle.values]
        assert self.ask(who, "delete", *keys) == len(there)
        for key in there:
            del self.oracle.values[key]

    @rule(who=draw.WRITERS, key=draw.KEYS, value=draw.VALUES)
    def setdefault_and_pop(self, who: str, key: str, value: Any) -> None:
        """Set a key unless it is there, and take another out."""
        assert same(self.ask(who, "setdefault", key, value), self.oracle.values.setdefault(key, value))
        assert same(self.ask(who, "pop", "ab", 5), self.oracle.values.pop("ab", 5))

    @rule(who=draw.WRITERS)
    @precondition(lambda self: self.oracle.values)
    def popitem(self, who: str) -> None:
        """Take out the last key."""
        last = max(self.oracle.values, key=utf8)
        assert same(self.ask(who, "popitem"), (last, self.oracle.values.pop(last)))

    @rule(who=draw.WRITERS)
    def clear(self, who: str) -> None:
        """Delete all keys."""
        self.ask(who, "clear")
        self.oracle.values.clear()

    @rule(who=draw.READERS, key=draw.KEYS, pattern=st.text(st.sampled_from("ab*?\uffff"), max_size=4))
    def read_values(self, who: str, key: str, pattern: str) -> None:
        """Read pairs in every way."""
        values = self.oracle.values
        assert same(self.ask(who, "get", key, 5), values.get(key, 5))
        assert self.ask(who, "__contains__", key) is (key in values)
        assert self.ask(who, "__len__") == len(values)
        assert self.ask(who, "keys") == sorted(values, key=utf8)
        expected = [(key, values[key]) for key in sorted(values, key=utf8)]
        assert same(self.ask(who, "items"), expected)
        assert same(self.ask(who, "find", pattern), [pair for pair in expected if matches(pattern, pair[0])])

    @rule(key=draw.SEQUENCES, size=st.integers(0, 1))
    def race(self, key: str, size: int) -> None:
        """Let all writers write to one series and one sequence at once, to places that are each one's own."""
        writers = ["first", "second"] + ["process"] * (self.worker is not None)
        n = self.bulk_sizes[size]
        self._races += 1
        points = {who: draw.bulk_points(1000 + i, n, len(writers), "ints") for i, who in enumerate(writers)}
        # Their own times, after any horizon but that of a sequence pruned in the future, whose `now` is at it.
        times = {who: 10_000 + self._races * 10 + i for i, who in enumerate(writers)}
        log = self.log(key)
        explicit = log.horizon is None or log.horizon < 10_000

        def write(who: str) -> None:
            self.ask(who, "extend", key, *points[who][: n // 2])
            self.ask(who, "set", f"race {who}", self._races)
            if explicit:
                self.ask(who, "apply", key, {f"race {who}": self._races}, times[who])
            self.ask(who, "extend_many", key, points[who][n // 2 :])

        _all_at_once(write, writers)
        for who in writers:
            self.series(key).update(points[who])
            self.oracle.values[f"race {who}"] = self._races
            if explicit:
                log.apply({f"race {who}": self._races}, times[who])


def _all_at_once(task: Callable[[str], None], writers: Iterable[str]) -> None:
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(task, who) for who in writers]:
            future.result()


def machine(
    new_dsn: Callable[[], str],
    *,
    flavour: Flavour = PICKLED[0],
    worker: Worker | None = None,
    bulk_sizes: tuple[int, int, int] = StoreMachine.bulk_sizes,  # type: ignore[assignment]
) -> type[StoreMachine]:
    """Return a state machine over fresh stores: `run_state_machine_as_test` runs it.

    Args:
        new_dsn: Returns the DSN of a store that does not exist yet, another one each time.
        flavour: Plain or encrypted; its serializer is pickle.
        worker: The second process; without one, the backend is taken to be this process's own.
        bulk_sizes: How many points a small, a middling and a large batch have.
    """
    given = {"new_dsn": staticmethod(new_dsn), "flavour": flavour, "worker": worker, "bulk_sizes": bulk_sizes}
    return type("Machine", (StoreMachine,), given)
