"""The verbs of all three models in one object."""

from __future__ import annotations

from rstore.events.checking import EventChecks
from rstore.events.verbs import Events
from rstore.keyvalue.verbs import Values
from rstore.series import Series


class Models(Values, Series, Events, EventChecks):
    """The common base of a store, a transaction and a snapshot."""

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)
