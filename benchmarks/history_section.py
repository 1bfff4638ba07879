"""What it takes to ask a long event sequence for its past."""

from __future__ import annotations

from contest import Contestant, compete
from lab import KINDS, Lab, Section
from table import Goal, Table, number


def history(lab: Lab) -> Section:
    """Measure the questions to sequences of a hundred thousand and of ten million changes."""
    sizes = [lab.scaled(100_000), lab.scaled(10_000_000)]
    contestants = {
        (f"{n:,}", kind): Contestant("history", {"n": n, "calls": lab.scaled(1_000), "key": key})
        for n in sizes
        for kind, key in KINDS.items()
    }
    speed = Table(
        "Long event sequences: all changes",
        "changes | values | events a second | history a second | backwards a second | bytes a change",
        "Each change is of one of 20 items, ints; all are in chunks, written through the log engine. `events` and "
        "`history` read the last 200,000 changes, in seconds of the processor.",
    )
    questions = Table(
        "Long event sequences: one question",
        "changes | values | current, µs p50 | past, ms p50 | p99 | max | one of 100 times, ms | known, ms | n, ms | "
        "blame, ms",
        "`past` is asked for random times between the first change and the last, in milliseconds of the processor, the "
        "slowest of 1,000 among them. Then for a hundred of them at once, for states as they were known a second "
        "earlier, and behind a random commit. Blame is `history(key, item, reverse=True, limit=1)`.",
    )
    goals: list[Goal] = []
    current: dict[str, float] = {}
    for (n, kind), result in compete(contestants, lab.rounds(5)).items():
        rates = ("events", "history", "backwards")
        speed.rows.append([n, kind, *(number(result[one]) for one in rates), number(result["bytes"])])
        ms = [result[one] / 1000 for one in ("past", "past_p99", "past_max", "many", "known", "commit", "blame")]
        questions.rows.append([n, kind, number(result["current"]), *(f"{one:.3f}" for one in ms)])
        what = f"{n} changes, {kind}"
        goals += [
            Goal(f"{what}, events a second", 500_000, result["events"], ""),
            Goal(f"{what}, history a second", 200_000, result["history"], ""),
            Goal(f"{what}, past: median", 2, ms[0], "ms", at_most=True),
            Goal(f"{what}, past: slowest of 1,000", 10, ms[2], "ms", at_most=True),
        ]
        if kind in current:
            goals.append(Goal(f"{what}, current against fewer", 1.5, result["current"] / current[kind], at_most=True))
        else:
            goals.append(Goal(f"{what}, current", 100, result["current"], "µs", at_most=True))
        current[kind] = result["current"]
    return Section([speed, questions], goals)
