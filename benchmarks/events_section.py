"""What is measured of event sequences: one change at a time beside other ways to store one, and a long sequence."""

from __future__ import annotations

from typing import Any, Final

from contest import Contestant, compete
from lab import KEY, KINDS, Lab, Section
from peers import EVENTSOURCING
from table import Goal, Table, number, times

BARE: Final = "bare apsw: one INSERT"
BEFORE: Final = 20


def events(lab: Lab) -> Section:
    """Measure event sequences; each table is a part of its own."""
    return Section.of([part(lab) for part in (_changes, _long)])


def _changes(lab: Lab) -> Section:
    table = Table(
        "One change of one of many sequences, on SQLite",
        "durability | library | apply, µs p50 | CPU, µs | against the INSERT | against eventsourcing",
        "A thousand accounts (in `full`, a hundred) with 20 changes each; each call loads one, changes its balance, "
        "and stores the change. "
        "bare apsw stores a pickle of the change and a number that it counts itself, in a table, and reads and checks "
        "nothing. eventsourcing has its cache of aggregates, which is off by default. The ratios are of the medians: "
        "how much longer than the INSERT, and how much shorter than eventsourcing. CPU is the mean of all calls.",
    )
    goals = []
    for durability, accounts, calls in (("normal", 1_000, 2_000), ("full", 100, 200)):
        base: dict[str, Any] = {
            "n": max(10, lab.scaled(accounts)), "calls": max(10, lab.scaled(calls)), "before": BEFORE,
            "durability": durability,
        }  # fmt: skip
        contestants = {
            "rstore, plain": Contestant("event_changes", {**base, "library": "rstore"}),
            "rstore, encrypted": Contestant("event_changes", {**base, "library": "rstore", "key": KEY}),
            BARE: Contestant("event_changes", {**base, "library": "bare"}),
        }
        if peer := lab.peers.get(EVENTSOURCING):
            contestants[EVENTSOURCING] = Contestant("event_changes", {**base, "library": "eventsourcing"}, peer)
        results = compete(contestants, lab.rounds(20))
        bare, theirs = results[BARE], results.get(EVENTSOURCING)
        for library, result in results.items():
            against = [times(result.ratio("apply", bare)), times(theirs.ratio("apply", result)) if theirs else "-"]
            table.rows.append([durability, library, number(result["apply"]), number(result["cpu"]), *against])
        ours = results["rstore, plain"]
        if durability == "normal":
            goals.append(Goal("apply, `normal`: median", 45, ours["apply"], "µs", at_most=True))
        else:
            ratio = ours.ratio("apply", bare)
            goals.append(Goal("apply, `full`: against the INSERT with its fsync", 1.25, ratio, at_most=True))
    return Section([table], goals)


def _long(lab: Lab) -> Section:
    n, parts = lab.scaled(100_000), lab.rounds(10)
    base = {"n": n, "parts": parts, "calls": lab.scaled(1_000)}
    contestants = {kind: Contestant("changes", {**base, "key": key}) for kind, key in KINDS.items()}
    table = Table(
        f"An event sequence of {n:,} changes",
        "values | apply a second | apply, µs p50 | current, ms p50 | p99 | again, ms p50 | past, ms p50 | p99 | max | "
        "bytes a change",
        "The state has 20 items, each change is one `apply` of one item with `durability='normal'`. Each `current` "
        "follows a change by another handle, so that all distances from a checkpoint are among them; `again` follows "
        "none. `past` is asked for random times between the first change and the last.",
    )
    goals = []
    for name, result in compete(contestants, parts + lab.rounds(10)).items():
        figures = ("current", "current_p99", "again", "past", "past_p99")
        milliseconds = [*(result[figure] / 1000 for figure in figures), result.worst("past_max") / 1000]
        current, past, past_p99 = milliseconds[0], *milliseconds[3:5]
        rate, one, size = number(1e6 / result["apply"]), number(result["apply_p50"]), number(result["bytes"])
        table.rows.append([name, rate, one, *(f"{ms:.3f}" for ms in milliseconds), size])
        for what, ms, limit in (
            ("current: median", current, 0.5),
            ("past: median", past, 2),
            ("past: p99", past_p99, 2),
        ):
            goals.append(Goal(f"{n:,} changes, {name}, {what}", limit, ms, "ms", at_most=True))
    return Section([table], goals)
