"""A verb that others overtake for ever, or that meets what contradicts itself, ends when the time-out is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from rstore import Store, StoreBusyError
from rstore.backends.contract import WriteTransaction
from rstore.backends.types import NamespaceGone

TIMEOUT_S = 0.2
LOST_RACES: dict[str, Callable[[Store], Any]] = {
    "apply": lambda s: s.apply("e", {"x": 3}),
    "apply in the past": lambda s: s.apply("e", {"x": 3}, 1),
    "revert": lambda s: s.revert("e", 0),
    "undo": lambda s: s.undo("e", 2),
    "apply_many": lambda s: s.apply_many([("e", 10**15, {"x": 3})]),
    "apply_many of many": lambda s: s.apply_many([("e", 10**15 + t, {"x": 3}) for t in range(1200)]),
    "apply_many in the past": lambda s: s.apply_many([("e", 1, {"x": 3})]),
    "apply_many of several": lambda s: s.apply_many([("e", 10**15, {"x": 3}), ("f", 1, {"x": 3})]),
    "prune": lambda s: s.prune("e"),
    "remove": lambda s: s.remove("s", start=0, end=1),
    "extend_many": lambda s: s.extend_many("s", ((i, i) for i in range(2000))),
    "extend, the first stays": lambda s: s.extend("s", (1, 2), on_duplicate="first"),
    "replace_range": lambda s: s.replace_range("s", [(1, 5)]),
    "compact": lambda s: s.compact("s"),
    "incr": lambda s: s.incr("k"),
    "modify": lambda s: s.modify("k", lambda n: n + 1),
    "pop": lambda s: s.pop("k"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("absent", 1),
    "get_or_set": lambda s: s.get_or_set("absent", lambda: 1),
}
GONE: dict[str, Callable[[Store], Any]] = {
    "set": lambda s: s.set("k", 1),
    "set, if": lambda s: s.set("new", 1, if_version=None),
    "update": lambda s: s.update(a=1, b=2),
    "add": lambda s: s.add("new", 1),
    "pop": lambda s: s.pop("k"),
    "extend": lambda s: s.extend("s", (7, 7)),
    "apply": lambda s: s.apply("e", {"x": 3}),
    "get_or_set": lambda s: s.get_or_set("absent", lambda: 1),
    "delete": lambda s: s.delete("k"),
    "delete_prefix": lambda s: s.delete_prefix("k"),
    "touch": lambda s: s.touch("k", 5),
    "remove": lambda s: s.remove("s"),
}


def ends(store: Store, verb: Callable[[Store], Any], why: str = "") -> None:
    began = monotonic()
    with pytest.raises(StoreBusyError, match=f"{why}.*nothing was stored"):
        verb(store)
    assert TIMEOUT_S <= monotonic() - began < TIMEOUT_S + 5


def replace_calls(monkeypatch: pytest.MonkeyPatch, call: str, by: Callable[..., Any]) -> None:
    """Replace a call of all backends, and of their transactions."""
    kinds = [WriteTransaction]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if call in vars(kind):
            monkeypatch.setattr(kind, call, by)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    dsn = f"memory://{tmp_path}" if request.param == "memory" else tmp_path / "store.db"
    with Store(dsn, frozen=False, durability="normal", timeout=TIMEOUT_S) as store:
        store["k"] = 1
        store.extend("s", (1, 1), (2, 2))
        store.apply("e", {"x": 1}, 1000)
        store.apply("e", {"x": 2}, 2000)
        yield store


@pytest.mark.parametrize("name", LOST_RACES)
def test_a_race_that_is_lost_for_ever(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_calls(monkeypatch, "commit", lambda *_: False)
    if name != "get_or_set":
        replace_calls(monkeypatch, "write_if", lambda *_: False)
    ends(store, LOST_RACES[name])


@pytest.mark.parametrize("name", GONE)
def test_a_namespace_that_is_discarded_for_ever(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise NamespaceGone

    verbs = ["put", "write", "write_if", "append", "commit", "delete", "delete_range", "touch"]
    for verb in [*verbs, *(["drop"] if name == "remove" else [])]:  # by it, a lease is given back
        replace_calls(monkeypatch, verb, gone)
    # A change that is computed anew each time does not know which of the two was in its way.
    ends(store, GONE[name], "" if name == "apply" else "the namespace 'default' keeps being discarded concurrently")


def test_a_value_that_is_computed_and_cannot_be_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_calls(monkeypatch, "write_if", lambda *_: False)
    ends(store, lambda s: s.get_or_set("absent", lambda: 1))


def test_a_value_that_is_computed_in_a_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_calls(monkeypatch, "write_if", lambda *_: False)

    def transact(store: Store) -> None:
        with store.transaction() as tx:
            tx.get_or_set("absent", lambda: 1)

    ends(store, transact)
