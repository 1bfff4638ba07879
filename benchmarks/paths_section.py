"""Paths that are written out for speed, beside the general code that they stand for."""

from __future__ import annotations

from typing import Final

from contest import Contestant, compete
from lab import Lab, Section
from redis_section import redis_server
from table import Goal, Table

_PATHS: Final = (
    "SqliteBackend.peek",
    "SqliteBackend.put",
    "SqliteBackend.commit",
    "RecordReader.open_pairs, encrypted",
    "RecordStore.encode_alike",
    "Envelope.seal_all",
    "StateCache.get",
    "Client.call",
)
_WORTH: Final = 1.15
"""A path that gains less is taken out again."""


def paths(lab: Lab) -> Section:
    """Measure what each written-out path gains."""
    table = Table(
        "Code that is written out for speed",
        "path | with it, ms | without it, ms | without / with",
        "CPU time of `get`, `set` or `find` of a thousand pairs, of `update` with a thousand dicts, or of a hundred "
        "`apply`; `without` runs the general code instead. What gains less than 1.15 is not written out.",
    )
    goals = []
    contestants = {path: Contestant("paths", {"path": path, "executable": redis_server()}) for path in _PATHS}
    for path, result in compete(contestants, lab.rounds(15)).items():
        pairs = zip(result.figures["without"], result.figures["with"], strict=True)
        gain = sorted(without / with_ for without, with_ in pairs)[len(result.figures["with"]) // 2]
        table.rows.append([path, f"{result['with']:.2f}", f"{result['without']:.2f}", f"{gain:.2f}"])
        goals.append(Goal(f"{path}: gain", _WORTH, gain))
    return Section([table], goals)
