"""Columns and tables in and out: they keep their types, belong to the caller, and are stored as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from rstore import InvalidArgumentError, NotSupportedError, PlaintextError, Store, StoreIntegrityError
from rstore.testing.flavours import PICKLED, pickled, plain
from rstore.testing.oracle import Oracle, SeriesOracle, same
from rstore.testing.suite import Opener, Suite


class ColumnSuite(Suite):
    """Columns in and out of series."""

    @pickled
    def test_columns_keep_their_type(self, store: Store, oracle: Oracle) -> None:
        t = np.array([5, -3, 9, 5])
        for values in (
            np.array([1, 2, 3, 4], np.uint8), np.array([0.5, -0.0, np.inf, 1.5], np.float32),
            np.array([True, False, True, True]), np.array(["a", "", "é", "b"]), ["x", 1, None, (2,)],
            np.array([1, 2, 3, 4], "M8[ms]"),
        ):  # fmt: skip
            key = str(getattr(values, "dtype", "list"))
            assert store.extend_columns(key, t, values) == 4
            times, found = store.range_columns(key)
            expected = [values[1], values[3], values[2]]
            assert times.tolist() == [-3, 5, 9]
            assert found.tolist() == np.array(expected, found.dtype).tolist()
            if isinstance(values, np.ndarray) and values.dtype.kind != "U":
                assert found.dtype == values.dtype
            assert len(store.range_columns(key, 0, 8)[0]) == 1
            points = store.range(key)
            assert [t for t, _ in points] == [-3, 5, 9]
            oracle.series[key] = SeriesOracle(points)
        assert [len(column) for column in store.range_columns("unknown")] == [0, 0]

    @pickled
    def test_columns_are_the_callers_own(self, store: Store, oracle: Oracle) -> None:
        for n in (3, 3000):
            for values in (np.arange(n) / 2, np.arange(n, dtype=np.int8), np.arange(n) > 1, np.arange(n).view("M8[s]")):
                key = f"{values.dtype} {n}"
                store.extend_columns(key, np.arange(n), values)
                store.extend(key, *store.range(key, 2, n=1))  # a hot row, over the chunk if there is one
                for t, found in (store.range_columns(key), *store.batches(key, size=1000)):
                    t[:] = t[0]
                    found[:] = found[0]
                times, again = store.range_columns(key)
                assert (times.tolist(), again.tolist()) == ([*range(n)], values.tolist())
                oracle.series[key] = SeriesOracle(store.range(key))

    @pickled
    def test_what_is_no_column_writes_nothing(self, store: Store, oracle: Oracle) -> None:
        store.extend("k", (1, 1))
        t = np.arange(3)
        for times, values in (
            (t, t[:2]), (t * 1.0, t), (t.reshape(3, 1), t), (t, np.array([1, "a", None], object)), (t > 1, t),
            (np.array(["2024", "NaT", "2025"], "M8[D]"), t), (t, t * 1j), (None, t), (t, 5), ([1, 2.5, 3], t),
        ):  # fmt: skip
            with pytest.raises(InvalidArgumentError):
                store.extend_columns("k", times, values)
        oracle.series["k"] = SeriesOracle({1: 1})

    @pickled
    def test_a_table_is_stored_as_a_whole(self, store: Store, oracle: Oracle) -> None:
        for n, taken in ((2, "z"), (3000, "a")):  # the duplicate is a hot row, or in a chunk
            frame = {"t": [*range(n)], "a": [*range(n)], "m": np.arange(n) / 2, "z": ["x"] * n}
            prefix = f"{n}."
            store.extend_many(prefix + taken, [(t, "old") for t in range(n - 1, 2 * n)])
            oracle.series[prefix + taken] = SeriesOracle(dict.fromkeys(range(n - 1, 2 * n), "old"))
            with pytest.raises(StoreIntegrityError if self.transactional else NotSupportedError, match="nothing was s"):
                store.extend_frame(frame, prefix=prefix, timestamps="t", on_duplicate="error")
            assert store.timeseries() == [*oracle.series]
            assert store.extend_frame(frame, prefix=prefix, timestamps="t", atomic=self.transactional) == 3
            for name in "amz":
                points = oracle.series.setdefault(prefix + name, SeriesOracle())
                points.update(zip(range(n), np.array(frame[name]).tolist(), strict=True))
            oracle.series = dict(sorted(oracle.series.items()))
            assert same(store.range(prefix + taken), oracle.series[prefix + taken].points())

    @plain
    def test_a_table_of_several_thousand_values(self, store: Store, oracle: Oracle) -> None:
        names = [f"c{i:02}" for i in range(13)]
        for start in (0, 300):
            frame = {name: [float(t) for t in range(start, start + 600)] for name in names}
            times = np.arange(start, start + 600)
            assert store.extend_frame(frame, timestamps=times, atomic=self.transactional) == 13
        oracle.series |= {name: SeriesOracle((t, float(t)) for t in range(900)) for name in names}

    @plain
    def test_a_table_without_lines(self, store: Store, oracle: Oracle) -> None:
        nothing = np.empty(0, np.int64)
        for on_duplicate in ("last", "error"):
            frame = {"t": nothing, "a": nothing, "b": []}
            assert store.extend_frame(frame, timestamps="t", on_duplicate=on_duplicate, atomic=self.transactional) == 2
        assert store.timeseries() == [*oracle.series] == []

    @pickled
    def test_a_table_is_one_step_of_a_transaction(self, store: Store, oracle: Oracle) -> None:
        if not self.transactional:
            return
        store.extend("b", (2, 1.0))
        with store.transaction() as tx:
            tx.extend("before", (1, 1))
            with pytest.raises(StoreIntegrityError):
                tx.extend_frame({"t": [1, 2], "a": [1, 2], "b": [3, 4]}, timestamps="t", on_duplicate="error")
            assert tx.timeseries() == ["b", "before"]
            assert tx.extend_frame({"t": [1], "b": [3], "c": [4]}, timestamps="t") == 2
        oracle.series |= {
            "b": SeriesOracle({1: 3, 2: 1.0}), "before": SeriesOracle({1: 1}), "c": SeriesOracle({1: 4}),
        }  # fmt: skip

    @plain
    def test_a_table_with_a_series_of_the_other_kind_is_refused_as_a_whole(self, opener: Opener) -> None:
        with opener() as store:
            store.extend("n", (1, 1))
        with opener(flavour=PICKLED[1], allow_plaintext=True) as store:
            atomic = self.transactional
            with pytest.raises(PlaintextError):
                store.extend_frame({"t": [1], "n": [1], "z": [1]}, timestamps="t", atomic=atomic)
            if atomic:
                with pytest.raises(PlaintextError):
                    store.extend_frame({"t": [1], "a": [1], "n": [1]}, timestamps="t")
            assert (store.timeseries(), store.range("n")) == (["n"], [(1, 1)])
