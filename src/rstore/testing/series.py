"""Time series of a few points: extending, ranges, gaps and removal."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rstore import InvalidArgumentError, InvalidTypeError, InvalidValueError, Store
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Oracle, SeriesOracle
from rstore.testing.suite import Opener, Suite, shown

MIN, MAX = -(2**63), 2**63 - 1
TIMES = (MIN, MIN + 1, -1000, -7, -1, 0, 1, 2, 3, 10, 20, 21, 1000, MAX - 1, MAX)


class Index:
    """An integer that is not an int, like those of NumPy."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class SeriesSuite(Suite):
    """Time series of a few points."""

    def test_points_come_back_in_time_order(self, store: Store, oracle: Oracle) -> None:
        assert store.extend("k", (3, "c"), (1, "a")) == 2
        assert store.extend("k", (2, "b")) == 1
        assert store.range("k") == [(1, "a"), (2, "b"), (3, "c")]
        oracle.series["k"] = SeriesOracle({1: "a", 2: "b", 3: "c"})

    def test_a_second_value_for_a_timestamp_replaces_the_first(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (1, "a"), (2, "b"))
        assert store.extend("k", (1, "c")) == 1
        assert store.extend("k", (2, "d"), (2, "e"), (2, "f")) == 3
        assert store.range("k") == [(1, "c"), (2, "f")]
        assert store.extend("k", (0, "g"), (2, "h"), (1, "i"), (3, "j")) == 4
        assert store.range("k") == [(0, "g"), (1, "i"), (2, "h"), (3, "j")]
        oracle.series["k"] = SeriesOracle({0: "g", 1: "i", 2: "h", 3: "j"})

    def test_extending_by_nothing(self, store: Store, oracle: Oracle) -> None:
        assert store.extend("k") == 0
        assert store.extend_many("k", []) == 0
        assert store.timeseries() == []
        store.extend("k", (1, 1))
        assert store.extend("k") == 0
        oracle.series["k"] = SeriesOracle({1: 1})

    def test_series_are_apart_from_each_other_and_from_pairs(self, store: Store, oracle: Oracle) -> None:
        store.set("b", 0)
        store.extend("b", (1, 1))
        store.extend("a", (1, 2))
        store.extend("\U0001f600", (1, 3))
        store.extend("\uffff", (1, 4))
        assert store.timeseries() == ["a", "b", "\uffff", "\U0001f600"]
        assert store.range("a") == [(1, 2)]
        oracle.values["b"] = 0
        oracle.series.update(
            {key: SeriesOracle({1: i}) for i, key in enumerate(("b", "a", "\U0001f600", "\uffff"), 1)}
        )  # fmt: skip

    def test_a_series_that_is_not_there(self, store: Store) -> None:
        assert store.range("k") == store.range("k", 1, n=5, end=9, freq=2) == []
        assert store.first("k") is None
        assert store.last("k") is None
        assert store.missing("k", 1, 5, 2) == [1, 3, 5]
        assert not store.iscomplete("k", 1, freq=1)
        store.remove("k")
        assert store.timeseries() == []

    @pickled
    def test_every_range(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle((t, i) for i, t in enumerate(TIMES))
        store.extend("k", *points.items())
        bounds = (None, *TIMES, -500, 5, 22)
        for start, end in itertools.product(bounds, bounds):
            assert store.range("k", start, end=end) == points.range(start, end=end), (start, end)
        for start, end, n, freq in itertools.product(
            (None, MIN, -7, 0, 3, MAX), (None, MIN, -1, 20, MAX), (None, 0, 1, 2, 5, 100), (None, 1, 2, 10, 1000, MAX)
        ):
            expected = points.range(start, n=n, end=end, freq=freq)
            assert store.range("k", start, n=n, end=end, freq=freq) == expected, (start, n, end, freq)

    @pickled
    def test_the_extremes_of_time(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle({MIN: "first", MAX: "last", 0: "middle"})
        store.extend("k", *points.items())
        assert store.first("k") == (MIN, "first")
        assert store.last("k") == (MAX, "last")
        assert store.range("k", freq=MAX) == [(MIN, "first"), (0, "middle"), (MAX, "last")]
        assert store.missing("k", MAX - 1, MAX, 10) == [MAX - 1]
        assert store.missing("k", MAX, MAX, 1) == []
        assert store.missing("k", MIN, MIN + 4, 3) == [MIN + 3]
        store.remove("k", start=MAX)
        store.remove("k", end=MIN)
        assert store.range("k") == [(0, "middle")]
        del points[MIN], points[MAX]

    def test_freq_keeps_the_first_then_what_is_far_enough_from_the_last_kept(self, store: Store) -> None:
        store.extend("k", *((t, t) for t in (0, 4, 9, 10, 11, 19, 20, 21, 35)))
        assert [t for t, _ in store.range("k", freq=10)] == [0, 10, 20, 35]
        assert [t for t, _ in store.range("k", 4, freq=10)] == [4, 19, 35]
        assert [t for t, _ in store.range("k", 1, freq=10, n=2, end=30)] == [4, 19]

    def test_first_and_last(self, store: Store) -> None:
        store.extend("k", (5, "a"))
        assert store.first("k") == store.last("k") == (5, "a")
        store.extend("k", (-5, "b"), (50, None))
        assert store.first("k") == (-5, "b")
        assert store.last("k") == (50, None)

    @pickled
    def test_missing_points_of_a_grid(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle({t: t for t in (-20, -10, 0, 5, 10, 30, 41)})
        store.extend("k", *points.items())
        for start, end, freq in itertools.product((-30, -20, -5, 0, 30), (None, -30, -1, 0, 10, 45), (1, 5, 10, 100)):
            expected = points.missing(start, end, freq=freq)
            assert store.missing("k", start, end, freq) == expected, (start, end, freq)
            assert store.missing("k", start, end=end, freq=freq) == expected
            assert store.iscomplete("k", start, end, freq) is (not expected)

    @plain
    def test_the_default_freq_of_a_class_and_of_an_object(self, opener: Opener) -> None:
        class Daily(Store):
            _freq = 10

        with Daily(opener.dsn, frozen=False) as daily:
            daily.extend("k", *((t, t) for t in (0, 4, 10, 30)))
            assert daily.range("k") == [(0, 0), (10, 10), (30, 30)]
            assert daily.range("k", freq=1) == [(0, 0), (4, 4), (10, 10), (30, 30)]
            assert daily.missing("k", 0, 30) == [20]
            assert not daily.iscomplete("k", 0, 30)
            assert daily.iscomplete("k", 0, 10)
            daily._freq = 20  # noqa: SLF001 - documented
            assert daily.range("k") == [(0, 0), (30, 30)]
            assert daily.missing("k", 0, 40) == [20, 40]
        with opener() as store:
            assert store.range("k") == [(0, 0), (4, 4), (10, 10), (30, 30)]
            with pytest.raises(InvalidArgumentError):
                store.missing("k", 0, 30)
            with pytest.raises(InvalidArgumentError):
                store.iscomplete("k", 0, 30)

    def test_removing_whole_series(self, store: Store, oracle: Oracle) -> None:
        for key in "abcd":
            store.extend(key, (1, 1), (2, 2))
        store.remove("a", "nothing", "c")
        assert store.timeseries() == ["b", "d"]
        assert store.range("a") == []
        store.extend("a", (3, 3))
        oracle.series.update(a=SeriesOracle({3: 3}), b=SeriesOracle({1: 1, 2: 2}), d=SeriesOracle({1: 1, 2: 2}))

    @pickled
    def test_removing_a_range(self, store: Store, oracle: Oracle) -> None:
        bounds = (None, MIN, -7, 0, 3, 15, 1000, MAX)
        for i, (start, end) in enumerate(itertools.product(bounds, bounds)):
            points = oracle.series[f"{i}"] = SeriesOracle((t, t) for t in TIMES)
            store.extend(f"{i}", *points.items())
            store.remove(f"{i}", start=start, end=end)
            points.remove(start, end)
            assert store.range(f"{i}") == points.points(), (start, end)

    @pickled
    def test_removing_a_range_of_several_series(self, store: Store, oracle: Oracle) -> None:
        for key in "abc":
            oracle.series[key] = SeriesOracle((t, t) for t in TIMES)
            store.extend(key, *oracle.series[key].items())
        store.remove("a", "c", start=0, end=20)
        for key in "ac":
            oracle.series[key].remove(0, 20)

    def test_a_series_is_gone_with_its_last_point(self, store: Store) -> None:
        store.extend("k", (1, 1), (2, 2))
        store.remove("k", start=2)
        assert store.timeseries() == ["k"]
        store.remove("k", end=1)
        assert store.timeseries() == []
        assert store.first("k") is None

    @plain
    def test_removing_nothing_in_particular_is_refused(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (1, 1))
        for bounds in ({}, {"start": 1}, {"end": 1}):
            with pytest.raises(InvalidArgumentError):
                store.remove(**bounds)
        oracle.series["k"] = SeriesOracle({1: 1})

    @pickled
    def test_timestamps_are_whatever_is_an_index(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (np.int64(1), "a"), (np.uint8(2), "b"), (Index(3), "c"), (np.int32(-4), "d"))  # type: ignore[arg-type]
        store.extend_many("m", [(t, "x") for t in np.arange(5000)])  # type: ignore[misc]
        assert [type(t) for t, _ in store.range("k")] == [int] * 4
        assert store.range("k", Index(2), end=np.int64(3)) == [(2, "b"), (3, "c")]  # type: ignore[arg-type]
        assert store.missing("k", np.int64(2), np.int64(6), np.int64(2)) == [4, 6]  # type: ignore[arg-type]
        oracle.series["k"] = SeriesOracle({1: "a", 2: "b", 3: "c", -4: "d"})
        oracle.series["m"] = SeriesOracle(dict.fromkeys(range(5000), "x"))

    @pytest.mark.parametrize("t", [True, False, 1.0, float("nan"), "1", None, [1], 1j], ids=shown)
    @plain
    def test_what_is_no_timestamp_of_points_is_refused(self, store: Store, oracle: Oracle, t: Any) -> None:
        self._refused(store, t, InvalidTypeError, bounds=t is not None)
        oracle.series["k"] = SeriesOracle({1: 1})

    @pytest.mark.parametrize("t", [MAX + 1, MIN - 1, 10**30], ids=shown)
    @plain
    def test_a_timestamp_out_of_range_is_refused(self, store: Store, oracle: Oracle, t: int) -> None:
        self._refused(store, t, InvalidValueError, bounds=True)
        oracle.series["k"] = SeriesOracle({1: 1})

    @staticmethod
    def _refused(store: Store, t: Any, error: type[InvalidArgumentError], *, bounds: bool) -> None:
        store.extend("k", (1, 1))
        with pytest.raises(error):
            store.extend("k", (2, 2), (t, 3), (4, 4))
        with pytest.raises(error):
            store.extend_many("k", ((5 if i != 7000 else t, i) for i in range(9000)))
        with pytest.raises(error):
            store.missing("k", t, 5, 1)
        if bounds:
            for verb in (
                lambda: store.range("k", t),
                lambda: store.range("k", end=t),
                lambda: store.missing("k", 1, t, 1),
                lambda: store.iscomplete("k", 1, t, 1),
                lambda: store.remove("k", start=t),
                lambda: store.remove("k", end=t),
            ):
                with pytest.raises(error):
                    verb()

    @pytest.mark.parametrize("bad", [0, -1, True, 1.5, "1", MAX + 1], ids=shown)
    @plain
    def test_an_impossible_freq_is_refused(self, store: Store, bad: Any) -> None:
        for verb in (
            lambda: store.range("k", freq=bad),
            lambda: store.missing("k", 1, 5, bad),
            lambda: store.iscomplete("k", 1, 5, bad),
        ):
            with pytest.raises(InvalidArgumentError):
                verb()

    @pytest.mark.parametrize("bad", [-1, True, 1.5, "1"], ids=shown)
    @plain
    def test_an_impossible_n_is_refused(self, store: Store, bad: Any) -> None:
        with pytest.raises(InvalidArgumentError):
            store.range("k", n=bad)

    @pytest.mark.parametrize("bad", [5, None, (), (2,), (2, 2, 2), "ab", 2.5], ids=shown)
    @plain
    def test_a_malformed_point_writes_nothing_of_the_batch(self, store: Store, oracle: Oracle, bad: Any) -> None:
        store.extend("k", (1, 1))
        with pytest.raises(InvalidArgumentError):
            store.extend("k", (3, 3), bad, (4, 4))
        with pytest.raises(InvalidArgumentError):
            store.extend("new", bad)
        with pytest.raises(InvalidArgumentError):
            store.extend_many("k", [*((t, t) for t in range(10_000)), bad, (20_000, 1)])
        oracle.series["k"] = SeriesOracle({1: 1})

    @pytest.mark.parametrize("key", [None, 42, b"a", "", "a\0b", "\ud800", "a" * 2049], ids=shown)
    @plain
    def test_what_cannot_be_a_key_of_points_is_refused(self, store: Store, key: Any) -> None:
        for verb in (
            lambda: store.extend(key, (1, 1)),
            lambda: store.extend_many(key, [(1, 1)]),
            lambda: store.range(key),
            lambda: store.first(key),
            lambda: store.last(key),
            lambda: store.missing(key, 1, 2, 1),
            lambda: store.iscomplete(key, 1, 2, 1),
            lambda: store.remove(key),
        ):
            with pytest.raises(InvalidValueError if isinstance(key, str) else InvalidTypeError):
                verb()
        assert store.timeseries() == []
