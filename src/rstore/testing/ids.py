"""Changes with an id: applied once, however often they are tried, and from wherever."""

from __future__ import annotations

import operator
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from rstore import (
    ChangeRefusedError,
    ConflictError,
    FrozenStoreError,
    InvalidArgumentError,
    Store,
)
from rstore.testing.flavours import KEY, OTHER_KEY, Flavour, pickled, plain
from rstore.testing.oracle import EventOracle, Oracle
from rstore.testing.suite import Opener, Suite, about
from rstore.testing.worker import Worker

ADD = {"n": (operator.add, 1)}
IDS = 40


@dataclass
class Point:
    """A value of a class of the program."""

    x: float
    tags: set[str]


def tags(*names: str) -> set[str]:
    """Return a set whose pickle depends on the order in which it was filled."""
    found: set[str] = set()
    for name in names:
        found.add(name)
    return found


def add_each(store: Store, n: int) -> None:
    """Add one under each of some ids."""
    for i in range(n):
        store.apply("shared", {"n": (operator.add, 1)}, id=f"change {i}")


class IdSuite(Suite):
    """`apply(…, id=…)`."""

    def test_a_change_is_applied_once(self, store: Store, oracle: Oracle) -> None:
        assert store.apply("k", {"n": 0}, 10, id="a") == {"n": 0}
        for _ in range(2):
            assert store.apply("k", ADD, 20, id="b") == {"n": 1}
        assert store.apply("k", {"m": "x"}, 15, id="ä" * 127) == {"n": 1, "m": "x"}
        # Also what would be refused by now: its time is taken, and its item is there.
        assert store.apply("k", {"n": 0}, 10, id="a") == {"n": 1, "m": "x"}
        assert store.apply("k", {"m": (operator.delitem, None)}, 30, id="c") == {"n": 1}
        assert store.apply("k", {"m": (operator.delitem, None)}, 30, id="c") == {"n": 1}
        log = oracle.events["k"] = EventOracle()
        for state, t in (({"n": 0}, 10), ({"m": "x"}, 15), (ADD, 20), ({"m": (operator.delitem, None)}, 30)):
            log.apply(state, t)

    def test_the_same_id_of_two_sequences_is_not_the_same(self, store: Store) -> None:
        for key in ("k", "l"):
            store.apply(key, {"n": 0})
            assert store.apply(key, ADD, id="a") == {"n": 1}
        assert store.apply("k", ADD, id="a") == {"n": 1}

    @pickled
    def test_another_change_under_the_same_id_is_a_conflict(self, store: Store, oracle: Oracle) -> None:
        store.apply("k", {"n": 0, "s": "secret"}, 1, id="a")
        before = store.events("k")
        others: list[tuple[dict[str, Any], int | None]] = [
            ({"n": 0, "s": "secret"}, 2), ({"n": 0, "s": "secret"}, None), ({"n": 0}, 1),
            ({"n": False, "s": "secret"}, 1),
            ({"n": (operator.add, 0), "s": "secret"}, 1), ({"n": 0, "s": "secret", "more": None}, 1),
            ({"n": (operator.delitem, None), "s": "secret"}, 1), ({"n": 0, "s": b"secret"}, 1),
            ({"n": (operator.setitem, (operator.add, 0)), "s": "secret"}, 1),
        ]  # fmt: skip
        for state, t in others:
            with about(state), pytest.raises(ConflictError, match="under the id 'a' another change of 'k'") as raised:
                store.apply("k", state, t, id="a")
            assert "secret" not in str(raised.value)
        assert store.events("k") == before
        oracle.events["k"] = log = EventOracle()
        log.apply({"n": 0, "s": "secret"}, 1)

    @pickled
    def test_equal_changes_are_the_same_however_they_were_made(self, store: Store) -> None:
        text = "".join(["a", "b"])  # noqa: FLY002 - another object than the literal
        equal: list[tuple[Any, Any]] = [
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
            ({"a": (operator.setitem, 1)}, {"a": 1}),
            ({"a": tags("x", "y", "zz", "q")}, {"a": tags("q", "zz", "y", "x")}),
            ({"a": {"x": {1: [2.5]}, "y": None}}, {"a": {"y": None, "x": {1: [2.5]}}}),
            ({"a": ["ab", text]}, {"a": ["ab", "ab"]}),
            ({"a": Point(1.5, tags("x", "y", "zz"))}, {"a": Point(1.5, tags("zz", "y", "x"))}),
            ({"a": Decimal("1.50")}, {"a": Decimal("1.50")}),
        ]
        for i, (first, second) in enumerate(equal):
            with about(first):
                assert store.apply("k", first, id=f"{i}") == store.apply("k", second, id=f"{i}")
        assert len({event.timestamp for event in store.events("k") or ()}) <= len(equal)
        with pytest.raises(ConflictError):
            store.apply("k", {"a": Decimal("1.5")}, id="6")
        store.apply("k", {"a": OrderedDict(a=1, b=2)}, id="ordered")
        with pytest.raises(ConflictError):
            store.apply("k", {"a": OrderedDict(b=2, a=1)}, id="ordered")

    @pytest.mark.parametrize("bad", ["", "x" * 256, "ä" * 128, "\ud800", "a\0b", b"id", 7, True, ["a"]], ids=ascii)
    def test_what_cannot_be_an_id_is_refused(self, store: Store, bad: Any) -> None:
        with pytest.raises(InvalidArgumentError):
            store.apply("k", {"n": 1}, id=bad)
        assert store.current("k") is None

    def test_what_is_no_change_is_refused_under_an_id_as_without(self, store: Store) -> None:
        class Called:
            def __call__(self) -> int:
                return 1

        for bad in ({"n": (Called(), 1)}, {"n": (partial(int), 1)}, {"n": ("add", 1)}, {1: 2}, 5):
            with about(bad), pytest.raises(InvalidArgumentError):
                store.apply("k", bad, id="a")  # type: ignore[arg-type]
        assert store.current("k") is None

    @pytest.mark.parametrize("bad", [0, -1, "7d", True, float("nan"), 10**12], ids=ascii)
    def test_what_cannot_be_a_time_to_live_of_ids_is_refused(self, opener: Opener, bad: Any) -> None:
        with pytest.raises(InvalidArgumentError, match="id_ttl"):
            opener(id_ttl=bad)

    def test_what_was_not_recorded_leaves_no_id(self, store: Store, opener: Opener) -> None:
        with pytest.raises(ChangeRefusedError):
            store.apply("k", ADD, id="a")
        assert store.apply("k", {}, id="a") is None
        with opener(frozen=True) as frozen, pytest.raises(FrozenStoreError):
            frozen.apply("k", {"n": 1}, id="a")
        assert store.apply("k", {"n": 7}, id="a") == {"n": 7}

    def test_the_stored_change_tells_its_id(self, store: Store) -> None:
        store.apply("k", {"n": 0}, 1, id="first")
        store.apply("k", ADD, 2)
        assert [change.id for change in store.history("k")] == ["first", None]

    def test_ids_survive_a_prune(self, store: Store) -> None:
        store.apply("k", {"n": 0}, 1, id="a")
        store.apply("k", {"n": 1}, 2, id="b")
        store.prune("k")
        assert store.apply("k", {"n": 0}, 1, id="a") == {"n": 1}
        store.apply("k", {"n": (operator.delitem, None)}, 3, id="c")
        assert store.prune("k") > 0
        assert store.eventsources() == []
        assert store.apply("k", {"n": 0}, 1, id="a") is None
        assert store.apply("k", {"n": 5}, 4, id="d") == {"n": 5}
        assert store.apply("k", {"n": 1}, 2, id="b") == {"n": 5}

    def test_a_discarded_namespace_takes_its_ids_along(self, opener: Opener) -> None:
        with opener() as store:
            store.apply("k", {"n": 0}, id="a")
            store.discard()
            assert store.apply("k", {"n": 1}, id="a") == {"n": 1}

    def test_a_sequence_that_is_forgotten_takes_its_ids_along(self, store: Store) -> None:
        for key in ("k", "l"):
            store.apply(key, {"n": 0}, id="a")
        store.apply("l", {"n": (operator.delitem, None)})
        store.prune("l")
        assert store.forget("k", "l") == 1
        for key in ("k", "l"):
            assert store.apply(key, {"n": 1}, id="a") == {"n": 1}
        assert store.check() == []

    @pytest.mark.usefixtures("_transactional")
    def test_ids_inside_of_transactions(self, store: Store) -> None:
        store.apply("k", {"n": 0}, id="before")
        with store.transaction() as tx:
            assert tx.apply("k", {"n": 0}, id="before") == {"n": 0}
            for _ in range(2):
                assert tx.apply("k", ADD, id="inside") == {"n": 1}
            assert tx.apply("new", {"n": 0}, id="inside") == {"n": 0}
            with pytest.raises(ConflictError):
                tx.apply("k", {"n": 0}, id="inside")
        assert store.apply("k", ADD, id="inside") == {"n": 1}
        assert store.apply("new", {"n": 0}, id="inside") == {"n": 0}
        with suppress(ZeroDivisionError), store.transaction() as tx:
            tx.apply("k", ADD, id="undone")
            raise ZeroDivisionError
        assert store.apply("k", ADD, id="undone") == {"n": 2}

    # -- how long they are kept ---------------------------------------------------------------------------------------

    def test_an_id_is_kept_for_its_time(self, opener: Opener) -> None:
        with opener(id_ttl=0.05) as store:
            store.apply("k", {"n": 0})
            store.apply("k", ADD, id="a")
            time.sleep(0.1)
            assert store.apply("k", ADD, id="a") == {"n": 2}
            time.sleep(0.1)
            assert store.apply("k", {"n": 9}, id="a") == {"n": 9}
        with opener(id_ttl=None) as store:
            store.apply("l", {"n": 0}, id="a")
        with opener(id_ttl=0.001) as store:  # it is kept as the store said that applied it
            time.sleep(0.1)
            assert store.apply("l", {"n": 0}, id="a") == {"n": 0}
            with pytest.raises(ConflictError):
                store.apply("l", {"n": 1}, id="a")

    # -- several at once ----------------------------------------------------------------------------------------------

    def test_callers_that_try_the_same_changes_apply_each_once(
        self, store: Store, opener: Opener, flavour: Flavour
    ) -> None:
        store.apply("shared", {"n": 0})
        with ThreadPoolExecutor(3) as pool:
            if self.persistent:
                with Worker() as worker:
                    worker.open(flavour, opener.dsn)
                    worker.start(add_each, IDS)
                    list(pool.map(lambda _: add_each(store, IDS), range(2)))
                    worker.wait()
            else:
                list(pool.map(lambda _: add_each(store, IDS), range(3)))
        assert store.current("shared") == {"n": IDS}
        assert len(store.events("shared") or ()) == IDS + 1

    # -- keys, and copies ---------------------------------------------------------------------------------------------

    @plain
    def test_ids_are_known_under_each_of_several_keys(self, opener: Opener) -> None:
        old, new = Flavour("old", key=OTHER_KEY), Flavour("new")
        with opener(flavour=old) as store:
            store.apply("k", {"n": 0}, id="a")
        with opener(flavour=new, key=[KEY, OTHER_KEY]) as store:
            assert store.apply("k", {"n": 0}, id="a") == {"n": 0}
            assert store.apply("k", ADD, id="b") == {"n": 1}
            with pytest.raises(ConflictError):
                store.apply("k", {"n": 1}, id="a")
        with opener(flavour=new, key=[OTHER_KEY, KEY]) as store:
            assert store.apply("k", ADD, id="b") == {"n": 1}

    def test_an_id_is_found_in_a_backup(self, store: Store, tmp_path: Any, flavour: Flavour) -> None:
        if not self.backups:
            pytest.skip("the store cannot be copied as of one moment")
        store.apply("k", {"n": 0}, id="a")
        store.apply("k", ADD, id="b")
        path = str(tmp_path / "copy.db")
        store.backup(path)
        make: Callable[..., Store] = flavour.make
        with make(path) as copied:
            assert copied.apply("k", ADD, id="b") == {"n": 1}
            with pytest.raises(ConflictError):
                copied.apply("k", ADD, id="a")
