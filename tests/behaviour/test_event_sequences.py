"""Event sequences where something is wrong beside them: too little stack, values that cannot be loaded, damage."""

from __future__ import annotations

import operator
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from rstore import CorruptionError, SerializationError, Store


def boom() -> NoReturn:
    raise ValueError("this cannot be loaded")


class Unloadable:
    def __reduce__(self) -> tuple[Callable[[], NoReturn], tuple[()]]:
        return boom, ()


def under(frames: int, call: Callable[[], Any]) -> Any:
    """Return what a function returns that is called so many frames further down."""
    return call() if frames == 0 else under(frames - 1, call)


VERBS: dict[str, Callable[[Store], Any]] = {
    "current": lambda store: store.current("k"),
    "apply": lambda store: store.apply("k", {"y": 1}),
    "apply in the past": lambda store: store.apply("k", {"y": 0}, t=-5),
    "undo": lambda store: store.undo("k", 3),
    "apply_many": lambda store: store.apply_many([("k", 10, {"y": 1})]),
    "apply_many in the past": lambda store: store.apply_many([("k", -5, {"y": 1})]),
    "prune": lambda store: store.prune("k"),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_too_little_stack_is_no_damage(verb: Callable[[Store], Any]) -> None:
    nested: list[Any] = []
    for _ in range(150):
        nested = [nested]
    lacked = 0
    for frames in range(500, 1000, 20):
        dsn = f"memory://{uuid4()}"
        with Store(dsn, frozen=False) as store:
            store.apply("k", {"x": nested}, t=1)
            store.apply("k", {"x": (operator.add, [1])}, t=2)
            store.apply("k", {"y": 1}, t=3)
        with Store(dsn, frozen=False) as store:  # which remembers no state
            try:
                under(frames, partial(verb, store))
            except RecursionError:
                lacked += 1
            except SerializationError as error:
                lacked += isinstance(error.__cause__, RecursionError)
            assert store.past("k", 3) == {"x": [*nested, 1], "y": 1}
    if sys.version_info < (3, 12):  # from there on, C code has a stack of its own
        assert lacked


@pytest.mark.parametrize("t", [None, 200, 50], ids=["now", "later", "in the past"])
def test_what_cannot_be_loaded_is_not_recorded(t: int | None) -> None:
    with Store(f"memory://{uuid4()}", frozen=False) as store:
        store.apply("k", {"x": 1}, t=100)
        with pytest.raises(SerializationError, match="'k' in namespace 'default'"):
            store.apply("k", {"x": Unloadable()}, t=t)
        with pytest.raises(SerializationError, match="'k' in namespace 'default'"):
            store.apply_many([("k", t or 300, {"x": Unloadable()}), ("k", 400, {"x": 1})])
        assert store.events("k") == [(100, "x", operator.setitem, 1)]


def test_an_operator_that_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store:
        store.apply("k", {"x": 1}, t=1)
        store.apply("k", {"x": 2}, t=2)
    with closing(sqlite3.connect(path)) as connection, connection:
        ((body,),) = connection.execute("SELECT body FROM hot WHERE t = 2")
        at = body.index(b"\0\0\1\0\0\0\x09")  # the operator, before the lengths of the item and of the value
        damaged = body[:at] + b"\x63" + body[at + 1 :]
        assert connection.execute("UPDATE hot SET body = ? WHERE t = 2", (damaged,)).rowcount == 1
    with Store(path, frozen=False) as store:
        verbs: list[Callable[[], Any]] = [
            lambda: store.current("k"),
            lambda: store.past("k", 2),
            lambda: store.events("k"),
            lambda: store.apply("k", {"x": 3}),
            lambda: store.undo("k", 1),
            lambda: store.revert("k", 1),
            lambda: store.apply_many([("k", 3, {"x": 3})]),
            lambda: store.apply_many([("k", 0, {"x": 3})]),
            lambda: store.prune("k"),
        ]
        for verb in verbs:
            with pytest.raises(CorruptionError, match="the event sequence 'k' in namespace 'default': the operator"):
                verb()
