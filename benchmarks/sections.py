"""What is measured: for each section the contestants, their table, and the goals.

Histories, pairs, large values, series of numbers, PostgreSQL and Redis have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from contest import Contestant, compete
from events_section import events
from history_section import history
from lab import KINDS, Lab, Section
from large_section import large
from loads_section import loads
from pairs_section import clients, millions, pairs
from paths_section import paths
from peers import FIRST_RELEASE
from postgres_section import postgres
from redis_section import redis
from serializers_section import serializers
from series_section import huge, series, tuples
from table import Goal, Table, number, times

FULL: Final = {"durability": "full"}
NORMAL: Final = {"durability": "normal"}
JOURNAL: Final = "full (rollback journal, its default)"

Rows: TypeAlias = dict[tuple[str, ...], Contestant]
"""Contestants by the first cells of their rows."""


def bulk(lab: Lab) -> Section:
    """Measure a million points at once."""
    n = lab.scaled(1_000_000)
    contestants: Rows = {}
    for texts, distinct in (("the same text", False), ("different texts", True)):
        for kind, key in KINDS.items():
            values, base = f"{texts}, {kind}", {"n": n, "key": key, "distinct": distinct}
            if old := lab.peers.get(FIRST_RELEASE):
                contestants[values, FIRST_RELEASE, JOURNAL] = Contestant(
                    "bulk", {**base, "first_release": True, "options": {}}, old, rounds=2 if key else 3
                )
            for options in (FULL, NORMAL):
                contestants[values, "rstore", options["durability"]] = Contestant(
                    "bulk", {**base, "first_release": False, "options": options}
                )
    table = Table(
        f"{n:,} points at once",
        "values | library | durability | extend, s | range, s | remove, s | total, s | faster | CPU, s | less CPU | "
        "bytes a point",
        "The speed test of rlib-store 0.1: `extend(key, *points)` with points `(int, 'abcdefg')`, "
        "`range(key, freq=10)`, `remove(key)`; then the same with a different text at each point, which cannot be "
        "compressed to nothing. Each step opens the store and closes it again. CPU is what all threads used: it leaves "
        "out waiting for the disk, and for the other processes of a busy machine.",
    )
    goals = []
    results = compete(contestants, lab.rounds(5))
    for row, result in results.items():
        values, library, durability = row
        steps = (f"{result[step]:.3f}" for step in ("extend", "range", "remove", "total"))
        before = results.get((values, FIRST_RELEASE, JOURNAL))
        faster, less = (times(before.ratio(of, result)) if before else "-" for of in ("total", "cpu"))
        table.rows.append([*row, *steps, faster, f"{result['cpu']:.3f}", less, number(result["bytes"] / n)])
        if before and library == "rstore" and values.startswith("the same"):
            what = f"{n:,} points, {values}, durability {durability}: total against {FIRST_RELEASE}"
            limit = 50 if values.endswith("encrypted") else 15
            goals.append(Goal(what, limit, before.ratio("total", result)))
    return Section([table], goals)


def keys(lab: Lab) -> Section:
    """Measure has and len in a small store and in a large one."""
    sizes = [1_000, lab.scaled(1_000_000)]
    contestants = {f"{n:,}": Contestant("keys", {"n": n, "calls": lab.scaled(2_000)}) for n in sizes}
    table = Table("`has` and `len`", "keys | has, it is there, µs p50 | has, it is not, µs p50 | len, µs p50")
    for name, result in compete(contestants, lab.rounds(10)).items():
        table.rows.append([name, *(number(result[figure]) for figure in ("there", "missing", "len"))])
    return Section([table])


def singles(lab: Lab) -> Section:
    """Measure one point a call."""
    table = Table(
        "One point a call",
        "values | library | durability | extend a second | µs, mean | µs, p50 | faster",
        "`extend(key, (timestamp, float))` at the end of a growing series. In `full` durability each call waits for "
        "the disk.",
    )
    for kind, key in KINDS.items():
        contestants: Rows = {}
        if old := lab.peers.get(FIRST_RELEASE):
            first: dict[str, Any] = {"calls": 200, "key": key, "first_release": True, "options": {}}
            contestants[FIRST_RELEASE, JOURNAL] = Contestant("singles", first, old)
        for options, calls in ((FULL, 200), (NORMAL, 2_000)):
            new = {"calls": max(10, lab.scaled(calls)), "key": key, "first_release": False, "options": options}
            contestants["rstore", options["durability"]] = Contestant("singles", new)
        results = compete(contestants, lab.rounds(20))
        before = results.get((FIRST_RELEASE, JOURNAL))
        for row, result in results.items():
            mean = result["extend"]
            faster = times(before.ratio("extend", result)) if before else "-"
            table.rows.append([kind, *row, number(1e6 / mean), number(mean), number(result["extend_p50"]), faster])
    return Section([table])


def floats(lab: Lab) -> Section:
    """Measure a long series of numbers."""
    n = lab.scaled(1_000_000)
    contestants: Rows = {}
    for kind, key in KINDS.items():
        base = {"n": n, "calls": lab.scaled(1000), "key": key}
        if old := lab.peers.get(FIRST_RELEASE):
            contestants[kind, FIRST_RELEASE] = Contestant(
                "floats", {**base, "calls": 100, "first_release": True, "options": {}}, old
            )
        contestants[kind, "rstore"] = Contestant("floats", {**base, "first_release": False, "options": FULL})
    table = Table(
        f"A series of {n:,} floats",
        "values | library | bytes a point | extend all, s | range of 1,000, µs p50 | last, µs p50",
        "A reading a second: timestamps in milliseconds that deviate by about 5, a random walk of two decimals. "
        "Durability `full`. Ranges begin anywhere in the series.",
    )
    for row, result in compete(contestants, lab.rounds(5)).items():
        figures = (number(result[figure]) for figure in ("bytes", "extend", "range", "last"))
        table.rows.append([*row, *figures])
    return Section([table])


SECTIONS: Final[dict[str, Callable[[Lab], Section]]] = {
    one.__name__: one
    for one in (
        bulk,
        pairs,
        clients,
        large,
        keys,
        events,
        history,
        loads,
        singles,
        floats,
        series,
        tuples,
        huge,
        serializers,
        paths,
        postgres,
        redis,
    )
}
LONG: Final[dict[str, Callable[[Lab], Section]]] = {millions.__name__: millions}
"""Those that take many minutes: only where they are asked for."""
