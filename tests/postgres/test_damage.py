"""A PostgreSQL schema whose cells and columns somebody changed: typed errors, or right answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import psycopg
import pytest
from damaging import Battery, fill, how_many, shaken
from postgresql import TABLES, Server
from psycopg import sql
from small import shrink

from rstore import Store
from rstore.backends.postgres.sql.schema import script

pytestmark = pytest.mark.timeout(0 if "DAMAGES" in os.environ else 120, method="thread")

NUMBERS = (None, -1, 0, 1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63))
TEXTS = (None, "", "a", "\x01", "abc", "é" * 1500, "passphrase")
OTHER_TYPES = {
    "text": ("bytea USING convert_to({c}, 'UTF8')", "varchar(3) USING left({c}, 3)", "int USING length({c})"),
    "bytea": ("text USING encode({c}, 'hex')", "int USING length({c})", "timestamptz USING now()"),
    "bigint": ("text USING {c}::text", "numeric USING {c} + 0.5", "float8", "smallint USING 1"),
    "integer": ("text USING {c}::text", "bigint", "boolean USING true"),
    "boolean": ("text USING {c}::text", "int USING {c}::int"),
}


class Schema:
    """A schema that is made anew after each damage."""

    def __init__(self, connection: psycopg.Connection[Any], name: str) -> None:
        self._connection: Any = connection
        self._name = name
        self.columns = [
            (table, column, kind)
            for table, column, kind in self._do(
                "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = %s "
                "ORDER BY table_name, ordinal_position",
                [name],
            )
            if table in TABLES and column != "watched_until"
        ]
        for table in TABLES:
            self._do(self._sql("CREATE TABLE {saved} AS TABLE {t}", table))

    def _do(self, statement: sql.Composed | str, parameters: Any = ()) -> list[Any]:
        cursor = self._connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def _sql(self, text: str, table: str, column: str = "") -> sql.Composed:
        names = {"t": (self._name, table), "saved": (f"{self._name}_saved", table), "c": (column,)}
        plain: Any = text
        return sql.SQL(plain).format(**{key: sql.Identifier(*parts) for key, parts in names.items() if parts != ("",)})

    def restore(self) -> None:
        self._do(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(self._name)))
        self._do(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._name)))
        for statement in script(self._name):
            self._connection.execute(statement)
        for table in TABLES:
            self._do(self._sql("INSERT INTO {t} SELECT * FROM {saved}", table))

    def put(self, random: Random, table: str, column: str, kind: str) -> str:
        """Put something else into a cell, which what the table asks for may not allow."""
        row = "(SELECT ctid FROM {t} ORDER BY ctid LIMIT 1 OFFSET %s)"
        [(n,)] = self._do(self._sql("SELECT count(*) FROM {t}", table))
        if not n:
            return "no row"
        at = random.randrange(min(n, 6))
        [(old,)] = self._do(self._sql(f"SELECT {{c}} FROM {{t}} WHERE ctid = {row}", table, column), [at])
        new: Any
        if kind == "bytea":
            new = random.choice((None, shaken(random, old), shaken(random, old), b"\xc1" + old))
        elif kind == "boolean":
            new = random.choice((None, not old))
        else:
            new = random.choice({"text": TEXTS, "bigint": NUMBERS}.get(kind, NUMBERS[:5]))
        if new is None:
            for (key,) in self._do(
                "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('p', 'u')",
                [f'"{self._name}".{table}'],
            ):
                self._do(self._sql(f"ALTER TABLE {{t}} DROP CONSTRAINT {key}", table))
            self._do(self._sql("ALTER TABLE {t} ALTER {c} DROP NOT NULL", table, column))
        for (key,) in self._do(
            "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'",
            [f'"{self._name}".{table}'],
        ):
            self._do(self._sql(f"ALTER TABLE {{t}} DROP CONSTRAINT {key}", table))
        others = self._sql("SELECT 1 FROM {t} WHERE {c} = %s", table, column)
        if kind == "text" and new is not None and self._do(others, [new]):
            return "taken"
        self._do(self._sql(f"UPDATE {{t}} SET {{c}} = %s WHERE ctid = {row}", table, column), [new, at])
        return f"is {new!r:.40}"

    def retype(self, random: Random, table: str, column: str, kind: str) -> str:
        """Make another column of one."""
        other = random.choice(OTHER_TYPES[kind])
        self._do(self._sql(f"ALTER TABLE {{t}} ALTER {{c}} TYPE {other}", table, column))
        return f"is a column of {other}"


def test_cells_and_columns(
    postgresql: Server,
    postgresql_schema: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    shrink(monkeypatch.setattr)
    dsn = postgresql.dsn(schema=postgresql_schema)
    random, battery = Random(7), Battery()
    saved = sql.Identifier(f"{postgresql_schema}_saved")
    with psycopg.connect(postgresql.conninfo(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(saved))
        with Store(dsn, frozen=False, serializer="json") as store:
            fill(store)
            backend = store._writer.backend  # noqa: SLF001
            backend.add_fact("passphrase", bytes(26), backend.create())
        schema = Schema(connection, postgresql_schema)
        random.shuffle(schema.columns)
        try:
            while battery.damages < how_many(20):
                table, column, kind = schema.columns[battery.damages % len(schema.columns)]
                schema.restore()
                damage = schema.retype if random.random() < 0.3 else schema.put
                try:
                    what = f"{table}.{column} {damage(random, table, column, kind)}"
                except psycopg.Error:  # a key would be there twice
                    battery.damages += 1
                    continue
                battery.run(what, lambda frozen: Store(dsn, frozen=frozen, serializer="json", timeout=3))
        finally:
            schema.restore()
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(saved))
    battery.verdict(record_property)
