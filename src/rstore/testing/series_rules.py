"""The rules of the state machine for time series."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from rstore import InvalidArgumentError, StoreIntegrityError
from rstore.testing import strategies as draw
from rstore.testing.handles import Handles
from rstore.testing.oracle import Point, SeriesOracle, same, utf8


class SeriesRules(Handles):
    """Writes points in every way, and reads them in every way."""

    @rule(who=draw.WRITERS, key=draw.KEYS, points=st.lists(st.tuples(draw.TIMES, draw.VALUES), max_size=6))
    def extend(self, who: str, key: str, points: list[Point]) -> None:
        """Write a few points."""
        assert self.ask(who, "extend", key, *points) == len(points)
        self.series(key).update(points)

    @rule(
        who=draw.WRITERS, key=draw.KEYS, start=st.integers(-20, 30), size=st.integers(0, 2), step=st.integers(1, 3),
        kind=st.sampled_from(sorted(draw.KINDS)),
    )  # fmt: skip
    def extend_bulk(self, who: str, key: str, start: int, size: int, step: int, kind: str) -> None:
        """Write many points."""
        spec = (start, self.bulk_sizes[size], step, kind)
        if who == "process" and self.worker is not None:
            assert self.worker.run(draw.extend_bulk, key, *spec) == spec[1]
        else:
            assert self.ask(who, "extend_many", key, iter(draw.bulk_points(*spec))) == spec[1]
        self.series(key).update(draw.bulk_points(*spec))

    @rule(
        who=draw.WRITERS,
        key=draw.KEYS,
        start=draw.BOUNDS | st.integers(0, 20_000),
        end=draw.BOUNDS | st.integers(0, 20_000),
    )
    def remove(self, who: str, key: str, start: int | None, end: int | None) -> None:
        """Remove a range of points."""
        self.ask(who, "remove", key, start=start, end=end)
        self.series(key).remove(start, end)

    @rule(
        who=draw.READERS, key=draw.KEYS,
        start=draw.BOUNDS | st.integers(0, 20_000), end=draw.BOUNDS | st.integers(0, 20_000),
        n=st.none() | st.integers(0, 4), freq=st.none() | st.sampled_from([1, 2, 3, 10, 2**62]),
    )  # fmt: skip
    def read_series(
        self, who: str, key: str, start: int | None, end: int | None, n: int | None, freq: int | None
    ) -> None:
        """Read points in every way."""
        points = self.oracle.series.get(key, SeriesOracle())
        expected = points.range(start, n=n, end=end, freq=freq)
        assert same(self.ask(who, "range", key, start, n=n, end=end, freq=freq), expected)
        every = points.points()
        assert same(self.ask(who, "first", key), every[0] if every else None)
        assert same(self.ask(who, "last", key), every[-1] if every else None)
        grid = points.missing(-3, 15, freq=2)
        assert self.ask(who, "missing", key, -3, 15, 2) == grid
        assert self.ask(who, "iscomplete", key, -3, 15, 2) is (not grid)
        there = [key for key, points in self.oracle.series.items() if points]
        assert self.ask(who, "timeseries") == sorted(there, key=utf8)

    @rule(
        who=draw.WRITERS, key=draw.KEYS, points=st.lists(st.tuples(draw.TIMES, draw.VALUES), max_size=5),
        keep=st.sampled_from(["first", "error"]),
    )  # fmt: skip
    def extend_once(self, who: str, key: str, points: list[Point], keep: str) -> None:
        """Write a few points without replacing any."""
        series = self.series(key)
        times = [t for t, _ in points]
        if keep == "error" and (len(set(times)) < len(times) or not series.keys().isdisjoint(times)):
            with pytest.raises(StoreIntegrityError):
                self.ask(who, "extend", key, *points, on_duplicate=keep)
            return
        assert self.ask(who, "extend", key, *points, on_duplicate=keep) == len(points)
        for t, value in points:
            series.setdefault(t, value)

    @rule(
        who=draw.WRITERS, key=draw.KEYS, start=st.integers(-20, 3000), size=st.integers(0, 1), step=st.integers(1, 3),
        kind=st.sampled_from(sorted(draw.COLUMNS)), keep=st.sampled_from(["last", "first"]),
    )  # fmt: skip
    def extend_columns(self, who: str, key: str, start: int, size: int, step: int, kind: str, keep: str) -> None:
        """Write a column, backwards and with some timestamps twice."""
        n = self.bulk_sizes[size]
        times = [start + i // 2 * 2 * step for i in reversed(range(n))]
        values = draw.COLUMNS[kind](n)
        assert self.ask(who, "extend_columns", key, times, values, on_duplicate=keep) == n
        series = self.series(key)
        for t, value in zip(times, values.tolist(), strict=True):
            if keep == "last":
                series[t] = value
            else:
                series.setdefault(t, value)

    @rule(
        who=draw.WRITERS, key=draw.KEYS, start=draw.BOUNDS, end=draw.BOUNDS,
        points=st.lists(st.tuples(draw.TIMES, draw.VALUES), max_size=4),
    )  # fmt: skip
    def replace_range(self, who: str, key: str, start: int | None, end: int | None, points: list[Point]) -> None:
        """Exchange a range of points."""
        if start is not None and end is not None and start > end:
            start, end = end, start
        inside = [
            (t, value) for t, value in points if (start is None or t >= start) and (end is None or t <= end)
        ]  # fmt: skip
        assert self.ask(who, "replace_range", key, inside, start, end) == len(inside)
        self.series(key).remove(start, end)
        self.series(key).update(inside)

    @rule(who=draw.WRITERS, key=st.none() | draw.KEYS)
    def compact(self, who: str, key: str | None) -> None:
        """Pack points into full chunks, which changes none of them."""
        report = self.ask(who, "compact", key)
        there = [one for one, points in self.oracle.series.items() if points and key in (None, one)]
        assert report[0] == len(there)

    @rule(
        who=draw.READERS, key=draw.KEYS, start=draw.BOUNDS | st.integers(0, 20_000), end=draw.BOUNDS,
        size=st.sampled_from([1, 7, 4000]), reverse=st.booleans(), n=st.integers(0, 4),
    )  # fmt: skip
    def read_columns(
        self,
        who: str,
        key: str,
        start: int | None,
        end: int | None,
        size: int,
        reverse: bool,
        n: int,
    ) -> None:
        """Read points as columns, in batches, and from the end."""
        points = self.oracle.series.get(key, SeriesOracle())
        some, every = points.points(start, end), points.points()
        times, values = self.ask(who, "range_columns", key, start, end)
        assert times.tolist() == [t for t, _ in some]
        assert len(values) == len(some)
        if values.dtype == object:
            assert same(list(values), [value for _, value in some])
        size = max(size, len(some) // 5)
        batches = self.ask(who, "batches", key, start, end, size=size, reverse=reverse)
        assert [t for ts, _ in (batches[::-1] if reverse else batches) for t in ts.tolist()] == times.tolist()
        assert all(len(ts) == size for ts, _ in batches[:-1])
        span = (some[0][0], some[-1][0], len(some)) if some else None
        assert self.ask(who, "span", key, start, end) == span
        assert same(self.ask(who, "tail", key, n), every[len(every) - min(n, len(every)) :])
        assert same(self.ask(who, "latest", key), {key: every[-1]} if every else {})

    @rule(
        who=draw.READERS, key=draw.KEYS, t=draw.TIMES | st.integers(0, 20_000), tolerance=st.none() | st.integers(0, 9),
        method=st.sampled_from(["exact", "previous", "next", "nearest"]), every=st.sampled_from([1, 7, 1000, 10**12]),
        origin=st.integers(-9, 9), freq=st.sampled_from([1, 2, 100, 2**62]),
    )  # fmt: skip
    def question(
        self, who: str, key: str, t: int, tolerance: int | None, method: str, every: int, origin: int, freq: int
    ) -> None:
        """Read the value at a time, buckets, and gaps."""
        points = self.oracle.series.get(key, SeriesOracle())
        expected = points.at(t, method, tolerance)
        assert same(self.ask(who, "at", key, t, method, tolerance), expected)
        found = self.ask(who, "at", key, [t, t], method, tolerance)
        assert len(found) == 2
        if expected is not None and found.dtype == object:
            assert same(found[0], expected[1])
        buckets: dict[int, list[Any]] = {}
        for when, value in points.points():
            buckets.setdefault((when - origin) // every, []).append(value)
        if not any(value != value for values in buckets.values() for value in values):  # noqa: PLR0124 - NaN is left out
            answers = [
                (number * every + origin, {"count": len(values), "first": values[0], "last": values[-1]})
                for number, values in buckets.items()
            ]
            # No series, or a label that is no timestamp.
            refused = not points or min(buckets) * every + origin < -(2**63)
            try:
                found = self.ask(who, "resample", key, every, ["count", "first", "last"], origin=origin)
            except InvalidArgumentError:
                assert refused
            else:
                assert not refused
                assert same(found, answers)
        assert self.ask(who, "gaps", key, None, None, freq) == points.gaps(freq)
