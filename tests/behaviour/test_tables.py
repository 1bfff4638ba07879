"""Tables of every library, into series and back: what was a point stays one, and nothing else becomes one."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstore import InvalidArgumentError, Store

MIN, MAX = -(2**63), 2**63 - 1
INTS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
FLOATS = ("f2", "f4", "f8")
DATES = ("M8[D]", "M8[s]", "M8[ms]", "M8[us]", "M8[ns]")
LIBRARIES = ("pandas", "polars", "arrow")
# Of the units of a library, the closest one in which all datetimes of another unit are exact.
FINER = {"pandas": {"M8[D]": "M8[s]"}, "polars": {"M8[s]": "M8[ms]"}, "arrow": {}}

extension = pyarrow.ExtensionArray.from_storage

Column = tuple[list[int], npt.NDArray[Any]]


@pytest.fixture
def store() -> Iterator[Store]:
    with memory() as store:
        yield store


def memory() -> Store:
    return Store(f"memory://{uuid.uuid4()}", frozen=False)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    """Draw the points of one series, of any type that a column can have; perhaps none."""
    t = sorted(draw(st.sets(st.integers(-6, 6) | st.integers(-(10**9), 10**9), max_size=6)))
    kind = draw(st.sampled_from((*INTS, *FLOATS, *DATES, "?", "T")))
    if kind == "T":
        texts = [draw(st.text(max_size=4)) for _ in t]
        return t, np.array(texts, np.dtypes.StringDType())
    if kind in DATES:
        return t, np.array([draw(st.integers(-(10**4), 10**4)) for _ in t], np.int64).view(kind)
    if kind == "?":
        return t, np.array([draw(st.booleans()) for _ in t], np.bool_)
    if kind in FLOATS:
        width = 8 * np.dtype(kind).itemsize
        return t, np.array([draw(st.floats(width=width)) for _ in t], kind)  # type: ignore[arg-type]
    limits = np.iinfo(kind)
    return t, np.array([draw(st.integers(int(limits.min), int(limits.max))) for _ in t], kind)


def bits(values: npt.NDArray[Any]) -> Any:
    """Return a text that tells an array from all others; of NaN only that it is one."""
    if values.dtype.kind == "f":
        return [("nan" if one != one else (one, math.copysign(1, one))) for one in values.tolist()]  # noqa: PLR0124
    return values.tolist()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    tables=st.lists(columns(), min_size=1, max_size=4),
    library=st.sampled_from(LIBRARIES),
    unit=st.sampled_from((None, "D", "s", "ms", "us", "ns")),
)
def test_series_come_back_from_a_table_of_every_library(tables: list[Column], library: str, unit: Any) -> None:
    if unit == "D":  # all of them within the years of a datetime
        tables = [([t % 10**5 for t in times], values) for times, values in tables]
        tables = [table for table in tables if table[0] == sorted(set(table[0]))] or [([], np.empty(0))]
    with memory() as one, memory() as other:
        names = [f"{i} é" for i in range(len(tables))]
        for name, (times, values) in zip(names, tables, strict=True):
            one.extend_columns(name, times, values)
        table = getattr(one, f"to_{library}")(*names, unit=unit)
        timestamps = None if library == "pandas" else "timestamp"
        assert other.extend_frame(table, timestamps=timestamps, unit=unit) == len(names)
        assert other.timeseries() == one.timeseries() == [n for n, (t, _) in zip(names, tables, strict=True) if t]
        for name in other.timeseries():
            (t, values), (back_t, back) = one.range_columns(name), other.range_columns(name)
            assert back_t.tolist() == t.tolist()
            assert bits(back) == bits(values.astype(FINER[library].get(values.dtype.str[1:], values.dtype)))
            assert back.dtype.kind == values.dtype.kind
            if back.dtype != values.dtype:
                narrow = values.dtype == np.float16 and library in {"pandas", "polars"}
                assert narrow or values.dtype.str[1:] in FINER[library]


GAPS: dict[str, tuple[Any, list[tuple[int, Any]]]] = {
    "Arrow": (pyarrow.array([1, None, 3]), [(1, 1), (3, 3)]),
    "Arrow floats": (pyarrow.array([1.5, None, math.nan]), [(1, 1.5), (3, math.nan)]),
    "Arrow in chunks": (pyarrow.chunked_array([["a", None], ["b"]]), [(1, "a"), (3, "b")]),
    "Arrow dictionary": (pyarrow.array(["a", None, "b"]).dictionary_encode(), [(1, "a"), (3, "b")]),
    "null in a dictionary": (
        pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 0]), pyarrow.array([7, None])), [(1, 7), (3, 7)],
    ),
    "Arrow runs": (
        pyarrow.RunEndEncodedArray.from_arrays([1, 2, 3], pyarrow.array([7, None, 8])), [(1, 7), (3, 8)],
    ),
    "nulls only": (pyarrow.nulls(3), []), "nulls of polars": (polars.Series([None] * 3), []),
    "polars": (polars.Series([None, True, False]), [(2, True), (3, False)]),
    "polars floats": (polars.Series([None, math.nan, 2.5]), [(2, math.nan), (3, 2.5)]),
    "polars strings that end with NUL": (polars.Series([None, "\0", "a\0"]), [(2, "\0"), (3, "a\0")]),
    "polars words": (polars.Series(["a", None, "b"]).cast(polars.Categorical()), [(1, "a"), (3, "b")]),
    "pandas Int64": (pandas.Series([1, None, 3], dtype="Int64"), [(1, 1), (3, 3)]),
    "pandas boolean": (pandas.Series([True, None, False], dtype="boolean"), [(1, True), (3, False)]),
    "pandas Float64": (pandas.Series([1.5, None, 3.5], dtype="Float64"), [(1, 1.5), (3, 3.5)]),
    "pandas float64": (pandas.Series([1.5, math.nan, 3.5]), [(1, 1.5), (2, math.nan), (3, 3.5)]),
    "pandas strings": (pandas.Series(["a", None, "b"]), [(1, "a"), (3, "b")]),
    "pandas objects": (pandas.Series(["a", None, "b"], dtype=object), [(1, "a"), (3, "b")]),
    "pandas categories": (pandas.Series(["a", None, "b"], dtype="category"), [(1, "a"), (3, "b")]),
    "pandas categories of floats": (pandas.Series(pandas.Categorical([1.5, None, 2.5])), [(1, 1.5), (3, 2.5)]),
    "pandas times": (
        pandas.Series(pandas.to_datetime(["2024-05-01", None, "2024-05-02"])),
        [(1, np.datetime64("2024-05-01")), (3, np.datetime64("2024-05-02"))],
    ),
    "pandas zoned": (
        pandas.Series(pandas.to_datetime(["2024-05-01T02:00+02:00", None, None])), [(1, np.datetime64("2024-05-01"))],
    ),
    "Arrow in pandas": (pandas.Series([None, 2, 3], dtype=pandas.ArrowDtype(pyarrow.int16())), [(2, 2), (3, 3)]),
    "masked": (np.ma.MaskedArray([1, 2, 3], mask=[False, True, False]), [(1, 1), (3, 3)]),
    "NaT": (np.array(["2024", "NaT", "NaT"], "M8[D]"), [(1, np.datetime64("2024-01-01"))]),
    "strings of NumPy": (np.array(["a", None, "b"], np.dtypes.StringDType(na_object=None)), [(1, "a"), (3, "b")]),
    "all missing": (pandas.Series([None, None, None]), []),
    "a list has no gaps": ([1.5, None, "x"], [(1, 1.5), (2, None), (3, "x")]),
}  # fmt: skip


@pytest.mark.parametrize("given", GAPS.values(), ids=GAPS)
def test_where_a_column_has_no_value_its_series_has_no_point(store: Store, given: Any) -> None:
    values, points = given
    whole = np.array([1.5, math.nan, 3.5])
    assert store.extend_frame({"t": [1, 2, 3], "gaps": values, "whole": whole}, timestamps="t") == 2
    found = store.range("gaps")
    assert [t for t, _ in found] == [t for t, _ in points]
    for (_, value), (_, expected) in zip(found, points, strict=True):
        assert value == expected or (value != value and expected != expected)  # noqa: PLR0124
        assert type(value) is type(expected)
    assert [t for t, _ in store.range("whole")] == [1, 2, 3]
    if not isinstance(values, list) and len(points) < 3:
        with pytest.raises(InvalidArgumentError, match=r"^values have missing values"):
            store.extend_columns("alone", [1, 2, 3], values)


EMPTY: dict[str, Callable[[], Any]] = {
    **{f"NumPy {kind}": partial(np.empty, 0, kind) for kind in (
        *INTS, *FLOATS, *DATES, "?", "O", "m8[s]", "U3",
    )},
    **{f"pandas {kind}": partial(pandas.Series, [], dtype=kind) for kind in (
        "Int64", "Float32", "boolean", "string", "category", "datetime64[ns, Europe/Berlin]", "period[D]", "object",
        "Sparse[int]", "interval",
    )},
    "pandas words": lambda: pandas.Series(pandas.Categorical([], ["a"])), "pandas index": lambda: pandas.Index([]),
    **{f"polars {kind}": partial(polars.Series, dtype=kind) for kind in (
        polars.Int128, polars.Decimal(10, 2), polars.Time, polars.List(polars.Int64), polars.Null, polars.Object,
        polars.Categorical(), polars.Datetime("us", "UTC"),
    )},
    **{f"Arrow {kind}": partial(pyarrow.array, [], kind) for kind in (
        pyarrow.null(), pyarrow.decimal128(5), pyarrow.list_(pyarrow.int8()), pyarrow.time32("s"), pyarrow.date32(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), pyarrow.timestamp("s", "UTC"), pyarrow.binary(),
    )},
    "no chunks": lambda: pyarrow.chunked_array([], pyarrow.string()), "list": list,
}  # fmt: skip


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
def test_columns_without_rows_of_every_type(store: Store, empty: Callable[[], Any]) -> None:
    assert store.extend_columns("k", empty(), empty()) == 0
    assert store.extend_columns("k", empty(), empty(), unit="s") == 0
    assert store.extend_frame({"t": empty(), "a": empty(), "b": empty()}, timestamps="t") == 2
    assert store.at("k", empty()).tolist() == []
    with pytest.raises(InvalidArgumentError, match="timestamps have 0 elements"):
        store.extend_columns("k", empty(), [1])
    assert store.timeseries() == []


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("unit", [None, "D", "ns"])
def test_tables_without_rows(store: Store, library: str, unit: Any) -> None:
    table = getattr(store, f"to_{library}")("a", "b", unit=unit)
    assert len(table) == 0
    assert store.extend_frame(table, timestamps=None if library == "pandas" else "timestamp", unit=unit) == 2
    assert store.extend_frame(pandas.DataFrame(columns=["a", "b"])) == 2
    assert store.timeseries() == []


CATEGORIES: dict[str, tuple[Any, list[Any]]] = {
    "ints": (pandas.Categorical([7, 5, 7]), [7, 5, 7]),
    "bools": (pandas.Categorical([True, False, True]), [True, False, True]),
    "ordered": (pandas.Categorical([3.5, 1.5, 3.5], [3.5, 2.5, 1.5], ordered=True), [3.5, 1.5, 3.5]),
    "small ints": (pandas.Categorical(pandas.array([7, 5, 7], dtype="Int8")), [7, 5, 7]),
    "dates": (
        pandas.Categorical(np.array(["2024-01-02", "2024-01-01", "2024-01-02"], "M8[s]")),
        [np.datetime64(f"2024-01-0{day}", "s") for day in (2, 1, 2)],
    ),
    "zoned": (
        pandas.Categorical(pandas.date_range("2024-10-27", periods=3, freq="h", tz="UTC").tz_convert("Europe/Berlin")),
        [np.datetime64(f"2024-10-27T0{hour}:00") for hour in range(3)],
    ),
    "series": (pandas.Series(pandas.Categorical([7, 5, 7])), [7, 5, 7]),
    "index": (pandas.CategoricalIndex([7, 5, 7]), [7, 5, 7]),
    "words": (pandas.Categorical(["b", "a", "b"]), ["b", "a", "b"]),
    "words as objects": (
        pandas.Categorical.from_codes([1, 0, 1], pandas.Index(["a", "b"], dtype=object)), ["b", "a", "b"],
    ),
    "Arrow": (
        pandas.Series([7, 5, 7], dtype=pandas.ArrowDtype(pyarrow.dictionary(pyarrow.int8(), pyarrow.int16()))),
        [7, 5, 7],
    ),
    "bool8": (
        pyarrow.chunked_array([extension(pyarrow.bool8(), pyarrow.array([1, 0, 1], pyarrow.int8()))]),
        [True, False, True],
    ),
}  # fmt: skip


@pytest.mark.parametrize("given", CATEGORIES.values(), ids=CATEGORIES)
def test_categories_come_back_as_the_values_that_they_stand_for(store: Store, given: Any) -> None:
    values, expected = given
    store.extend_columns("k", [1, 2, 3], values)
    store.extend_frame({"t": [1, 2, 3], "f": values}, timestamps="t")
    for key in ("k", "f"):
        found = [value for _, value in store.range(key)]
        assert found == expected
        assert [type(value) for value in found] == [type(value) for value in expected]


NO_COLUMN: dict[str, Any] = {
    "intervals": pandas.cut([1, 5, 9], 3), "decimals": pandas.Categorical([decimal.Decimal(n) for n in (1, 2, 3)]),
    "ints and words": pandas.Categorical([1, "a", 1]), "bytes": pandas.Categorical([b"a", b"b", b"a"]),
    "dates": pandas.Categorical([dt.date(2024, 1, n) for n in (1, 2, 3)]),
    "times of day": polars.Series([dt.time(1)] * 3),
    "Arrow decimals": pyarrow.array([decimal.Decimal("1.1")] * 3),
    "polars decimals": polars.Series([decimal.Decimal("1.1")] * 3),
    "ids": extension(pyarrow.uuid(), pyarrow.array([b"a" * 16] * 3, pyarrow.binary(16))),
    "structs": polars.Series([{"a": 1}] * 3), "words and None": np.array(["a", None, "b"], object),
    "objects": pandas.Series([1, "a", 2.5]), "of NumPy": np.array([1, True, 2], object),
}  # fmt: skip


@pytest.mark.parametrize("values", NO_COLUMN.values(), ids=NO_COLUMN)
def test_what_has_no_type_of_its_own_is_refused_rather_than_written_as_text(store: Store, values: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^values "):
        store.extend_columns("k", [1, 2, 3], values)
    with pytest.raises(InvalidArgumentError, match=r"^the values of the column 'k' "):
        store.extend_frame({"t": [1, 2, 3], "k": values}, timestamps="t")
    assert store.timeseries() == []


def test_values_of_several_types_are_no_column_of_arrow_or_polars(store: Store) -> None:
    day = dt.date(2024, 1, 1)
    for key, values in {"times": [day, dt.datetime(2024, 1, 1, 12)], "bools": [True, 2], "bytes": [b"a", "a"]}.items():  # noqa: DTZ001
        store.extend_columns(key, [1, 2], values)
        for library in ("arrow", "polars"):
            with pytest.raises(InvalidArgumentError, match=f"the values of '{key}' cannot be a column.*of the types"):
                getattr(store, f"to_{library}")(key)
        assert store.to_pandas(key)[key].tolist() == values


@pytest.mark.parametrize("library", LIBRARIES)
def test_datetimes_that_a_library_cannot_hold_are_refused(store: Store, library: str) -> None:
    far = {
        "days": np.array([10**15, 0], "M8[D]"),
        "years": np.array([2**31 - 1, 2**31], "M8[D]"),
        "seconds": np.array([MAX // 2, 0], "M8[s]"),
    }
    for key, values in far.items():
        store.extend_columns(key, [1, 2], values)
        try:
            table = getattr(store, f"to_{library}")(key)
        except InvalidArgumentError:
            continue
        store.extend_frame(table, timestamps=None if library == "pandas" else "timestamp", prefix="back.")
        assert (store.range_columns(f"back.{key}")[1] == values).all()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_that_overflow_a_unit_are_refused(store: Store, unit: Any) -> None:
    for far in (np.array([10**17], "M8[D]"), np.array([-(10**17)], "M8[D]"), np.array([MAX], "M8[h]")):
        with pytest.raises(InvalidArgumentError, match="too far from 1970"):
            store.extend_columns("k", far, [1], unit=unit)
        with pytest.raises(InvalidArgumentError, match="too far from 1970"):
            store.at("k", far, unit=unit)
        with pytest.raises(InvalidArgumentError, match="too far from 1970"):
            store.at("k", far[0], unit=unit)
    assert store.timeseries() == []
