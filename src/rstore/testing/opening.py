"""Opening, closing and reopening; frozen and closed stores; `Store` as an object."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rstore import (
    FrozenStoreError,
    InvalidArgumentError,
    Store,
    StoreClosedError,
    StoreNotAvailableError,
)
from rstore.testing.flavours import KEY, OTHER_KEY, Flavour, pickled, plain
from rstore.testing.suite import Opener, Suite, about, shown

Verb = Callable[[Any], Any]

READS: dict[str, Verb] = {
    "get": lambda s: s.get("k"),
    "[]": lambda s: s["k"],
    "has": lambda s: s.has("k"),
    "in": lambda s: "k" in s,
    "in, of what is no key": lambda s: 5 in s,
    "len": len,
    "iter": list,
    "keys": lambda s: s.keys(),
    "items": lambda s: list(s.items()),
    "values": lambda s: list(s.values()),
    "find": lambda s: s.find("*"),
    "find of what no key begins with": lambda s: s.find("\0*"),
    "get_many": lambda s: s.get_many(["k"]),
    "get_many of nothing": lambda s: s.get_many([]),
    "entry": lambda s: s.entry("k"),
    "scan": lambda s: s.scan(),
    "count": lambda s: s.count("k"),
    "range": lambda s: s.range("k"),
    "range of nothing": lambda s: s.range("k", n=0),
    "range that ends before it starts": lambda s: s.range("k", 2, end=1),
    "first": lambda s: s.first("k"),
    "last": lambda s: s.last("k"),
    "missing": lambda s: s.missing("k", 1, 2, 1),
    "missing between nothing": lambda s: s.missing("k", 2, 1, 1),
    "iscomplete": lambda s: s.iscomplete("k", 1, 2, 1),
    "timeseries": lambda s: s.timeseries(),
    "range_many": lambda s: s.range_many(["k"]),
    "range_many of nothing": lambda s: s.range_many(["k"], 2, 1),
    "range_columns": lambda s: s.range_columns("k"),
    "tail": lambda s: s.tail("k", 1),
    "tail of nothing": lambda s: s.tail("k", 0),
    "latest": lambda s: s.latest("k"),
    "span": lambda s: s.span("k"),
    "span of nothing": lambda s: s.span("k", 2, 1),
    "gaps": lambda s: s.gaps("k", freq=1),
    "gaps between nothing": lambda s: s.gaps("k", 2, 1, freq=1),
    "batches": lambda s: list(s.batches("k")),
    "at": lambda s: s.at("k", 1),
    "resample": lambda s: s.resample("k", 10, "count"),
    "downsample": lambda s: s.downsample("k", 10),
    "to_pandas": lambda s: s.to_pandas("k"),
    "to_pandas of nothing": lambda s: s.to_pandas("k", start=2, end=1),
    "to_polars": lambda s: s.to_polars("k"),
    "to_arrow": lambda s: s.to_arrow("k"),
    "current": lambda s: s.current("k"),
    "past": lambda s: s.past("k", 1),
    "events": lambda s: s.events("k"),
    "eventsources": lambda s: s.eventsources(),
    "eventsequences": lambda s: s.eventsequences(),
    "namespaces": lambda s: s.namespaces(),
    "ping": lambda s: s.ping(),
    "stats": lambda s: s.stats(),
    "durability": lambda s: s.durability(),
    "check": lambda s: s.check(),
}
WRITES: dict[str, Verb] = {
    "set": lambda s: s.set("k", 2),
    "[]=": lambda s: s.__setitem__("k", 2),
    "delete": lambda s: s.delete("k"),
    "delete of nothing": lambda s: s.delete(),
    "del": lambda s: s.__delitem__("k"),
    "pop": lambda s: s.pop("k"),
    "pop of nothing": lambda s: s.pop("nothing", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("k", 2),
    "update": lambda s: s.update(k=2),
    "update of nothing": lambda s: s.update(),
    "clear": lambda s: s.clear(),
    "set_many": lambda s: s.set_many({"k": 2}),
    "set_many of nothing": lambda s: s.set_many({}),
    "add": lambda s: s.add("k", 2),
    "incr": lambda s: s.incr("k"),
    "modify": lambda s: s.modify("k", lambda n: n + 1, default=2),
    "get_or_set": lambda s: s.get_or_set("k", lambda: 2),
    "touch": lambda s: s.touch("k", 1),
    "delete_prefix": lambda s: s.delete_prefix("k"),
    "extend": lambda s: s.extend("k", (1, 2)),
    "extend of nothing": lambda s: s.extend("k"),
    "extend_many": lambda s: s.extend_many("k", [(1, 2)]),
    "extend_columns": lambda s: s.extend_columns("k", [1], [2]),
    "extend_frame": lambda s: s.extend_frame({"t": [1], "k": [2]}, timestamps="t"),
    "replace_range": lambda s: s.replace_range("k", [(1, 2)]),
    "compact": lambda s: s.compact(),
    "remove": lambda s: s.remove("k"),
    "apply": lambda s: s.apply("k", {"a": 2}),
    "apply of nothing": lambda s: s.apply("k", {}),
    "revert": lambda s: s.revert("k", 0),
    "undo": lambda s: s.undo("k", 1),
    "apply_many": lambda s: s.apply_many([("k", 2, {"a": 2})]),
    "apply_many of nothing": lambda s: s.apply_many([]),
    "prune": lambda s: s.prune("k"),
    "vacuum": lambda s: s.vacuum(),
    "discard": lambda s: s.discard(),
}
OF_STORES = {"namespaces", "ping", "stats", "durability", "check", "vacuum", "discard"}
"""Verbs that transactions and snapshots do not have."""


def _never() -> Iterator[tuple[int, Any]]:
    yield pytest.fail("the points were asked for")


class OpeningSuite(Suite):
    """A store is opened, used and closed."""

    def test_a_store_is_frozen_by_default(self, opener: Opener, flavour: Flavour) -> None:
        with opener():
            pass
        with flavour.store(opener.dsn, key=flavour.key) as store, pytest.raises(FrozenStoreError):
            store.set("k", 1)

    @pickled
    def test_opening_what_is_not_there_frozen_is_refused(self, opener: Opener) -> None:
        store = opener(frozen=True)
        with pytest.raises(StoreNotAvailableError):
            store.open()
        with pytest.raises(StoreClosedError):
            store.keys()
        with opener() as writable:
            writable.set("k", 1)
        with store:
            assert store.keys() == ["k"]

    @pickled
    def test_opening_another_namespace_frozen_is_refused(self, opener: Opener) -> None:
        with opener("one"), pytest.raises(StoreNotAvailableError), opener("two", frozen=True):
            pass

    @pickled
    def test_an_opened_namespace_exists_though_it_is_empty(self, opener: Opener) -> None:
        with opener():
            pass
        with opener(frozen=True) as store:
            assert store.keys() == store.timeseries() == store.eventsources() == []

    @pickled
    def test_an_emptied_namespace_exists(self, opener: Opener) -> None:
        with opener() as store:
            store.set("k", 1)
            store.extend("k", (1, 1))
            store.apply("k", {"a": 1})
            store.apply("k", {"a": (operator.delitem, None)})
            store.delete("k")
            store.remove("k")
            store.prune("k")
        with opener(frozen=True) as store:
            assert store.keys() == store.timeseries() == store.eventsources() == []

    @pickled
    def test_frozen_refuses_every_write(self, opener: Opener) -> None:
        self._fill(opener)
        with opener(frozen=True) as store:
            for name, verb in WRITES.items():
                with about(name), pytest.raises(FrozenStoreError):
                    verb(store)
            assert store.find() == [("k", 1)]
            assert store.range("k") == [(1, 1)]
            assert store.current("k") == {"a": 1}

    @plain
    def test_frozen_refuses_before_it_touches_anything(self, opener: Opener) -> None:
        self._fill(opener)
        with opener(frozen=True) as store:
            with pytest.raises(FrozenStoreError):
                store.extend_many("k", _never())
            with pytest.raises(FrozenStoreError):
                store.set("k", _never())  # cannot be dumped

    @pickled
    def test_frozen_reads_everything(self, opener: Opener) -> None:
        self._fill(opener)
        with opener(frozen=True) as store:
            for verb in READS.values():
                verb(store)

    @plain
    def test_closed_refuses_everything(self, opener: Opener) -> None:
        self._fill(opener)
        store = opener()
        for _ in ("never opened", "closed again"):
            for name, verb in (READS | WRITES).items():
                with about(name), pytest.raises(StoreClosedError):
                    verb(store)
            with store:
                pass
        with opener(frozen=True) as frozen:
            assert (frozen.find(), frozen.range("k"), frozen.current("k")) == ([("k", 1)], [(1, 1)], {"a": 1})

    @plain
    def test_a_scan_of_a_store_that_is_closed_meanwhile_never_ends_short(self, opener: Opener) -> None:
        with opener() as store:
            store.update({f"{i:05}": i for i in range(5000)})
            scan = iter(store)
            seen = [next(scan)]
        try:
            seen.extend(scan)
        except StoreClosedError:
            return
        assert len(seen) == 5000

    def test_entering_again(self, opener: Opener) -> None:
        store = opener()
        for i in range(3):
            with store as entered:
                assert entered is store
                assert store.get("k") == (i - 1 if i else None)
                store.set("k", i)
            with pytest.raises(StoreClosedError):
                store.get("k")

    @plain
    def test_entering_nested(self, opener: Opener) -> None:
        store = opener()
        with store:
            store.set("k", 1)
            with store:
                with store:
                    store.set("k", 2)
                assert store["k"] == 2
            store.set("k", 3)
            assert store["k"] == 3
        with pytest.raises(StoreClosedError):
            store.get("k")

    @plain
    def test_open_and_close_are_entering_and_leaving(self, opener: Opener) -> None:
        store = opener()
        store.open()
        store.set("k", 1)
        with store:
            store.set("k", 2)
        assert store["k"] == 2
        store.close()
        with pytest.raises(StoreClosedError):
            store.get("k")
        store.close()
        store.open()
        assert store["k"] == 2
        store.close()

    @plain
    def test_closing_inside_with_is_fine(self, opener: Opener) -> None:
        with opener() as store:
            store.close()
            with pytest.raises(StoreClosedError):
                store.get("k")
        store.close()

    @plain
    def test_leaving_by_an_error_closes_and_passes_it_on(self, opener: Opener) -> None:
        store = opener()
        with pytest.raises(ZeroDivisionError), store:
            store.set("k", 1 // len(store))
        with pytest.raises(StoreClosedError):
            store.get("k")
        with store:
            assert store.keys() == []

    @pickled
    def test_two_handles_see_each_other(self, opener: Opener) -> None:
        with opener() as one, opener() as two, opener(frozen=True) as three:
            one.set("k", 1)
            assert two["k"] == three["k"] == 1
            two.extend("k", (1, 1))
            assert one.range("k") == three.range("k") == [(1, 1)]
            one.apply("k", {"a": 1}, 5)
            two.apply("k", {"b": 2}, 6)
            assert one.current("k") == two.current("k") == three.current("k") == {"a": 1, "b": 2}

    @plain
    def test_hash_and_equality_are_of_the_object(self, opener: Opener) -> None:
        one, two = opener(), opener()
        assert len(dict([(one, 1), (two, 2), (one, 3)])) == 2  # noqa: C406 - the same key twice, on purpose
        assert one == one  # noqa: PLR0124 - equality is under test
        with one, two:
            one.set("k", 1)
            assert one != two
            assert one != {"k": 1}
            assert hash(one) == hash(one)

    @plain
    def test_a_store_is_always_true(self, opener: Opener) -> None:
        store = opener()
        assert store
        with store:
            assert len(store) == 0
            assert store
        assert store

    @plain
    def test_repr_shows_no_secret(self, opener: Opener) -> None:
        for i, key in enumerate((KEY, KEY.encode(), [KEY, OTHER_KEY], bytes(range(65, 97)))):
            store = opener(f"{i}", key=key)
            with store:
                store.set("k", "the value")
                shown = repr(store) + str(store)
            shown += repr(store)
            for secret in (KEY, OTHER_KEY, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "the value"):
                assert secret not in shown

    @pytest.mark.parametrize(
        "options",
        [
            {"serializer": "yaml"},
            {"serializer": None},
            {"serializer": []},
            {"durability": "sometimes"},
            {"durability": None},
            {"timeout": -1.0},
            {"timeout": "long"},
            {"timeout": float("nan")},
        ],
        ids=shown,
    )
    @plain
    def test_impossible_options_are_refused(self, opener: Opener, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgumentError):
            Store(opener.dsn, frozen=False, **options)

    @staticmethod
    def _fill(opener: Opener) -> None:
        with opener() as store:
            store.set("k", 1)
            store.extend("k", (1, 1))
            store.apply("k", {"a": 1}, 1)


class ClassAttributeSuite(Suite):
    """Class attributes of a subclass in place of arguments."""

    @plain
    def test_namespace_of_argument_then_class_then_default(self, opener: Opener) -> None:
        class Mine(Store):
            _namespace = "mine"

        with opener("mine") as mine, opener("other") as other, opener("default") as default:
            mine.set("k", "mine")
            other.set("k", "other")
            default.set("k", "default")
            with Mine(opener.dsn) as chosen:
                assert chosen["k"] == "mine"
            with Mine(opener.dsn, "other") as chosen:
                assert chosen["k"] == "other"
            with Store(opener.dsn) as store:
                assert store["k"] == "default"

    @plain
    def test_key_of_argument_then_class(self, opener: Opener) -> None:
        class Sealed(Store):
            _key = KEY

        with opener(key=KEY) as store:
            store.set("k", 1)
        with opener("other", key=OTHER_KEY) as store:
            store.set("k", 2)
        with Sealed(opener.dsn) as sealed:
            assert sealed["k"] == 1
        with Sealed(opener.dsn, "other", OTHER_KEY) as sealed:
            assert sealed["k"] == 2
