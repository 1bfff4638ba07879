"""Hardships of event sequences, in all their verbs: bad arguments, huge states, clocks, decimal contexts.

What is refused raises a typed error, and nothing is recorded.
"""

from __future__ import annotations

import decimal
import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    ConflictError,
    HorizonError,
    InvalidArgumentError,
    SerializationError,
    Store,
    StoreIntegrityError,
)
from rstore.testing.applying import RefusedByCallerError, Unpicklable
from rstore.testing.flavours import Flavour, pickled, sealed
from rstore.testing.noting import apply_an_hour_ago
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.worker import Worker

_Call = Callable[[Store], Any]


def _raise(_: object) -> Any:
    raise RefusedByCallerError


def _noting(store: Store, call: _Call) -> None:
    with store.noting(by=Unpicklable()):
        call(store)


NO_KEYS: tuple[Any, ...] = ("", "\0", "x" * 3000, "\ud800", None, 5, b"k", ["k"])
NO_TIMES: tuple[Any, ...] = (1.5, "1", True, 2**63, -(2**63) - 1, Decimal(1))
NO_CHANGES: tuple[Any, ...] = (None, 5, "a", [("a", 1)], {"": 1}, {5: 1}, {"a": (len, 1)}, {"a": ("add", 1)})

OF_A_KEY: dict[str, Callable[[Store, Any], Any]] = {
    "apply": lambda s, key: s.apply(key, {"a": 1}),
    "apply of a function": lambda s, key: s.apply(key, lambda _: {"a": 1}),
    "apply of nothing": lambda s, key: s.apply(key, {}),
    "check_change": lambda s, key: s.check_change(key, {"a": 1}),
    "version": lambda s, key: s.version(key),
    "current": lambda s, key: s.current(key),
    "past": lambda s, key: s.past(key, 1),
    "past of a commit": lambda s, key: s.past(key, n=1),
    "past of several": lambda s, key: s.past(key, [1]),
    "diff": lambda s, key: s.diff(key, 1),
    "events": lambda s, key: s.events(key),
    "history": lambda s, key: list(s.history(key)),
    "history of an item": lambda s, key: list(s.history("k", key or "")),
    "prune": lambda s, key: s.prune(key),
    "revert": lambda s, key: s.revert(key, 1),
    "revert of an item": lambda s, key: s.revert("k", 1, [key]),
    "undo": lambda s, key: s.undo(key, 1),
    "apply_many": lambda s, key: s.apply_many([("fine", 1, {"a": 1}), (key, 2, {"a": 1})]),
    "forget": lambda s, key: s.forget(key),
    "verify": lambda s, key: s.verify(key),
    "digest": lambda s, key: s.digest(key),
    "follow": lambda s, key: s.follow(key, timeout=0),
    "project": lambda s, key: s.project(key, lambda value, _: value, "k"),
}
OF_A_TIME: dict[str, Callable[[Store, Any], Any]] = {
    "apply": lambda s, t: s.apply("k", {"a": 1}, t),
    "check_change": lambda s, t: s.check_change("k", {"a": 1}, t),
    "past": lambda s, t: s.past("k", t),
    "past of several": lambda s, t: s.past("k", [1, t]),
    "past as known": lambda s, t: s.past("k", 1, known=t),
    "past of a commit": lambda s, t: s.past("k", n=t),
    "diff": lambda s, t: s.diff("k", t),
    "diff of two": lambda s, t: s.diff("k", 1, t),
    "events": lambda s, t: s.events("k", t),
    "history": lambda s, t: list(s.history("k", end=t)),
    "history of some": lambda s, t: list(s.history("k", limit=t)),
    "revert": lambda s, t: s.revert("k", t),
    "undo": lambda s, t: s.undo("k", t),
    "apply_many": lambda s, t: s.apply_many([("fine", 1, {"a": 1}), ("k", t, {"a": 1})]),
}
OF_A_CHANGE: dict[str, Callable[[Store, Any], Any]] = {
    "apply": lambda s, change: s.apply("k", change),
    "apply in the past": lambda s, change: s.apply("k", change, 15),
    "apply of a function": lambda s, change: s.apply("k", lambda _: change),
    "check_change": lambda s, change: s.check_change("k", change),
    "apply_many": lambda s, change: s.apply_many([("fine", 1, {"a": 1}), ("k", 99, change)]),
}
OTHERS: tuple[tuple[str, type[Exception], _Call], ...] = (
    ("a version that is none", InvalidArgumentError, lambda s: s.apply("k", {"a": 1}, if_version="1")),  # type: ignore[arg-type]
    ("an old version", ConflictError, lambda s: s.apply("k", {"a": 1}, if_version=bytes(16))),
    ("there already", ConflictError, lambda s: s.apply("k", {"a": 1}, if_version=None)),
    ("a value that cannot be pickled", SerializationError, lambda s: s.apply("k", {"a": 1, "b": Unpicklable()})),
    ("a note that cannot be pickled", SerializationError, lambda s: s.apply("k", {"a": 1}, note=Unpicklable())),
    ("a note of a block", SerializationError, lambda s: _noting(s, lambda s: s.apply("k", {"a": 1}))),
    ("a note of an undo", SerializationError, lambda s: _noting(s, lambda s: s.undo("k", 3))),
    ("a note of a revert", SerializationError, lambda s: _noting(s, lambda s: s.revert("k", 10))),
    ("a note to load", SerializationError, lambda s: s.apply_many([("k", 99, {"a": 1}, Unpicklable())])),
    ("fn that raises", RefusedByCallerError, lambda s: s.apply("k", _raise)),
    ("fn that is asynchronous", InvalidArgumentError, lambda s: s.apply("k", _asynchronous)),  # type: ignore[arg-type]
    ("a commit that there is not", InvalidArgumentError, lambda s: s.undo("k", 99)),
    ("commit 0", InvalidArgumentError, lambda s: s.undo("k", 0)),
    ("the state behind no commit", InvalidArgumentError, lambda s: s.past("k", n=99)),
    ("undo of what others build upon", ChangeRefusedError, lambda s: s.undo("k", 1)),
    ("an operator without its item", ChangeRefusedError, lambda s: s.apply("k", {"none": (operator.add, 1)})),
    ("an overflow", ChangeRefusedError, lambda s: s.apply("k", {"d": (operator.pow, Decimal(10**9))})),
    ("a time that is taken", StoreIntegrityError, lambda s: s.apply("k", {"a": 1}, 20)),
    ("past without a time", InvalidArgumentError, lambda s: s.past("k")),  # type: ignore[call-overload]
    ("prune of nothing", InvalidArgumentError, lambda s: s.prune()),
    ("prune before no time", InvalidArgumentError, lambda s: s.prune("k", before="1")),  # type: ignore[arg-type]
    ("an id that is none", InvalidArgumentError, lambda s: s.apply("k", {"a": 1}, id=5)),  # type: ignore[arg-type]
    ("an empty id", InvalidArgumentError, lambda s: s.apply("k", {"a": 1}, id="")),
    ("a long id", InvalidArgumentError, lambda s: s.apply("k", {"a": 1}, id="x" * 5000)),
    ("an id of another change", ConflictError, lambda s: s.apply("k", {"b": "y"}, 30, id="once")),
    ("a cursor that is none", InvalidArgumentError, lambda s: next(s.follow("k", after="cursor", timeout=0))),
    ("a cursor of other keys", InvalidArgumentError, lambda s: next(s.follow("k", after=_cursor_of(s), timeout=0))),
    ("fn that is no function", InvalidArgumentError, lambda s: s.project("p", None, "k")),  # type: ignore[arg-type]
    ("no projection", InvalidArgumentError, lambda s: s.project("value", lambda value, _: value, "k")),
    ("a digest that is none", InvalidArgumentError, lambda s: s.verify("k", "digest")),
    ("a digest from before a prune", HorizonError, lambda s: s.verify("pruned", s["digest"])),
    ("a cursor from before a prune", HorizonError, lambda s: next(s.follow("pruned", after=s["cursor"], timeout=0))),
    ("revert before the horizon", HorizonError, lambda s: s.revert("pruned", 5)),
    ("undo before the horizon", HorizonError, lambda s: s.undo("pruned", 1)),
    ("past before the horizon", HorizonError, lambda s: s.past("pruned", 5)),
    ("history before the horizon", HorizonError, lambda s: list(s.history("pruned", start=5))),
    ("load before the horizon", HorizonError, lambda s: s.apply_many([("pruned", 5, {"a": 1})])),
)


def _cursor_of(store: Store) -> str:
    with store.follow("pruned", timeout=0) as changes:
        return changes.cursor


async def _asynchronous(state: dict[str, Any]) -> dict[str, Any]:
    return state


class HardshipSuite(Suite):
    """Hardships of event sequences."""

    @pickled
    def test_bad_arguments_of_event_verbs(self, store: Store) -> None:
        for t, state in ((10, {"a": 1, "d": Decimal(7)}), (20, {"a": (operator.add, 1)})):
            store.apply("k", state, t)
        store.apply("k", {"b": "x"}, 30, id="once")
        for t in (1, 5, 10):
            store.apply("pruned", {"a": t}, t)
            with store.follow("pruned", timeout=0) as changes:
                store.update(value=1, cursor=store.get("cursor") or changes.cursor, digest=store.digest("pruned"))
        store.prune("pruned")
        calls: list[tuple[str, type[Exception], _Call]] = [
            *((f"{name} {given!r:.20}", InvalidArgumentError, lambda s, verb=verb, given=given: verb(s, given))
              for verbs, values in ((OF_A_KEY, NO_KEYS), (OF_A_TIME, NO_TIMES), (OF_A_CHANGE, NO_CHANGES))
              for name, verb in verbs.items()
              for given in values),
            *OTHERS,
        ]  # fmt: skip
        before = _all_of(store)
        for name, error, call in calls:
            with about(name), pytest.raises(error) as refused:
                call(store)
            assert "secret" not in str(refused.value)
            assert store.version("k") == before[0]
        assert _all_of(store) == before

    def test_a_cursor_of_another_store(self, store: Store, opener: Opener) -> None:
        for _ in range(2):
            store.apply("k", {"a": 1})
        cursor = next(iter(store.follow("k", after="", timeout=0))).cursor
        with opener("other") as other:
            other.apply("k", {"a": 1})
            with pytest.raises(InvalidArgumentError):
                next(other.follow("k", after=cursor, timeout=0))

    @sealed
    def test_tens_of_thousands_of_items(self, store: Store) -> None:
        n = 20_000  # as many as make a change larger than a chunk; `ApplyingSuite` has a hundred thousand
        many = {f"item {i}": i for i in range(n)}
        assert store.apply_many([("k", 10, many), ("k", 20, {"item 7": (operator.add, 1)})]) == 2
        [last] = store.history("k", reverse=True, limit=1)
        assert (last.item, last.before, last.after) == ("item 7", 7, 8)
        assert sum(1 for _ in store.history("k", end=10)) == n
        assert store.diff("k", 10) == {"item 7": (7, 8)}
        assert store.undo("k", 2) == many
        assert store.revert("k", 20, ["item 7"]) == many | {"item 7": 8}
        assert (store.past("k", n=1) or {})["item 7"] == 7
        assert store.prune("k") == 3
        assert store.current("k") == many | {"item 7": 8}

    @sealed
    def test_a_large_value_in_an_item(self, store: Store, opener: Opener) -> None:
        large = b"0123456789" * 900_000  # `ApplyingSuite` has 50 MB
        store.apply_many([("k", 10, {"large": large, "n": 1}), ("k", 20, {"n": (operator.add, 1)})])
        assert [change.item for change in store.history("k", reverse=True)] == ["n", "n", "large"]
        assert (store.apply("k", {"large": b""}, 30) or {})["n"] == 2
        assert (store.undo("k", 3) or {})["large"] == large
        with opener(frozen=True) as other:
            assert (other.current("k") or {})["large"] == large
            assert (other.diff("k", 20, 30) or {})["large"] == (large, b"")
        with pytest.raises(ChangeRefusedError):
            store.apply("k", {"large": (operator.add, large)})
        store.prune("k")
        assert (store.current("k") or {})["large"] == large

    @pickled
    def test_what_history_tells_of_a_clock_an_hour_behind(self, store: Store, opener: Opener, flavour: Flavour) -> None:
        if not (self.persistent and self.local_clock):
            pytest.skip("all processes have the same clock")
        store.apply("k", {"n": 0})
        with Worker() as worker:
            worker.open(flavour, opener.dsn)
            for _ in range(4):
                worker.run(apply_an_hour_ago, {"n": (operator.add, 1)})
                store.apply("k", {"n": (operator.add, 1)})
        told = [*store.history("k")]
        assert [change.n for change in told] == list(range(1, 10))
        assert [change.after for change in told] == list(range(9))
        recorded = [change.recorded for change in told]
        assert recorded == sorted(recorded)
        for change in told:
            believed = max(other.after for other in told if other.recorded <= change.recorded)
            assert store.past("k", 2**62, known=change.recorded) == {"n": believed}
        assert store.undo("k", 9) == {"n": 7}

    @pickled
    def test_the_decimal_context_decides_nothing_of_what_is_taken_back_or_loaded(self, store: Store) -> None:
        contexts = (
            decimal.Context(prec=3, rounding=decimal.ROUND_UP, traps=[decimal.Inexact, decimal.Rounded]),
            decimal.Context(prec=60),
            decimal.Context(),
        )
        told: list[str] = []
        for i, context in enumerate(contexts):
            with about(i), decimal.localcontext(context):
                key = f"{i}"
                store.apply_many([
                    (key, 1, {"a": Decimal("1.000000001"), "b": Decimal(2)}),
                    (key, 2, {"a": (operator.truediv, Decimal(3)), "b": (operator.add, Decimal("0.123456"))}),
                ])  # fmt: skip
                store.apply(key, {"a": (operator.mul, 7)}, 3)
                store.revert(key, 1, ["b"])
                state = store.undo(key, 3)
                told.append(repr([
                    state, store.diff(key, 1), store.past(key, [1, 2, 3]),
                    [change[3:8] for change in store.history(key)], next(store.history(key, reverse=True)).before,
                ]))  # fmt: skip
        assert [*{*told}] == [told[0]]


def _all_of(store: Store) -> list[Any]:
    keys = store.eventsources()
    return [store.version("k"), keys, [[*store.history(key)] for key in keys], [store.current(key) for key in keys]]
