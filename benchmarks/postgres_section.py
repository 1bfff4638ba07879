"""What is measured on PostgreSQL: rstore beside bare psycopg, rlib-store 0.1 and eventsourcing, on one server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from contest import Contestant, compete
from lab import KEY, KINDS, Lab, Section
from peers import EVENTSOURCING, FIRST_RELEASE, FIRST_RELEASE_SERVER
from table import Goal, Table, number, times

# The tests know how to start a server.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
from postgresql import Server

BARE: Final = "executemany", "unnest", "COPY"
CHANGES: Final = 20


def postgres(lab: Lab) -> Section:
    """Measure PostgreSQL, all on one server that is started for it."""
    with Server(max_connections=100) as server:
        dsn = server.dsn()
        return Section.of([part(lab, dsn) for part in (_speed, _pairs, _many, _changes, _flat)])


def _task(lab: Lab, dsn: str, name: str, library: str, n: int, **arguments: Any) -> dict[str, Any]:
    return {"task": name, "library": library, "dsn": dsn, "n": lab.scaled(n), **arguments}


def _calls(lab: Lab) -> int:
    return max(10, lab.scaled(200))


def _speed(lab: Lab, dsn: str) -> Section:
    n, goals = lab.scaled(1_000_000), []
    contestants: dict[tuple[str, str], Contestant] = {}
    for kind, key in KINDS.items():
        if old := lab.peers.get(FIRST_RELEASE_SERVER):
            # A tenth of the points, in a tenth of the time: with all of them it takes minutes.
            arguments = _task(lab, dsn, "speed", FIRST_RELEASE_SERVER, 100_000, key=key)
            contestants[kind, FIRST_RELEASE_SERVER] = Contestant("server", arguments, old, rounds=1)
        contestants[kind, "rstore"] = Contestant("server", _task(lab, dsn, "speed", "rstore", 1_000_000, key=key))
    table = Table(
        f"PostgreSQL: {n:,} points at once",
        "values | library | extend, s | range, s | remove, s | total, s | points a second | faster",
        "The speed test of rlib-store 0.1, which itself is given a tenth of the points.",
    )
    results = compete(contestants, lab.rounds(3))
    for (kind, library), result in results.items():
        rate = (n if library == "rstore" else n / 10) / result["total"]
        before = results.get((kind, FIRST_RELEASE_SERVER))
        faster = rate / (n / 10 / before["total"]) if before else 0
        steps = (f"{result[step]:.3f}" for step in ("extend", "range", "remove", "total"))
        table.rows.append([kind, library, *steps, number(rate), times(faster) if before else "-"])
        if before and library == "rstore":
            goals.append(Goal(f"PostgreSQL, {n:,} points, {kind}: total against {FIRST_RELEASE}", 200, faster))
    return Section([table], goals)


def _pairs(lab: Lab, dsn: str) -> Section:
    base = {"calls": _calls(lab)}
    contestants = {
        "rstore, plain": Contestant("server", _task(lab, dsn, "pairs", "rstore", 20_000, **base)),
        "rstore, encrypted": Contestant("server", _task(lab, dsn, "pairs", "rstore", 20_000, key=KEY, **base)),
        "bare psycopg": Contestant("server", _task(lab, dsn, "pairs", BARE[0], 20_000, **base)),
    }
    table = Table(
        "PostgreSQL: key/value pairs, one at a time",
        "library | set, µs p50 | get, µs p50",
        "Dicts of about 100 bytes in random order; `full` durability. Bare psycopg: one connection, one table, "
        "prepared statements, binary results, pickles.",
    )
    results = compete(contestants, lab.rounds(50))
    table.rows += [[name, number(result["set"]), number(result["get"])] for name, result in results.items()]
    ours, theirs = results["rstore, plain"], results["bare psycopg"]
    verbs = "set", "get"
    return Section(
        [table], [Goal(f"PostgreSQL {verb} against bare psycopg", 0.85, theirs.ratio(verb, ours)) for verb in verbs]
    )


def _many(lab: Lab, dsn: str) -> Section:
    contestants = {
        "rstore, plain": Contestant("server", _task(lab, dsn, "many", "rstore", 20_000)),
        "rstore, encrypted": Contestant("server", _task(lab, dsn, "many", "rstore", 20_000, key=KEY)),
    } | {f"bare psycopg, {way}": Contestant("server", _task(lab, dsn, "many", way, 20_000)) for way in BARE}
    table = Table(
        "PostgreSQL: key/value pairs, 20,000 at once",
        "library | set, pairs a second | scan, pairs a second",
        "The same dicts. Bare psycopg stores them in three ways: `executemany`, arrays that the server unnests, and a "
        "`COPY` into a temporary table.",
    )
    results = compete(contestants, lab.rounds(40))
    table.rows += [[name, number(result["update"]), number(result["scan"])] for name, result in results.items()]
    ours, bare = results["rstore, plain"], [results[f"bare psycopg, {way}"] for way in BARE]
    goals = [
        Goal(
            "PostgreSQL set_many against the fastest of bare psycopg", 1, min(ours.ratio("update", one) for one in bare)
        ),
        Goal("PostgreSQL scan against a bare SELECT", 0.8, ours.ratio("scan", bare[0])),
    ]
    return Section([table], goals)


def _changes(lab: Lab, dsn: str) -> Section:
    contestants: dict[tuple[str, str, str], Contestant] = {}
    for durability in ("full", "normal"):
        for before in (0, CHANGES):
            base = {
                "dsn": dsn, "n": lab.scaled(1_000), "calls": _calls(lab), "before": before,
                "waiting": durability == "full",
            }  # fmt: skip
            row = durability, f"{before}"
            contestants[*row, "rstore"] = Contestant("server_changes", {**base, "library": "rstore"})
            if peer := lab.peers.get(EVENTSOURCING):
                theirs = {**base, "library": EVENTSOURCING}
                contestants[*row, EVENTSOURCING] = Contestant("server_changes", theirs, peer)
                cached = Contestant("server_changes", {**theirs, "cached": True}, peer)
                contestants[*row, f"{EVENTSOURCING}, with its cache"] = cached
    table = Table(
        "PostgreSQL: one change of one of many sequences",
        "durability | changes before | library | apply, µs p50",
        "A thousand accounts; each call loads one, changes its balance, and stores the change. rstore keeps the states "
        "that it has made, and the server says whether they are still the newest. eventsourcing reads all changes each "
        "time or, with its cache of aggregates, which is off by default, those that are new. `normal`: with "
        "`synchronous_commit = off` for both.",
    )
    results = compete(contestants, lab.rounds(30))
    table.rows += [[*row, number(result["apply"])] for row, result in results.items()]
    goals = [
        Goal(
            f"PostgreSQL apply after {before} changes against eventsourcing, `{durability}`",
            5,
            results[durability, before, library].ratio("apply", results[durability, before, "rstore"]),
        )
        for durability, before, library in results
        if library == EVENTSOURCING
    ]
    return Section([table], goals)


def _flat(lab: Lab, dsn: str) -> Section:
    base = {"calls": _calls(lab)}
    contestants = {
        f"{n:,}": Contestant("server", _task(lab, dsn, "flat", "rstore", n, **base)) for n in (100, 1_000, 10_000)
    }
    figures = "current", "past", "last"
    table = Table(
        "PostgreSQL: as data grows",
        "changes | current, µs p50 | past, µs p50 | last of 100 times as many points, µs p50",
    )
    for name, result in compete(contestants, lab.rounds(3)).items():
        table.rows.append([name, *(number(result[figure]) for figure in figures)])
    return Section([table])
