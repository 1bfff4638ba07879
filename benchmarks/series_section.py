"""Series of numbers, beside the specialists; long ones; and the Python tuples of which they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contest import Contestant, Results, compete
from lab import KEY, KINDS, Lab, Section
from peers import ARCTICDB, DUCKDB, PARQUET
from plot import Bars
from table import Goal, Table, number

_LIBRARIES: Final = {ARCTICDB: "arcticdb", DUCKDB: "duckdb", PARQUET: "parquet"}
_DURABILITY: Final = {ARCTICDB: "full (LMDB)", DUCKDB: "full (its WAL)", PARQUET: "none"}


def series(lab: Lab) -> Section:
    """Measure columns in and out, short ranges, and small appends."""
    n = lab.scaled(1_000_000)
    base: dict[str, Any] = {"n": n, "calls": max(10, lab.scaled(200))}
    contestants = {
        f"rstore, {kind}, {durability}": Contestant(
            "series", {**base, "library": "rstore", "key": key, "durability": durability}
        )
        for kind, key in KINDS.items()
        for durability in ("full", "normal")
    }
    for name, library in _LIBRARIES.items():
        if name in lab.peers:
            contestants[f"{name}, {_DURABILITY[name]}"] = Contestant(
                "series", {**base, "library": library}, lab.peers[name]
            )
    contestants["a SQLite row a point, normal"] = Contestant("series", {**base, "library": "sqlite"}, rounds=3)
    table = Table(
        f"A series of {n:,} floats, by the column",
        "library, durability | write, million a second | read | bytes a point | range of 1,000, ms | "
        "appends of 10, a second | single points, a second",
        "A reading a second: timestamps in milliseconds that deviate by about 5, a random walk of two decimals. NumPy "
        "arrays in and out, in a new file each time. Ranges begin anywhere; p50. ArcticDB calls `fdatasync` several "
        "times in each write. A Parquet file is not synced.",
    )
    results = compete(contestants, lab.rounds(9))
    for name, result in results.items():
        rates = (number(n / result[figure] / 1e6) for figure in ("write", "read"))
        small = (number(1e6 / result[one]) if one in result.figures else "-" for one in ("append", "single"))
        table.rows.append([name, *rates, number(result["bytes"]), f"{result['range'] / 1000:.2f}", *small])
    return Section([table], _goals(lab, results), [_bars(n, results)] if lab.peers else [])


def _goals(lab: Lab, results: Mapping[str, Results]) -> list[Goal]:
    plain, full, sealed = (results[f"rstore, {kind}"] for kind in ("plain, normal", "plain, full", "encrypted, normal"))
    goals = [
        Goal("series: bytes a point", 1.6, plain["bytes"], "bytes", at_most=True),
        Goal("series: write, encrypted against plain", 1.3, sealed.ratio("write", plain), at_most=True),
        Goal("series: read, encrypted against plain", 1.3, sealed.ratio("read", plain), at_most=True),
        Goal("series: single points, durability normal", 15_000, 1e6 / plain["single"], "a second"),
    ]
    if ARCTICDB in lab.peers:
        arctic = results[f"{ARCTICDB}, {_DURABILITY[ARCTICDB]}"]
        for what in ("write", "read"):
            goals.append(Goal(f"series: {what} against ArcticDB, durability full", 0.8, arctic.ratio(what, full)))
            goals.append(Goal(f"series: {what} against ArcticDB, durability normal", 0.8, arctic.ratio(what, plain)))
        goals += [
            Goal("series: bytes against ArcticDB", 6, arctic.ratio("bytes", plain)),
            Goal("series: range of 1,000 against ArcticDB", 10, arctic.ratio("range", plain)),
            Goal("series: appends of 10 against ArcticDB, durability normal", 20, arctic.ratio("append", plain)),
            Goal("series: appends of 10 against ArcticDB, durability full", 20, arctic.ratio("append", full)),
        ]
    return goals


def _bars(n: int, results: Mapping[str, Results]) -> Bars:
    shown = [name for name in results if not name.startswith("rstore, encrypted")]
    return Bars(
        f"{n:,} floats: how fast, and how small",
        shown,
        {
            "written, million points a second": [n / results[name]["write"] / 1e6 for name in shown],
            "read, million points a second": [n / results[name]["read"] / 1e6 for name in shown],
            "bytes a point": [results[name]["bytes"] for name in shown],
        },
    )


def tuples(lab: Lab) -> Section:
    """Measure a million Python tuples, and what random overwrites of packed history cost."""
    n, overwrites = lab.scaled(1_000_000), lab.scaled(50_000)
    contestants = {
        f"{kind}, {durability}": Contestant(
            "series_tuples", {"n": n, "overwrites": some, "key": key, "durability": durability}
        )
        for kind, key in KINDS.items()
        for durability, some in (("normal", overwrites), ("full", overwrites // 10))
    }
    table = Table(
        f"{n:,} Python tuples, and the worst case",
        "values, durability | extend, million a second | range, million a second | range, of CPU time | "
        "random overwrites, a second | bytes written for each",
        "`extend(key, *points)` and `range(key)` of `(int, float)`. Then points anywhere in the packed history are "
        f"overwritten one a call ({overwrites:,} of them; a tenth in `full`): each goes to the log first, and later "
        "into its chunk, together with what fell there meanwhile.",
    )
    results = compete(contestants, lab.rounds(7))
    for name, result in results.items():
        rates = (number(n / result[figure] / 1e6) for figure in ("extend", "range", "range_cpu"))
        table.rows.append([name, *rates, number(1e6 / result["overwrite"]), number(result["written"])])
    plain = results["plain, normal"]
    goals = [
        Goal(f"tuples: {what}", 4, n / plain[what] / 1e6, "million a second") for what in ("extend", "range")
    ]  # fmt: skip
    return Section([table], goals)


def huge(lab: Lab) -> Section:
    """Measure a series of a hundred million points beside one of a million."""
    sizes = [lab.scaled(1_000_000), lab.scaled(100_000_000)]
    contestants = {
        f"{n:,}": Contestant("series_huge", {"n": n, "calls": max(10, lab.scaled(300)), "key": key})
        for n, key in ((sizes[0], None), (sizes[1], None))
    }
    contestants[f"{sizes[1]:,}, encrypted"] = Contestant(
        "series_huge", {"n": sizes[1], "calls": max(10, lab.scaled(300)), "key": KEY}
    )
    table = Table(
        "Long series",
        "points | last, µs p50 | at, µs p50 | range of 1,000, µs p50 | resample to 1,000 buckets, s | "
        "all batches, s | memory of that process, MB",
        "Memory is the most that a process which only reads all batches ever had, Python and NumPy included.",
    )
    results = compete(contestants, lab.rounds(3))
    for name, result in results.items():
        figures = (number(result[one]) for one in ("last", "at", "range"))
        table.rows.append(
            [name, *figures, f"{result['resample']:.3f}", f"{result['batches']:.2f}", number(result["memory"])]
        )
    small, large = results[f"{sizes[0]:,}"], results[f"{sizes[1]:,}"]
    goals = [
        Goal(f"{sizes[1]:,} points: {what} against {sizes[0]:,}", 1.5, large.ratio(what, small), at_most=True)
        for what in ("last", "at", "range")
    ]
    goals.append(Goal(f"{sizes[1]:,} points: memory of batches", 150, large["memory"], "MB", at_most=True))
    goals.append(Goal(f"{sizes[1]:,} points: resample to 1,000", 1, large["resample"], "s", at_most=True))
    return Section([table], goals)
