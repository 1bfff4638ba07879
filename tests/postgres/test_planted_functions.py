"""Functions, operators, types and tables that somebody has planted in `public`, for others to use unawares.

What is planted is derived from the SQL that is sent, so that a name that is new is planted, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from postgresql import Server

from rstore import InvalidArgumentError, Store, StoreIntegrityError
from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.transport.protocol import PostgresConnection
from rstore.backends.postgres.transport.statements import Call
from rstore.testing.opening import READS, WRITES

DATABASE = "planted"
# Whatever a call may resolve to: all that is compared, sent or returned, and what literals without a type become.
TYPES = [
    "text", "int4", "int8", "numeric", "float8", "bool", "bytea", "timestamptz", "interval", "oid", "name", "xid8",
    "tid", "_text", "_int4", "_int8", "_bytea",
]  # fmt: skip
REFUSED = KeyError, InvalidArgumentError, StoreIntegrityError
"""By the verbs themselves, where there is no such key or series."""
NOT_FUNCTIONS = {"coalesce", "extract", "any", "exists", "values", "array", "operator"}


def exercise(dsn: str) -> None:
    """Use every verb, and what only happens now and then."""
    with Store(dsn, frozen=False, durability="normal") as store:
        store.set("k", 1, ttl=1000)
        store.update({f"k{i}": i for i in range(2500)})
        store.extend_many("k", ((i, i) for i in range(3000)))
        store.extend_many("long", ((i, float(i % 7)) for i in range(80_000)))
        store.extend("k", (3001, 1), (3002, 2))
        for i in range(3):
            store.apply("k", {"a": i})
        for verb in [*READS.values(), *WRITES.values()]:
            if verb is WRITES["discard"]:
                continue
            with suppress(*REFUSED):
                verb(store)
        for batch in store.batches("long", size=1000):
            assert len(batch[0])
        store.extend_many("s", ((i, i) for i in range(100)))
        store.extend("t", (1, 1))
        store.remove("s", "t", start=0, end=1)
        store.remove("s", start=5, end=5)
        with store.transaction() as tx:
            tx["a"] = 1
            tx.apply("k", {"a": 9})
            tx.remove("s")
        store.extend("s", (1, 1))
        list(store.scan("k", reverse=True, limit=5))
        store.apply("early", {"x": 1}, 5)
        store.apply("early", {"x": 1}, 3)
        store.compact("long")
        store._writer.backend.sweep(10)  # noqa: SLF001
        with store.snapshot() as view:
            assert view["a"] == 1
            view.range("long", n=3)
        with store.watch("a", timeout=5) as changes:
            store["a"] = 2
            next(changes)
        session: Any = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001
        session.run_behind([session.receipts.remove_stale], Deadline(5))
        session.receipts.make(session.pool.connections[0]).was_committed(b"3", session)
        session._confirm(Deadline(5))  # noqa: SLF001
    with Store(dsn) as frozen:
        for verb in READS.values():
            with suppress(*REFUSED):
                verb(frozen)
    with Store(dsn, frozen=False) as store:
        store.discard()


@pytest.fixture
def database(postgresql: Server) -> Iterator[str]:
    postgresql.execute(f"CREATE DATABASE {DATABASE}")
    yield DATABASE
    postgresql.terminate()
    postgresql.execute(f"DROP DATABASE {DATABASE}")


def sent(dsn: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return all SQL that is sent where nothing is planted."""
    seen: set[str] = set()
    real = PostgresConnection._send  # noqa: SLF001

    def spy(self: PostgresConnection, calls: Any) -> Any:
        noted: list[Call] = [*calls]
        seen.update(statement.sql.decode() for statement, _ in noted)
        return real(self, noted)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresConnection, "_send", spy)
        exercise(dsn)
    return seen


def plant(server: Server, sql: set[str]) -> None:
    """Plant whatever could be meant, each to fail when it is used."""
    text = "\n".join(re.sub(r"'[^']*'|\"[^\"]*\"", "", one) for one in sql)
    functions = set(re.findall(r"([a-z_][a-z0-9_]*)\s*\(", text)) - NOT_FUNCTIONS
    operators = set(re.findall(r"[-+*/<>=|]+", text.replace("--", ""))) - {"*/"}
    relations = set(re.findall(r"\bpg_[a-z_]+", text))
    types = {"text", "bytea", "int8", "int4", "bool", "timestamptz", "xid8", "numeric"}
    assert len(functions) > 20
    assert operators >= {"=", "<", ">", "<=", ">=", "+", "||", "*"}
    quoted_types = ", ".join(f"'{name}'" for name in TYPES)
    names = ", ".join(f"'{name}'" for name in sorted(functions))
    symbols = ", ".join(f"'{name}'" for name in sorted(operators))
    server.execute(
        f"""
DO $do$
DECLARE f record; a text; b text; op text; body text :=
  'LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION ''planted''; END $$';
BEGIN
  FOREACH a IN ARRAY ARRAY[{quoted_types}] LOOP
    FOREACH b IN ARRAY ARRAY[{quoted_types}] LOOP
      EXECUTE format(
        'CREATE FUNCTION public.trap(pg_catalog.%I, pg_catalog.%I) RETURNS pg_catalog.bool %s', a, b, body);
      FOREACH op IN ARRAY ARRAY[{symbols}] LOOP
        EXECUTE format(
          'CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I)',
          op, a, b);
      END LOOP;
    END LOOP;
  END LOOP;
  -- The very same arguments, for a path on which `public` comes first ...
  FOR f IN SELECT DISTINCT proname, pg_get_function_identity_arguments(oid) AS arguments FROM pg_catalog.pg_proc
      WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ({names}) AND prokind IN ('f', 'a') LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS pg_catalog.int8 %s', f.proname, f.arguments, body);
    EXCEPTION WHEN duplicate_function OR feature_not_supported OR invalid_function_definition OR undefined_object
        OR syntax_error OR datatype_mismatch THEN NULL;
    END;
  END LOOP;
  -- ... and others, of which one may fit better.
  FOR f IN SELECT DISTINCT proname, pronargs FROM pg_catalog.pg_proc
      WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ({names}) AND pronargs BETWEEN 1 AND 2 LOOP
    FOREACH a IN ARRAY ARRAY[{quoted_types}] LOOP
      FOREACH b IN ARRAY ARRAY[{quoted_types}] LOOP
        BEGIN
          EXECUTE format('CREATE FUNCTION public.%I(pg_catalog.%I%s) RETURNS pg_catalog.int8 %s', f.proname, a,
            CASE f.pronargs WHEN 2 THEN format(', pg_catalog.%I', b) ELSE '' END, body);
        EXCEPTION WHEN duplicate_function THEN NULL;
        END;
        EXIT WHEN f.pronargs = 1;
      END LOOP;
    END LOOP;
  END LOOP;
END $do$""",
        DATABASE,
    )
    for name in sorted(relations):
        if server.execute(f"SELECT 1 FROM pg_class WHERE relname = '{name}' AND relkind IN ('r', 'v')", DATABASE):
            server.execute(f"CREATE TABLE public.{name} (planted int)", DATABASE)
    for name in sorted(types):
        server.execute(
            f"CREATE DOMAIN public.{name} AS pg_catalog.{name} CHECK (VALUE IS NULL OR public.trap(1, 1))", DATABASE
        )
    planted = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert server.execute(planted, DATABASE)[0][0] > 1000


@pytest.mark.parametrize("path", ["public, pg_catalog", '"$user", public'])
def test_what_is_planted_in_public_is_not_used(
    postgresql: Server, database: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(postgresql, sent(postgresql.dsn(database, schema="before"), monkeypatch))
    postgresql.execute(f"ALTER DATABASE {database} SET search_path = {path}")
    exercise(postgresql.dsn(database, schema="after"))
    exercise(postgresql.dsn(database, schema="without", prepare="no"))
