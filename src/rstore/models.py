"""The verbs of all three models in one object."""

from __future__ import annotations

from rstore.events.changing import Changing
from rstore.events.checking import EventChecks
from rstore.events.proofs import Proofs
from rstore.events.retention import Retention
from rstore.events.verbs import Events
from rstore.keyvalue.atomic import Atomic
from rstore.keyvalue.entries import Entries
from rstore.keyvalue.mapping import Mapped
from rstore.series.grids import Grids
from rstore.series.lookups import Lookups
from rstore.series.resampling import Resampling
from rstore.series.tables import SeriesTables


class Models(
    Mapped,
    Entries,
    Atomic,
    SeriesTables,
    Grids,
    Lookups,
    Resampling,
    Events,
    EventChecks,
    Changing,
    Retention,
    Proofs,
):
    """The common base of a store, a transaction and a snapshot."""

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)
