"""Pairs with a time to live: once expired they are absent for every verb."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rstore import (
    ConflictError,
    Store,
)
from rstore.testing.flavours import plain
from rstore.testing.suite import Opener, Suite


class ExpirySuite(Suite):
    """Pairs that expire."""

    @pytest.fixture
    def pass_ms(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Let time pass: where the clock is this process's by moving it, on a server by waiting.

        Ask for it before the store: set back before the store is checked, the clock would revive expired entries.
        """
        if not self.local_clock:
            return lambda ms: time.sleep(ms / 1000)
        ahead_s, clock = [0.0], time.time
        monkeypatch.setattr("time.time", lambda: clock() + ahead_s[0])

        def step(ms: int) -> None:
            ahead_s[0] += ms / 1000

        return step

    @plain
    def test_what_is_replaced_by_many_that_expire_at_once_does_not_come_back(
        self, pass_ms: Callable[[int], None], store: Store
    ) -> None:
        """The first have expired before the last are stored, however long that takes."""
        keys = [f"k{i:04}" for i in range(5000)]
        store.update(dict.fromkeys(keys, "old"))
        store.set_many(dict.fromkeys(keys, "new"), ttl=0.001, atomic=self.across_keys)
        pass_ms(2)
        assert [key for key in keys[:60] if store.get(key) is not None] == []
        assert (store.get_many(keys), store.keys()) == ({}, [])

    def test_what_has_expired_is_nowhere(self, pass_ms: Callable[[int], None], store: Store) -> None:
        store["stays"] = 1
        old = store.set("k0", 5, ttl=0.05)
        store.set_many({f"k{i}": 5 for i in range(1, 12)}, ttl=0.05, atomic=self.across_keys)
        store.add("k12", 5, ttl=0.05)
        store.get_or_set("k13", lambda: 5, ttl=0.05)
        store["touched"] = 1
        assert store.touch("touched", 0.05)
        pass_ms(51)
        assert (store.get("k0"), store.get_many(["k0", "k1", "stays"]), store.entry("k0")) == (None, {"stays": 1}, None)
        assert [store.has("k1"), "k2" in store, "touched" in store] == [False] * 3
        assert (len(store), store.count(), store.count("k"), store.count("s")) == (1, 1, 0, 1)
        assert list(store) == store.keys() == ["stays"]
        assert [*store.items()] == store.find("*") == [("stays", 1)]
        assert (store.find("k*"), [*store.scan("k")]) == ([], [])
        assert [entry.key for entry in store.scan(reverse=True, limit=1)] == ["stays"]
        with pytest.raises(KeyError):
            store["k0"]
        assert (store.delete("k0", "k1"), store.pop("k1", "none"), store.touch("k1", 60)) == (0, "none", False)
        for write in (lambda: store.set("k0", 1, if_version=old), lambda: store.delete("k0", if_version=old)):
            with pytest.raises(ConflictError) as raised:
                write()
            assert raised.value.actual is None
        assert store.setdefault("k2", "new") == store["k2"] == "new"
        assert store.add("k3", "new")
        assert (store.incr("k4"), store.modify("k5", lambda n: n + 1, default=0)) == (1, 1)
        with pytest.raises(KeyError):
            store.modify("k6", lambda n: n)
        assert store.get_or_set("k7", lambda: "new") == "new"
        store.set("k8", "new", if_version=None)
        assert store.delete_prefix("k1") == 0
        assert store.popitem() == ("stays", 1)
        # And what came in its place has no expiry of its own.
        assert [(entry.key, entry.expires) for entry in store.scan()] == [(f"k{i}", None) for i in (2, 3, 4, 5, 7, 8)]

    def test_what_keeps_an_expiry_and_what_ends_it(self, store: Store, opener: Opener) -> None:
        def lives_s(key: str) -> int | None:
            entry = store.entry(key)
            assert entry is not None
            assert next(store.scan(key)).expires == entry.expires
            # The clock is the backend's; on the machine of the tests it is the same.
            return None if entry.expires is None else round((entry.expires / 1000 - time.time()) / 10) * 10

        store.set("k", 1, ttl=100)
        assert lives_s("k") == 100
        store.incr("k")
        store.modify("k", lambda n: n + 0.5)
        with opener(frozen=True) as frozen:
            assert frozen["k"] == 2.5
        assert (lives_s("k"), store.setdefault("k", 1), store.add("k", 1), lives_s("k")) == (100, 2.5, False, 100)
        entry = store.entry("k")
        assert entry is not None
        assert store.touch("k", 200)
        assert lives_s("k") == 200
        store.set("k", 1, if_version=entry.version)
        assert lives_s("k") is None
        assert store.incr("k") == 2
        assert lives_s("k") is None
        store.set("k", 1, ttl=10**11)
        store["k"] = 1
        assert lives_s("k") is None
        store.set_many({"k": 2}, ttl=300)
        assert lives_s("k") == 300
        assert store.touch("k", None)
        assert lives_s("k") is None
        store.set("k", 3, ttl=60.5)
        store.update(k=1)
        assert (lives_s("k"), store.touch("nothing", 5)) == (None, False)
