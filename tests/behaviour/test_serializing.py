"""How values become bytes: what cannot, the hooks of a subclass, and serializers that refuse a pickle."""

from __future__ import annotations

import json
import operator
import sys
import types
from collections.abc import Callable
from typing import Any, Literal

import pytest
from value_suite import FLAVOURS, ValueSuite

from rstore import SerializationError, Store, UnsafeValueError
from rstore.testing.flavours import KEY, Flavour, JsonStore, pickled, plain
from rstore.testing.oracle import EventOracle, Oracle, SeriesOracle, same
from rstore.testing.suite import Opener


class _Raising:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _generator() -> Any:
    yield 1


_UNDUMPABLE: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: None,
    "generator": _generator,
    "module": lambda: sys,
    "raising": _Raising,
    "deep": _deep,
    "inside": lambda: {"a": [1, lambda: None]},
}


class _Tripwire:
    """Says that it was unpickled."""

    tripped = False

    def __reduce__(self) -> Any:
        return _trip, ()


def _trip() -> int:
    _Tripwire.tripped = True
    return 1


class Tagging(Store):
    """Every value passes through the hooks, which tag it, as `str`."""

    def _dump(self, value: Any) -> bytes | str:
        return "tag:" + json.dumps(value)

    def _load(self, data: Any) -> Any:
        assert type(data) is str
        assert data.startswith("tag:")
        return ["loaded", json.loads(data[4:])]


class TaggingBytes(Store):
    """The same in `bytes`, of which some look like a pickle, and some like a sealed record."""

    def _dump(self, value: Any) -> bytes | str:
        return b"\xc1\x01\x80\x05" + json.dumps(value).encode()

    def _load(self, data: Any) -> Any:
        assert type(data) is bytes
        assert data.startswith(b"\xc1\x01\x80\x05")
        return ["loaded", json.loads(data[4:])]


class Verbatim(Store):
    """Keeps `str` and `bytes` as they are; `_load` tells one from the other."""

    def _dump(self, value: Any) -> bytes | str:
        return value  # type: ignore[no-any-return]

    def _load(self, data: Any) -> Any:
        return data


class Bad(JsonStore):
    """Dumps to what is neither `bytes` nor `str`, and loads nothing."""

    def _dump(self, value: Any) -> Any:
        return {"value": value} if value == "bad" else super()._dump(value)

    def _load(self, data: Any) -> Any:
        raise ZeroDivisionError(type(data).__name__)


_HOOKED = pytest.mark.parametrize(
    "flavour",
    [
        Flavour("plain-str", Tagging),
        Flavour("sealed-str", Tagging, KEY),
        Flavour("plain-bytes", TaggingBytes),
        Flavour("sealed-bytes", TaggingBytes, KEY),
    ],
    indirect=True,
    ids=str,
)
_VERBATIM = pytest.mark.parametrize(
    "flavour", [Flavour("plain", Verbatim), Flavour("sealed", Verbatim, KEY)], indirect=True, ids=str
)
_SAFE = pytest.mark.parametrize(
    "flavour", [
        flavour for flavour in FLAVOURS
        if flavour.store is JsonStore or flavour.serializer not in ("pickle", "data")
    ],
    indirect=True, ids=str,
)  # fmt: skip


class TestSerializing(ValueSuite):
    """Values and bytes."""

    @pytest.mark.parametrize("make", _UNDUMPABLE.values(), ids=_UNDUMPABLE)
    @pickled
    def test_what_cannot_be_dumped_is_refused_and_nothing_written(
        self, store: Store, oracle: Oracle, make: Callable[[], Any]
    ) -> None:
        store.update(a=1, b=2)
        store.extend("k", (1, 1))
        store.apply("k", {"a": 1}, 1)
        value = make()
        verbs: list[Callable[[], Any]] = [
            lambda: store.set("a", value),
            lambda: store.__setitem__("new", value),
            lambda: store.setdefault("new", value),
            lambda: store.update({"a": 5, "new": value, "b": 6}),
            lambda: store.update([("a", 5), ("new", value)], b=6),
            lambda: store.extend("k", (1, 5), (2, value), (3, 6)),
            lambda: store.extend_many("k", [(1, 5), (2, value), (3, 6)]),
            lambda: store.extend_many("k", [*((t, t) for t in range(9000)), (2, value)]),
            lambda: store.apply("k", {"a": 5, "b": value}),
            lambda: store.apply("k", {"a": (operator.setitem, value)}, 0),
        ]
        for verb in verbs:
            with pytest.raises(SerializationError, match=r"'(a|b|k|new)'.* in namespace 'default'") as refused:
                verb()
            assert refused.value.__cause__ is not None
        oracle.values.update(a=1, b=2)
        oracle.series["k"] = SeriesOracle({1: 1})
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply({"a": 1}, 1)

    @pickled
    def test_what_cannot_be_loaded_any_more_is_an_error_of_that_value_only(self, opener: Opener) -> None:
        module = types.ModuleType("rstore_testing_ghost")
        exec("class Ghost: pass", module.__dict__)  # noqa: S102 - a class of a module that goes away
        sys.modules[module.__name__] = module
        with opener() as store:
            try:
                store.update(ghost=module.Ghost(), other=1)
                store.extend("k", (1, module.Ghost()), (2, 2))
                store.apply("k", {"ghost": module.Ghost()}, 1)
            finally:
                del sys.modules[module.__name__]
            for verb in (
                lambda: store["ghost"],
                lambda: list(store.items()),
                lambda: store.range("k"),
                lambda: store.first("k"),
                lambda: store.current("k"),
                lambda: store.events("k"),
            ):
                with pytest.raises(SerializationError) as refused:
                    verb()
                assert refused.value.__cause__ is not None
            assert store["other"] == 1
            assert store.last("k") == (2, 2)
            assert store.keys() == ["ghost", "other"]
            store["ghost"] = 2
            store.extend("k", (1, 1))
            assert store.range("k") == [(1, 1), (2, 2)]

    @_HOOKED
    def test_every_value_passes_through_the_hooks(self, opener: Opener) -> None:
        values: list[Any] = [1, 1.5, True, None, "text", [1, "a"], {"a": None}, 10**30]
        with opener() as store:
            for i, value in enumerate(values):
                store.set(f"{i}", value)
                assert same(store[f"{i}"], ["loaded", value])
                store.extend("k", (i, value))
                store.apply("k", {f"{i}": value}, i)
            loaded = [["loaded", value] for value in values]
            assert same(list(store.values()), loaded)
            assert same(store.range("k"), list(enumerate(loaded)))
            assert store.first("k") == (0, loaded[0])
            assert store.last("k") == (len(loaded) - 1, loaded[-1])
            assert store.current("k") == {f"{i}": value for i, value in enumerate(loaded)}
            assert [event.value for event in store.events("k") or ()] == loaded

    @pytest.mark.slow
    @_HOOKED
    def test_every_point_of_many_passes_through_the_hooks(self, opener: Opener) -> None:
        with opener() as store:
            for key, value in (("ints", 1), ("floats", 0.5), ("strs", "x"), ("bools", True)):
                store.extend_many(key, ((t, value) for t in range(9_000)))
                assert same(store.range(key), [(t, ["loaded", value]) for t in range(9_000)])
                assert same(store.last(key), (8_999, ["loaded", value]))

    @_HOOKED
    def test_operators_compute_on_what_the_hooks_load(self, opener: Opener) -> None:
        with opener() as store:
            store.apply("k", {"a": 1}, 1)
            # The loaded value is a list; so is the loaded operand.
            assert store.apply("k", {"a": (operator.concat, 2)}, 2) == {"a": ["loaded", ["loaded", 1, "loaded", 2]]}
            assert store.current("k") == {"a": ["loaded", ["loaded", 1, "loaded", 2]]}
            assert store.events("k") == [
                (1, "a", operator.setitem, ["loaded", 1]),
                (2, "a", operator.concat, ["loaded", 2]),
            ]

    @_VERBATIM
    def test_load_gets_back_what_dump_returned(self, store: Store, oracle: Oracle) -> None:
        values: list[bytes | str] = [
            b"", "", b"a", "a", "\u00e9\U0001f600", "a\0b", b"\xc1" * 100, b"\xc1\x01", b"\x80\x05N.", b"\x01",
            "x" * 100_000, b"\xff" * 100_000,
        ]  # fmt: skip
        for i, value in enumerate(values):
            store[f"{i}"] = oracle.values[f"{i}"] = value
        oracle.series["k"] = SeriesOracle((t, values[t % 10]) for t in range(20_000))
        store.extend_many("k", oracle.series["k"].items())
        oracle.series["hot"] = SeriesOracle(enumerate(values))
        store.extend("hot", *enumerate(values))
        state = {f"{i}": value for i, value in enumerate(values)}
        store.apply("k", state, 1)
        oracle.events["k"] = EventOracle()
        oracle.events["k"].apply(state, 1)

    @plain
    def test_hooks_that_fail(self, opener: Opener) -> None:
        with Bad(opener.dsn, frozen=False) as store:
            for value in ("bad", object()):
                for verb in (
                    lambda value=value: store.set("k", value),
                    lambda value=value: store.extend("k", (1, value)),
                    lambda value=value: store.apply("k", {"a": value}),
                ):
                    with pytest.raises(SerializationError):
                        verb()
            assert store.keys() == store.timeseries() == store.eventsources() == []
            store.set("k", "good")
            with pytest.raises(SerializationError) as refused:
                store.get("k")
            assert isinstance(refused.value.__cause__, ZeroDivisionError)

    @_SAFE
    def test_a_pickle_is_refused_and_never_loaded(self, opener: Opener, flavour: Flavour) -> None:
        trap = (1, _Tripwire())
        with opener(flavour=Flavour("pickle", key=flavour.key)) as store:
            store.update(trap=trap, plain=[1])
            store.extend("hot", (1, trap))
            store.extend_many("sealed", ((t, trap) for t in range(20_000)))
            store.apply("k", {"a": trap}, 1)
        _Tripwire.tripped = False
        with opener() as store:
            verbs: list[Callable[[], Any]] = [
                lambda: store["trap"],
                lambda: store.get("plain"),
                store.find,
                lambda: list(store.values()),
                lambda: store.pop("trap"),
                lambda: store.range("hot"),
                lambda: store.first("hot"),
                lambda: store.range("sealed"),
                lambda: store.first("sealed"),
                lambda: store.last("sealed"),
                lambda: store.range("sealed", 10_000, n=1),
                lambda: store.current("k"),
                lambda: store.past("k", 1),
                lambda: store.events("k"),
                lambda: store.apply("k", {"a": (operator.add, [1])}),
            ]
            for verb in verbs:
                with pytest.raises(UnsafeValueError):
                    verb()
            assert not _Tripwire.tripped
            assert store.keys() == ["plain", "trap"]
            store["plain"] = 5
            assert store["plain"] == 5
        with opener(flavour=Flavour("pickle", key=flavour.key), frozen=True) as store:
            assert store["trap"] == (1, 1)
            assert _Tripwire.tripped

    @pytest.mark.parametrize("serializer", ["json", "msgpack"])
    @plain
    def test_what_a_serializer_cannot_express_is_refused(
        self, opener: Opener, serializer: Literal["json", "msgpack"]
    ) -> None:
        if serializer == "msgpack":
            pytest.importorskip("msgpack")
        with opener(serializer=serializer) as store:
            for value in (object(), {1, 2}, 1j, [lambda: None]):
                for verb in (
                    lambda value=value: store.set("k", value),
                    lambda value=value: store.update(a=1, b=value),
                    lambda value=value: store.extend("k", (1, 1), (2, value)),
                    lambda value=value: store.apply("k", {"a": 1, "b": value}),
                ):
                    with pytest.raises(SerializationError):
                        verb()
            assert store.keys() == store.timeseries() == store.eventsources() == []

    @pytest.mark.parametrize("serializer", ["json", "msgpack"])
    @plain
    def test_a_result_is_what_will_be_read_back(self, opener: Opener, serializer: Literal["json", "msgpack"]) -> None:
        if serializer == "msgpack":
            pytest.importorskip("msgpack")
        with opener(serializer=serializer) as store:
            assert store.apply("k", {"a": [1]}, 1) == {"a": [1]}
            assert store.apply("k", {"a": (operator.add, [2])}, 2) == {"a": [1, 2]}
            assert store.apply("k", {"b": {"x": (1, 2)}}, 3) == store.current("k") == {"a": [1, 2], "b": {"x": [1, 2]}}
