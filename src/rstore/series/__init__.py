"""The time-series verbs: measurements and their times."""

from __future__ import annotations

from rstore.series.grids import Grids
from rstore.series.lookups import Lookups
from rstore.series.points import Compaction as Compaction
from rstore.series.points import Span as Span
from rstore.series.resampling import Resampling
from rstore.series.tables import SeriesTables


class Series(SeriesTables, Grids, Lookups, Resampling):
    """Series of (timestamp, value) points; timestamps are int64 of any meaning, points come in time order."""
