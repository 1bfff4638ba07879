"""Values that would not come back as they went in are refused, and verbs return them as they will be read."""

from __future__ import annotations

import datetime
import sys
import types
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest
from value_suite import ValueSuite

from rstore import InvalidTypeError, SerializationError, Store
from rstore.testing.flavours import JsonStore, pickled, plain
from rstore.testing.oracle import same
from rstore.testing.suite import Opener


class Sized(NamedTuple):
    """A tuple with names."""

    width: int
    height: int


class Unloadable:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def _generator() -> Any:
    yield 1


def _writing(store: Store, value: Any) -> list[Callable[[], Any]]:
    """Return verbs that store a value."""
    return [
        lambda: store.set("k", value),
        lambda: store.update(a=1, k=value),
        lambda: store.set_many({"k": value}),
        lambda: store.get_or_set("k", lambda: value),
        lambda: store.setdefault("k", value),
        lambda: store.modify("k", lambda _: value, default=0),
        lambda: store.extend("k", (1, 1), (2, value)),
        lambda: store.extend_many("k", [(1, 1), (2, value)]),
        lambda: store.apply("k", {"a": 1, "b": value}),
    ]


class TestRoundTrips(ValueSuite):
    """Values there and back."""

    @pytest.mark.parametrize(
        ("serializer", "values"),
        [
            ("json", [{1: "a", "1": "b"}, {None: 1, "null": 2}, [{"x": ({True: 1, "true": 2},)}], {1.5: 1, "1.5": 2}]),
            ("msgpack", [{(1, 2): "x"}, [{"x": {(1,): 1}}], ({Sized(1, 2): 1},)]),
        ],
    )
    @plain
    def test_keys_that_would_not_come_back_are_refused(
        self, opener: Opener, serializer: Literal["json", "msgpack"], values: list[Any]
    ) -> None:
        if serializer == "msgpack":
            pytest.importorskip("msgpack")
        with opener(serializer=serializer) as store:
            for value in values:
                for verb in _writing(store, value):
                    with pytest.raises(SerializationError, match=r"in namespace 'default'.* key"):
                        verb()
            assert store.keys() == store.timeseries() == store.eventsources() == []
            store["k"] = kept = {"1": [{"a": {}}], "b": "1"}
            assert store["k"] == kept

    @pytest.mark.parametrize("serializer", ["json", "msgpack", "subclass"])
    @plain
    def test_a_verb_returns_what_a_read_will_return(self, opener: Opener, serializer: str) -> None:
        if serializer == "msgpack":
            pytest.importorskip("msgpack")
        kind = JsonStore if serializer == "subclass" else Store
        options: dict[str, Any] = {} if serializer == "subclass" else {"serializer": serializer}
        with kind(opener.dsn, frozen=False, **options) as store:
            value = {"a": (1, {"b": (2, 3)})}
            verbs: dict[str, Callable[[], Any]] = {
                "a": lambda: store.get_or_set("a", lambda: value),
                "b": lambda: store.setdefault("b", value),
                "c": lambda: store.modify("c", lambda _: value, default=0),
            }
            for key, verb in verbs.items():
                first = verb()
                assert same(first, store[key])
                assert same(verb(), first)
            if self.transactional:
                with store.transaction() as tx:
                    assert same(tx.get_or_set("d", lambda: value), tx["d"])
                    assert same(tx.setdefault("e", value), tx["e"])

    @pickled
    def test_a_value_that_cannot_be_loaded_is_refused_by_the_verbs_that_return_it(self, opener: Opener) -> None:
        with opener() as store:
            verbs: list[Callable[[], Any]] = [
                lambda: store.get_or_set("k", Unloadable),
                lambda: store.setdefault("k", Unloadable()),
                lambda: store.modify("k", lambda _: Unloadable(), default=0),
            ]
            for verb in verbs:
                with pytest.raises(SerializationError):
                    verb()
            assert store.keys() == []

    @pickled
    def test_a_refusal_names_the_inner_object_and_the_way_out(self, opener: Opener) -> None:
        async def compute() -> int:
            return 1

        async def change(value: int) -> int:
            return value + 1

        coroutine = compute()
        with opener() as store:
            for value, words in (
                ({"cb": [1, lambda: None]}, r"type dict.*holds the function .*<lambda>.*store its name"),
                ([_generator()], r"type list.*generator.*store list"),
                ({"a": coroutine}, r"coroutine.*await it first"),
            ):
                with pytest.raises(SerializationError, match=words):
                    store["k"] = value
            with pytest.raises(InvalidTypeError, match="await that first"):
                store.get_or_set("k", compute)
            with pytest.raises(InvalidTypeError, match="await that first"):
                store.modify("k", change, default=1)
        coroutine.close()
        with opener(serializer="json") as store, pytest.raises(SerializationError, match=r"dict.*datetime\.date"):
            store["k"] = {"born": [datetime.date(1815, 12, 10)]}

    @pickled
    def test_a_value_whose_class_is_gone_names_the_class(self, opener: Opener) -> None:
        module = types.ModuleType("rstore_testing_gone")
        exec("class Ghost: pass", module.__dict__)  # noqa: S102 - a class of a module that goes away
        sys.modules[module.__name__] = module
        with opener() as store:
            store["k"] = module.Ghost()
            delattr(module, "Ghost")
            with pytest.raises(SerializationError, match=r"'Ghost' of the module 'rstore_testing_gone'"):
                store["k"]
            del sys.modules[module.__name__]
            with pytest.raises(SerializationError, match=r"'Ghost' of the module 'rstore_testing_gone'"):
                store["k"]
