"""Operations of a dict that need all of its pairs: copies of a store, its operators, and the operators of its keys.

They also hold while pairs expire, or another handle deletes them: a *fuse*, a value that acts while it is loaded,
makes that happen in the middle of a copy.
"""

from __future__ import annotations

import collections
import copy
import operator
import pickle
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from rstore import FrozenStoreError, InvalidTypeError, Store
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Oracle, same
from rstore.testing.suite import Opener, Suite, about

_armed: list[Callable[[], Any]] = []


def _load(name: str) -> Fuse:
    if _armed:
        _armed.pop()()
    return Fuse(name)


class Fuse(str):
    """A value that calls the armed function, once, when it is loaded."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return _load, (str(self),)


def _arguments(**given: Any) -> dict[str, Any]:
    return given


def _as_arguments(store: Any) -> dict[str, Any]:
    return _arguments(**store)


def _updated(store: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    made.update(store)
    return made


def _or_in_place(store: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    made |= store
    return made


COPIES: dict[str, Callable[[Any], Any]] = {
    "dict": dict, "unpacked": lambda store: {**store}, "arguments": _as_arguments, "update": _updated,
    "or": lambda store: store | {}, "other or": lambda store: {} | store, "in place": _or_in_place,
    "items": lambda store: dict(store.items()), "reversed": lambda store: dict(reversed(store.items())),
    "zip": lambda store: dict(zip(store, store.values(), strict=False)) and dict(store.items()),
}  # fmt: skip


class CopyingSuite(Suite):
    """Copies of a store as a dict, and the operators of dicts and of their keys."""

    def test_copies_are_what_is_there(self, store: Store, oracle: Oracle) -> None:
        pairs = oracle.values
        pairs.update({f"{i:05}": [i] for i in range(2500)})  # of several pages
        store.set_many(pairs, atomic=False)
        for name, made in COPIES.items():
            with about(name):
                assert made(store) == pairs
        assert [*dict(store)] == [*pairs]

    @pickled
    def test_copies_while_others_delete(self, store: Store, opener: Opener) -> None:
        for name, made in COPIES.items():
            store.set_many({f"{i}": Fuse(i) for i in range(9)}, atomic=False)
            with opener() as other, about(name):
                _armed.append(partial(other.delete, "1", "5", "8"))
                found = made(store)
                assert not _armed
                assert found.items() <= {f"{i}": Fuse(i) for i in range(9)}.items()
                assert found.keys() >= set("023467")
        assert store.keys() == [*"023467"]

    @plain
    def test_copies_while_entries_expire(self, store: Store) -> None:
        for name, made in COPIES.items():
            store.set_many({"1": Fuse(1), "9": Fuse(9)}, atomic=False)
            store.set_many({f"{i}": i for i in range(2, 9)}, ttl=0.2, atomic=False)
            with about(name):
                _armed.append(lambda: time.sleep(0.25))
                found = made(store)
                assert found.items() <= {"1": "1", "9": "9", **{f"{i}": i for i in range(2, 9)}}.items()
                assert found.keys() >= {"1", "9"}
            assert store.keys() == ["1", "9"]
            assert (len(store), [*store], dict(store)) == (2, ["1", "9"], {"1": "1", "9": "9"})

    @plain
    def test_what_is_asked_for_later_is_never_what_was_there_before(self, store: Store) -> None:
        store.update(a=1, b=2, c=3)
        keys = list(iter(store.keys()))
        store.update(a=10, c=30)
        del store["b"]
        assert [store[keys[0]], store[keys[2]]] == [10, 30]
        with pytest.raises(KeyError):
            store[keys[1]]
        found = []
        for key in list(iter(store.keys())):
            store[key] = -store[key]
            found.append(store[key])
        assert found == [-10, -30]
        with pytest.raises(TypeError, match="multiple values"):
            _arguments(a=1, **store)
        store["a"] = 5
        assert store["a"] == 5
        assert dict(store) == {"a": 5, "c": -30}

    @plain
    def test_the_operators_of_a_dict(self, store: Store, oracle: Oracle, opener: Opener) -> None:
        expected: dict[str, Any] = {"b": 1, "a": 2}
        ask: Any = store
        same_store = ask
        for other in ({"a": 3, "c": 4}, [("d", 5)], {}, ()):
            ask |= other
            expected |= other
        assert ask is same_store
        ask |= {"b": 1, "a": 2}
        expected |= {"b": 1, "a": 2}
        assert dict(ask) == expected
        changed = {"a": 9, "z": 8}
        assert same(ask | changed, dict(sorted(expected.items())) | changed)
        assert same(changed | ask, changed | dict(sorted(expected.items())))
        assert same(
            [*(collections.OrderedDict(changed) | ask).items()], [*(changed | dict(sorted(expected.items()))).items()]
        )
        assert ask | ask == expected
        for stranger in ([("a", 1)], 5, None, {"a"}):
            for pair in ((ask, stranger), (stranger, ask)):
                with pytest.raises(TypeError):
                    operator.or_(*pair)
        with pytest.raises(InvalidTypeError):
            ask |= 5
        assert [*reversed(ask)] == sorted(expected, reverse=True)
        assert [*reversed(ask.items())] == sorted(expected.items(), reverse=True)
        assert [*reversed(ask.values())] == [expected[key] for key in sorted(expected, reverse=True)]
        with opener(frozen=True) as frozen:
            assert dict(frozen) == frozen | {} == expected
            with pytest.raises(FrozenStoreError):
                frozen |= {"x": 1}
        oracle.values.update(expected)

    @plain
    def test_keys_are_a_list_with_the_operators_of_a_dicts_keys(self, store: Store, oracle: Oracle) -> None:
        oracle.values.update(a=1, b=2, c=3)
        store.update(oracle.values)
        keys: Any = store.keys()
        known = oracle.values.keys()
        for other in (
            {"a", "x"},
            frozenset("abc"),
            {"b": 1}.keys(),
            {"c": 1},
            "bx",
            ["a"],
            [],
            {*"abcd"},
            store.keys(),
        ):
            with about(other):
                assert (keys & other, keys | other, keys - other, keys ^ other) == (
                    known & other, known | other, known - other, known ^ other
                )  # fmt: skip
                assert {type(one) for one in (keys & other, keys | other, keys - other, keys ^ other)} == {set}
                assert keys.isdisjoint(other) == known.isdisjoint(other)
                if isinstance(other, set | frozenset | type(known)):
                    assert [other & keys, other | keys, other - keys, other ^ keys] == [
                        other & known, other | known, other - known, other ^ known
                    ]  # fmt: skip
                    assert [keys < other, keys <= other, keys == other, keys != other, keys >= other, keys > other] == [
                        known < other, known <= other, known == other, known != other, known >= other, known > other
                    ]  # fmt: skip
        assert isinstance(keys, list)
        assert keys == ["a", "b", "c"] == [*keys] == list(keys) == sorted(keys) == keys[:]
        assert not keys != ["a", "b", "c"]  # noqa: SIM202 - `!=` is under test
        assert (keys < ["b"], keys > ["a"], keys + keys, repr(keys)) == (True, True, [*"abcabc"], "['a', 'b', 'c']")
        assert [*reversed(keys)] == [*"cba"]
        assert (keys[0], keys.index("b"), "c" in keys, len(keys)) == ("a", 1, True, 3)
        for copied in (copy.copy(keys), copy.deepcopy(keys), pickle.loads(pickle.dumps(keys))):  # noqa: S301
            assert same(copied, ["a", "b", "c"])
        for stranger in (5, None):
            with pytest.raises(TypeError):
                operator.and_(keys, stranger)
        with pytest.raises(TypeError):
            hash(keys)

    @pytest.mark.usefixtures("_transactional")
    @plain
    def test_copies_of_a_transaction_and_of_a_snapshot(self, store: Store, oracle: Oracle) -> None:
        store.update(a=1, b=2)
        with store.transaction() as tx:
            tx["c"] = 3
            del tx["a"]
            for name, made in COPIES.items():
                with about(name):
                    assert made(tx) == {"b": 2, "c": 3}
            assert [*reversed(tx)] == ["c", "b"]
            assert tx.keys() - {"b"} == {"c"}
        oracle.values.update(b=2, c=3)
        if not self.snapshots:
            return
        with store.snapshot() as then:
            store.delete("b")
            store["d"] = oracle.values["d"] = 4
            for name, made in COPIES.items():
                with about(name):
                    assert made(then) == {"b": 2, "c": 3}
            assert [*reversed(then)] == ["c", "b"]
        del oracle.values["b"]
        assert isinstance(store, Mapping)
