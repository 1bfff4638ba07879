"""Namespaces: their names, their isolation from each other, and `discard`."""

from __future__ import annotations

from typing import Any

import pytest

from rstore import InvalidArgumentError, InvalidTypeError, InvalidValueError, Store, StoreNotAvailableError
from rstore.testing.flavours import pickled, plain
from rstore.testing.opening import WRITES
from rstore.testing.suite import Opener, Suite, shown

# Careless patterns, quoting, case folding or joining of names would confuse some of these.
ALIKE = (
    "a", "a.b", "a_b", "a__b", "a%", "A", "a:b", "a/b", "a b", "a*", "a?", "{a}", "a'b", 'a"b', "a;", "a\\b", " a",
    "a\n",
    "\u00e4", "a\u0308", "\U0001f600", "default", "1", "01", "None",
)  # fmt: skip


class NamespaceSuite(Suite):
    """Namespaces isolate the data inside one store."""

    @pickled
    def test_namespaces_never_see_one_another(self, opener: Opener) -> None:
        for namespace in ALIKE:
            with opener(namespace) as store:
                assert store.keys() == store.timeseries() == store.eventsources() == []
                store.update({"k": namespace, namespace: 1})
                store.extend("k", (1, namespace))
                store.extend(namespace, (2, 2))
                store.apply("k", {"a": namespace}, 1)
        for namespace in ALIKE:
            with opener(namespace, frozen=True) as store:
                assert store.find() == sorted({"k": namespace, namespace: 1}.items(), key=lambda kv: kv[0].encode())
                assert store.range("k") == [(1, namespace)]
                assert store.timeseries() == sorted(["k", namespace], key=str.encode)
                assert store.current("k") == {"a": namespace}
                assert store.eventsources() == ["k"]

    @pickled
    def test_every_verb_stays_in_its_namespace(self, opener: Opener) -> None:
        for namespace in ALIKE:
            with opener(namespace) as store:
                store.set("k", namespace)
                store.extend("k", *((t, t) for t in range(10)))
                store.apply("k", {"a": 1}, 1)
                store.apply("k", {"a": 2}, 2)
        with opener("a_b") as store:
            store.clear()
            store.remove("k", start=3, end=5)
            store.prune("k")
            store.apply("k", {"b": 3}, 3)
        for namespace in ALIKE:
            if namespace == "a_b":
                continue
            with opener(namespace, frozen=True) as store:
                assert store.find() == [("k", namespace)]
                assert store.range("k") == [(t, t) for t in range(10)]
                assert store.past("k", 1) == {"a": 1}
                assert store.current("k") == {"a": 2}

    @pickled
    def test_discard_deletes_one_namespace_of_all_three_models(self, opener: Opener) -> None:
        for namespace in ALIKE:
            with opener(namespace) as store:
                store.set("k", 1)
                store.extend("k", *((t, t) for t in range(10)))
                store.apply("k", {"a": 1}, 1)
        with opener("a_b") as store:
            store.discard()
        with pytest.raises(StoreNotAvailableError), opener("a_b", frozen=True):
            pass
        for namespace in ALIKE:
            if namespace == "a_b":
                continue
            with opener(namespace, frozen=True) as store:
                assert (store["k"], len(store.range("k")), store.current("k")) == (1, 10, {"a": 1})

    @pickled
    def test_a_discarded_namespace_begins_empty(self, opener: Opener) -> None:
        with opener() as store:
            store.set("k", 1)
            store.extend_many("k", [(t, t) for t in range(20_000)])
            store.apply("k", {"a": 1})
            store.discard()
        with opener() as store:
            assert store.keys() == store.timeseries() == store.eventsources() == []
            store.set("k", 2)
            store.extend("k", (1, 2))
            store.apply("k", {"b": 2})
            assert (store["k"], store.range("k"), store.current("k")) == (2, [(1, 2)], {"b": 2})

    @pickled
    def test_what_another_handle_discarded_reads_as_empty_and_is_created_by_a_write(self, opener: Opener) -> None:
        with opener() as store, opener() as other:
            store.set("k", 1)
            store.extend("k", (1, 1))
            store.apply("k", {"a": 1})
            other.discard()
            assert store.keys() == store.timeseries() == store.eventsources() == []
            assert (store.get("k"), store.range("k"), store.current("k")) == (None, [], None)
            store.extend("k", (2, 2))
            store.apply("k", {"b": 2})
            store.set("k", 2)
        with opener(frozen=True) as store:
            assert (store["k"], store.range("k"), store.current("k")) == (2, [(2, 2)], {"b": 2})

    @pytest.mark.parametrize("again", [False, True], ids=["gone", "born again"])
    @pickled
    def test_every_write_after_another_handle_discarded(self, opener: Opener, again: bool) -> None:
        with opener() as store, opener() as other:
            for name, write in WRITES.items():
                store.set("before", 1)
                other.discard()
                if again:
                    other.update(k=1, other=2)
                    other.extend("k", (1, 1))
                    other.apply("k", {"a": 1}, 1)
                try:
                    write(store)
                except (KeyError, InvalidValueError):  # of `undo`: there is no such commit
                    assert not again, name
                assert "before" not in store, name
                assert store.find() == other.find(), name
                assert store.range("k") == other.range("k"), name
                assert store.events("k") == other.events("k"), name

    @plain
    def test_discarding_twice(self, opener: Opener) -> None:
        with opener() as store:
            store.set("k", 1)
            store.discard()
            store.discard()

    @pytest.mark.parametrize(
        "namespace",
        [42, b"a", 1.5, ["a"], "", "a\0b", "\ud800", "a" * 256, "\u00e4" * 128, "\U0001f600" * 64],
        ids=shown,
    )
    @plain
    def test_what_cannot_be_a_namespace_is_refused(self, opener: Opener, namespace: Any) -> None:
        kind = InvalidValueError if isinstance(namespace, str) else InvalidTypeError
        with pytest.raises(kind) as refused:
            Store(opener.dsn, namespace, frozen=False)
        assert isinstance(refused.value, InvalidArgumentError)

    @pytest.mark.parametrize("namespace", ["a", "a" * 255, "\u00e4" * 127, "\U0001f600" * 63, "\uffff"], ids=shown)
    @plain
    def test_what_can_be_a_namespace(self, opener: Opener, namespace: str) -> None:
        with opener(namespace) as store:
            store.set("k", 1)
        with opener(namespace, frozen=True) as store:
            assert store["k"] == 1
