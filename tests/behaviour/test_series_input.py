"""What people hand in and get out of series: columns of every library, and a clear error for what is none."""

from __future__ import annotations

import array
import calendar
import math
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from rstore import InvalidArgumentError, Store, StoreNotAvailableError

MIN, MAX = -(2**63), 2**63 - 1
V = [1.5, 2.5, 3.5]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(f"memory://{uuid.uuid4()}", frozen=False) as store:
        yield store


class Capsule:
    """An array that knows the Arrow C data interface, and nothing else."""

    def __init__(self, whole: Any) -> None:
        self.__arrow_c_array__ = whole.__arrow_c_array__


class Stream:
    """The same in chunks."""

    def __init__(self, whole: Any) -> None:
        self.__arrow_c_stream__ = whole.__arrow_c_stream__


class Interface:
    """An array that knows NumPy's array interface, and nothing else."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole  # which the interface points into, and does not keep
        self.__array_interface__ = whole.__array_interface__


milliseconds = pyarrow.array([1, 2, 3], pyarrow.timestamp("ms", "Europe/Berlin"))
TIMES: dict[str, Any] = {
    "Arrow": pyarrow.array([1, 2, 3]), "in chunks": pyarrow.chunked_array([[1, 2], [3]]),
    "Arrow times": milliseconds, "in chunks, too": pyarrow.chunked_array([milliseconds]),
    "Arrow dates": pyarrow.array([1, 2, 3], pyarrow.date32()),
    "pandas Int64": pandas.Series([1, 2, 3], dtype="Int64"), "pandas range": pandas.RangeIndex(1, 4),
    "Arrow in pandas": pandas.Series([1, 2, 3], dtype=pandas.ArrowDtype(pyarrow.timestamp("ms", "UTC"))),
    "polars": polars.concat([polars.Series([1, 2]), polars.Series([3])], rechunk=False),
    "polars times": polars.Series([1, 2, 3]).cast(polars.Datetime("us", "UTC")),
    "hours": np.array([1, 2, 3], "M8[h]"), "picoseconds": np.array([1, 2, 3], "M8[ps]"),
    "big-endian": np.array([1, 2, 3], ">M8[s]"), "uint64": np.array([1, 2, 3], np.uint64),
    "capsule": Capsule(pyarrow.array([1, 2, 3])), "stream": Stream(pyarrow.chunked_array([[1], [2, 3]])),
    "array interface": Interface(np.array([1, 2, 3])), "range": range(1, 4),
    "memory": memoryview(array.array("q", [1, 2, 3])),
}  # fmt: skip
VALUES: dict[str, Any] = {
    "dictionary": pyarrow.array(["a", "b", "a"]).dictionary_encode(),
    "dictionary in chunks": pyarrow.chunked_array([pyarrow.array(["a", "b", "a"]).dictionary_encode()]),
    "category": pandas.Series(["a", "b", "a"], dtype="category"),
    "enum": polars.Series(["a", "b", "a"]).cast(polars.Enum(["a", "b"])),
    "categorical": polars.Series(["a", "b", "a"]).cast(polars.Categorical()),
    "Arrow in pandas": pandas.Series(["a", "b", "a"], dtype="string[pyarrow]"),
    "capsule": Capsule(pyarrow.array(["a", "b", "a"], pyarrow.large_string())),
}


def test_timestamps_of_every_library(store: Store) -> None:
    for name, times in TIMES.items():
        assert store.extend_columns(name, times, V) == 3
        assert store.range(name) == [(1, 1.5), (2, 2.5), (3, 3.5)], name
    store.extend_columns("hours in seconds", TIMES["hours"], V, unit="s")
    assert store.range_columns("hours in seconds")[0].tolist() == [3600, 7200, 10800]
    store.extend_columns("tens", np.array([1, 2, 3], "M8[10ms]"), V, unit="ms")
    assert store.range_columns("tens")[0].tolist() == [10, 20, 30]


def test_zones_and_categories_come_back_as_what_they_stand_for(store: Store) -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    zoned = pandas.Series([moment]).dt.tz_convert("Asia/Kolkata")
    for values in (zoned, polars.Series([moment]).dt.convert_time_zone("Asia/Kolkata"), pyarrow.array(zoned)):
        store.extend_columns("k", [1], values)
        (value,) = store.range_columns("k")[1]
        assert value == np.datetime64("2024-05-01T12:00")
    for categories in (pandas.Series([5, 7], dtype="category"), pandas.Series(["a", "b"], dtype="category")):
        store.extend_columns("k", [1, 2], categories)
        assert store.range("k") == [*enumerate(categories.tolist(), 1)]


def test_runs_of_arrow_keep_their_type(store: Store) -> None:
    for name, values in (("ints", pyarrow.array([7, 8])), ("texts", pyarrow.array(["a", "b"]))):
        first, second = values.to_pylist()
        for kind in (lambda array: array, Capsule, lambda array: pyarrow.chunked_array([array])):
            store.extend_columns(name, [1, 2, 3], kind(runs([2, 3], values)))
            assert store.range(name) == [(1, first), (2, first), (3, second)]
            store.remove(name)


def test_ints_stay_ints_in_pandas_where_some_are_missing(store: Store) -> None:
    columns: dict[str, tuple[list[int], Any]] = {
        "int64": ([1, 2], np.array([2**60 + 1, 2**60 + 3])), "uint64": ([3], np.array([2**64 - 1], np.uint64)),
        "int8": ([1], np.array([-5], np.int8)), "whole": ([1, 2, 3], np.array([1, 2, 3])),
    }  # fmt: skip
    for key, (t, values) in columns.items():
        store.extend_columns(key, t, values)
    frame = store.to_pandas(*columns)
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "UInt64", "Int8", "int64"]
    for key, (t, values) in columns.items():
        found = frame[key].dropna()
        assert dict(zip(found.index.tolist(), found.tolist(), strict=True)) == dict(
            zip(t, values.tolist(), strict=True)
        )
    frame.loc[1, "whole"] = 5
    assert frame["whole"].tolist() == [5, 2, 3]


def test_the_value_at_datetimes_in_the_unit_of_the_series(store: Store) -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    store.extend_columns("k", np.array([int(noon.timestamp()), int(noon.timestamp()) + 300], "M8[s]"), [61, 63])
    seconds = [int(noon.timestamp()) + 60, int(noon.timestamp()) + 300]
    ask: Any = store
    for times in (
        np.array(["2024-05-01T12:01", "2024-05-01T12:05"], "M8[m]"),
        np.array(["2024-05-01T12:01", "2024-05-01T12:05"], "M8[ns]"),
        pandas.to_datetime(["2024-05-01T14:01+02:00", "2024-05-01T14:05+02:00"]),
        polars.Series([noon + timedelta(minutes=1), noon + timedelta(minutes=5)]),
    ):
        assert ask.at("k", times, "previous", unit="s").tolist() == [61, 63]
        assert ask.at("k", times, unit="s").tolist() == pytest.approx([math.nan, 63], nan_ok=True)
    here = timezone(timedelta(hours=-7))
    for wrap in (
        lambda t: t, lambda t: t.astimezone(here), lambda t: t.replace(tzinfo=None), pandas.Timestamp,
        lambda t: pandas.Timestamp(t).tz_convert("Asia/Kolkata"), lambda t: pandas.Timestamp(t.replace(tzinfo=None)),
        lambda t: np.datetime64(t.replace(tzinfo=None), "m"), lambda t: np.array(t.replace(tzinfo=None), "M8[ms]"),
    ):  # fmt: skip
        assert ask.at("k", wrap(noon + timedelta(minutes=1)), "next", unit="s") == (seconds[1], 63)
        assert ask.at("k", wrap(noon + timedelta(minutes=5)), unit="s") == (seconds[1], 63)
    assert ask.at("k", np.datetime64("2024-05-01T12:05:00"), "exact") == (seconds[1], 63)  # in its own unit
    assert ask.at("k", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "next", unit="s")[1] == 61


def test_texts_of_every_library(store: Store) -> None:
    for name, values in VALUES.items():
        store.extend_columns(name, [1, 2, 3], values)
        assert store.range(name) == [(1, "a"), (2, "b"), (3, "a")], name


frame = pandas.DataFrame({"a": [1, 2, 3]})
runs = pyarrow.RunEndEncodedArray.from_arrays
NO_COLUMN: dict[str, Any] = {
    "masked": np.ma.MaskedArray([1, 2, 3], mask=[False, True, False]), "DataFrame": frame,
    "polars frame": polars.from_pandas(frame), "Arrow table": pyarrow.Table.from_pandas(frame),
    "Float64": pandas.Series([1, None, 3], dtype="Float64"),
    "no text": np.array(["a", None, "b"], np.dtypes.StringDType(na_object=None)),
    "levels": pandas.MultiIndex.from_product([[1, 2, 3], [1]]), "periods": pandas.period_range("2024", periods=3),
    "large": polars.Series([1, 2, 3]).cast(polars.Int128), "generator": (i for i in range(3)), "text": "abc",
    "dict": {1: 2}, "nothing": None, "number": 5, "no dimension": np.array(5), "two": np.zeros((3, 1), int),
    "objects": np.array([1, 2, 3], object), "lists": pyarrow.array([[1], [2], [3]]), "void": np.zeros(3, "V8"),
    "runs": runs([2, 3], pyarrow.array([7, None])), "runs of text": runs([2, 3], pyarrow.array(["a", None])),
    "runs in chunks": pyarrow.chunked_array([runs([2, 3], pyarrow.array([7, None]))]),
    "runs in pandas": pandas.Series(pandas.arrays.ArrowExtensionArray(runs([2, 3], pyarrow.array([7, None])))),
    "runs of words": runs([2, 3], pyarrow.array(["a", "b"]).dictionary_encode()),
    "runs in a capsule": Capsule(runs([2, 3], pyarrow.array([7, None]))),
    "durations": np.zeros(3, "m8[s]"),
}  # fmt: skip


def test_what_is_no_column_is_refused_by_the_name_of_its_argument(store: Store) -> None:
    for name, given in NO_COLUMN.items():
        with pytest.raises(InvalidArgumentError, match=r"^timestamps "):
            store.extend_columns(name, given, V)
        with pytest.raises(InvalidArgumentError, match=r"^values "):
            store.extend_columns(name, [1, 2, 3], given)
        if hasattr(given, "__len__") and name != "no dimension":
            with pytest.raises(InvalidArgumentError, match=r"^t "):
                store.at("k", given)
    with pytest.raises(InvalidArgumentError, match=r"^timestamps have 3 elements, values 2"):
        store.extend_columns("k", [1, 2, 3], [1, 2])
    with pytest.raises(InvalidArgumentError, match="unit="):
        store.extend_columns("k", np.array([1, 2, 3], "M8[10ms]"), V)
    for far in (np.array([10**12] * 3, "M8[D]"), np.array([MAX] * 3, "M8[s]")):
        with pytest.raises(InvalidArgumentError, match="too far from 1970"):
            store.extend_columns("k", far, V, unit="ns")
    assert store.timeseries() == []


WORDS = np.array(["mean", "sum"])
REFUSED: dict[str, Callable[[Any], Any]] = {
    "every": lambda s: s.resample("k", 0), "every is an int": lambda s: s.resample("k", "1h"),
    "agg": lambda s: s.resample("k", 1, "mode"), "agg names": lambda s: s.resample("k", 1, ["mean", "mean"]),
    "origin": lambda s: s.resample("k", 1, origin=0.5), "closed": lambda s: s.resample("k", 1, closed="both"),
    "label": lambda s: s.resample("k", 1, label=None), "'mean' needs numbers": lambda s: s.resample("words", 1),
    "needs numbers.*a larger int": lambda s: s.resample("large", 1, "sum"),
    "fill=": lambda s: s.resample("words", 5, "first", fill="linear"),
    "^fill, if": lambda s: s.resample("k", 5, fill="prevous"), "^fill": lambda s: s.resample("k", 5, fill=""),
    "outside of -2": lambda s: s.resample("edges", MAX), "label outside": lambda s: s.resample("edges", 10),
    "its label outside": lambda s: s.resample("edges", 2**62, label="right"),
    "buckets are too many": lambda s: s.resample("k", 1, fill="previous"),
    "^start is an int": lambda s: s.resample("k", 1, start="a"), "^end is an int": lambda s: s.range("k", end=1.5),
    "^start is": lambda s: s.missing("k", 1.5, 5, 1), "^end is": lambda s: s.iscomplete("k", 1, "5", 1),
    "tolerance": lambda s: s.at("k", 1, tolerance=-1), "^t is an int, not float": lambda s: s.at("k", 1.5),
    "method": lambda s: s.at("k", 1, "before"), "^t is an int, not str": lambda s: s.at("k", "noon"),
    "^t is an int, not bytes": lambda s: s.at("k", b"noon"), "^t .* NaT": lambda s: s.at("k", pandas.NaT),
    "^t .*finer": lambda s: s.at("k", np.datetime64(1500, "ms"), unit="s"),
    "^unit is one of": lambda s: s.at("k", 1, unit="min"), "unit='s' is for": lambda s: s.at("k", 1, unit="s"),
    "unit='s' .* t are ints": lambda s: s.at("k", [1], unit="s"),
    "unit='s' .* timestamps are ints": lambda s: s.extend_columns("k", [1, 2], [1, 2], unit="s"),
    "unit='ms' .* timestamps are ints": lambda s: s.extend_columns("k", np.arange(2), [1, 2], unit="ms"),
    "unit='us' is for datetimes": lambda s: s.extend_frame({"t": [1], "a": [1]}, timestamps="t", unit="us"),
    "element 0: a list holds ints": lambda s: s.extend_columns("k", [datetime.now(UTC)], [1]),
    "^t, element 1: a list holds ints": lambda s: s.at("k", [1, np.datetime64(1, "s")]),
    "^agg": lambda s: s.resample("k", 1, WORDS), "^closed is": lambda s: s.resample("k", 1, closed=WORDS),
    "^label is": lambda s: s.resample("k", 1, label=WORDS), "^method is": lambda s: s.at("k", 1, WORDS),
    "^method is one of": lambda s: s.downsample("k", 5, method=WORDS), "unit is": lambda s: s.to_arrow("k", unit=WORDS),
    "on_duplicate is": lambda s: s.extend("k", (1, 1), on_duplicate=WORDS),
    "'linear' needs numbers": lambda s: s.at("words", 0, "linear"), "size": lambda s: s.batches("k", size=-1),
    "n is 3 or more": lambda s: s.downsample("k", 2), "n is zero or above": lambda s: s.tail("k", -1),
    "keys": lambda s: s.range_many("k"), "keys are several": lambda s: s.range_many(5),
    "freq": lambda s: s.gaps("k", freq=0), "on_duplicate": lambda s: s.extend("k", (1, 1), on_duplicate="any"),
    "prefix": lambda s: s.extend_frame({"a": [1]}, timestamps=[1], prefix=5),
    "name of a column": lambda s: s.extend_frame({5: [1]}, timestamps=[1]),
    "2 columns 'a', and": lambda s: s.extend_frame(pandas.DataFrame([[1, 2]], columns=["a", "a"])),
    "holds the timestamps": lambda s: s.to_polars("timestamp"), "holds": lambda s: s.to_arrow("k", "timestamp"),
    "'mixed' cannot be a column of Arrow": lambda s: s.to_arrow("k", "mixed"),
    "'text' cannot be a column of polars": lambda s: s.to_polars("k", "text"),
    "'bytes' cannot be a column of polars": lambda s: s.to_polars("bytes"),
    "'large' cannot be a column of Arrow": lambda s: s.to_arrow("large"),
    "'surrogate' cannot be a column of Arrow": lambda s: s.to_arrow("surrogate"),
    "'surrogate' cannot be a column of polars": lambda s: s.to_polars("surrogate"),
    "values are lazy": lambda s: s.extend_columns("k", [1], polars.LazyFrame({"a": [1]})),
    "timestamps are lazy": lambda s: s.extend_columns("k", polars.LazyFrame({"a": [1]}), [1]),
    "table is lazy": lambda s: s.extend_frame(polars.LazyFrame({"t": [1], "a": [1]}), timestamps="t"),
    "2 columns 'a'": lambda s: s.extend_frame(pyarrow.table([[1]] * 3, names=["t", "a", "a"]), timestamps="t"),
    "2 columns 't'": lambda s: s.extend_frame(pyarrow.table([[1]] * 3, names=["t", "a", "t"]), timestamps="t"),
    "'linear' needs numbers.*t=0 there is a larger int": lambda s: s.at("huge", 5, "linear"),
    "'linear' needs numbers.*t=0 .* larger int": lambda s: s.at("huge", [5], "linear"),
    "fill='linear' needs numbers": lambda s: s.resample("huge", 1, "first", fill="linear"),
    "unit": lambda s: s.to_pandas("k", unit="min"),
    "unit='s'": lambda s: s.to_pandas("edges", unit="s"), "unit='D'": lambda s: s.to_arrow("edges", unit="D"),
    "too far": lambda s: s.to_polars("edges", unit="s"),
}  # fmt: skip


MOMENT = datetime(2024, 5, 1, 12, tzinfo=UTC)
MESSAGES: dict[str, Callable[[Any], Any]] = {
    "^point 0: a timestamp is an int, not tuple; .*extend_many": lambda s: s.extend("x", [(6, 1.0), (7, 2.0)]),
    "^point 0 is not .*extend_many": lambda s: s.extend("x", [(6, 1.0), (7, 2.0), (8, 3.0)]),
    "^point 1: a timestamp .* not float: round it": lambda s: s.extend("x", (1, 1), (1.5, 1)),
    "^point 0: .* not float, and a missing one": lambda s: s.extend("x", (math.nan, 1)),
    r"^start is .* not datetime: int\(…\.timestamp": lambda s: s.range("x", MOMENT),
    r"not datetime: int\(….replace\(tzinfo=UTC\)": lambda s: s.range("x", MOMENT.replace(tzinfo=None)),
    r"^end is .* not Timestamp: int\(…\.timestamp": lambda s: s.range("x", end=pandas.Timestamp(MOMENT)),
    "^end is .* not NaTType, and a missing one": lambda s: s.range("x", end=pandas.NaT),
    r"^a timestamp is .* not datetime64: ….astype\('M8\[s\]'\)": lambda s: s.past("x", np.datetime64(1, "s")),
    "^a timestamp is .* not date: calendar.timegm": lambda s: s.apply("x", {"a": 1}, MOMENT.date()),
    r"^freq is .* not Timedelta: … // timedelta\(seconds=1\)": lambda s: s.range("x", freq=pandas.Timedelta("15min")),
    r"^freq is .* not timedelta64: … // np.timedelta64\(1, 's'\)": lambda s: s.gaps("x", freq=np.timedelta64(1, "m")),
    r"^every is .* not str: write how many .* 15 \* 60": lambda s: s.resample("x", "15min"),
    "^start is .* not str: .*fromisoformat": lambda s: s.range("x", "2024-05-01"),
    "^n is .* not Decimal: round it": lambda s: s.tail("x", Decimal(5)),
    "^n is an int, not list$": lambda s: s.tail("x", [5]),
    "^ttl is a number of seconds, not timedelta: ….total_seconds": lambda s: s.set("x", 1, ttl=timedelta(hours=1)),
    "^timestamps are .* a MultiIndex: reset_index": lambda s: s.extend_columns("x", NO_COLUMN["levels"], V),
    r"^timestamps are .* period\[D\]: to_timestamp\(\)": lambda s: s.extend_columns("x", NO_COLUMN["periods"], V),
    r"^t are .* period\[D\]: to_timestamp\(\)": lambda s: s.at("x", NO_COLUMN["periods"]),
    r"^timestamps are .* date: np.array\(…, 'M8\[D\]'\)":
        lambda s: s.extend_columns("x", pandas.Series([MOMENT.date()], dtype=object), [1]),
    r"^timestamps are .* datetime: pandas.to_datetime\(…, utc":
        lambda s: s.extend_columns("x", pandas.Series([MOMENT], dtype=object), [1]),
    r"^timestamps are .* strings: pandas.to_datetime": lambda s: s.extend_columns("x", pandas.Series(["2024"]), [1]),
    "^timestamps are .* durations": lambda s: s.extend_columns("x", NO_COLUMN["durations"], V),
    "^timestamps are .* float64: missing ones become NaN": lambda s: s.extend_columns("x", np.array(V), V),
    r"^t, element 0: .* as of pandas.to_datetime\(…, utc=True\)": lambda s: s.at("x", [MOMENT], unit="s"),
    r"^timestamps, element 0: .* np.array\(…, 'M8\[us\]'\)":
        lambda s: s.extend_columns("x", [MOMENT.replace(tzinfo=None)], [1], unit="s"),
    r"^timestamps, element 1: .* np.array\(…, 'M8\[D\]'\)": lambda s: s.extend_columns("x", [1, MOMENT.date()], [1, 2]),
    "^timestamps, element 0: .* not str: int": lambda s: s.extend_columns("x", ["2024"], [1]),
}  # fmt: skip


def test_messages_say_what_to_write_instead(store: Store) -> None:
    store.extend("x", (1, 1.5))
    for what, call in MESSAGES.items():
        with pytest.raises(InvalidArgumentError, match=what):
            call(store)
    assert store.timeseries() == ["x"]
    # What they say is what it takes.
    stamp: Any = pandas.Timestamp(MOMENT)
    assert int(MOMENT.timestamp()) == calendar.timegm(MOMENT.timetuple()) == int(stamp.timestamp())
    assert int(MOMENT.replace(tzinfo=None).replace(tzinfo=UTC).timestamp()) == 1714564800
    assert np.datetime64(MOMENT.replace(tzinfo=None)).astype("M8[s]").astype(int) == 1714564800
    assert pandas.Timedelta("15min") // timedelta(seconds=1) == np.timedelta64(15, "m") // np.timedelta64(1, "s") == 900


def test_bad_arguments_are_named(store: Store) -> None:
    store.extend("k", (0, 1.5), (10**12, 2.5))
    store.extend("words", (0, "a"), (10, "b"))
    store.extend("large", (0, 2**70))
    store.extend("huge", (0, 10**400), (10, 0))
    store.extend("bytes", (0, b"a"), (1, "a"))
    store.extend("surrogate", (0, "\ud800"))
    store.extend("mixed", (0, 1), (1, "b"))
    store.extend("text", (0, "b"), (1, 1))
    store.extend("edges", (MIN, 1), (MAX, 2))
    before = {key: store.range(key) for key in store.timeseries()}
    for what, call in REFUSED.items():
        with pytest.raises(InvalidArgumentError, match=what):
            call(store)
    assert {key: store.range(key) for key in store.timeseries()} == before


def test_first_and_last_of_a_bucket_keep_their_type(store: Store) -> None:
    store.extend("k", (0, 1), (1, 2.5), (2, 3), (3, math.nan))
    ((_, found),) = store.resample("k", 10, ["first", "last", "sum", "count"])
    assert {name: repr(value) for name, value in found.items()} == {
        "first": "1", "last": "3", "sum": "6.5", "count": "3",
    }  # fmt: skip


def test_there_is_no_line_beyond_the_last_point(store: Store) -> None:
    store.extend("k", (0, 1.0), (10, 3.0))
    assert [store.at("k", t, "linear") for t in (-1, 0, 5, 10, 11)] == [None, (0, 1.0), (5, 2.0), (10, 3.0), None]
    assert store.at("k", [-1, 0, 5, 10, 11], "linear") == pytest.approx([np.nan, 1, 2, 3, np.nan], nan_ok=True)


def test_downsampling_keeps_ints_and_the_extremes_of_time(store: Store) -> None:
    store.extend("k", (MIN, 2**60 + 1), (0, 2**60 + 5), (5, 2**60 + 3), (MAX, 2**60 + 2))
    assert store.downsample("k", 3) == [(MIN, 2**60 + 1), (0, 2**60 + 5), (MAX, 2**60 + 2)]


def test_several_series_become_one_table_in_time(store: Store) -> None:
    seconds = np.array([0, 86_400], "M8[s]")
    store.extend_columns("a", seconds, np.array(["2024-01-01", "2025-01-01"], "M8[s]"))
    store.extend_columns("b", [86_400, 172_800], ["x", "y"])
    store.extend_columns("c", [1], [True])
    for unit, days in (("s", [0, 1, 86_400, 172_800]), ("D", None)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tables: list[Any] = [getattr(store, f"to_{kind}")("a", "b", "c", unit=unit) for kind in ("polars", "arrow")]
            frame = store.to_pandas("a", "b", "c", unit="s" if days else "D")
        assert frame.index.is_monotonic_increasing
        assert str(getattr(frame.index, "tz", None)) == "UTC"
        polar, arrow = tables[0].to_dict(as_series=False), tables[1].to_pydict()
        assert polar == arrow
        assert polar["timestamp"] == [t.to_pydatetime() for t in frame.index]
        assert [t and t.year for t in polar["a"]][:1] == [2024]
        assert polar["b"].count(None) == 2
        if days:
            assert [int(t.timestamp()) for t in polar["timestamp"]] == days
    assert store.to_pandas("unknown").shape == (0, 1)
    assert store.compact("unknown").series == 0


def test_pandas_holds_a_lone_surrogate_as_it_is_or_not_at_all(store: Store) -> None:
    store.extend("surrogate", (0, "\ud800"))
    try:  # before pandas 3, strings are objects
        assert store.to_pandas("surrogate")["surrogate"].tolist() == ["\ud800"]
    except InvalidArgumentError as error:
        assert "'surrogate' cannot be a column of pandas" in str(error)  # noqa: PT017 - either is right


def test_without_pyarrow_a_capsule_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StoreNotAvailableError, match=r"rlib-store\[arrow\]"):
        store.extend_columns("k", TIMES["capsule"], V)
