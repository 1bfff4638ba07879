"""Key/value pairs beyond a mapping: many keys at once, runs of keys, and entries."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rstore import (
    ConflictError,
    Entry,
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    NotSupportedError,
    SerializationError,
    Store,
)
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Oracle, same, utf8
from rstore.testing.suite import Suite, about

KEYS = ("a", "a\x01", "ab", "ab/c", "ab/d", "b", "A", "a%", "é", "é1", "\U0001f600", "\U0010ffff", "\U0010ffffx", "*")
EDGES = ("", "a", "a\x01", "ab", "ab/", "ab/d", "é", "\U0010ffff", "\U0010ffffx", "nothing", "x" * 3000)


def inside(keys: Any, prefix: str = "", start: str | None = None, stop: str | None = None) -> list[str]:
    """Return those of the keys that a scan finds, in order."""
    return sorted(
        (
            key
            for key in keys
            if key.startswith(prefix)
            and (start is None or utf8(key) >= utf8(start))
            and (stop is None or utf8(key) < utf8(stop))
        ),
        key=utf8,
    )


class EntrySuite(Suite):
    """Many keys at once, runs of keys, and the entry of one."""

    @pytest.mark.parametrize("seed", range(2))
    @pickled
    def test_any_verb_after_any_other(self, store: Store, oracle: Oracle, seed: int) -> None:
        rng, held = random.Random(seed), oracle.values
        versions: dict[str, bytes] = {}
        for i in range(100):
            key, keys = rng.choice(KEYS), rng.choices(KEYS, k=3)
            prefix, start, stop = rng.choice(EDGES[:7]), rng.choice((None, *EDGES)), rng.choice((None, *EDGES))
            reverse, limit = rng.random() < 0.5, rng.choice((None, None, 0, 1, 3))
            verb = rng.randrange(11)
            if verb == 0:
                store.set_many(dict.fromkeys(keys, i), atomic=self.across_keys)
                held.update(dict.fromkeys(keys, i))
            elif verb == 1:
                assert store.add(key, i) == (key not in held)
                held.setdefault(key, i)
            elif verb == 2:
                held[key] = held.get(key, 7) + i
                assert same(store.incr(key, i, default=7), held[key])
            elif verb == 3:
                held[key] = 2 * held.get(key, 5)
                assert same(store.modify(key, lambda n: 2 * n, default=5), held[key])
            elif verb == 4:
                held.setdefault(key, i)
                assert same(store.get_or_set(key, lambda: i), held[key])  # noqa: B023 - called at once
            elif verb == 5:
                entry = store.entry(key)
                assert (entry and (entry.key, entry.value)) == ((key, held[key]) if key in held else None)
                versions[key] = store.set(key, i, if_version=entry and entry.version)
                held[key] = i
            elif verb == 6 and key in versions:
                entry = store.entry(key)
                if entry is not None and entry.version == versions[key]:
                    assert store.delete(key, if_version=versions[key]) == 1
                    del held[key]
                else:
                    with pytest.raises(ConflictError):
                        store.delete(key, if_version=versions[key])
            elif verb == 7:
                prefix = prefix or "ab"
                assert store.delete_prefix(prefix) == len(inside(held, prefix))
                for gone in inside(held, prefix):
                    del held[gone]
            assert same(store.get_many(keys), {key: held[key] for key in dict.fromkeys(keys) if key in held})
            assert store.count(prefix) == len(inside(held, prefix))
            found = inside(held, prefix, start, stop)[:: -1 if reverse else 1][:limit]
            scanned = list(store.scan(prefix, start=start, stop=stop, reverse=reverse, limit=limit))
            assert same([(entry.key, entry.value) for entry in scanned], [(key, held[key]) for key in found])

    @plain
    def test_a_run_of_many_pages(self, store: Store, oracle: Oracle) -> None:
        pairs = {f"{i:05}": i for i in range(2500)}
        store.set_many(pairs, atomic=self.across_keys)
        assert store.get_many(["nothing", *pairs]) == pairs
        assert len({entry.version for entry in store.scan()}) == 2500
        assert [entry.value for entry in store.scan("0")] == list(range(2500))
        assert [entry.value for entry in store.scan(reverse=True, limit=1700)] == list(range(2499, 799, -1))
        streamed = store.scan("0", stop="02499")
        seen = [next(streamed) for _ in range(5)]
        store.delete("02000")
        store["02000x"] = "new"
        seen += streamed
        assert [entry.key for entry in seen] == [key if key != "02000" else "02000x" for key in pairs][:-1]
        # Taken up again behind the last key seen, in both directions.
        assert next(store.scan(start="00999\x01")).key == "01000"
        assert next(store.scan(stop="00999", reverse=True)).key == "00998"
        assert (store.count("00"), store.count("02000"), store.count()) == (1000, 1, 2500)
        assert store.delete_prefix("0") == 2500
        assert len(store) == store.delete_prefix("0") == 0
        oracle.values.clear()

    @plain
    def test_pairs_that_cannot_all_be_had_are_not_stored(self, store: Store) -> None:
        def pairs() -> Iterator[tuple[str, int]]:
            yield "a", 1
            raise LookupError("no more of them")

        def others() -> Iterator[tuple[str, int]]:
            yield "a", 1
            raise SerializationError("of something else")

        for verb in (store.update, store.set_many):
            with pytest.raises(LookupError, match="no more of them"):
                verb(pairs())
            with pytest.raises(SerializationError, match=r"^of something else$"):
                verb(others())
            wrong: Any = {5: lambda: None}  # whose value cannot be dumped, either
            with pytest.raises(InvalidTypeError, match="a key is a str"):
                verb(wrong)
        assert len(store) == 0

    @plain
    def test_one_of_many_values_that_cannot_be_stored(self, store: Store, oracle: Oracle) -> None:
        pairs: dict[str, Any] = {f"{i:05}": i for i in range(2999, -1, -1)}
        bad = {**pairs, "02998": lambda: None}
        for _ in range(2):
            with pytest.raises(SerializationError, match="the value of '02998' in namespace"):
                store.set_many(bad, atomic=self.across_keys)
            with pytest.raises(SerializationError, match="the value of '02998' in namespace"):
                store.update(bad)
            assert len(store) == 0
        store.set_many(pairs, ttl=1000, atomic=self.across_keys)
        assert all(entry.expires is not None for entry in store.scan())
        store.update(pairs)
        assert all(entry.expires is None for entry in store.scan())
        oracle.values.update(pairs)

    @plain
    def test_pairs_that_share_an_object_are_stored_as_they_come(self, store: Store, oracle: Oracle) -> None:
        def pairs() -> Iterator[tuple[str, Any]]:
            row = {}
            for i in range(1500):
                row["i"] = i
                yield f"{i:05}", row

        store.update(pairs())
        oracle.values.update({f"{i:05}": {"i": i} for i in range(1500)})

    def test_an_entry_says_what_is_there(self, store: Store) -> None:
        version = store.set("k", [1])
        assert store.entry("k") == Entry("k", [1], version, None) == next(store.scan())
        assert store.set("k", [1]) != version
        store["l"] = 1
        assert store.entry("l") != store.entry("k")
        assert store.entry("nothing") is None

    @plain
    def test_many_in_several_slots(self, store: Store, oracle: Oracle) -> None:
        pairs = {f"{i}": i for i in range(50)}
        if self.across_keys:
            store.set_many(pairs)
        else:
            with pytest.raises(NotSupportedError, match="atomic=False"):
                store.set_many(pairs)
            assert len(store) == 0
            store.set_many(pairs.items(), atomic=False)
        store.set_many({"one": 1})
        store.set_many([])
        oracle.values.update(pairs, one=1)

    @pytest.mark.parametrize("n", [49, 100, 151, 1207])
    @plain
    def test_many_in_place_of_small_large_and_expiring_ones(self, store: Store, oracle: Oracle, n: int) -> None:
        rng = random.Random(n)
        for i, ttl in enumerate((None, 1000, None, 1000, None)):
            keys = rng.sample([f"k{j:04}" for j in range(2 * n)], n)
            pairs = {key: f"{i}" * (3000 if rng.random() < 0.1 and i != 2 else 3) for key in keys}
            store.set_many(pairs, ttl=ttl, atomic=self.across_keys)
            oracle.values.update(pairs)
            expiring = {key for key in pairs if (entry := store.entry(key)) is not None and entry.expires is not None}
            assert expiring == (set(pairs) if ttl else set())
            assert store.get_many([*oracle.values]) == oracle.values
        assert {entry.key: entry.value for entry in store.scan()} == oracle.values

    @plain
    def test_bad_arguments_change_nothing(self, store: Store, oracle: Oracle) -> None:
        version = store.set("k", 1)
        bad: dict[str, list[Callable[[Any], Any]]] = {
            "ttl": [
                lambda ttl: store.set("k", 2, ttl=ttl),
                lambda ttl: store.set("k", 2, ttl=ttl, if_version=version),
                lambda ttl: store.set_many({"k": 2}, ttl=ttl),
                lambda ttl: store.add("new", 2, ttl=ttl),
                lambda ttl: store.touch("k", ttl),
                lambda ttl: store.get_or_set("new", lambda: 2, ttl=ttl),
            ],
            "version": [
                lambda version: store.set("k", 2, if_version=version),
                lambda version: store.delete("k", if_version=version),
            ],
            "number": [
                lambda number: store.incr("k", number),
                lambda number: store.incr("new", default=number),
            ],
            "key": [
                lambda key: store.get_many(["k", key]),
                lambda key: store.set_many({"k": 2, key: 2}),
                lambda key: store.add(key, 2),
                store.incr,
                lambda key: store.modify(key, lambda _: 2, default=1),
                lambda key: store.get_or_set(key, lambda: 2),
                lambda key: store.touch(key, 1),
                store.entry,
                lambda key: store.delete(key, if_version=version),
            ],
            "edge": [
                store.scan,
                lambda edge: store.scan(start=edge),
                lambda edge: store.scan(stop=edge),
                store.count,
                store.delete_prefix,
            ],
            "limit": [lambda limit: store.scan(limit=limit)],
            "function": [lambda fn: store.modify("k", fn), lambda fn: store.get_or_set("new", fn)],
            "keys": [store.get_many],
            "pairs": [store.set_many],
            "several": [lambda keys: store.delete(*keys, if_version=version), lambda _: store.delete_prefix("")],
        }
        values: dict[str, tuple[Any, ...]] = {
            "ttl": (0, -1, 0.0, float("nan"), float("inf"), True, "1", b"1", [1], 10**400, -(10**5000)),
            "version": (1, "1", bytearray(version), False, [version]),
            "number": (True, "1", None, [1], 1j),
            "key": ("", "a\0", "\ud800", "x" * 2049, 1, b"k"),
            "edge": ("a\0", "\ud800", 1, b"a"),
            "limit": (-1, True, 1.0, "1"),
            "function": (1, "f", [1]),
            "keys": ("k", 5, None, b"k"),
            "pairs": (5, None, "k", [1], [("k", 2, 3)], [("k", 2), "abc"]),
            "several": ((), ("k", "l")),
        }
        for name, calls in bad.items():
            for value in values[name]:
                for i, call in enumerate(calls):
                    with about((name, value, i)), pytest.raises(InvalidArgumentError):
                        call(value)
        with pytest.raises(InvalidArgumentError, match=r"^limit is zero or above"):
            store.scan(limit=-1)

        def keys() -> Iterator[str]:
            yield "k"
            raise TypeError("of the caller")

        with pytest.raises(TypeError, match=r"^of the caller$"):
            store.get_many(keys())
        store["f"] = 1.7e308
        for delta in (1.7e308, float("inf"), -float("inf"), float("nan")):
            with about(delta), pytest.raises(InvalidValueError, match=r"'f' in namespace .* (exceeds|is not)"):
                store.incr("f", delta)
            with about(delta), pytest.raises(InvalidValueError):
                store.incr("new", 1.7e308, default=delta)
        store["f"] = 0.5
        with pytest.raises(InvalidArgumentError, match="'f' in namespace 'default' exceeds"):
            store.incr("f", 10**400)
        oracle.values.update(k=1, f=0.5)
