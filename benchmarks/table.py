"""Tables in Markdown, and numbers as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_NUMBER: Final = re.compile(r"[\d,.]+( x)?|-")


@dataclass
class Table:
    """Rows of cells below a title and a note; columns of numbers are flush right."""

    title: str
    head: str
    """The names of the columns, as they stand in the table: `first | second`."""
    note: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)

    def __str__(self) -> str:
        columns = self.head.split(" | ")
        widths = [max(map(len, cells)) for cells in zip(columns, *self.rows, strict=True)]
        numeric = [all(map(_NUMBER.fullmatch, cells)) for cells in zip(*self.rows, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(cells, widths, numeric, strict=True)
            ]
            return f"| {' | '.join(padded)} |"

        rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
        table = "\n".join(map(line, [columns, rule, *self.rows]))
        return f"### {self.title}\n\n{self.note + chr(10) * 2 if self.note else ''}{table}\n"


@dataclass(frozen=True)
class Goal:
    """A figure that was aimed at: at least or, with `at_most`, at most `limit`."""

    what: str
    limit: float
    measured: float
    unit: str = "x"
    at_most: bool = False

    def cells(self) -> Sequence[str]:
        """Return its row in a table."""
        reached = self.measured <= self.limit if self.at_most else self.measured >= self.limit
        bound = f"at {'most' if self.at_most else 'least'} {self.limit:g} {self.unit}"
        return self.what, bound, f"{number(self.measured)} {self.unit}", "yes" if reached else "**no**"


def number(value: float) -> str:
    """Return a number with about three digits that mean something."""
    size = abs(value)
    if size >= 1000:
        return f"{round(value, 2 - len(str(int(size))) + 1):,.0f}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{number(value)} x"
