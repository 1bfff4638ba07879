"""Key/value pairs: the verbs of a `MutableMapping`, and all that it promises."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from enum import Enum
from typing import Any

import pytest

from rstore import InvalidArgumentError, Store
from rstore.testing.flavours import JsonStore, pickled, plain
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle, utf8
from rstore.testing.suite import Opener, Suite, about, shown

UNORDERED = (
    "b", "a", "A", "Z", "_", "a.b", "a_b", "aa", "a\u0308", "\u00e9", "e", "z", "\uffff", "\U0001f600", "\U0010ffff",
    "\ue000",
    " ", "1", "10", "2", "\x01", "\x7f", "\n", "~",
)  # fmt: skip


class MappingSuite(Suite):
    """Key/value pairs."""

    def test_set_and_get(self, store: Store, oracle: Oracle) -> None:
        for key, value in {"a": 1, "b": "two", "c": [3.5, None, {"x": True}]}.items():
            store.set(key, value)
            oracle.values[key] = value
            assert store.get(key) == store[key] == value
        store["a"] = oracle.values["a"] = "changed"
        assert store["a"] == "changed"

    def test_values_around_a_megabyte(self, store: Store, oracle: Oracle) -> None:
        """At this size backends and envelope take another path, to hold fewer copies."""
        texts = [chr(97 + i) * (2**20 + by) for i, by in enumerate((-100, -20, 0, 2000))]
        for i, text in enumerate(texts):
            store[f"{i}"] = oracle.values[f"{i}"] = [text]
            assert store[f"{i}"] == [text]
        oracle.values |= {"a": [texts[2]], "b": 1, "c": [texts[3]], "0": [texts[3]]}
        store.update({key: oracle.values[key] for key in ("a", "b")})
        assert store.add("c", [texts[3]], ttl=60)
        assert store.modify("0", lambda _: [texts[3]]) == [texts[3]]
        entries = {entry.key: entry.value for entry in store.scan()}
        assert entries == store.get_many(oracle.values) == oracle.values
        oracle.values["1"] = 1  # and a small one in place of a large one
        store.set("1", 1)

    def test_missing_keys(self, store: Store) -> None:
        assert store.get("k") is None
        assert store.get("k", 5) == 5
        for missing in (lambda: store["k"], lambda: store.__delitem__("k"), lambda: store.pop("k")):
            with pytest.raises(KeyError) as error:
                missing()
            assert error.value.args == ("k",)
        assert store.pop("k", 5) == 5
        assert store.pop("k", None) is None
        assert not store.has("k")
        assert "k" not in store

    def test_a_stored_none_is_not_missing(self, store: Store) -> None:
        store["k"] = None
        assert store["k"] is None
        assert store.get("k", 5) is None
        assert store.has("k")
        assert "k" in store
        assert store.setdefault("k", 5) is None
        assert store.pop("k", 5) is None
        assert "k" not in store

    def test_delete_counts_what_was_there(self, store: Store, oracle: Oracle) -> None:
        store.update(a=1, b=2, c=3, d=4)
        assert store.delete("a", "nothing", "c") == 2
        assert store.delete("a") == 0
        assert store.delete() == 0
        assert store.delete("b", "b") == 1
        oracle.values["d"] = 4

    def test_delitem(self, store: Store, oracle: Oracle) -> None:
        store.update(a=1, b=2)
        del store["a"]
        oracle.values["b"] = 2

    @pickled
    def test_order_is_by_utf8_bytes(self, store: Store, oracle: Oracle) -> None:
        for i, key in enumerate(UNORDERED):
            store[key] = oracle.values[key] = i
        ordered = sorted(UNORDERED, key=utf8)
        assert store.keys() == ordered
        assert list(store) == ordered
        assert list(store.items()) == [(key, UNORDERED.index(key)) for key in ordered]
        assert list(store.values()) == [UNORDERED.index(key) for key in ordered]
        assert store.find() == list(store.items())

    @plain
    def test_the_shapes_of_the_views(self, store: Store) -> None:
        store.update(a=1, b=2)
        assert isinstance(store, MutableMapping)
        assert isinstance(store.keys(), list)
        assert isinstance(iter(store), Iterator)
        assert isinstance(store.items(), ItemsView)
        assert isinstance(store.values(), ValuesView)
        items, values = store.items(), store.values()
        assert len(items) == len(values) == 2
        assert ("a", 1) in items
        assert ("a", 2) not in items
        assert ("c", 1) not in items
        assert 2 in values
        assert 3 not in values
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(store), "__getitem__", None)  # one scan, never one `get` a key
            assert 2 in values
        store["c"] = 3
        assert list(items) == [("a", 1), ("b", 2), ("c", 3)]
        assert list(items) == [("a", 1), ("b", 2), ("c", 3)]
        assert dict(store) == {"a": 1, "b": 2, "c": 3}

    def test_pop_takes_out(self, store: Store, oracle: Oracle) -> None:
        store.update(a=1, b=2)
        assert store.pop("a") == 1
        oracle.values["b"] = 2

    def test_popitem_takes_the_last_key_in_order(self, store: Store) -> None:
        store.update({"b": 2, "\U0001f600": 4, "a": 1, "\uffff": 3})
        assert [store.popitem() for _ in range(4)] == [("\U0001f600", 4), ("\uffff", 3), ("b", 2), ("a", 1)]
        with pytest.raises(KeyError):
            store.popitem()

    def test_setdefault(self, store: Store, oracle: Oracle) -> None:
        assert store.setdefault("a", 1) == 1
        assert store.setdefault("a", 2) == 1
        assert store.setdefault("b") is None
        oracle.values.update(a=1, b=None)

    @plain
    def test_update_takes_what_dict_takes(self, store: Store, oracle: Oracle) -> None:
        class Keyed:
            def keys(self) -> list[str]:
                return ["f", "g"]

            def __getitem__(self, key: str) -> str:
                return key * 2

        class Strict(Mapping[str, int]):
            def __getitem__(self, key: str) -> int:
                return {"h": 1, "i": 2}[key]

            def __iter__(self) -> Iterator[str]:
                return iter("hi")

            def __len__(self) -> int:
                return 2

        changes: list[Callable[[Any], None]] = [
            lambda d: d.update({"a": 1, "b": 2}),
            lambda d: d.update([("b", 3), ("c", 4), ("c", 5)]),
            lambda d: d.update((key, 6) for key in "cd"),
            lambda d: d.update(e=7, other=8, self=9),
            lambda d: d.update({"e": 10, "a": 11}, e=12),
            lambda d: d.update(Keyed()),
            lambda d: d.update(Strict()),
            lambda d: d.update({}),
            lambda d: d.update(),
        ]
        for change in changes:
            change(store)
            change(oracle.values)
            assert dict(store.items()) == oracle.values

    @plain
    def test_update_of_what_is_no_mapping_and_no_pairs_writes_nothing(self, store: Store, oracle: Oracle) -> None:
        bad: Any
        for bad in (5, [("a", 1), 5], [("a", 1), ("b",)], [("a", 1), ("b", 2, 3)]):
            with pytest.raises((TypeError, ValueError)):
                store.update(bad)
        assert not oracle.values

    @pickled
    def test_clear_empties_the_pairs_only(self, store: Store, oracle: Oracle) -> None:
        store.update({f"{i:04}": i for i in range(1500)})
        store.extend("k", (1, 1))
        store.apply("k", {"a": 1}, 1)
        store.clear()
        assert store.keys() == []
        assert len(store) == 0
        oracle.series["k"] = SeriesOracle({1: 1})
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)

    @pickled
    def test_many_pairs(self, store: Store, oracle: Oracle) -> None:
        pairs = {f"key {i * 7919 % 10_007:05}": {"n": i, "text": "x" * (i % 50)} for i in range(10_007)}
        store.update(pairs)
        oracle.values.update(pairs)
        assert len(store) == 10_007
        assert store.delete(*(f"key {i:05}" for i in range(0, 10_007, 2))) == 5004
        for i in range(0, 10_007, 2):
            del oracle.values[f"key {i:05}"]

    @pickled
    def test_large_values(self, store: Store, oracle: Oracle) -> None:
        for size in (1000, 4000, 5000, 70_000, 3_000_000):
            for fill in ("x", "\u00e9"):
                store[f"{size} {fill}"] = oracle.values[f"{size} {fill}"] = fill * size
        del store["70000 x"], oracle.values["70000 x"]
        store["3000000 x"] = oracle.values["3000000 x"] = "small again"

    @plain
    def test_has_in_and_len_load_nothing_and_a_scan_begins_at_once(self, opener: Opener) -> None:
        loaded = 0

        class Counting(JsonStore):
            def _load(self, data: Any) -> Any:
                nonlocal loaded
                loaded += 1
                return super()._load(data)

        with Counting(opener.dsn, frozen=False) as store:
            store.update({f"{i:05}": i for i in range(20_000)})
            assert len(store) == 20_000
            assert store.has("00001")
            assert "19999" in store
            assert len(store.keys()) == 20_000
            assert next(iter(store)) == "00000"
            assert loaded == 0
            assert next(iter(store.items())) == ("00000", 0)
            assert next(iter(store.values())) == 0
            assert loaded < 20_000

    @pickled
    def test_writing_while_iterating(self, opener: Opener) -> None:
        with opener() as store:
            store.update({f"{i:04}": i for i in range(2100)})
            for key in store:
                store[key] = -1
                store[" " + key] = 5  # behind the scan, so that it ends
            assert len(store) == 4200
            assert sum(value == -1 for value in store.values()) == 2100
            for key, value in store.items():
                if value == 5:
                    del store[key]
            assert len(store) == 2100

    @pytest.mark.parametrize(
        "key", [None, 42, 1.5, b"a", "", "a\0b", "\ud800", "a" * 2049, ["a"], {}, object()], ids=shown
    )
    @plain
    def test_what_cannot_be_a_key_is_not_in_and_refused_by_every_other_verb(
        self, store: Store, oracle: Oracle, key: Any
    ) -> None:
        store["42"] = store["1.5"] = oracle.values["42"] = oracle.values["1.5"] = "of a text"
        assert store["42"] == store.get("1.5") == "of a text"
        assert key not in store
        assert not store.has(key)
        for verb in (
            lambda: store.get(key),
            lambda: store[key],
            lambda: store.set(key, 1),
            lambda: store.__setitem__(key, 1),
            lambda: store.delete("a", key),
            lambda: store.__delitem__(key),
            lambda: store.pop(key),
            lambda: store.pop(key, None),
            lambda: store.setdefault(key, 1),
            lambda: store.update([("a", 1), (key, 2)]),
        ):
            with pytest.raises(InvalidArgumentError) as refused:
                verb()
            assert isinstance(refused.value, ValueError if isinstance(key, str) else TypeError)

    @pickled
    def test_what_can_be_a_key(self, store: Store, oracle: Oracle) -> None:
        for key in ("a" * 2048, "\u00e9" * 1024, "\U0001f600" * 512, "\uffff", " ", "\n", "'\"%_\\"):
            with about(shown(key)):
                store[key] = oracle.values[key] = 1
                assert store[key] == 1
                assert key in store
                assert key in store.keys()  # noqa: SIM118 - a list, not a view of the store

    @pickled
    def test_a_str_subclass_is_its_plain_str(self, store: Store, oracle: Oracle) -> None:
        class Name(str, Enum):  # noqa: UP042 - whose own str() is "Name.K", other than that of a StrEnum
            K = "k"

        store[Name.K] = oracle.values["k"] = 1
        assert store["k"] == store[Name.K] == store.get(Name.K) == store.setdefault(Name.K, 2) == 1
        assert Name.K in store
        assert store.pop(Name.K) == 1
        store.update({Name.K: 1})
        assert store.delete(Name.K) == 1
        store.set(Name.K, 1)
        store.extend(Name.K, (1, "a"))
        assert store.range("k") == store.range(Name.K) == [(1, "a")]
        assert store.last(Name.K) == store.first("k") == (1, "a")
        assert store.missing(Name.K, 1, freq=1) == []
        store.remove(Name.K)
        store.extend(Name.K, (1, "b"))
        state = store.apply(Name.K, {Name.K: 1})
        events = store.events(Name.K)
        assert events is not None
        for names in (store.keys(), store.timeseries(), store.eventsources(), state, [events[0].item]):
            assert [(type(name), name) for name in names or ()] == [(str, "k")]
        assert store.current(Name.K) == store.past("k", 2**62) == {"k": 1}
        assert store.prune(Name.K) == 0
        oracle.series["k"] = SeriesOracle()
        oracle.series["k"].update([(1, "b")])
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"k": 1}, events[0].timestamp)
