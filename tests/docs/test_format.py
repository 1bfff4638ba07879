"""Holds the page on the format to a file that was just made."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from rstore import Store

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def test_tables_and_columns_are_told(tmp_path: Path) -> None:
    """A name that changes here makes every store unreadable that is there already."""
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store:
        store["key"] = "value"
    table = PAGE.read_text(encoding="utf-8").partition("| table | columns |")[2].partition("\n\n")[0]
    told = {
        line.split("|")[1].strip(" `"): re.findall(r"`(\w+)`", line.split("|")[2]) for line in table.splitlines()[2:]
    }
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        made = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names}
    assert told == {name: columns for name, columns in made.items() if not name.startswith("sqlite_")}
