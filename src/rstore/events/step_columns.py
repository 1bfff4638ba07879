"""StepColumns as columns: those of a segment of changes, each with what its change says of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any, Final, Self

import numpy as np

from rstore.codec.changes import OPS, UNARY_CODES
from rstore.codec.columns import Packed
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec
from rstore.codec.upcasting import upcast_columns
from rstore.events.change import Event
from rstore.events.operators import OPERATORS

FUNCTIONS: Final = tuple(OPERATORS[name].function for name in OPS)
"""The function of each operator, in the order of their codes."""
_new: Final = tuple.__new__


@dataclass(slots=True)
class StepColumns:
    """The steps of some changes, in order of position; a column each."""

    t: Sequence[int]
    n: Sequence[int]
    recorded: Sequence[int]
    items: Sequence[str]
    codes: Sequence[int]
    """The codes of the operators."""
    values: Sequence[Any]
    """None of unary operators; of the others the operands, or, if these are not of one simple type, encoded."""
    encoded: bool
    ids: Sequence[str] | None
    """None where no change has any, "" for one that has none; the same for `notes`."""
    notes: Sequence[bytes] | None

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, segment: Segment, codec: Codec) -> Self:
        """Return the steps of a segment of changes."""
        columns = upcast_columns(segment.column.data, codec)
        t, n, recorded, ids, notes = segment.t, columns.n, segment.t + columns.lags, columns.ids, columns.notes
        if columns.starts is not None:
            change = np.repeat(np.arange(len(columns)), columns.counts())
            t, n, recorded = t[change], n[change], recorded[change]
            ids = None if ids is None else [ids[i] for i in change.tolist()]
            notes = None if notes is None else [notes[i] for i in change.tolist()]
        codes, column = columns.ops.tolist(), columns.values
        values: list[Any] = []
        encoded = column is not None and isinstance(column.data, Packed)
        if column is not None:
            values = column.encoded() if encoded else column.values(codec)
        if columns.value_starts is not None:
            operands = iter(values)
            values = [None if code in UNARY_CODES else next(operands) for code in codes]
        return cls(t.tolist(), n.tolist(), recorded.tolist(), columns.items, codes, values, encoded, ids, notes)

    def where(self, chosen: Iterable[bool]) -> StepColumns:
        """Return the chosen steps."""
        mask = [*chosen]

        def some(column: Sequence[Any]) -> list[Any]:
            return [*compress(column, mask)]

        t, n, recorded, items = some(self.t), some(self.n), some(self.recorded), some(self.items)
        ids, notes = (None if extra is None else some(extra) for extra in (self.ids, self.notes))
        return StepColumns(t, n, recorded, items, some(self.codes), some(self.values), self.encoded, ids, notes)

    def of_item(self, item: str) -> StepColumns:
        """Return the steps of one item."""
        return self.where([one == item for one in self.items])

    def events(self, codec: Codec) -> Iterator[Event]:
        """Yield the event of each step."""
        values: Iterable[Any] = self.values
        if self.encoded:
            decode = codec.decode
            values = (None if one is None else decode(one) for one in values)
        # Event._make is a function of Python's, and takes twice the time (benchmarks: `history`).
        functions = map(FUNCTIONS.__getitem__, self.codes)
        return map(_new, repeat(Event), zip(self.t, self.items, functions, values, strict=True))
