"""Sessions that an administrator ends in the middle of everything: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import operator
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import sleep
from typing import Any

import pytest
from postgresql import Server

from rstore import OutcomeUnknownError, Store, StoreNotAvailableError, Transaction


def test_a_dead_connection_is_never_noticed(postgresql: Server, postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as store:
        store.apply("e", {"count": 0})
        for i in range(20):
            postgresql.terminate()
            store.set("k", i)
            postgresql.terminate()
            assert store["k"] == i
            postgresql.terminate()
            store.apply("e", {"count": (operator.add, 1)})
            postgresql.terminate()
            store.extend("s", (i, i))
        assert (store.current("e"), len(store.range("s"))) == ({"count": 20}, 20)


class Expected:
    """What one writer has to find at the end: of each cell the values that it may have."""

    def __init__(self) -> None:
        self.cells: defaultdict[Any, set[Any]] = defaultdict(lambda: {None})
        self.sure = self.unsure = self.undone = 0

    def attempt(self, work: Callable[[], Any], changes: dict[Any, Any], answer: Any = ...) -> None:
        """Do something that changes cells: to a value, or by what a function makes of the old one."""
        after = {
            cell: {new(old) for old in self.cells[cell]} if callable(new) else {new} for cell, new in changes.items()
        }
        try:
            answered = work()
        except OutcomeUnknownError:
            self.unsure += 1
            for cell, values in after.items():
                self.cells[cell] |= values
        except StoreNotAvailableError:  # the session was ended twice before anything was written
            self.undone += 1
        else:
            assert answer is ... or answered == answer
            self.sure += 1
            self.cells.update(after)


def one_more(n: int | None) -> int:
    return 1 + (n or 0)


def write_in_every_way(store: Store, passing: Store, who: str, expected: Expected, rounds: int) -> None:
    attempt, counts = expected.attempt, {name: f"{who} {name}" for name in ("incr", "modify", "run")}
    for i in range(rounds):
        attempt(partial(store.set, who, i), {who: i})
        attempt(partial(store.update, {f"{who} {n}": i for n in (1, 2)}), {f"{who} {n}": i for n in (1, 2)})
        attempt(partial(store.incr, counts["incr"]), {counts["incr"]: one_more})
        attempt(partial(store.modify, counts["modify"], one_more, default=None), {counts["modify"]: one_more})
        attempt(partial(store.add, f"{who} new {i}", i), {f"{who} new {i}": i}, answer=True)
        if expected.cells[f"{who} new {i}"] == {i} and i % 2:
            attempt(partial(store.delete, f"{who} new {i}"), {f"{who} new {i}": None}, answer=1)
        attempt(partial(store.apply, "shared", {who: (operator.add, 1)}), {("shared", who): one_more})
        points = {i * 10 + n: f"{who} {i}" for n in range(1500)}
        attempt(partial(store.extend_many, who, points.items()), {(who, t): value for t, value in points.items()})
        attempt(partial(store.extend, who, (i * 10, i)), {(who, i * 10): i})
        attempt(
            partial(store.remove, who, start=i * 10 + 1, end=i * 10 + 4),
            {(who, i * 10 + n): None for n in (1, 2, 3, 4)},
        )

        def together(tx: Transaction, i: int = i) -> None:
            tx.incr(counts["run"])
            tx.extend(f"{who} run", (i, i))
            tx.apply(f"{who} run", {f"{i}": i})

        attempt(partial(store.run, together), {counts["run"]: one_more})
        attempt(partial(passing.set, "k", i), {"passing": i})
        attempt(passing.discard, {"passing": None})


def test_sessions_are_ended_in_the_middle_of_everything(postgresql: Server, postgresql_dsn: str) -> None:
    """Nothing acknowledged is lost, nothing is done twice, and reads go on."""
    rounds = 20
    done = threading.Event()
    writers = {who: Expected() for who in ("a", "b")}
    reads = {"done": 0, "lost twice": 0}
    broken: list[BaseException] = []

    def read(store: Store) -> None:
        while not done.is_set():
            try:
                assert (store.current("shared") or {}).keys() == {"a", "b"}
                pairs = dict(store.items())
                assert all(pairs.get(f"{who} 1") == pairs.get(f"{who} 2") for who in writers)
                reads["done"] += 1
            except StoreNotAvailableError:
                reads["lost twice"] += 1

    def guarded(work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again below
            broken.append(error)

    with ExitStack() as stack:
        store = stack.enter_context(Store(postgresql_dsn, frozen=False, durability="normal"))
        others = {who: stack.enter_context(Store(postgresql_dsn, f"passing {who}", frozen=False)) for who in writers}
        store.apply("shared", {"a": 0, "b": 0})
        writing = [
            threading.Thread(target=guarded, args=(write_in_every_way, store, others[who], who, expected, rounds))
            for who, expected in writers.items()
        ]
        reader = threading.Thread(target=guarded, args=(read, store))
        for thread in (*writing, reader):
            thread.start()
        ended = 0
        while any(thread.is_alive() for thread in writing):
            for pid in postgresql.sessions()[:2]:
                postgresql.execute(f"SELECT pg_terminate_backend({pid})")
                ended += 1
            sleep(0.005)  # some calls are to get through at the first try
        done.set()
        reader.join()
        for error in broken:
            raise error
        assert reads["done"] > 10 * reads["lost twice"]
        assert ended > rounds
        pairs, state = dict(store.items()), store.current("shared") or {}
        for who, expected in writers.items():
            assert expected.sure > 4 * (expected.unsure + expected.undone)
            points = dict(store.range(who))
            for cell, values in expected.cells.items():
                match cell:
                    case "passing":
                        assert others[who].get("k") in values
                    case str():
                        assert pairs.get(cell) in values, cell
                    case ("shared", _):
                        assert (state[who] or None) in values
                    case (_, t):
                        assert points.get(t) in values, cell
                    case _:
                        pytest.fail(f"what is {cell}?")
            assert {(who, t) for t in points} <= expected.cells.keys()
            together = pairs[f"{who} run"]
            assert together == len(store.range(f"{who} run")) == len(store.events(f"{who} run") or ())
            others[who].discard()
        assert len(store.events("shared") or ()) == 2 + state["a"] + state["b"]
        assert store.check() == []
