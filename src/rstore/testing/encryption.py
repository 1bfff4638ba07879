"""Encryption: each key opens what it sealed, everything else is refused, and one key follows another."""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable
from typing import Any

import pytest

from rstore import (
    KeyRequiredError,
    Passphrase,
    PlaintextError,
    Store,
    StoreError,
    WrongKeyError,
    generate_key,
)
from rstore.testing.flavours import KEY, OTHER_KEY, plain
from rstore.testing.suite import Opener, Suite

RAW = base64.urlsafe_b64decode(KEY)
MANY = 20_000


def _fill(store: Store) -> None:
    store.set("k", "value")
    store.extend("hot", (1, "a"), (2, "b"))
    store.extend_many("many", ((t, t) for t in range(MANY)))
    store.apply("log", {"a": 1, "b": "x"}, 1)
    for t in range(2, 300):
        store.apply("log", {"a": (operator.add, 1), "b": f"{t}"}, t)


def _holds(store: Store) -> bool:
    return (
        store["k"] == "value"
        and store.find() == [("k", "value")]
        and store.range("hot") == [(1, "a"), (2, "b")]
        and store.range("many") == [(t, t) for t in range(MANY)]
        and store.last("many") == (MANY - 1, MANY - 1)
        and store.current("log") == {"a": 299, "b": "299"}
        and store.past("log", 150) == {"a": 150, "b": "150"}
        and len(store.events("log") or ()) == 2 * 299
    )


_READS: dict[str, Callable[[Store], Any]] = {
    "get": lambda s: s.get("k"),
    "get with default": lambda s: s.get("k", 5),
    "[]": lambda s: s["k"],
    "find": lambda s: s.find(),
    "items": lambda s: list(s.items()),
    "values": lambda s: list(s.values()),
    "range": lambda s: s.range("hot"),
    "first": lambda s: s.first("hot"),
    "last": lambda s: s.last("hot"),
    "range of many": lambda s: s.range("many"),
    "a little of many": lambda s: s.range("many", 500, n=1),
    "first of many": lambda s: s.first("many"),
    "last of many": lambda s: s.last("many"),
    "current": lambda s: s.current("log"),
    "past": lambda s: s.past("log", 5),
    "events": lambda s: s.events("log"),
}
_READING_WRITES: dict[str, Callable[[Store], Any]] = {
    "pop": lambda s: s.pop("k"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("k", 1),
    "apply": lambda s: s.apply("log", {"a": (operator.add, 1)}),
    "apply in the past": lambda s: s.apply("log", {"c": 1}, 0),
    "revert": lambda s: s.revert("log", 1),
    "undo": lambda s: s.undo("log", 1),
    "apply_many": lambda s: s.apply_many([("log", 10**15, {"c": 1})]),
    "apply_many in the past": lambda s: s.apply_many([("log", -1, {"c": 1})]),
    "prune": lambda s: s.prune("log"),
}


def _refuses_everything(store: Store, error: type[StoreError]) -> None:
    for name, verb in (_READS | _READING_WRITES).items():
        try:
            verb(store)
        except error:
            continue
        pytest.fail(f"{name} was not refused")


def _names_are_open(store: Store) -> bool:
    return (
        store.keys() == ["k"]
        and "k" in store
        and len(store) == 1
        and store.timeseries() == ["hot", "many"]
        and store.eventsources() == ["log"]
    )


class EncryptionSuite(Suite):
    """Stores with the right encryption key, another one, or none."""

    @plain
    def test_without_the_key(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
        with opener(allow_plaintext=True) as store:
            _refuses_everything(store, KeyRequiredError)
            assert _names_are_open(store)
        with opener(key=KEY, frozen=True) as store:
            assert _holds(store)

    @plain
    def test_with_another_key(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
        with opener(key=[OTHER_KEY, KEY]):
            pass
        with opener(key=OTHER_KEY) as store:
            _refuses_everything(store, WrongKeyError)
            assert _names_are_open(store)
        with opener(key=KEY, frozen=True) as store:
            assert _holds(store)

    @plain
    def test_plaintext_is_refused_with_a_key(self, opener: Opener) -> None:
        with opener() as store:
            _fill(store)
        with opener(key=KEY) as store:
            _refuses_everything(store, PlaintextError)
            assert _names_are_open(store)
        with opener(frozen=True) as store:
            assert _holds(store)

    @plain
    def test_plaintext_is_read_where_it_is_allowed(self, opener: Opener) -> None:
        with opener() as store:
            _fill(store)
        with opener(key=KEY, allow_plaintext=True, frozen=True) as store:
            assert _holds(store)
        with opener(key=KEY, allow_plaintext=True) as store:
            store.set("k", "sealed now")
            assert store["k"] == "sealed now"
        with opener(key=KEY, frozen=True) as store:
            assert store["k"] == "sealed now"

    @plain
    def test_a_log_takes_no_writes_of_the_other_kind(self, opener: Opener) -> None:
        few = [(5, "new"), (6, "new")]
        many = [(t, "new") for t in range(MANY)]
        for first, second, error in ((None, KEY, PlaintextError), (KEY, None, KeyRequiredError)):
            namespace = error.__name__
            with opener(namespace, key=first) as store:
                _fill(store)
            with opener(namespace, key=second, allow_plaintext=True) as store:
                for key in ("hot", "many"):
                    for points in (few, many):
                        with pytest.raises(error):
                            store.extend(key, *points)
                        with pytest.raises(error):
                            store.extend_many(key, points)
                for t in (None, 0, 500):
                    with pytest.raises(error):
                        store.apply("log", {"new": 1}, t)
            with opener(namespace, frozen=True, key=first) as store:
                assert _holds(store)

    @plain
    def test_sealed_and_plain_side_by_side(self, opener: Opener) -> None:
        with opener(allow_plaintext=True) as store, opener(key=KEY) as sealed:
            store.set("plain", 1)
            sealed.set("sealed", 2)
            store.extend("plain", (1, 1))
            sealed.extend("sealed", (1, 2))
            store.apply("plain", {"a": 1})
            sealed.apply("sealed", {"a": 2})
            assert (store["plain"], store.range("plain"), store.current("plain")) == (1, [(1, 1)], {"a": 1})
            assert (sealed["sealed"], sealed.range("sealed"), sealed.current("sealed")) == (2, [(1, 2)], {"a": 2})
            assert store.keys() == sealed.keys() == ["plain", "sealed"]
            with pytest.raises(KeyRequiredError):
                store.find()
            with pytest.raises(PlaintextError):
                sealed.find()
            # A value may be sealed later, since nothing else depends on it.
            sealed.set("plain", 3)
            assert sealed["plain"] == 3
            with pytest.raises(KeyRequiredError):
                store.set("plain", 4)

    @plain
    def test_what_is_refused_for_one_of_several_logs_is_done_to_none(self, opener: Opener) -> None:
        if not self.across_keys:
            pytest.skip("each log is changed on its own")
        with opener(allow_plaintext=True) as store, opener(key=KEY) as sealed:
            for one, name in ((sealed, "a"), (store, "b"), (sealed, "c")):
                one.extend(name, (1, 1), (2, 2))
                for t in (1, 2):
                    one.apply(name, {"x": t}, t)
            with pytest.raises(PlaintextError):
                sealed.remove("a", "b", "c", start=2)
            with pytest.raises(PlaintextError):
                sealed.prune("a", "b", "c")
            for one, name in ((sealed, "a"), (store, "b"), (sealed, "c")):
                assert one.range(name) == [(1, 1), (2, 2)]
                assert one.past(name, 1) == {"x": 1}

    @plain
    def test_what_is_sealed_can_be_cleared_and_discarded_without_the_key(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            _fill(store)
        with opener(allow_plaintext=True) as store:
            store.clear()
            assert store.keys() == []
            assert store.timeseries() == ["hot", "many"]
            store.discard()
        with opener() as store:  # without a warning: it is another namespace
            assert store.timeseries() == store.eventsources() == []
            store.extend("hot", (1, 1))
            assert store.range("hot") == [(1, 1)]

    @plain
    def test_rotation(self, opener: Opener) -> None:
        with opener(key=OTHER_KEY) as store:
            _fill(store)
        with opener(key=[KEY, OTHER_KEY]) as store:
            assert _holds(store)
            store.set("new", 1)
            store.extend("hot", (3, "c"))
            store.extend_many("many", [(t, t) for t in range(MANY)])
            store.apply("log", {"a": (operator.add, 1)}, 500)
            assert store.range("many", MANY - 2) == [(MANY - 2, MANY - 2), (MANY - 1, MANY - 1)]
            assert store.current("log") == {"a": 300, "b": "299"}
        with opener(key=[OTHER_KEY, KEY], frozen=True) as store:
            assert store["new"] == 1
            assert store.range("hot") == [(1, "a"), (2, "b"), (3, "c")]
            assert store.current("log") == {"a": 300, "b": "299"}
        with opener(key=KEY, frozen=True) as store:
            assert store["new"] == 1
            with pytest.raises(WrongKeyError):
                store.get("k")
            assert store.range("hot", 3) == [(3, "c")]
            with pytest.raises(WrongKeyError):
                store.range("hot")
        with opener(key=OTHER_KEY, frozen=True) as store:
            assert store["k"] == "value"
            with pytest.raises(WrongKeyError):
                store.get("new")

    @plain
    def test_another_key_in_every_namespace(self, opener: Opener) -> None:
        keys = {f"{i}": generate_key() for i in range(5)}
        for namespace, key in keys.items():
            with opener(namespace, key=key) as store:
                store.set("k", namespace)
        for namespace in keys:
            for other, key in keys.items():
                if namespace == other:
                    with opener(namespace, key=key, frozen=True) as store:
                        assert store["k"] == namespace
                else:
                    with pytest.raises(WrongKeyError):
                        opener(namespace, key=key, frozen=True).open()

    @plain
    def test_a_passphrase_survives_a_discard(self, opener: Opener) -> None:
        with opener(key=Passphrase("p")) as store, opener(allow_plaintext=True) as other:
            store.set("k", 1)
            other.discard()
            store.set("k", 2)
            store.extend("s", (1, 2))
            store.apply("e", {"a": 2})
            assert (store["k"], store.range("s"), store.current("e")) == (2, [(1, 2)], {"a": 2})
        with opener(key=Passphrase("p"), frozen=True) as store:
            assert (store["k"], store.range("s"), store.current("e")) == (2, [(1, 2)], {"a": 2})

    @plain
    def test_two_first_openings_agree_on_the_salt(self, opener: Opener) -> None:
        with opener(key=Passphrase("p")) as one, opener(key=Passphrase("p")) as two:
            one.set("a", 1)
            two.set("b", 2)
            assert (one["b"], two["a"]) == (2, 1)

    @plain
    def test_an_error_shows_no_value_and_no_secret(self, opener: Opener) -> None:
        with opener(key=KEY) as store:
            store.set("name of the key", "top secret")
        for key in (None, OTHER_KEY):
            with pytest.raises(StoreError) as refused, opener(frozen=True, key=key) as store:
                store.get("name of the key")
            assert ("name of the key" if key is None else "namespace 'default'") in str(refused.value)
            for secret in ("top secret", KEY, OTHER_KEY):
                assert secret not in str(refused.value)
