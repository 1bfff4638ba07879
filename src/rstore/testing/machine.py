"""A state machine that drives a store at random through several handles, and compares every answer with the oracle.

Nouns: a *rule* (one step that a handle takes). Keys and timestamps are few, so that steps meet each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from copy import deepcopy

from hypothesis import strategies as st
from hypothesis.stateful import rule

from rstore.testing import strategies as draw
from rstore.testing.change_rules import ChangeRules
from rstore.testing.flavours import PICKLED, Flavour
from rstore.testing.following_rules import FollowingRules
from rstore.testing.integrity import check_oracle
from rstore.testing.series_rules import SeriesRules
from rstore.testing.value_rules import ValueRules
from rstore.testing.worker import Worker

_HERE = st.sampled_from(["first", "second"])


class _Left(Exception):  # noqa: N818 - leaves a transaction, and reports no error
    pass


class StoreMachine(ValueRules, SeriesRules, ChangeRules, FollowingRules):
    """All rules: those of the other files, of several verbs as one, and of concurrent writers."""

    @rule(who=_HERE, data=st.data(), n=st.integers(1, 5), left=st.booleans(), nested=st.booleans())
    def transact(self, who: str, data: st.DataObject, n: int, left: bool, nested: bool) -> None:
        """Write several times in one transaction, which commits or is undone by an exception."""
        if not self.transactional:
            return
        store = self.stores[who]
        with ExitStack() as stack:
            outer = stack.enter_context(store.transaction()) if nested else store
            try:
                self.stores[who] = outer
                if nested:
                    self._write(who, data)
                before = deepcopy(self.oracle)
                with suppress(_Left), outer.transaction() as inner:
                    self.stores[who] = inner
                    for _ in range(n):
                        self._write(who, data)
                    check_oracle(inner, self.oracle)
                    if left:
                        self.oracle = before
                        raise _Left
                check_oracle(outer, self.oracle)
            finally:
                self.stores[who] = store
        check_oracle(store, self.oracle)

    @rule(who=_HERE, other=draw.WRITERS, data=st.data(), n=st.integers(1, 4))
    def look_back(self, who: str, other: str, data: st.DataObject, n: int) -> None:
        """Read a snapshot after another handle has written."""
        if not self.snapshots:
            return
        with self.stores[who].snapshot() as view:
            before = deepcopy(self.oracle)
            for _ in range(n):
                self._write(other, data)
            check_oracle(view, before)

    def _write(self, who: str, data: st.DataObject) -> None:
        """Take one step that writes."""
        key, value = data.draw(draw.KEYS), data.draw(draw.VALUES)
        sequence, t = data.draw(draw.SEQUENCES), data.draw(st.integers(0, 9))
        writes: dict[str, Callable[[], None]] = {
            "set": lambda: self.set(who, key, value, None),
            "set_if": lambda: self.set_if(who, key, value, fresh=t > 4, delete=t % 2 == 0),
            "update": lambda: self.update(who, {key: value, "a": 1}, many=False),
            "delete": lambda: self.delete(who, [key, "b"]),
            "delete_prefix": lambda: self.delete_prefix(who, key),
            "put_what_is_missing": lambda: self.put_what_is_missing(who, key, value),
            "incr": lambda: self.incr(who, key, t),
            "clear": lambda: self.clear(who),
            "scan": lambda: self.scan(who, "a", None, "b", reverse=True, limit=t),
            "extend": lambda: self.extend(who, key, [(t, value), (t + 3, 1)]),
            "extend_bulk": lambda: self.extend_bulk(who, key, -5, 1, 1, "floats"),
            "remove": lambda: self.remove(who, key, t, t + 2),
            "apply": lambda: self.apply(who, sequence, {"x": t, "y": (operator.add, 1)}, None),
            "apply_late": lambda: self.apply(who, sequence, {"y": t}, t),
            "apply_once": lambda: self.apply_once(who, sequence, {"z": t}, None, "1", t % 2),
            "prune": lambda: self.prune(who, sequence, remove=t > 4),
            "load": lambda: self.load(who, [(sequence, t, {"x": t}), (sequence, t, {"x": (operator.add, 1)})]),
            "revert": lambda: self.revert(who, sequence, t, None),
            "undo": lambda: self.undo(who, sequence, t),
            "prune_before": lambda: self.prune(who, sequence, remove=t > 4, until=t),
            "verify": lambda: self.verify(who, sequence),
        }
        writes[data.draw(st.sampled_from(sorted(writes)))]()

    @rule(key=draw.SEQUENCES, size=st.integers(0, 1))
    def race(self, key: str, size: int) -> None:
        """Let all writers write at once to one series and one sequence, each at timestamps of its own."""
        writers = ["first", "second"] + ["process"] * (self.worker is not None)
        n = self.bulk_sizes[size]
        self._races += 1
        points = {who: draw.bulk_points(1000 + i, n, len(writers), "ints") for i, who in enumerate(writers)}
        # Each has its own timestamps, behind any horizon except that of a sequence pruned in the future.
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
    transactional: bool = True,
    snapshots: bool = True,
) -> type[StoreMachine]:
    """Return a state machine over fresh stores: `run_state_machine_as_test` runs it.

    Args:
        new_dsn: Returns the DSN of a store that does not exist yet, another one each time.
        flavour: Plain or encrypted; its serializer is pickle.
        worker: The second process; leave it out if no other process can see the store.
        bulk_sizes: How many points a small, a middling and a large batch have.
        transactional: Whether the backend has transactions over several calls.
        snapshots: Whether it has snapshots.
    """
    given = {
        "new_dsn": staticmethod(new_dsn),
        "flavour": flavour,
        "worker": worker,
        "bulk_sizes": bulk_sizes,
        "transactional": transactional,
        "snapshots": snapshots,
    }
    return type("Machine", (StoreMachine,), given)
