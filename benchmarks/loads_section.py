"""What is measured of loading event sequences in bulk, beside eventsourcing and bare INSERTs."""

from __future__ import annotations

from typing import Any, Final

from contest import Contestant, compete
from lab import KEY, Lab, Section
from peers import EVENTSOURCING
from table import Goal, Table, number, times

BARE: Final = "bare apsw: INSERTs"


def loads(lab: Lab) -> Section:
    """Measure `apply_many` into new sequences, one long one and many short ones."""
    n = lab.scaled(100_000)
    table = Table(
        f"{n:,} changes loaded into new sequences, on SQLite",
        "sequences | library | changes a second | by the CPU's clock | against the INSERTs | against eventsourcing | "
        "bytes a change",
        "The state has 20 items; every second change of one item sets a number, the others add to it. Durability "
        "`normal`. bare apsw stores a pickle of each change in one transaction, and checks nothing. eventsourcing "
        "makes an aggregate of each sequence and saves it once; its events have JSON. The ratios are of the CPU's "
        "clock.",
    )
    goals = []
    for sequences in (1, max(2, n // 100)):
        base: dict[str, Any] = {"n": n, "sequences": sequences, "durability": "normal"}
        contestants = {
            "rstore, plain": Contestant("event_loads", {**base, "library": "rstore"}),
            "rstore, encrypted": Contestant("event_loads", {**base, "library": "rstore", "key": KEY}),
            BARE: Contestant("event_loads", {**base, "library": "bare"}),
        }
        if peer := lab.peers.get(EVENTSOURCING):
            contestants[EVENTSOURCING] = Contestant("event_loads", {**base, "library": "eventsourcing"}, peer, rounds=3)
        results = compete(contestants, lab.rounds(10))
        bare, theirs = results[BARE], results.get(EVENTSOURCING)
        for library, result in results.items():
            rates = [number(result[figure]) for figure in ("wall", "cpu")]
            against = [times(result.ratio("cpu", bare)), times(result.ratio("cpu", theirs)) if theirs else "-"]
            table.rows.append([number(sequences), library, *rates, *against, number(result["bytes"])])
        if sequences == 1:
            goals.append(Goal("apply_many, changes a second", 300_000, results["rstore, plain"]["cpu"], ""))
    return Section([table], goals)
