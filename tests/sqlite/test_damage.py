"""A SQLite file whose cells and pages are damaged, everywhere and in every way: typed errors, or right answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
from damaging import Battery, cell, fill, flipped, how_many, shaken
from small import shrink

from rstore import Store

pytestmark = pytest.mark.timeout(0 if "DAMAGES" in os.environ else 120, method="thread")

TABLES = {
    "namespaces": ("id", "name", "birth"),
    "facts": ("ns", "name", "fact"),
    "records": ("ns", "key", "record", "blob", "expires_ms"),
    "blobs": ("id", "record"),
    "logs": ("id", "ns", "model", "key", "epoch", "version", "sealed", "facts"),
    "hot": ("log", "t", "seq", "body"),
    "chunks": ("log", "first_t", "first_seq", "last_t", "last_seq", "n", "meta", "body"),
    "checkpoints": ("log", "t", "seq", "body"),
}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with something of every kind."""
    shrink(monkeypatch.setattr)
    path = tmp_path / "whole.db"
    with Store(path, frozen=False, serializer="json") as store:
        fill(store)
    with apsw.Connection(f"{path}") as connection:
        connection.execute("INSERT INTO facts SELECT id, 'passphrase', zeroblob(26) FROM namespaces")
    connection.close()
    return path


def opener(path: Path) -> Callable[[bool], Store]:
    return lambda frozen: Store(path, frozen=frozen, serializer="json", durability="normal", timeout=2)


def put_into(path: Path, table: str, column: str, row: int, value: Any, *, as_text: bool = False) -> bool:
    """Put anything into a cell, which the types of its table would not allow; return whether SQLite let it."""
    connection = apsw.Connection(f"{path}")
    try:
        connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
        connection.execute("PRAGMA journal_mode = delete; PRAGMA synchronous = OFF")
        [(schema,)] = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,))
        version = connection.pragma("schema_version")
        loose = schema.replace("STRICT, ", "").replace("STRICT", "").replace("NOT NULL", "")
        for kind in ("INTEGER", "BLOB", "TEXT"):  # no column changes what is put into it, but for the number of a row
            loose = loose.replace(f" {kind},", ",").replace(f" {kind} ,", ",").replace(f" {kind}\n", "\n")
        loose = (
            loose.partition("CHECK")[0].rstrip(" ,") + loose.partition("2147483647)")[2] if "CHECK" in loose else loose
        )
        set_schema(connection, table, loose, version + 1)
        place = "CAST(? AS TEXT)" if as_text else "?"
        key = "rowid" if table in ("namespaces", "blobs", "logs", "chunks") else ", ".join(TABLES[table][:3])
        where = f"({key}) = (SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET {row})"
        connection.execute(f"UPDATE {table} SET {column} = {place} WHERE {where}", (value,))
        set_schema(connection, table, schema, version + 2)
    except (apsw.MismatchError, apsw.ConstraintError):
        return False
    finally:
        connection.close()
    return True


def set_schema(connection: apsw.Connection, table: str, sql: str, version: int) -> None:
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, table))
    connection.execute(f"PRAGMA schema_version = {version}")


def count_rows(path: Path) -> dict[str, int]:
    connection = apsw.Connection(f"{path}")
    counts = {table: connection.execute(f"SELECT count(*) FROM {table}").get for table in TABLES}
    connection.close()
    return counts


@pytest.mark.parametrize("value", [5, 1.5, b"abc"])
def test_names_that_are_no_text(whole: Path, record_property: Callable[[str, object], None], value: object) -> None:
    battery, damaged = Battery(), whole.with_name("damaged.db")
    for table, column in (("namespaces", "name"), ("facts", "name"), ("records", "key"), ("logs", "key")):
        shutil.copy(whole, damaged)
        assert put_into(damaged, table, column, 0, value)
        battery.run(f"{table}.{column} is {value!r}", opener(damaged))
    battery.verdict(record_property)


@pytest.mark.slow
def test_cells_of_every_column(whole: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    random, battery, damaged = Random(7), Battery(), tmp_path / "damaged.db"
    places, rows = [(table, column) for table, columns in TABLES.items() for column in columns], count_rows(whole)
    while battery.damages < how_many(len(places)):
        table, column = places[battery.damages % len(places)]
        row, value, as_text = random.randrange(min(4, rows[table])), cell(random), random.random() < 0.3
        shutil.copy(whole, damaged)
        what = f"{table}.{column} of row {row} is {value!r:.40}{' as text' * as_text}"
        battery.damages += not put_into(damaged, table, column, row, value, as_text=as_text)
        battery.run(what, opener(damaged))
    battery.verdict(record_property)


@pytest.mark.slow
def test_names_and_bytes(whole: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    random, battery, damaged = Random(8), Battery(), tmp_path / "damaged.db"
    texts = [("namespaces", "name"), ("records", "key"), ("logs", "key"), ("facts", "name")]
    blobs = [
        (t, c) for t, cs in TABLES.items() for c in cs if c in ("record", "epoch", "facts", "body", "meta", "birth")
    ]
    connection = apsw.Connection(f"{whole}")
    rows: dict[tuple[str, str], list[Any]] = {
        (table, column): [raw for (raw,) in connection.execute(f"SELECT CAST({column} AS BLOB) FROM {table}")]
        for table, column in texts + blobs
    }
    connection.close()
    while battery.damages < how_many(25):
        table, column = (texts + blobs)[battery.damages % len(texts + blobs)]
        row = random.randrange(len(rows[table, column]))
        raw = shaken(random, rows[table, column][row] or b"")
        shutil.copy(whole, damaged)
        put_into(damaged, table, column, row, raw, as_text=(table, column) in texts)
        battery.run(f"{table}.{column} of row {row} is {raw!r:.40}", opener(damaged))
    battery.verdict(record_property)


@pytest.mark.slow
def test_bits_of_the_file(whole: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    random, battery, damaged = Random(9), Battery(), tmp_path / "damaged.db"
    content = whole.read_bytes()
    while battery.damages < how_many(25):
        page = random.randrange(len(content) // 4096) * 4096
        # Where the cells are rather than in what is empty.
        used = [i for i in range(page, page + 4096) if content[i]]
        at = random.choice(used)
        damaged.write_bytes(content[:at] + flipped(random, content[at : at + 1]) + content[at + 1 :])
        battery.run(f"byte {at}", opener(damaged))
        for name in ("damaged.db-wal", "damaged.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
    battery.verdict(record_property)
