"""What every section works with.

Nouns: a *lab* (how much to measure, and the peers there are) and a *section* (tables and goals).
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from plot import Bars
from table import Goal, Table

KEY: Final = urlsafe_b64encode(bytes(range(32))).decode()
KINDS: Final = {"plain": None, "encrypted": KEY}


@dataclass(frozen=True)
class Lab:
    """The peers by name; without them, only rstore is measured, and everything is a hundred times smaller."""

    peers: Mapping[str, Path] = field(default_factory=dict)
    quick: bool = False

    def scaled(self, n: int) -> int:
        """Return how many to measure instead of `n`."""
        return n // 100 if self.quick else n

    def rounds(self, n: int) -> int:
        """Return how often to repeat."""
        return 1 if self.quick else n


@dataclass(frozen=True)
class Section:
    """What came of one section."""

    tables: list[Table]
    goals: list[Goal] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[Section]) -> Section:
        """Return the tables and the goals of several as one."""
        return cls([table for part in parts for table in part.tables], [goal for part in parts for goal in part.goals])
