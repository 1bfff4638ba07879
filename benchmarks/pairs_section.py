"""Key/value pairs in a file: rstore beside the stores that are chosen for them, alone, together, and with many keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from contest import Contestant, Results, compete
from lab import KEY, KINDS, Lab, Section
from peers import DISKCACHE, LMDB, SQLITEDICT
from table import Goal, Table, number

CLIENTS: Final = 8
PLAIN: Final = "rstore, plain"
SEALED: Final = "rstore, encrypted"
APSW: Final = "bare apsw + pickle"
SYNCED: Final = f"{LMDB}, sync"
FREE: Final = f"{LMDB}, no sync"

_LIBRARIES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "normal": {
        PLAIN: {"library": "rstore"},
        SEALED: {"library": "rstore", "key": KEY},
        DISKCACHE: {"library": "diskcache"},
        SQLITEDICT: {"library": "sqlitedict"},
        APSW: {"library": "apsw"},
        FREE: {"library": "lmdb"},
    },
    "full": {
        PLAIN: {"library": "rstore"},
        SEALED: {"library": "rstore", "key": KEY},
        APSW: {"library": "apsw"},
        SYNCED: {"library": "lmdb"},
    },
}


def _contestants(lab: Lab, program: str, durability: str, **arguments: Any) -> dict[str, Contestant]:
    """Return those that are here: of the libraries that are peers, what has an environment."""
    found: dict[str, Contestant] = {}
    for name, own in _LIBRARIES[durability].items():
        peer = next((peer for peer in (DISKCACHE, SQLITEDICT, LMDB) if name.startswith(peer)), None)
        if peer is None or peer in lab.peers:
            python: Path | None = None if peer is None else lab.peers[peer]
            found[name] = Contestant(program, {**arguments, **own, "durability": durability}, python)
    return found


def pairs(lab: Lab) -> Section:
    """Measure set and get one at a time, and all pairs at once."""
    n = lab.scaled(20_000)
    tables, goals = list[Table](), list[Goal]()
    # Short turns, and many; but in `normal` each is to pay its share of moving a log into its file, which SQLite does
    # every 1,000 pages, and rstore every 4,000.
    for durability, rounds, part in (("normal", 20, 5), ("full", 15, 40)):
        calls = max(20, n // part)
        results = compete(_contestants(lab, "pairs", durability, n=n, calls=calls), lab.rounds(rounds))
        singles = Table(
            f"{n:,} key/value pairs, one at a time, durability `{durability}`",
            "library | set, µs | p50 | p99 | max | get, µs | p50 | p99 | max | in a snapshot, p50 | failures",
            "Dicts of about 100 bytes in random order; `set` changes the value of a key that is there. `normal` is a "
            "WAL with `synchronous=NORMAL` in the others that are SQLite, except for sqlitedict: a thread of its own "
            "writes behind the call. LMDB takes a transaction for each call, as rstore does, except in a snapshot.",
        )
        every = Table(
            f"The same, {n:,} at once, durability `{durability}`",
            "library | set_many, µs each | a second | scan, µs each | a second",
        )
        for name, one in results.items():
            figures = [f"{verb}{of}" for verb in ("set", "get") for of in ("", "_p50", "_p99")]
            cells = [number(one[figure]) for figure in figures]
            cells.insert(3, number(one.worst("set_max")))
            snapshot = number(one["snapshot_p50"]) if "snapshot_p50" in one.figures else "-"
            failures = sum(one.figures["failures"])
            singles.rows.append([name, *cells, number(one.worst("get_max")), snapshot, f"{failures:,.0f}"])
            rates = ((number(one[verb]), number(1e6 / one[verb])) for verb in ("set_many", "scan"))
            every.rows.append([name, *(cell for pair in rates for cell in pair)])
        tables += [singles, every]
        goals += _goals_normal(results) if durability == "normal" else _goals_full(results)
    return Section(tables, goals)


def _goals_normal(results: dict[str, Results]) -> list[Goal]:
    plain, sealed, bare = results[PLAIN], results[SEALED], results[APSW]
    # Ratios are of the mean for `set`, where a few calls pay for the others, and of the p50 for `get`, where all calls
    # are alike.
    of = {"set": "set", "get": "get_p50", "set_many": "set_many", "scan": "scan"}
    goals = [Goal(f"{verb} against bare apsw, speed", 0.8, bare.ratio(figure, plain)) for verb, figure in of.items()]
    if peer := results.get(DISKCACHE):
        limits = {"set": 2.5, "get": 2, "set_many": 8, "scan": 8}
        goals += [
            Goal(f"{verb} against diskcache, durability normal", limits[verb], peer.ratio(figure, plain))
            for verb, figure in of.items()
        ]
    if peer := results.get(FREE):
        speed = peer["get_p50"] / plain["snapshot_p50"]
        goals.append(Goal("get in a snapshot against LMDB's with a transaction each, speed", 0.7, speed))
    for verb, figure in of.items():
        more = sealed[figure] - plain[figure]
        goals.append(Goal(f"{verb}: what encryption adds to a value", 3, more, "µs", at_most=True))
    return goals


def _goals_full(results: dict[str, Results]) -> list[Goal]:
    if SYNCED not in results:
        return []
    return [Goal("set against LMDB with sync, durability full", 1.2, results[SYNCED].ratio("set", results[PLAIN]))]


def clients(lab: Lab) -> Section:
    """Measure several processes that read and write the same store."""
    tables, goals = list[Table](), list[Goal]()
    for durability in ("normal", "full"):
        table = Table(
            f"Processes that set and get in turns, durability `{durability}`",
            "library | processes | set a second | µs, p50 | p99 | max | get a second | µs, p50 | p99 | max | failed | "
            "lost",
            f"{CLIENTS} for 20 s, one for 5 s. All share one store; each sets its own 1,000 keys and gets those of "
            "all. A second is of all together. Failed calls are those that raised; lost is what was acknowledged and "
            "is not there afterwards.",
        )
        for n in (1, CLIENTS):
            duration_s = (5 if n == 1 else 20) / (40 if lab.quick else 1)
            base = {"clients": n, "duration_s": duration_s}
            contestants = _contestants(lab, "pairs_clients", durability, **base)
            contestants.pop(SQLITEDICT, None)  # not made for several processes
            for name, one in contestants.items():
                [found] = compete({name: one}, 1).values()  # one by one: side by side they would share the machine
                figures = [f"{verb}_{of}" for verb in ("set", "get") for of in ("rate", "p50", "p99", "max")]
                cells = [number(found[figure]) for figure in figures]
                failed, lost = found["failures"], found["lost"]
                table.rows.append([name, f"{n}", *cells, f"{failed:,.0f}", f"{lost:,.0f}"])
                if n == CLIENTS and name in (PLAIN, SEALED):
                    what = f"{n} processes for {duration_s:g} s, {name}, durability {durability}"
                    goals += [
                        Goal(f"{what}: p99 of set", 50, found["set_p99"] / 1000, "ms", at_most=True),
                        Goal(f"{what}: failed or lost", 0, failed + lost, "calls", at_most=True),
                    ]
        tables.append(table)
    return Section(tables, goals)


def millions(lab: Lab) -> Section:
    """Measure a store of ten million keys beside a small one."""
    small, large = lab.scaled(10_000), lab.scaled(10_000_000)
    goals = []
    table = Table(
        "As keys become many",
        "keys | values | get, µs p50 | has | set | scan, s | memory of the scan, MB",
        "Dicts of about 100 bytes, anywhere among them, durability `normal`. A process that does nothing else scans.",
    )
    for kind, key in KINDS.items():
        names = {n: f"{n:,}" for n in (small, large)}
        results = compete(
            {
                name: Contestant("pairs_huge", {"n": n, "calls": max(20, lab.scaled(2_000)), "key": key})
                for n, name in names.items()
            },
            lab.rounds(5),
        )
        for name, one in results.items():
            cells = (number(one[figure]) for figure in ("get", "has", "set", "scan", "memory"))
            table.rows.append([name, kind, *cells])
        before, after = results[names[small]], results[names[large]]
        for verb in ("get", "has", "set"):
            what = f"{verb} at {large:,} keys, {kind}, against {small:,}: time"
            goals.append(Goal(what, 2, after.ratio(verb, before), at_most=True))
        more = after["memory"] - before["memory"]
        what = f"scan of {large:,} keys, {kind}: memory beyond that of {small:,}"
        goals.append(Goal(what, 32, more, "MB", at_most=True))
    return Section([table], goals)
