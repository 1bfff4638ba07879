"""Wrong and missing encryption keys: opening notices them, and no write replaces what they cannot open."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest

from rstore import (
    ConflictError,
    EncryptionError,
    KeyRequiredError,
    Passphrase,
    Store,
    StoreError,
    Transaction,
    UnencryptedWarning,
    WrongKeyError,
)
from rstore.testing.flavours import KEY, OTHER_KEY, plain
from rstore.testing.suite import Opener, Suite, about

_LATE = 2_000


def _fill(store: Store) -> None:
    store.update({"k": "sealed", "n": 1, "kx": "sealed", "large": "sealed" * 500})
    store.extend("few", (1, "a"), (2, "b"))
    store.extend_many("many", ((t, t) for t in range(_LATE)))
    for t in range(1, 4):
        store.apply("log", {"a": t}, t)


def _is_untouched(store: Store) -> None:
    assert dict(store) == {"k": "sealed", "n": 1, "kx": "sealed", "large": "sealed" * 500}
    assert store.entry("k").expires is None  # type: ignore[union-attr]
    assert store.range("few") == [(1, "a"), (2, "b")]
    assert store.range("many") == [(t, t) for t in range(_LATE)]
    assert (store.current("log"), len(store.events("log") or ())) == ({"a": 3}, 3)
    assert store.check() == []


_CHANGES: dict[str, Callable[[Any], Any]] = {
    "set": lambda s: s.set("k", 0),
    "[]": lambda s: s.__setitem__("k", 0),
    "set of a large one": lambda s: s.set("k", "0" * 5000),
    "set with ttl": lambda s: s.set("k", 0, ttl=60),
    "set over a large one": lambda s: s.set("large", 0),
    "set if_version": lambda s: s.set("k", 0, if_version=_versions["k"]),
    "update": lambda s: s.update({"new": 0, "k": 0}),
    "set_many": lambda s: s.set_many({"new": 0, "k": 0}, atomic=False),
    "incr": lambda s: s.incr("n"),
    "modify": lambda s: s.modify("k", lambda _: 0),
    "pop": lambda s: s.pop("k"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("k", 0),
    "get_or_set": lambda s: s.get_or_set("k", lambda: 0),
    "delete": lambda s: s.delete("k"),
    "delete of several": lambda s: s.delete("new", "k", "kx"),
    "delete if_version": lambda s: s.delete("k", if_version=_versions["k"]),
    "del": lambda s: s.__delitem__("k"),
    "delete_prefix": lambda s: s.delete_prefix("k"),
    "touch": lambda s: s.touch("k", 60),
    "touch for good": lambda s: s.touch("k", None),
    "extend": lambda s: s.extend("few", (2, "x")),
    "extend late": lambda s: s.extend("many", (5, "x")),
    "extend_many": lambda s: s.extend_many("many", ((t, "x") for t in range(_LATE))),
    "remove": lambda s: s.remove("few"),
    "remove many": lambda s: s.remove("many"),
    "remove a range": lambda s: s.remove("few", start=2),
    "remove a range of many": lambda s: s.remove("many", start=1, end=9),
    "remove all in a range of many": lambda s: s.remove("many", start=-5, end=_LATE),
    "remove several": lambda s: s.remove("few", "many"),
    "replace_range": lambda s: s.replace_range("few", [(2, "x")], 2),
    "replace_range of all": lambda s: s.replace_range("many", [(2, "x")]),
    "apply": lambda s: s.apply("log", {"a": (operator.add, 1)}),
    "apply in the past": lambda s: s.apply("log", {"b": 1}, 0),
    "revert": lambda s: s.revert("log", -1),
    "undo": lambda s: s.undo("log", 1),
    "apply_many": lambda s: s.apply_many([("log", 10**15 + i, {"b": 1}) for i in range(2)]),
    "apply_many in the past": lambda s: s.apply_many([("log", -5, {"b": 1})]),
    "prune": lambda s: s.prune("log"),
}


_versions: dict[str, bytes] = {}


def _note_versions(store: Store) -> None:
    """Keep the versions, as a store with the key tells them."""
    _versions.update((entry.key, entry.version) for entry in store.scan())


def _refuses_every_change(store: Any, kind: type[StoreError]) -> None:
    for name, change in _CHANGES.items():
        with about(name), pytest.raises(kind):
            change(store)


class GuardingSuite(Suite):
    """Stores opened with a wrong encryption key, and without one."""

    @plain
    def test_a_wrong_key_is_refused_at_opening_and_writes_nothing(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
        for key in (OTHER_KEY, [OTHER_KEY], Passphrase("guess"), [OTHER_KEY, Passphrase("guess")]):
            for frozen in (True, False):
                with pytest.raises(WrongKeyError, match="namespace 'default'"):
                    opener(key=key, frozen=frozen).open()
        with opener(key=KEY) as store:
            _is_untouched(store)

    @plain
    def test_a_wrong_key_is_refused_where_nothing_is_left(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            store.set("k", 1)
            store.delete("k")
        with pytest.raises(WrongKeyError):
            opener(key=OTHER_KEY).open()
        with opener(key=KEY) as store:
            store.discard()
        with opener(key=OTHER_KEY) as store:
            store.set("k", 1)
        with pytest.raises(WrongKeyError):
            opener(key=KEY).open()

    @plain
    def test_a_key_is_asked_for_where_there_was_none(self, opener: Opener) -> None:
        with opener() as store:
            store.set("plain", 1)
        with opener(key=KEY, allow_plaintext=True) as store:
            assert store["plain"] == 1
        with pytest.raises(WrongKeyError):
            opener(key=OTHER_KEY).open()

    @plain
    def test_opening_without_a_key_warns_once_where_values_are_sealed(self, opener: Opener) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with opener() as store:
                store.set("plain", 1)
            with opener(key=KEY, allow_plaintext=True) as store:
                store.set("k", 1)
            with opener(frozen=True) as store:
                assert store["plain"] == 1
            with opener(allow_plaintext=True) as store:
                store.set("plain", 2)
        store = opener()
        for _ in range(2):
            with pytest.warns(UnencryptedWarning, match="namespace 'default'") as warned, store:
                store.update(plain=3)
            assert [one.filename for one in warned] == [__file__]

    @plain
    def test_nothing_sealed_is_changed_without_the_key(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
            _note_versions(store)
        with opener(allow_plaintext=True) as other:
            _refuses_every_change(other, KeyRequiredError)
            assert other.add("k", 0) is False
        with opener(key=KEY) as store:
            _is_untouched(store)

    @plain
    def test_nothing_is_changed_by_a_store_that_lacks_its_key(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
            _note_versions(store)
        with opener(key=[OTHER_KEY, KEY]) as store:
            store.set("theirs", 1)
        with opener(key=OTHER_KEY) as other:
            other.delete("theirs")
            _refuses_every_change(other, WrongKeyError)
            assert other.add("k", 0) is False
        with opener(key=KEY) as store:
            _is_untouched(store)

    @plain
    def test_a_store_that_lacks_a_key_writes_what_is_its_own(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            store.set("sealed", 1)
        with opener(key=[OTHER_KEY, KEY]):
            pass
        for key in (None, OTHER_KEY):
            with opener(key=key, allow_plaintext=True) as other:
                other.set("own", 1)
                other.set("own", 2)
                other.update({"own": 3, "own 2": 4})
                assert other.incr("own") == 4
                assert other.touch("own", 60) is True
                assert other.touch("own", None) is True
                assert other.entry("own").expires is None  # type: ignore[union-attr]
                assert other.touch("absent", 60) is False
                assert other.modify("own", lambda n: n + 1) == 5
                assert other.delete("absent") == 0
                assert other.delete("own", "own 2", "absent") == 2
                other.set_many({f"own {i}": i for i in range(20)}, atomic=False)
                assert other.delete_prefix("own") == 20
                series = f"series {key is None}"
                other.extend(series, (1, 1), (2, 2))
                other.extend(series, (2, 3))
                other.extend_many(series, ((t, t) for t in range(3, _LATE)))
                other.remove(series, start=5)
                assert other.range(series) == [(1, 1), (2, 3), (3, 3), (4, 4)]
                assert other.replace_range(series, [(1, 5)], 1, 3) == 1
                other.remove(series)
                assert series not in other.timeseries()
                for t in (1, 2, 3):
                    other.apply(series, {"a": t}, t)
                assert other.prune(series) == 2
                assert other.current(series) == {"a": 3}
        with opener(key=KEY, frozen=True) as store:
            assert store["sealed"] == 1

    @plain
    def test_whoever_was_open_before_looks_again(self, opener: Opener) -> None:
        with opener() as early:
            early.set("plain", 1)
            early.delete("plain")
            with opener(key=KEY) as store:
                _fill(store)
                _note_versions(store)
                with pytest.warns(UnencryptedWarning), pytest.raises(KeyRequiredError):
                    early.set("k", 0)
                _refuses_every_change(early, KeyRequiredError)
                early.set("plain", 3)
                assert early["plain"] == 3
                early.delete("plain")
                _is_untouched(store)

    @pytest.mark.parametrize("name", _CHANGES)
    @plain
    def test_the_first_change_of_whoever_was_open_before(self, opener: Opener, name: str) -> None:
        with opener(allow_plaintext=True) as early:
            early.set("plain", 1)
            early.delete("plain")
            with opener(key=KEY) as store:
                _fill(store)
                _note_versions(store)
                with pytest.raises(KeyRequiredError):
                    _CHANGES[name](early)
                _is_untouched(store)

    @plain
    def test_a_key_that_is_added_is_respected_by_whoever_was_open_before(self, opener: Opener) -> None:
        with opener(key=KEY) as early:
            early.set("k", 1)
            early.extend("s", (1, 1))
            with opener(key=[OTHER_KEY, KEY]) as store:
                store.set("k", 2)
                store.set("own", 2)
                store.extend("s", (1, 2))
                for change in (
                    lambda: early.set("k", 3),
                    lambda: early.delete("k"),
                    lambda: early.touch("k", 60),
                    lambda: early.delete_prefix("k"),
                    lambda: early.extend("s", (1, 3)),
                    lambda: early.remove("s"),
                ):
                    with pytest.raises(WrongKeyError):
                        change()
                early.set("early", 1)
                assert (store["k"], store["early"], store.range("s")) == (2, 1, [(1, 2)])

    @plain
    def test_of_two_keys_that_come_at_once_one_is_refused(self, opener: Opener) -> None:
        for i in range(5):
            barrier, opened = Barrier(2), list[Any]()

            def come(key: str, namespace: str, barrier: Barrier = barrier, opened: list[Any] = opened) -> None:
                barrier.wait()
                try:
                    with opener(namespace, key=key) as store:
                        store.set(key, 1)
                        opened.append(key)
                except WrongKeyError as error:
                    opened.append(error)

            threads = [Thread(target=come, args=(key, f"{i}")) for key in (KEY, OTHER_KEY)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            [winner] = [one for one in opened if isinstance(one, str)]
            with opener(f"{i}", key=winner, frozen=True) as store:
                assert list(store) == [winner]

    @plain
    def test_inside_a_transaction(self, opener: Opener) -> None:
        if not self.transactional:
            pytest.skip("there are no transactions")
        with opener(key=KEY) as store:
            _fill(store)
            _note_versions(store)
        with opener(allow_plaintext=True) as other:
            for name, change in _CHANGES.items():
                with about(name), pytest.raises(KeyRequiredError), other.transaction() as tx:
                    change(tx)
            with other.transaction() as tx:
                tx.set("own", 1)
                tx.update({"own": 2, "own 2": 3})
                with pytest.raises(KeyRequiredError):
                    tx.set("k", 0)
                assert tx.delete("own 2") == 1
            assert other.pop("own") == 2
        with opener(key=KEY) as store:
            _is_untouched(store)

    @plain
    def test_a_key_that_is_added_during_a_transaction(self, opener: Opener) -> None:
        if not self.transactional:
            pytest.skip("there are no transactions")
        with opener(allow_plaintext=True, timeout=1.0) as early:
            early.set("own", 1)
            calls: list[int] = []

            def work(tx: Transaction) -> None:
                calls.append(tx["own"])
                if len(calls) == 1:
                    try:  # some backends make it wait for the end of the transaction
                        with opener(key=KEY, timeout=0.1) as store:
                            store.set("k", 1)
                    except StoreError:
                        pass
                tx.set("k", 2)

            try:
                early.run(work)
            except (KeyRequiredError, ConflictError):
                with opener(key=KEY, frozen=True) as store:
                    assert store["k"] == 1
            else:  # the key came later
                assert early["k"] == 2

    @plain
    def test_a_namespace_that_is_made_anew_knows_other_keys(self, opener: Opener) -> None:
        with opener(key=KEY) as store, opener(key=KEY, frozen=True) as frozen:
            store.set("k", 1)
            assert frozen["k"] == 1
            store.discard()
            with opener(key=OTHER_KEY) as other:
                other.set("k", 2)
                with pytest.raises(EncryptionError):
                    frozen.get("k")
                for change in (lambda: store.set("k", 3), lambda: store.delete("k"), lambda: store.extend("s", (1, 1))):
                    with pytest.raises(WrongKeyError):
                        change()
                assert other["k"] == 2
                other.discard()
            store.set("k", 4)
            assert (store["k"], frozen["k"]) == (4, 4)
