"""Keys and passphrases as users give them: how they are spelled, which ones open a store, and that none is shown."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from value_suite import ValueSuite

from rstore import InvalidArgumentError, Passphrase, Store, WrongKeyError, generate_key
from rstore.testing.flavours import KEY, OTHER_KEY, plain
from rstore.testing.suite import Opener, shown

RAW = base64.urlsafe_b64decode(KEY)
MANY = 20_000


def _fill(store: Store) -> None:
    store.set("k", "value")
    store.extend("hot", (1, "a"), (2, "b"))
    store.extend_many("many", ((t, t) for t in range(MANY)))
    for t in range(300):
        store.apply("log", {"a": t}, t)


def _holds(store: Store) -> bool:
    return (
        (store["k"], store.range("hot"), store.current("log")) == ("value", [(1, "a"), (2, "b")], {"a": 299})
        and store.range("many") == [(t, t) for t in range(MANY)]
        and store.past("log", 150) == {"a": 150}
    )


class TestKeys(ValueSuite):
    """On SQLite alone: a backend keeps a few bytes for each of them, which the conformance suite looks at."""

    @plain
    def test_a_key_in_all_its_spellings_gives_the_same_store(self, opener: Opener) -> None:
        spellings: list[Any] = [KEY, KEY.encode(), RAW, [KEY], [RAW], [KEY.encode(), OTHER_KEY]]
        for i, key in enumerate(spellings):
            with opener(f"{i}", key=key) as store:
                _fill(store)
        for i in range(len(spellings)):
            for key in spellings:
                with opener(f"{i}", key=key, frozen=True) as store:
                    assert store["k"] == "value"
            with opener(f"{i}", key=spellings[-1 - i], frozen=True) as store:
                assert _holds(store)

    @plain
    def test_a_generated_key_opens_what_it_sealed_and_nothing_else(self, opener: Opener) -> None:
        one, two = generate_key(), generate_key()
        assert one != two
        assert len(base64.urlsafe_b64decode(one)) == 32
        with opener(key=one) as store:
            store.set("k", 1)
        for frozen in (True, False):
            with pytest.raises(WrongKeyError):
                opener(key=two, frozen=frozen).open()
        with opener(key=one, frozen=True) as store:
            assert store["k"] == 1

    @pytest.mark.parametrize(
        "key",
        [
            "", b"", "short", "x" * 44, "x" * 32, "x" * 43, b"x" * 31, b"x" * 33, KEY[:-1], KEY + "=", KEY[:-2] + "!=",
            "\u00e9" * 44,
            base64.urlsafe_b64encode(b"x" * 16).decode(), base64.urlsafe_b64encode(b"x" * 64).decode(), 42, 1.5, [],
            [None], [KEY, "short"],
            [KEY, 42], {}, object(), True,
        ],
        ids=shown,
    )  # fmt: skip
    @plain
    def test_a_malformed_key_is_refused_and_not_shown(self, opener: Opener, key: Any) -> None:
        with pytest.raises(InvalidArgumentError) as refused:
            opener(key=key)
        for secret in (KEY, KEY[:-2], "x" * 16, "short"):
            assert secret not in str(refused.value)

    @pytest.mark.slow
    @plain
    def test_a_passphrase(self, opener: Opener) -> None:
        with opener(key=Passphrase("correct horse")) as store:
            _fill(store)
        with opener(key=Passphrase("correct horse"), frozen=True) as store:
            assert _holds(store)
        for frozen in (True, False):
            with pytest.raises(WrongKeyError):
                opener(key=Passphrase("wrong horse"), frozen=frozen).open()
        with opener(key=[KEY, Passphrase("correct horse")]) as store:
            assert _holds(store)
            store.set("k", "rotated")
        with opener(key=KEY, frozen=True) as store:
            assert store["k"] == "rotated"

    @pytest.mark.slow
    @plain
    def test_a_passphrase_gives_other_keys_in_other_namespaces(self, opener: Opener) -> None:
        for namespace in ("a", "b"):
            with opener(namespace, key=Passphrase("p")) as store:
                store.set("k", namespace)
        for namespace in ("a", "b"):
            with opener(namespace, key=Passphrase("p"), frozen=True) as store:
                assert store["k"] == namespace

    @plain
    def test_a_passphrase_is_not_shown(self, opener: Opener) -> None:
        passphrase = Passphrase("correct horse")
        store = opener(key=passphrase)
        for text in (repr(passphrase), str(passphrase), repr(store)):
            assert "horse" not in text
        for bad in (None, 42, b"p", ""):
            with pytest.raises(InvalidArgumentError):
                Passphrase(bad)  # type: ignore[arg-type]

    @pytest.mark.slow
    @plain
    def test_a_mistyped_passphrase_is_refused_at_opening(self, opener: Opener) -> None:
        with opener(key=Passphrase("correct horse")) as store:
            store.set("k", 1)
        for wrong in ("corect horse", "correct horse ", "Correct horse"):
            for frozen in (True, False):
                with pytest.raises(WrongKeyError):
                    opener(key=Passphrase(wrong), frozen=frozen).open()
        with opener(key=[Passphrase("new"), Passphrase("correct horse")]) as store:
            assert store["k"] == 1
            store.set("k", 2)
        for key in (Passphrase("new"), [KEY, Passphrase("new")], [Passphrase("wrong"), Passphrase("new")]):
            with opener(key=key, frozen=True) as store:
                assert store["k"] == 2
