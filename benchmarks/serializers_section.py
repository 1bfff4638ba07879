"""The serializers side by side, without a store around them."""

from __future__ import annotations

from typing import Final

from contest import Contestant, compete
from lab import Lab, Section
from table import Goal, Table

_SERIALIZERS: Final = ("pickle", "data", "msgpack", "json")
_VALUES: Final = {
    "dict, 2 fields": _SERIALIZERS,
    "dict, 10 fields": _SERIALIZERS,
    "list of 20 dicts": _SERIALIZERS,
    "100 floats": _SERIALIZERS,
    "dict with a datetime": _SERIALIZERS[:2],
    "a dataclass": _SERIALIZERS[:2],
    "an array of 100": _SERIALIZERS[:2],
}


def serializers(lab: Lab) -> Section:
    """Measure what a value takes on its way to bytes and back."""
    table = Table(
        "Serializers",
        "value | serializer | dump, µs | load, µs",
        "CPU time of the store's own codec. `data` is pickle with each opcode checked before it is loaded, and each "
        "object that is no builtin type as it is dumped.",
    )
    contestants = {
        (value, name): Contestant(
            "serializers", {"value": value, "serializer": name, "calls": max(50, lab.scaled(5_000))}
        )
        for value, names in _VALUES.items()
        for name in names
    }
    results = compete(contestants, lab.rounds(15))
    for row, one in results.items():
        table.rows.append([*row, f"{one['dump']:.2f}", f"{one['load']:.2f}"])
    goals = []
    for value in _VALUES:
        ours, theirs = results[value, "data"], results[value, "pickle"]
        for verb in ("dump", "load"):
            pairs = zip(ours.figures[verb], theirs.figures[verb], strict=True)
            more = sorted(one - other for one, other in pairs)[len(ours.figures[verb]) // 2]
            goals.append(Goal(f"{value}: `data` takes more than pickle to {verb}", 1, more, "µs", at_most=True))
    return Section([table], goals)
