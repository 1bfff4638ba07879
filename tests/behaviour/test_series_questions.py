"""Columns, lookups, resampling and grids, judged by pandas and by plain lists."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from small import shrink

from rstore import InvalidArgumentError, Store, StoreIntegrityError
from rstore.codec import segments, threads
from rstore.log import packing
from rstore.series import reader
from rstore.testing.flavours import KEY

N = 400


@pytest.fixture(params=["sqlite", "sqlite sealed in small"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if "small" in request.param:
        shrink(monkeypatch.setattr)
    key = KEY if "sealed" in request.param else None
    with Store(tmp_path / "store.db", key=key, frozen=False, durability="normal") as store:
        yield store


def jittered(seed: int = 1) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    t = np.unique(np.cumsum(random.integers(1, 30, N)) - 3000)
    return t, np.round(20 + np.cumsum(random.normal(0, 0.3, len(t))), 2)


def fill(store: Store) -> Any:
    """Store a series in chunks with hot rows among and behind them, and return it as pandas keeps it."""
    t, v = jittered()
    store.extend_many("k", list(zip(t[:300].tolist(), v[:300].tolist(), strict=True)))
    store.compact("k")
    for i in (5, 100, 250, *range(300, len(t))):
        store.extend("k", (int(t[i]), float(v[i])))
    return pandas.Series(v, index=t)


DTYPES = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool",
)


@pytest.mark.parametrize("n", [0, 1, 7, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_column_keeps_its_type(store: Store, n: int) -> None:
    t = np.arange(n)[::-1]
    for dtype in (*DTYPES, "M8[s]", "M8[ns]", "M8[D]", ">i8", ">f4"):
        values = (np.arange(n) % 100).astype(dtype)
        assert store.extend_columns(dtype, t, values) == n
        times, found = store.range_columns(dtype)
        assert times.tolist() == list(range(n))
        assert found.tolist() == values[::-1].tolist(), dtype
        if n:
            assert found.dtype == values.dtype.newbyteorder("=")
            assert store.range(dtype, 0, n=1) == [(0, next(iter(values[-1:])))]


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a", "é", ""]), pandas.Series(["a", "é", ""]), polars.Series(["a", "é", ""]),
        pyarrow.array(["a", "é", ""]), pyarrow.chunked_array([["a"], ["é", ""]]), ["a", "é", ""],
        np.array(["a", "é", ""], np.dtypes.StringDType()),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_strings_of_every_library(store: Store, values: Any) -> None:
    store.extend_columns("k", [3, 1, 2], values)
    assert store.range("k") == [(1, "é"), (2, ""), (3, "a")]
    store.extend_columns("again", *store.range_columns("k"))
    assert store.range("again") == store.range("k")


@pytest.mark.parametrize("kind", [np.array, pandas.Series, pandas.Index, polars.Series, pyarrow.array, list])
def test_numbers_of_every_library(store: Store, kind: Any) -> None:
    store.extend_columns("k", kind([3, 1, 2, 1]), kind([0.5, 1.5, 2.5, 3.5]))
    assert store.range("k") == [(1, 3.5), (2, 2.5), (3, 0.5)]


def test_datetimes_count_in_their_unit_or_in_another(store: Store) -> None:
    days = pandas.date_range("2024-01-01", periods=3, tz="Europe/Berlin")
    for times in (
        days,
        pandas.Series(days),
        days.tz_convert("UTC").tz_localize(None).to_numpy("M8[ns]"),
        polars.Series(days),
    ):
        store.extend_columns("k", times, [1, 2, 3], unit="s")
        assert store.range("k", n=1) == [(1704063600, 1)]
        store.remove("k")
    store.extend_columns("own", np.array(["2024-01-01"], "M8[D]"), [1])
    assert store.first("own") == (19723, 1)
    frame = store.to_pandas("own", unit="D")
    assert str(frame.index[0]) == "2024-01-01 00:00:00+00:00"


T = np.arange(3)
BAD = {
    "lengths": (T, np.zeros(2)), "two dimensions": (T, np.zeros((3, 2))),
    "objects": (T, np.array([1, "a", None], object)),
    "NaT": (np.array(["2024", "NaT", "2025"], "M8[D]"), T),
    "float times": (T * 1.0, T), "bool times": (T > 1, T), "list of bools": ([True, False, True], T),
    "floats in a list": ([1, 2.5, 3], T), "text times": (np.array(["a", "b", "c"]), T),
    "too large": (np.array([2**63, 1, 2], np.uint64), T), "large in a list": ([2**63, 1, 2], T),
    "null times": (polars.Series([1, None, 2]), T), "complex": (T, T * 1j),
    "no array": (5, T), "none": (None, T), "timedelta": (T, T.astype("m8[s]")),
}  # fmt: skip


@pytest.mark.parametrize("columns", BAD.values(), ids=BAD)
def test_what_cannot_be_a_column_is_refused(store: Store, columns: tuple[Any, Any]) -> None:
    store.extend("k", (1, 1.0))
    with pytest.raises(InvalidArgumentError):
        store.extend_columns("k", *columns)
    with pytest.raises(InvalidArgumentError):
        store.extend_frame({"t": columns[0], "k": columns[1], "other": T}, timestamps="t")
    assert store.range("k") == [(1, 1.0)]
    assert store.timeseries() == ["k"]


def test_what_is_finer_than_its_unit_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArgumentError, match="finer"):
        store.extend_columns("k", np.array([1, 1500], "M8[ms]"), [1, 2], unit="s")


def test_read_only_and_strided_arrays(store: Store) -> None:
    t, v = np.arange(20)[::2], np.arange(40.0)[::-4]
    t.flags.writeable = v.flags.writeable = False
    store.extend_columns("k", t, v)
    assert store.range("k") == list(zip(t.tolist(), v.tolist(), strict=True))


def test_frames_come_back(store: Store) -> None:
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": [1, 2], "c": ["x", "y"]}, index=[10, 20])
    store.extend_frame(frame, prefix="p.")
    store.extend_columns("p.late", [20, 30], [7, 8])
    back = store.to_pandas("p.a", "p.b", "p.c")
    assert back.to_numpy().tolist() == frame.to_numpy().tolist()
    assert back.index.tolist() == [10, 20]
    joined = store.to_pandas("p.b", "p.late", start=15)
    assert joined.index.tolist() == [20, 30]
    assert joined["p.b"].isna().tolist() == [False, True]
    assert store.to_polars("p.b", "p.late").rows() == [(10, 1, None), (20, 2, 7), (30, None, 8)]
    assert store.to_arrow("p.late", "p.c").to_pylist() == [
        {"timestamp": 10, "p.late": None, "p.c": "x"},
        {"timestamp": 20, "p.late": 7, "p.c": "y"},
        {"timestamp": 30, "p.late": 8, "p.c": None},
    ]
    for table in (
        polars.DataFrame({"t": [1], "v": [2.5]}),
        pyarrow.table({"t": [1], "v": [2.5]}),
        {"t": [1], "v": [2.5]},
    ):
        store.extend_frame(table, timestamps="t", prefix="q.")
        assert store.range("q.v") == [(1, 2.5)]


def test_batches_are_of_one_moment_and_of_one_size(store: Store) -> None:
    points = list(fill(store).items())
    for size in (1, 7, 100, 1000):
        for reverse in (False, True):
            found = list(store.batches("k", size=size, reverse=reverse))
            assert [len(t) for t, _ in found[:-1]] == [size] * (len(found) - 1)
            flat = [list(zip(t.tolist(), v.tolist(), strict=True)) for t, v in found]
            assert [point for batch in (flat[::-1] if reverse else flat) for point in batch] == points
    running = store.batches("k", size=50)
    seen = [next(running)]
    store.remove("k", start=-2500)
    store.extend("k", (10**6, 1.0))
    store.compact()
    seen += list(running)
    assert [point for t, v in seen for point in zip(t.tolist(), v.tolist(), strict=True)] == points


@pytest.mark.slow
def test_lookups_are_those_of_pandas(store: Store) -> None:
    series = fill(store)
    asked = np.concatenate([np.arange(-3200, 4000, 13), series.index.to_numpy()[::7]])
    known = pandas.DataFrame({"t": series.index, "at": series.index, "v": series.to_numpy()})
    for method, direction in (("previous", "backward"), ("next", "forward"), ("nearest", "nearest")):
        for tolerance in (None, 3):
            left = pandas.DataFrame({"t": np.sort(asked)})
            joined = pandas.merge_asof(left, known, on="t", direction=direction, tolerance=tolerance)
            expected = dict(zip(joined["t"].tolist(), joined["v"].tolist(), strict=True))
            found = store.at("k", asked, method, tolerance).tolist()  # type: ignore[call-overload]
            for t, one in zip(asked.tolist(), found, strict=True):
                scalar = store.at("k", t, method, tolerance)  # type: ignore[call-overload]
                if method == "nearest" and scalar is not None and not math.isnan(one):
                    nearest = int(abs(series.index.to_numpy() - t).min())
                    assert abs(scalar[0] - t) == nearest
                    assert one == scalar[1] == series[scalar[0]]
                    continue
                assert np.array_equal([one], [expected[t]], equal_nan=True), (method, tolerance, t)
                assert (math.nan if scalar is None else scalar[1]) == pytest.approx(one, nan_ok=True)
    inner = asked[(asked >= series.index[0]) & (asked <= series.index[-1])]
    line = np.interp(inner, series.index.to_numpy(), series.to_numpy())
    assert store.at("k", inner, "linear") == pytest.approx(line)
    for t, expected_value in list(zip(inner.tolist(), line.tolist(), strict=True))[::10]:
        assert store.at("k", t, "linear") == (t, pytest.approx(expected_value))


AGGREGATES: tuple[Any, ...] = ("count", "sum", "mean", "min", "max", "first", "last", "std", "median")


@pytest.mark.parametrize("every", [1, 64, 1000, 10**6])
@pytest.mark.parametrize(("closed", "origin"), [("left", 0), ("right", 7), ("left", -100_003)])
def test_resampling_is_that_of_pandas(store: Store, every: int, closed: Any, origin: int) -> None:
    series = fill(store)
    times = series.index.to_numpy()
    numbers = (times - origin - (closed == "right")) // every
    groups = series.groupby(numbers)
    found = store.resample("k", every, [*AGGREGATES, np.ptp], closed=closed, origin=origin)
    assert [t for t, _ in found] == [int(n) * every + origin for n in groups.groups]
    for aggregate in AGGREGATES:
        expected = groups.agg(aggregate).tolist()
        assert [value[aggregate] for _, value in found] == pytest.approx(expected, nan_ok=True, abs=1e-9), aggregate
    assert [value["ptp"] for _, value in found] == pytest.approx(groups.agg(np.ptp).tolist())
    # Alone, so that chunks are answered by their summaries.
    for aggregate in ("count", "sum", "mean", "min", "max", "first", "last", "std"):
        alone = store.resample("k", every, aggregate, closed=closed, origin=origin, label="right")  # type: ignore[arg-type]
        assert [t for t, _ in alone] == [t + every for t, _ in found]
        expected = groups.agg(aggregate).tolist()
        assert [value for _, value in alone] == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_the_mean_over_time(store: Store) -> None:
    series = fill(store)
    held = series.reindex(range(int(series.index[0]), int(series.index[-1]) + 1)).ffill()
    found = store.resample("k", 100, "twa")
    for t, value in found[:-1]:
        assert value == pytest.approx(held[(held.index >= t) & (held.index < t + 100)].mean())


def test_filling_buckets(store: Store) -> None:
    store.extend("k", (-15, 1), (5, 3), (25, 9))
    assert store.resample("k", 10, "sum") == [(-20, 1), (0, 3), (20, 9)]
    assert store.resample("k", 10, "sum", fill="previous") == [(-20, 1), (-10, 1), (0, 3), (10, 3), (20, 9)]
    assert store.resample("k", 10, "sum", fill="linear") == [(-20, 1), (-10, 2), (0, 3), (10, 6), (20, 9)]
    assert store.resample("k", 10, "count", fill=0, start=0) == [(0, 1), (10, 0), (20, 1)]


def test_bad_questions(store: Store) -> None:
    store.extend("k", (0, 1.5), (10**12, 2.5))
    store.extend("words", (0, "a"), (1, "b"))
    ask: Any = store  # much of this no type checker would let pass
    for call in (
        lambda: ask.resample("k", 0), lambda: ask.resample("k", -1), lambda: ask.resample("k", 1.5),
        lambda: ask.resample("k", 1, "mode"), lambda: ask.resample("k", 1, []), lambda: ask.resample("words", 1),
        lambda: ask.resample("words", 1, "sum"), lambda: ask.resample("k", 1, fill=0), lambda: ask.at("k", 1.5),
        lambda: ask.at("k", 1, "before"), lambda: ask.at("words", [0], "linear"),
        lambda: ask.at("k", 1, tolerance=-1),
        lambda: ask.downsample("k", 2), lambda: ask.downsample("words", 5), lambda: ask.batches("k", size=0),
        lambda: ask.gaps("k"), lambda: ask.extend("k", (1, 1), on_duplicate="never"),
        lambda: ask.replace_range("k", [(5, 1)], end=4), lambda: ask.replace_range("k", [], 5, 4),
        ask.to_pandas, lambda: ask.extend_frame([1, 2]), lambda: ask.extend_frame({"a": [1]}),
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            call()
    assert store.resample("words", 1, ["count", "first"]) == [
        (0, {"count": 1, "first": "a"}), (1, {"count": 1, "first": "b"}),
    ]  # fmt: skip
    for unknown in (store.resample, store.downsample):
        with pytest.raises(InvalidArgumentError, match="no series 'nothing' in namespace 'default'"):
            unknown("nothing", 5)
    assert "nothing" not in store.timeseries()


def test_nan_is_no_measurement(store: Store) -> None:
    store.extend_columns("k", np.arange(40), np.where(np.arange(40) % 3 == 0, np.nan, np.arange(40.0)))
    values = pandas.Series(store.range_columns("k")[1])
    for aggregate in ("count", "sum", "mean", "min", "max", "first", "last", "std"):
        expected = values.groupby(values.index // 10).agg(aggregate).tolist()
        found = store.resample("k", 10, aggregate)
        assert [value for _, value in found] == pytest.approx(expected)


def test_downsampling_keeps_points_and_extremes(store: Store) -> None:
    series = fill(store)
    for method in ("minmaxlttb", "minmax"):
        few = store.downsample("k", 40, method=method)
        assert 20 <= len(few) <= 40
        assert set(few) <= set(series.items())
        assert few == sorted(few)
    assert {v for _, v in store.downsample("k", 40, method="minmax")} >= {series.min(), series.max()}
    assert store.downsample("k", 10**6) == list(series.items())


SHAPES: dict[str, Callable[[Any], Any]] = {
    "constant": lambda t: np.ones(len(t)), "steps": lambda t: (t // 97).astype(float), "bools": lambda t: t % 100 > 50,
    "ints": lambda t: t % 7, "one spike": lambda t: (t == 601).astype(np.int8),
    "NaN at the edges": lambda t: np.where((t < 90) | (t > 1100), np.nan, np.sin(t)),
    "NaN at the first and the last": lambda t: np.where((t == 0) | (t == t[-1]), np.nan, 1.0),
    "NaN among them": lambda t: np.where(t % 3 == 0, np.nan, np.sin(t)),
    "mostly NaN": lambda t: np.where(t % 31 == 0, np.sin(t), np.nan),
    "a block of NaN": lambda t: np.where(t < 1000, np.nan, np.float32(t)),
    "infinite": lambda t: np.where(t % 50 == 0, np.inf, np.sin(t)),
    "half": lambda t: np.sin(t).astype(np.float16), "large": lambda t: np.uint64(2**64 - 1) - t.astype(np.uint64),
    "all NaN": lambda t: np.full(len(t), np.nan),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("method", ["minmaxlttb", "minmax"])
def test_a_downsampled_series_has_each_point_once_and_nothing_that_is_missing(
    store: Store, shape: Callable[[Any], Any], method: str
) -> None:
    t = np.arange(1200)
    values = shape(t)
    store.extend_columns("k", t, values)
    store.extend_many("hot", zip(t.tolist(), values.tolist(), strict=True))
    all_points = {p for p in zip(t.tolist(), values.tolist(), strict=True) if p[1] == p[1]}
    distinct = len({value for _, value in all_points})
    for key in ("k", "hot"):
        for n in (3, 4, 5, 37, 38, 200, 1199, 1200, 1201, 10**6):
            few = store.downsample(key, n, method=method)
            times = [at for at, _ in few]
            assert times == sorted(set(times))
            assert set(few) <= all_points
            assert len(few) <= n
            if n >= len(all_points):
                assert set(few) == all_points
            elif all_points:
                assert len(few) >= min(n // 2, distinct)
        ends = store.downsample(key, 200, start=5, end=4, method=method)
        assert ends == []


def test_downsampling_leaves_nothing_but_numbers_out(store: Store) -> None:
    for i, other in enumerate((None, "x", np.datetime64("NaT"), np.datetime64(1, "s"), 10**400)):
        store.extend_many(f"{i}", [(1, 1.5), (2, other), (3, 2.5)])
        for verb in (store.downsample, store.resample):
            with pytest.raises(InvalidArgumentError, match="needs numbers of at most 64 bits, and at t=2 there is"):
                verb(f"{i}", 3)
    store.extend("mixed", (1, 1), (2, math.nan), (3, 2.5), (4, math.nan), (5, np.float32("nan")))
    assert store.downsample("mixed", 3) == [(1, 1), (3, 2.5)]
    assert store.resample("mixed", 10, "count") == [(0, 2)]


def test_gaps_and_missing(store: Store) -> None:
    series = fill(store)
    times = series.index.tolist()
    for freq in (1, 5, 20, 28, 40):
        wide = [(a, b) for a, b in pairwise(times) if b - a > freq]
        assert store.gaps("k", freq=freq) == wide
        grid = range(times[3], times[-5] + 1, freq)
        assert store.missing("k", grid.start, grid.stop - 1, freq) == sorted(set(grid) - set(times))
    assert store.gaps("nothing", 0, 10, freq=5) == [(0, 10)]
    assert store.gaps("nothing", freq=5) == []
    store.extend_columns("even", np.arange(0, 4000, 2), np.zeros(2000))
    store.compact("even")
    for freq in (1, 2, 3, 4, 10):
        grid = range(-10, 4100, freq)
        assert store.missing("even", -10, 4099, freq) == sorted(set(grid) - set(range(0, 4000, 2)))
        assert store.iscomplete("even", 0, 3998, freq) == (freq % 2 == 0)


def test_small_answers(store: Store) -> None:
    points = list(fill(store).items())
    assert store.tail("k", 5) == points[-5:]
    assert store.tail("k", 10**6) == points
    assert store.tail("k", 0) == []
    assert store.latest("k", "nothing", "k") == {"k": points[-1]}
    for start, end in ((None, None), (-2000, 100), (5000, None), (3, 2)):
        inside = [t for t, _ in points if (start is None or t >= start) and (end is None or t <= end)]
        assert store.span("k", start, end) == ((inside[0], inside[-1], len(inside)) if inside else None)
        assert [t for t, _ in store.range_many(["k"], start, end)["k"]] == inside


@pytest.mark.parametrize("n", [5, 3000])
def test_which_of_two_points_stays(store: Store, n: int) -> None:
    store.extend_many("k", [(t, "old") for t in range(0, n, 2)])
    assert store.extend_many("k", [(t, "new") for t in range(n)], on_duplicate="first") == n
    assert store.range("k") == [(t, "new" if t % 2 else "old") for t in range(n)]
    store.extend("k", (n, "first"), (n, "second"), on_duplicate="first")
    assert store.last("k") == (n, "first")
    for points in ([(n + 1, 1), (2, 1)], [(n + 1, 1), (n + 1, 2)]):
        with pytest.raises(StoreIntegrityError, match="taken"):
            store.extend_many("k", points, on_duplicate="error")
    assert store.last("k") == (n, "first")
    store.extend("k", (n + 1, "x"), on_duplicate="error")
    assert store.replace_range("k", [(1, "a")], 0, n) == 1
    assert store.range("k") == [(1, "a"), (n + 1, "x")]


def test_of_many_who_may_not_replace_one_wins(store: Store) -> None:
    won: list[int] = []

    def write(who: int) -> None:
        for t in range(30):
            try:
                store.extend("k", (t, who), on_duplicate="error")
            except StoreIntegrityError:
                continue
            won.append(t)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(30))


def test_only_those_chunks_are_opened_that_are_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    open_chunk = packing.Logs.open_chunk

    def counting(logs: packing.Logs, key: str, chunk: Any, head: Any) -> Any:
        opened.append(chunk.n)
        return open_chunk(logs, key, chunk, head)

    monkeypatch.setattr(packing.Logs, "open_chunk", counting)
    n = 40 * segments.MIN_ROWS
    store.extend_columns("k", np.arange(n), np.arange(n) / 2)

    def count(call: Callable[[], Any]) -> int:
        opened.clear()
        call()
        pool, threads._pool = threads._pool, None  # noqa: SLF001 - made again when needed
        if pool is not None:
            pool.shutdown()  # what was begun for an iteration that stopped early counts, too
        return len(opened)

    assert count(lambda: store.span("k")) == 0
    assert count(lambda: store.last("k")) == 0
    assert count(lambda: store.latest("k")) == 0
    assert count(lambda: store.gaps("k", freq=1)) == 0
    assert count(lambda: store.iscomplete("k", 0, n - 1, 1)) == 0
    assert count(lambda: store.resample("k", 10 * n, ["mean", "std", "last"])) == 0
    assert count(lambda: store.resample("k", n // 3 + 1)) <= 2
    assert count(lambda: store.range("k", 5, n=3)) == 1
    assert count(lambda: store.tail("k", 3)) <= 2
    assert count(lambda: store.at("k", n // 2, "previous")) <= 2
    assert count(lambda: store.range("k", freq=n // 4, n=2)) < 40
    assert count(lambda: next(store.batches("k", size=10))) <= 2 * reader.AT_ONCE
    assert count(lambda: store.remove("k", end=n // 2)) <= 1
    assert count(lambda: store.iscomplete("k", 0, n - 1, 1)) <= reader.AT_ONCE


def test_what_is_not_yet_packed_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    with Store(f"memory://{uuid.uuid4()}", frozen=False) as store:
        store.extend_columns("k", np.arange(600), np.zeros(600))
        random = np.random.default_rng(1)
        for t in random.integers(0, 600, 1500).tolist():
            store.extend("k", (t, 1.0))
        for t in range(600, 700):
            store.extend("k", (t, 1.0))
        report = store.compact("k")
        # As many for each chunk as come between two looks, for each chunk that one look folds.
        assert report.hot < 2 * report.chunks_after * packing.CHECK_EVERY / packing.MERGE_CHUNKS
