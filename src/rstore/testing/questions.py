"""Reads that compute on a series, such as `at`, `resample` and `gaps`: judged by plain lists."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pytest

from rstore import ConflictError, InvalidArgumentError, Store, StoreIntegrityError
from rstore.testing.flavours import pickled, plain
from rstore.testing.oracle import Oracle, SeriesOracle, same
from rstore.testing.suite import Opener, Suite

MIN, MAX = -(2**63), 2**63 - 1
LONG = 20_000


def walk(n: int) -> SeriesOracle:
    """Return a series of floats at uneven distances, beginning before 0."""
    return SeriesOracle((7 * i + i * i % 5 - 5000, (i * i % 997) / 4) for i in range(n))


def fill(store: Store, key: str, n: int = LONG) -> SeriesOracle:
    """Store a series in chunks, with hot rows among and behind them; return its points."""
    points = walk(n)
    times = list(points)
    store.extend_columns(key, times[:-10], [points[t] for t in times[:-10]])
    late = [times[5], times[n // 2], *times[-10:]]
    for t in late[:2]:
        points[t] = -1.5
    store.extend(key, *((t, points[t]) for t in late))
    return points


class QuestionSuite(Suite):
    """Questions to a series beyond its points."""

    @pickled
    def test_which_of_two_points_stays(self, store: Store, oracle: Oracle) -> None:
        for n in (6, 3000):
            key = str(n)
            store.extend_many(key, ((t, "old") for t in range(0, n, 2)))
            assert store.extend_many(key, ((t, "new") for t in range(n)), on_duplicate="first") == n
            with pytest.raises(StoreIntegrityError):
                store.extend_columns(key, [n, 3], ["x", "y"], on_duplicate="error")
            with pytest.raises(StoreIntegrityError):
                store.extend(key, (n, "x"), (n, "y"), on_duplicate="error")
            store.extend(key, (n, "z"), on_duplicate="error")
            oracle.series[key] = SeriesOracle({t: "new" if t % 2 else "old" for t in range(n)} | {n: "z"})

    @pickled
    def test_exchanging_a_range(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = fill(store, "k")
        for start, end, given in (
            (None, -4000, [(-9000, "a"), (-4000, "b")]),
            (0, 90_000, [(5, 1.5), (3, 2.5), (5, 3.5)]),
            (100_000, None, []),
        ):
            assert store.replace_range("k", given, start, end) == len(given)
            points.remove(start, end)
            points.update(given)
        for bad in ([(5, 1)], [(1.5, 1)], [5]):
            with pytest.raises(InvalidArgumentError):
                store.replace_range("k", bad, 6, 8)  # type: ignore[arg-type]
        assert store.replace_range("gone", []) == 0
        store.extend("gone", (1, 1))
        assert store.replace_range("gone", []) == 0
        assert store.timeseries() == ["k"]

    @pickled
    def test_reading_bit_by_bit_while_others_write(self, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rstore.series.reader.AT_ONCE", 1)  # so that few chunks make as many reads as many do
        with opener() as store, opener() as other:
            points = fill(store, "k").points()
            for size, reverse in ((1000, False), (7001, True), (10**6, False)):
                batches = [list(zip(t.tolist(), v.tolist(), strict=True)) for t, v in _batches(store, size, reverse)]
                assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
                assert list(itertools.chain(*(batches[::-1] if reverse else batches))) == points
            running = store.batches("k", -4000, 10**6, size=500)
            first = next(running)
            other.extend_many("k", ((t, 0.0) for t, _ in points))  # every chunk has been replaced
            other.remove("k", end=50_000)
            other.extend("k", (10**5, 5.5))
            seen = [(t, v) for ts, vs in (first, *running) for t, v in zip(ts.tolist(), vs.tolist(), strict=True)]
            assert seen == [point for point in points if -4000 <= point[0] <= 10**6]
            assert list(store.batches("unknown")) == []
            running = store.batches("k", size=5)
            next(running)
            store.close()
            with suppress(ConflictError):  # a backend may have kept the rest
                assert sum(len(t) for t, _ in running) == len(store.open().range("k")) - 5
            store.open()

    @pickled
    def test_the_value_at_a_time(self, store: Store, oracle: Oracle) -> None:
        ask: Any = store
        points = oracle.series["k"] = fill(store, "k")
        known = points.points()
        asked = [MIN, *range(-5005, -4985), *range(64_993, 65_003), known[-1][0], known[-1][0] + 5, MAX]
        for method, tolerance in itertools.product(("exact", "previous", "next", "nearest", "linear"), (None, 1)):
            expected = [points.at(t, method, tolerance) for t in asked]
            found = ask.at("k", asked, method, tolerance)
            assert found.tolist() == pytest.approx([p[1] if p else math.nan for p in expected], nan_ok=True), method
            for t, point in list(zip(asked, expected, strict=True))[::9]:
                one = ask.at("k", t, method, tolerance)
                assert (one and one[0]) == (point and point[0]), (method, tolerance, t)
                assert one is None or one[1] == pytest.approx(point[1] if point else None)
        assert store.at("unknown", 5, "nearest") is None
        store.extend("words", (1, "a"), (5, "b"))
        assert store.at("words", [0, 1, 7], "previous").tolist() == [None, "a", "b"]
        oracle.series["words"] = SeriesOracle({1: "a", 5: "b"})
        for t in (1, 3, [1]):
            with pytest.raises(InvalidArgumentError):
                ask.at("words", t, "linear")

    @pickled
    def test_a_line_needs_numbers_only_around_the_time(self, store: Store, oracle: Oracle) -> None:
        ask: Any = store
        points: dict[int, Any] = {0: 1.0, 10: 2.0, 1000: "x", 2000: 2**64 - 1, 2001: 2**64}
        oracle.series["k"] = SeriesOracle(points)
        store.extend("k", *points.items())
        for t, value in ((-5, None), (0, 1.0), (5, 1.5), (10, 2.0), (2000, 2**64 - 1)):
            assert ask.at("k", t, "linear") == (None if value is None else (t, value))
            many = ask.at("k", [5, t], "linear").tolist()
            assert many == pytest.approx([1.5, math.nan if value is None else value], nan_ok=True)
        for t in (11, 999, 1000, 1500, 2001, 3000):
            for times in (t, [5, t]):
                with pytest.raises(InvalidArgumentError, match="'linear' needs numbers"):
                    ask.at("k", times, "linear")

    @pickled
    def test_numbers_of_python_and_numpy_among_one_another(self, store: Store, oracle: Oracle) -> None:
        ask: Any = store
        floats = [i / 4 for i in range(3000)]
        ints = [*range(3000)]
        cases: dict[str, tuple[list[Any], dict[int, Any], Any]] = {
            "float64": (floats, {10: np.float64(3.5), 2999: np.float64(-1)}, np.float64),
            "int64": (ints, {10: np.int64(2**62), 11: np.int8(100)}, np.int64),
            "uint64": (ints, {10: np.uint64(2**64 - 1)}, np.uint64),
            "both": (ints, {10: np.float32(0.5)}, np.float64),
            "bools": (floats, {10: np.bool_(True), 12: True}, np.object_),
        }
        for key, (values, among, dtype) in cases.items():
            store.extend_many(key, enumerate(values))
            store.extend(key, *among.items())
            points = oracle.series[key] = SeriesOracle(enumerate(values))
            points.update(among)
            numbers = [value.item() if isinstance(value, np.generic) else value for value in points.values()]
            for compacted in (False, True):
                if compacted:
                    store.compact(key)
                assert same(store.range(key, 9, end=12), points.points(9, 12))
                found = store.range_columns(key)[1]
                assert (found.dtype, found.tolist()) == (dtype, [*points.values()]), key
                expected = [(i, math.fsum(numbers[i : i + 1000])) for i in (0, 1000, 2000)]
                assert ask.resample(key, 1000, "sum") == [(t, pytest.approx(total)) for t, total in expected], key
                means = [(i, fmean(numbers[i : i + 1000])) for i in (0, 1000, 2000)]
                assert ask.resample(key, 1000, "twa") == [(t, pytest.approx(mean)) for t, mean in means], key
                assert ask.downsample(key, 5000) == [*enumerate(numbers)]
                line = [float(number) for number in numbers[10:13]]
                assert ask.at(key, [10, 11, 12], "linear").tolist() == pytest.approx(line)
                assert store.at(key, 10, "linear") == (10, among[10])
        store.extend("apart", (0, np.int8(100)), (10**6, np.int8(-100)), (2 * 10**6, 0.5))
        oracle.series["apart"] = SeriesOracle({0: np.int8(100), 10**6: np.int8(-100), 2 * 10**6: 0.5})
        assert store.at("apart", 250_000, "linear") == (250_000, 50.0)
        assert store.at("apart", [250_000, 10**6], "linear").tolist() == [50.0, -100.0]
        assert store.resample("apart", 2 * 10**6, "twa") == [(0, 0.0), (2 * 10**6, 0.5)]
        halfway = store.resample("apart", 500_000, "first", fill="linear")[1]
        assert (halfway, type(halfway[1])) == ((500_000, 0.0), float)

    @pickled
    def test_buckets_of_time(self, store: Store, oracle: Oracle) -> None:
        ask: Any = store
        points = oracle.series["k"] = fill(store, "k")
        functions: dict[str, Any] = {
            "count": len, "sum": math.fsum, "mean": fmean, "min": min, "max": max, "first": lambda v: v[0],
            "last": lambda v: v[-1], "std": lambda v: stdev(v) if len(v) > 1 else math.nan,
        }  # fmt: skip
        for every, origin, closed in ((10**6, 0, "left"), (40_000, -7, "right"), (997, 0, "left"), (1000, 3, "right")):
            buckets: dict[int, list[Any]] = {}
            for t, value in points.points():
                buckets.setdefault((t - origin - (closed == "right")) // every, []).append(value)
            for name, function in functions.items():
                found = ask.resample("k", every, name, origin=origin, closed=closed)
                expected = [(number * every + origin, function(values)) for number, values in buckets.items()]
                assert [t for t, _ in found] == [t for t, _ in expected]
                assert [v for _, v in found] == pytest.approx([v for _, v in expected], nan_ok=True), (name, every)
        some = store.resample("k", 50, ["median", np.ptp, "count"], 1, 120, label="right", fill=0)
        inside = [(t, v) for t, v in points.points() if 1 <= t <= 120]
        for begin in (0, 50, 100):
            values = [v for t, v in inside if begin <= t < begin + 50]
            assert dict(some)[begin + 50] == {"median": median(values), "ptp": np.ptp(values), "count": len(values)}
        store.extend("far", (0, 1), (10**10, 2))
        for bad in ({"every": 0}, {"every": 5, "agg": "mode"}, {"every": 1, "fill": 0, "end": MAX}):
            with pytest.raises(InvalidArgumentError):
                ask.resample("far", **bad)
        oracle.series["far"] = SeriesOracle({0: 1, 10**10: 2})
        assert store.resample("far", 5, start=1, end=10**9) == []
        for ask_for in (store.resample, store.downsample):
            with pytest.raises(InvalidArgumentError, match="no series 'unknown' in namespace"):
                ask_for("unknown", 5)
            with pytest.raises(InvalidArgumentError, match="no series"):
                ask_for("unknown", 5, start=9, end=1)
            assert ask_for("far", 5, start=9, end=1) == []
        store.extend("emptied", (1, 1))
        store.remove("emptied")
        with pytest.raises(InvalidArgumentError, match="no series"):
            store.resample("emptied", 5)

    @pickled
    def test_the_mean_over_time_is_that_of_the_values_that_hold(self, store: Store, oracle: Oracle) -> None:
        ask: Any = store
        points = oracle.series["k"] = fill(store, "k", 3000)
        points.remove(5000, 6000)
        store.remove("k", start=5000, end=6000)
        times = sorted(points)
        for every, origin, closed in ((40_000, 0, "left"), (997, 13, "left"), (40, -7, "right")):
            for start in (None, MIN, times[0] - 3, times[0] + 1, times[1500], 4096 + 13, 5500):
                first = next(t for t in times if start is None or t >= start)
                inside = [t for t in times if t >= first and t < first + 4000]
                found = ask.resample(
                    "k", every, "twa", start, inside[-1], origin=origin, closed=closed, fill="previous"
                )
                for begin, value in found:
                    # The value that holds at each moment of the bucket, from `start` on, or from the first point on.
                    since = max(begin, times[0], first if start is None else start)
                    known = np.array([t for t in times if t <= inside[-1]])
                    moments = np.arange(since, begin + every)
                    holding = known[np.searchsorted(known, moments, "right") - 1].tolist()
                    expected = fmean(points[t] for t in holding) if holding else points[inside[-1]]
                    assert value == pytest.approx(expected), (every, start, begin)
                assert [t for t, _ in found] == [*range(found[0][0], found[-1][0] + 1, every)]

    @pickled
    def test_values_that_hold_at_the_start(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (0, 1.0), (90, 3.0))
        assert store.resample("k", 60, "twa", start=60) == store.resample("k", 60, "twa")[1:] == [(60, 2.0)]
        store.extend("gap", (0, 1.0), (50, 9.0), (300, 3.0))
        assert store.resample("gap", 100, "twa", fill="previous") == [(0, 5.0), (100, 9.0), (200, 9.0), (300, 3.0)]
        assert store.resample("gap", 100, ["twa", "max"], fill="previous")[1] == (100, {"twa": 9.0, "max": 9.0})
        assert store.resample("gap", 100, "twa", fill="linear")[1:3] == [
            (100, pytest.approx(5 - 2 / 3)), (200, pytest.approx(5 - 4 / 3)),
        ]  # fmt: skip
        nans = dict.fromkeys(range(20, 3000), math.nan)
        store.extend_columns("nan", [0, 10, *nans, 4000], [1.0, 5.0, *nans.values(), 7.0])
        assert store.resample("nan", 1000, "twa", start=3500) == [(4000, 7.0)]
        assert store.resample("nan", 10_000, "twa", start=3000) == [(0, pytest.approx((5 * 1000 + 7 * 6000) / 7000))]
        assert store.resample("nan", 10_000, "twa", start=0) == store.resample("nan", 10_000, "twa")
        store.extend("word", (0, "a"), (10, 1), (20, 2))
        with pytest.raises(InvalidArgumentError, match="t=0"):
            store.resample("word", 10, "twa", start=5)
        assert store.resample("word", 10, "twa", start=11) == [(20, 2.0)]
        oracle.series |= {key: SeriesOracle(store.range(key)) for key in ("k", "gap", "nan", "word")}

    @pickled
    def test_buckets_between_others_are_filled(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (-15, 1), (5, 3), (25, 9))
        assert store.resample("k", 10, "sum") == [(-20, 1), (0, 3), (20, 9)]
        for fill_with, filled in (("previous", [1, 3]), ("linear", [2, 6]), (-1, [-1, -1])):
            found = store.resample("k", 10, "sum", fill=fill_with)
            assert found == [(-20, 1), (-10, filled[0]), (0, 3), (10, filled[1]), (20, 9)]
        assert store.resample("k", 10, "twa") == [(-20, 1.0), (0, 2.0), (20, 6.0)]
        oracle.series["k"] = SeriesOracle({-15: 1, 5: 3, 25: 9})

    @pickled
    def test_what_is_not_there(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = fill(store, "k")
        times = sorted(points)
        for freq in (7, 9, 11, 12):
            wide = [(a, b) for a, b in itertools.pairwise(times) if b - a > freq]
            assert store.gaps("k", freq=freq) == wide
        assert store.gaps("k", times[-1] - 3, times[-1] + 100, freq=50) == [(times[-1], times[-1] + 100)]
        even = oracle.series["even"] = SeriesOracle((t, 0) for t in range(0, 2 * LONG, 2))
        store.extend_columns("even", list(even), list(even.values()))
        store.remove("even", start=9000, end=9010)
        even.remove(9000, 9010)
        for start, end, freq in ((0, 2 * LONG - 2, 2), (0, 8998, 4), (-4, 100, 2), (9001, 9100, 3), (8000, 9100, 50)):
            expected = even.missing(start, end, freq=freq)
            assert store.missing("even", start, end, freq) == expected
            assert store.iscomplete("even", start, end, freq) is (not expected)
        assert not store.iscomplete("even", MIN, MAX, 1)  # without stepping through all of them

    @pickled
    def test_small_answers(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = fill(store, "k")
        oracle.series["s"] = SeriesOracle({5: "x" * 5000})
        store.extend("s", (5, "x" * 5000))
        known = points.points()
        for n in (0, 1, 15, LONG - 1, 10**9):
            assert store.tail("k", n) == (known[-n:] if n else [])
        assert store.latest("k", "unknown", "s", "k") == {"k": known[-1], "s": (5, "x" * 5000)}
        for start, end in ((None, None), (known[3][0], 70_000), (10**6, None), (3, 2)):
            some = points.points(start, end)
            assert store.span("k", start, end) == ((some[0][0], some[-1][0], len(some)) if some else None)
            assert same(store.range_many(["s", "k"], start, end)["k"], some)
        assert [tuple(point) for point in store.downsample("k", 10**6)] == known
        few = store.downsample("k", 100, method="minmax")
        assert set(few) <= set(known)
        assert {max(v for _, v in few), min(v for _, v in few)} == {max(points.values()), min(points.values())}

    @plain
    def test_the_default_freq_is_that_of_gaps_as_well(self, opener: Opener) -> None:
        class Gridded(Store):
            _freq = 10

        with Gridded(opener.dsn, frozen=False, durability="normal") as gridded:
            gridded.extend("k", *((t, t) for t in (0, 10, 30)))
            assert gridded.gaps("k") == [(10, 30)]
        with opener() as store, pytest.raises(InvalidArgumentError):
            store.gaps("k")

    @pickled
    def test_compacting(self, store: Store, oracle: Oracle) -> None:
        points = oracle.series["k"] = fill(store, "k")
        oracle.series["few"] = SeriesOracle({1: "a"})
        store.extend("few", (1, "a"))
        report = store.compact()
        assert (report.series, report.hot) == (2, 13)
        assert store.compact("k")._replace(chunks_before=0) == (1, 0, 0, report.chunks_after - 1)
        assert same(store.range("k"), points.points())
        assert store.compact("unknown") == (0, 0, 0, 0)


def _batches(store: Store, size: int, reverse: bool) -> Iterator[tuple[Any, Any]]:
    return store.batches("k", size=size, reverse=reverse)
