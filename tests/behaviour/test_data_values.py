"""The serializer of data: values come back as they went in, and everything else is refused, in all three models."""

from __future__ import annotations

import collections
import datetime
import enum
import operator
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
import pytest
from value_suite import ValueSuite

from rstore import DataPickle, SerializationError, Store, UnsafeValueError
from rstore.testing.flavours import KEY, Flavour
from rstore.testing.suite import Opener


class Point(NamedTuple):
    """A named tuple."""

    x: float
    y: float


class Color(enum.Enum):
    """An enum."""

    RED = 1
    BLUE = "b"


class Right(enum.Flag):
    """Flags, whose combinations are no members."""

    READ = enum.auto()
    WRITE = enum.auto()


@dataclass
class User:
    """A dataclass that can hold itself."""

    name: str
    friends: list[Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """A dataclass with slots, and a hash."""

    x: int
    y: str


class Odd(enum.Enum):
    """An enum with a value that is not equal to itself."""

    NAN = float("nan")


@dataclass
class Hiding:
    """A dataclass with a method that an attribute may hide."""

    x: int

    def extra(self) -> int:
        """Return its field."""
        return self.x


class Named(Point):
    """A named tuple that takes attributes."""


class Sub(int):
    """A subclass of a builtin type, which is no data."""


ALLOWED: Final = DataPickle(allow=[Point, Color, Right, User, Spot, Odd, Named, Hiding])
_UTC: Final = datetime.UTC
_VALUES: Final[list[Any]] = [
    None, True, 10**30, -5, 1.5, float("inf"), 2j, "text", b"bytes" * 100, bytearray(b"x"), "y" * 70_000,
    [1, [2, (3, {"a": {4}})]], {1: "a", (2, "b"): frozenset((1, 2)), None: ()}, range(1, 10, 3),
    datetime.datetime(2026, 11, 1, 12, tzinfo=_UTC), datetime.datetime(2026, 1, 1, fold=1, tzinfo=_UTC),
    datetime.date(1, 1, 1),
    datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), datetime.timedelta(days=-1, seconds=5),
    datetime.time(23, 59, tzinfo=datetime.timezone(datetime.timedelta(hours=-3), "X")), Decimal("-1.50"),
    Fraction(-1, 3), uuid.UUID(int=2**128 - 1), collections.deque([1, [2]], 3), collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"), collections.defaultdict(list, a=[1]),
    np.float64(1.5), np.datetime64("2026-01-01", "ns"), np.str_("x"), np.bool_(True), np.int8(-1),
]  # fmt: skip
_ARRAYS: Final[list[Any]] = [
    np.arange(5.0), np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), np.arange(10)[::3], np.array(5, "u1"),
    np.zeros((0, 3), "f4"), np.array(["a", "bc"]), np.array(["2026"], "M8[D]"), np.array([1, 2], ">i4"),
    np.array([(1, 0.5)], np.dtype([("a", "i1"), ("b", "f8", (2,))], align=True)), np.array([b"x\0y"]),
]  # fmt: skip
_REFUSED: Final[dict[str, Callable[[], Any]]] = {
    "a subclass of int": lambda: Sub(3),
    "an object": object,
    "a function": lambda: len,
    "an array of objects": lambda: np.array([None], object),
    "a defaultdict of a function": lambda: collections.defaultdict(lambda: 1),
    "an unknown dataclass": lambda: Spot(1, "a"),
    "inside": lambda: {"a": [1, {"b": Color.RED}]},
    "ellipsis": lambda: ...,
    "a recarray": lambda: np.zeros(1, [("a", "i4")]).view(np.recarray),
}


def _with_attribute(value: Any) -> Any:
    value.extra = 1
    return value


_NOT_AS_THEY_ARE: Final[dict[str, Callable[[], Any]]] = {
    "a member that is not equal to itself": lambda: Odd.NAN,
    "a named tuple with an attribute": lambda: _with_attribute(Named(1, 2)),
    "an OrderedDict with an attribute": lambda: _with_attribute(collections.OrderedDict(a=1)),
    "a Counter with an attribute": lambda: _with_attribute(collections.Counter("a")),
    "an object with an attribute that hides a method": lambda: _with_attribute(Hiding(1)),
}

_DATA = pytest.mark.parametrize(
    "flavour",
    [Flavour("plain-data", serializer="data"), Flavour("sealed-data", key=KEY, serializer="data")],
    indirect=True,
    ids=str,
)


def _check(store: Store, value: Any, equal: Callable[[Any, Any], bool]) -> None:
    for again in (store["k"], store.range("k")[0][1], (store.current("k") or {})["a"]):
        assert type(again) is type(value)
        assert equal(again, value)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and (isinstance(one, set) or repr(one) == repr(other))  # a set has no order


def _equal_arrays(one: Any, other: Any) -> bool:
    same = one.dtype == other.dtype and one.shape == other.shape and one.flags.writeable == other.flags.writeable
    return same and bool((one == other).all())


class TestDataValues(ValueSuite):
    """Values of the serializer `'data'`."""

    @_DATA
    def test_data_comes_back_equal_and_of_its_type(self, opener: Opener) -> None:
        for values, equal in ((_VALUES, _equal), (_ARRAYS, _equal_arrays)):
            with opener() as store:
                for value in values:
                    store["k"] = value
                    store.extend("k", (1, value))
                    store.apply("k", {"a": value})
                    _check(store, value, equal)

    @_DATA
    def test_data_that_pickle_wrote_is_read(self, opener: Opener, flavour: Flavour) -> None:
        for values, equal in ((_VALUES, _equal), (_ARRAYS, _equal_arrays)):
            for value in values:
                with opener(flavour=Flavour("pickle", key=flavour.key)) as store:
                    store["k"] = value
                    store.extend("k", (1, value))
                    store.apply("k", {"a": value})
                with opener(frozen=True) as store:
                    _check(store, value, equal)

    @_DATA
    def test_classes_that_are_allowed_come_back(self, opener: Opener) -> None:
        ada, alan = User("Ada", []), User("Alan", [])
        ada.friends, alan.friends = [alan, ada], [ada]
        values = [
            Point(1.5, 2), Color.RED, Color.BLUE, Right.READ | Right.WRITE, Right.READ, Spot(1, "a"),
            {Color.RED: {Spot(2, "b"): [Point(1, 2), Spot(3, "c")]}}, {Spot(1, "x")}, (1, (Point(0, 0),)),
        ]  # fmt: skip
        with opener(serializer=ALLOWED) as store:
            for value in values:
                store["k"] = value
                store.extend("k", (1, value))
                store.apply("k", {"a": value})
                _check(store, value, _equal)
            store["ada"] = ada
            again = store["ada"]
            assert type(again) is User
            assert again.friends[1] is again
            assert again.friends[0].friends == [again]
            assert store.modify("count", lambda seen: [*seen, Color.RED], default=[]) == [Color.RED]

    @_DATA
    def test_what_was_read_can_be_stored_again(self, opener: Opener) -> None:
        with opener(serializer=ALLOWED) as store:
            for value in (*_VALUES, Point(1, 2), Spot(1, "a"), collections.OrderedDict(a=Point(1, 2))):
                store["k"] = value
                for _ in range(2):
                    store["k"] = again = store["k"]
                    assert _equal(again, value)
                    assert getattr(again, "__dict__", {}) == getattr(value, "__dict__", {})

    @_DATA
    def test_a_tuple_that_holds_itself_comes_back(self, opener: Opener) -> None:
        inner: Any = []
        pair = Point(inner, inner)
        inner += [pair, {"a": pair}, Spot(1, "a")]
        with opener(serializer=ALLOWED) as store:
            store["k"] = (pair, inner)
            again, items = store["k"]
            assert type(again).__name__ == "Point"
            assert again.x is again.y is items
            assert items[0] is items[1]["a"] is again
            assert items[2] == Spot(1, "a")

    @pytest.mark.parametrize("make", _NOT_AS_THEY_ARE.values(), ids=_NOT_AS_THEY_ARE)
    @_DATA
    def test_an_object_that_would_come_back_as_another_is_refused(
        self, opener: Opener, make: Callable[[], Any]
    ) -> None:
        with opener(serializer=ALLOWED) as store:
            for verb in (lambda: store.set("k", [make()]), lambda: store.extend("k", (1, make()))):
                with pytest.raises(SerializationError, match=r"'k'.* in namespace 'default'"):
                    verb()
            assert store.keys() == store.timeseries() == []

    @pytest.mark.parametrize("make", _REFUSED.values(), ids=_REFUSED)
    @_DATA
    def test_what_is_no_data_is_refused_and_nothing_written(self, opener: Opener, make: Callable[[], Any]) -> None:
        value = make()
        with opener() as store:
            verbs: list[Callable[[], Any]] = [
                lambda: store.set("k", value),
                lambda: store.update(a=1, k=value),
                lambda: store.setdefault("k", value),
                lambda: store.add("k", value),
                lambda: store.get_or_set("k", lambda: value),
                lambda: store.extend("k", (1, 1), (2, value)),
                lambda: store.extend_many("k", [(1, 1), (2, value)]),
                lambda: store.apply("k", {"a": 1, "b": value}),
            ]
            for verb in verbs:
                with pytest.raises(SerializationError, match=r"'(a|b|k)'.* in namespace 'default'"):
                    verb()
            assert store.keys() == store.timeseries() == store.eventsources() == []

    @_DATA
    def test_a_class_is_named_with_the_way_to_allow_it(self, opener: Opener) -> None:
        with opener() as store:
            with pytest.raises(SerializationError, match=r"Color.*DataPickle\(allow=\[Color\]\)"):
                store["k"] = [Color.RED]
            with pytest.raises(SerializationError, match=r"test_data_values\.Sub.*store its parts"):
                store["k"] = Sub(1)

    @_DATA
    def test_a_pickle_of_more_than_data_is_not_loaded(self, opener: Opener, flavour: Flavour) -> None:
        with opener(flavour=Flavour("pickle", key=flavour.key)) as store:
            store.update(k=[Color.RED], number=5)
            store.extend("k", (1, Color.RED))
            store.apply("k", {"a": Color.RED})
        with opener() as store:
            verbs: list[Callable[[], Any]] = [
                lambda: store["k"],
                lambda: list(store.values()),
                lambda: store.modify("k", lambda value: value),
                lambda: store.range("k"),
                lambda: store.last("k"),
                lambda: store.current("k"),
                lambda: store.apply("k", {"a": (operator.add, 1)}),
            ]
            for verb in verbs:
                with pytest.raises(UnsafeValueError, match="Color"):
                    verb()
            assert store["number"] == 5
            assert {finding.key for finding in store.check()} >= {"k"}
            store["k"] = 1
            assert store["k"] == 1
