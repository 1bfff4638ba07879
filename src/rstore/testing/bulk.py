"""Long time series: bulk loads, late points, overwritten and removed history, and all of it in any order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from rstore import InvalidArgumentError, SerializationError, Store
from rstore.testing.flavours import pickled, sealed
from rstore.testing.oracle import Oracle, Point, SeriesOracle, same
from rstore.testing.suite import Opener, Suite

N = 20_000


def _points(n: int = N, *, step: int = 10, start: int = 0) -> list[Point]:
    return [(start + i * step, i / 4) for i in range(n)]


def _look_around(store: Store, points: SeriesOracle, times: list[int]) -> None:
    """Compare the points around some times with the oracle; the integrity check reads all of them."""
    ordered = points.points()
    for t in times:
        assert same(store.range("k", t - 60, end=t + 60), [point for point in ordered if t - 60 <= point[0] <= t + 60])
        assert same(store.range("k", t, n=5), [point for point in ordered if point[0] >= t][:5])


class BulkSuite(Suite):
    """Time series of many points."""

    @pickled
    def test_a_bulk_load(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points())
        assert store.extend_many("k", iter(_points())) == N
        assert store.timeseries() == ["k"]
        assert same(store.range("k", n=N // 2), _points()[: N // 2])
        assert same(store.range("k", freq=770), points.range(freq=770))
        assert same(store.range("k", 5, freq=777, n=100, end=N * 9), points.range(5, freq=777, n=100, end=N * 9))
        assert store.missing("k", 0, N * 10, 5) == [*range(5, N * 10, 10), N * 10]
        assert store.iscomplete("k", 0, N * 10 - 10, 10)
        _look_around(store, points, [0, 81_910, 81_920, 163_830, 163_840, N * 10, -100, N * 11])

    @pickled
    def test_a_bulk_load_in_disorder_with_duplicates(self, store: Store, oracle: Oracle) -> None:
        chosen = random.Random(1)
        points = [(chosen.randrange(N), i) for i in range(N)]
        oracle.series["k"] = SeriesOracle(points)
        assert store.extend("k", *points) == N

    @sealed
    def test_small_batches_that_add_up(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle()
        every = _points(10_000)
        for i in range(0, 10_000, 97):
            store.extend("k", *every[i : i + 97])
            points.update(every[i : i + 97])
            assert same(store.last("k"), (max(points), points[max(points)]))
        _look_around(store, points, [0, 81_910, 81_920, 99_990])

    @pickled
    def test_late_points_fall_into_packed_history(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points())
        store.extend_many("k", points.items())
        for late in (5, 100_005, 163_837, N * 10 - 15, -7, N * 10 + 7):
            store.extend("k", (late, "late"))
            points[late] = "late"
            assert store.range("k", late, end=late) == [(late, "late")]
        _look_around(store, points, [5, 100_005, 163_837, N * 10 - 15])
        assert same(store.first("k"), (-7, "late"))
        assert same(store.last("k"), (N * 10 + 7, "late"))
        more = _points(20_000, start=3)
        store.extend_many("k", more)
        points.update(more)
        _look_around(store, points, [3, 100_005, 163_840, 200_000])

    @pickled
    def test_overwritten_history(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points())
        store.extend_many("k", points.items())
        for t, value in ((0, "x"), (100_000, None), (163_840, -1), (N * 10 - 10, True)):
            store.extend("k", (t, value))
            points[t] = value
        assert same(store.first("k"), (0, "x"))
        assert same(store.last("k"), (N * 10 - 10, True))
        _look_around(store, points, [0, 100_000, 163_840])
        again = [(t, f"again {t}") for t in range(50_000, 250_000, 10)]
        store.extend_many("k", again)
        points.update(again)
        _look_around(store, points, [49_990, 50_000, 100_000, 249_990, 250_000])
        store.extend("k", (100_000, "and again"))
        points[100_000] = "and again"

    @pickled
    def test_removal_from_the_middle_of_history(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points())
        store.extend_many("k", points.items())
        store.extend("k", (100_005, "hot"), (300_005, "hot"))
        points.update({100_005: "hot", 300_005: "hot"})
        for start, end in (
            (100_000, 100_000), (99_995, 100_005), (10, 20), (150_000, 250_000), (81_900, 81_930), (None, 5),
            (N * 10 - 10, None),
            (260_001, 260_009), (300_000, 299_000),
        ):  # fmt: skip
            store.remove("k", start=start, end=end)
            points.remove(start, end)
            _look_around(store, points, [t for t in (start, end) if t is not None])
        store.extend("k", (200_000, "back"))
        points[200_000] = "back"
        _look_around(store, points, [200_000])

    @pickled
    def test_removal_of_everything_in_pieces(self, store: Store) -> None:
        store.extend_many("k", _points())
        store.extend("k", (5, "hot"))
        store.remove("k", end=200_000)
        store.remove("k", start=200_010)
        assert store.timeseries() == []
        assert store.range("k") == []
        assert store.first("k") is None
        store.extend_many("k", _points(20_000))
        store.remove("k")
        assert store.timeseries() == []
        assert store.last("k") is None

    @pickled
    def test_points_in_descending_order(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points(20_000))
        descending = _points(20_000)[::-1]
        for i in range(0, 20_000, 500):
            store.extend("k", *descending[i : i + 500])
        _look_around(store, points, [0, 100_000, 199_990])

    @pickled
    def test_values_of_many_sizes(self, store: Store, oracle: Oracle) -> None:
        chosen = random.Random(2)
        values = [chosen.randbytes(chosen.choice((0, 1, 100, 5000))) for _ in range(3000)]
        points = oracle.series["k"] = SeriesOracle(enumerate(values))
        points[1500] = chosen.randbytes(2_000_000)
        store.extend_many("k", points.items())
        assert same(store.range("k", 1499, n=3), points.range(1499, n=3))

    @pickled
    def test_the_extremes_of_time_among_many(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points(20_000))
        points.update({-(2**63): "first", 2**63 - 1: "last", 2**62: "far"})
        store.extend_many("k", points.items())
        assert store.first("k") == (-(2**63), "first")
        assert store.range("k", 200_000) == [(2**62, "far"), (2**63 - 1, "last")]

    @pickled
    def test_an_iterable_that_raises_halfway_writes_nothing(self, store: Store, oracle: Oracle) -> None:
        def broken(after: int) -> Iterator[Point]:
            yield from _points(after)
            raise ZeroDivisionError

        store.extend("k", (0, "before"))
        for after in (0, 1, 100, 9000, 50_000):
            for key in ("k", "new"):
                with pytest.raises(ZeroDivisionError):
                    store.extend_many(key, broken(after))
        oracle.series["k"] = SeriesOracle({0: "before"})

    @pickled
    def test_one_bad_point_or_value_among_many_writes_nothing(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = SeriesOracle(_points(20_000))
        store.extend_many("k", points.items())
        bad: list[tuple[Any, type[Exception]]] = [
            ((5,), InvalidArgumentError),
            ((True, 1), InvalidArgumentError),
            ((2**63, 1), InvalidArgumentError),
            ((1.5, 1), InvalidArgumentError),
            ((5, lambda: None), SerializationError),
        ]
        for point, error in bad:
            for n in (3, 12_000):
                batch = [(t, "new") for t in range(n)]
                batch[n // 2 : n // 2] = [point]
                with pytest.raises(error):
                    store.extend_many("k", batch)
                with pytest.raises(error):
                    store.extend("k", *batch)

    @pickled
    def test_random_operations(self, store: Store, oracle: Oracle) -> None:
        chosen = random.Random(3)
        points = oracle.series["k"] = SeriesOracle()
        for _ in range(60):
            start = chosen.randrange(0, 60_000)
            if chosen.random() < 0.2:
                end = start + chosen.choice((0, 10, 5000, 20_000))
                store.remove("k", start=start, end=end)
                points.remove(start, end)
            else:
                n = chosen.choice((1, 1, 10, 500, 3000, 9000))
                step = chosen.choice((1, 1, 2, 3))
                kind = chosen.choice((int, float, str, bool))
                batch = [(t, kind(chosen.getrandbits(10))) for t in range(start, start + n * step, step)]
                store.extend("k", *batch)
                points.update(batch)
            t = chosen.randrange(0, 60_000)
            assert same(store.range("k", t, end=t + 20), [(i, points[i]) for i in range(t, t + 21) if i in points])
            assert same(store.range("k", t, n=3), points.range(t, n=3))

    @pickled
    def test_another_handle_and_a_later_opening_see_the_same(self, opener: Opener) -> None:
        points = SeriesOracle(_points(20_000))
        with opener() as one, opener() as two, opener(frozen=True) as frozen:
            one.extend_many("k", points.items())
            two.extend("k", (5, "late"))
            points[5] = "late"
            one.remove("k", start=50_000, end=60_000)
            points.remove(50_000, 60_000)
            for store in (one, two, frozen):
                assert same(store.range("k"), points.points())
        with opener(frozen=True) as store:
            assert same(store.range("k"), points.points())
