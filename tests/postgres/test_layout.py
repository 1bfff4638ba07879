"""What lies on the server: its tables, how they move to a newer format, and that they can be spread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgresql import Server, check_schema
from statements import use

from rstore import Store
from rstore.backends.postgres.sql import schema as layout

DOCS = Path(__file__).parents[2] / "docs" / "postgresql.md"


def partitioned(schema: str) -> str:
    """Return SQL that lays out a schema with its large tables in partitions, as the documentation says."""
    (script,) = re.findall(r"```sql\n(-- Partitions.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return str(script).replace("'rstore'", f"'{schema}'")


@pytest.fixture
def roles(postgresql: Server) -> Iterator[None]:
    with postgresql.role('"the owner"'), postgresql.role("writer"), postgresql.role("reader"):
        yield


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("who", ["postgres", "the owner"])
def test_tables_that_are_spread_over_partitions(postgresql: Server, postgresql_schema: str, who: str) -> None:
    """Who does it need not be who owns them, and everybody may do what they could before."""
    s = f'"{postgresql_schema}"'
    postgresql.execute(f'CREATE SCHEMA {s} AUTHORIZATION "the owner"')
    dsn, write, read = (
        postgresql.dsn(user=user, schema=postgresql_schema) for user in ("the%20owner", "writer", "reader")
    )
    with Store(dsn, frozen=False):
        pass
    postgresql.execute(
        f"GRANT USAGE ON SCHEMA {s} TO writer, reader; GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO PUBLIC;"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO writer WITH GRANT OPTION"
    )
    before = _rights(postgresql, postgresql_schema)
    with psycopg.connect(
        host=str(postgresql.directory), port=postgresql.port, user=who, dbname="postgres"
    ) as connection:
        connection.execute(partitioned(postgresql_schema).encode())
    spread = postgresql.execute(
        f"SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = '{s}'::regnamespace"
    )
    assert {name for (name,) in spread} == {"records", "logs", "hot", "chunks", "checkpoints"}
    assert _rights(postgresql, postgresql_schema) == before
    assert postgresql.execute(
        f"SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = '{postgresql_schema}'"
    ) == [("the owner",)]
    for user in (dsn, write):
        use(user)
    with Store(write, frozen=False) as store, Store(dsn, frozen=False) as owner:
        store.update({f"{i}": i for i in range(1000)})
        store.extend_many("s", ((t, t) for t in range(20_000)))
        held = [postgresql.execute(f"SELECT count(*) FROM {s}.records_{i}")[0][0] for i in range(8)]
        assert sum(held) == 1000
        assert min(held) > 50
        with Store(read) as reader:
            assert (reader.keys(), len(reader.range("s"))) == (sorted(f"{i}" for i in range(1000)), 20_000)
        assert owner.check() == []
        assert owner.vacuum().bytes is not None
        with pytest.raises(psycopg.errors.RaiseException, match="is not empty: nothing was changed"):
            postgresql.execute(partitioned(postgresql_schema))
        store.discard()
    check_schema(postgresql, postgresql_schema)


def test_the_script_of_partitions_runs_nothing_that_was_planted(postgresql: Server, postgresql_schema: str) -> None:
    """Whoever runs it may be the administrator, and others may CREATE in `public`."""
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False):
        pass
    trap = "RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
    arguments = "text, text, text"
    postgresql.execute(
        f"CREATE FUNCTION public.format({arguments}) {trap}; CREATE FUNCTION public.trap(text, text) {trap};"
        "CREATE OPERATOR public.|| (FUNCTION = public.trap, LEFTARG = text, RIGHTARG = text)"
    )
    try:
        postgresql.execute("SET search_path = public, pg_catalog; " + partitioned(postgresql_schema))
    finally:
        postgresql.execute(f"DROP FUNCTION public.format({arguments}); DROP FUNCTION public.trap CASCADE")
    spread = (
        f"SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = '\"{postgresql_schema}\"'::regnamespace"
    )
    assert len(postgresql.execute(spread)) == 5


def _rights(postgresql: Server, schema: str) -> list[tuple[str, ...]]:
    return postgresql.execute(
        "SELECT relname, grantee, privilege_type, is_grantable FROM pg_class, aclexplode(relacl) "
        f"WHERE relnamespace = '\"{schema}\"'::regnamespace AND relname IN ('records', 'logs', 'hot', 'chunks', "
        "'checkpoints') ORDER BY 1, 2, 3"
    )


def test_what_is_compressed_already_the_server_does_not_compress(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False):
        pass
    stored = postgresql.execute(
        "SELECT relname, attstorage::text FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid "
        f"WHERE attname = 'body' AND relnamespace = '\"{postgresql_schema}\"'::regnamespace "
        "AND relname IN ('chunks', 'checkpoints')"
    )
    assert sorted(stored) == [("checkpoints", "e"), ("chunks", "e")]


def test_a_schema_moves_to_a_newer_format_whole_or_not_at_all(
    postgresql: Server, postgresql_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False) as store:
        store.set("k", 1)
    version = f'SELECT version FROM "{postgresql_schema}".format'
    broken = "ALTER TABLE {s}.records ADD note text; ALTER TABLE {s}.nothing ADD note text;"
    monkeypatch.setattr(layout, "MIGRATIONS", [*layout.MIGRATIONS, broken])
    with pytest.raises(Exception, match="nothing"), Store(dsn, frozen=False):
        pass
    assert postgresql.execute(version) == [(1,)]
    with pytest.raises(Exception, match="older format 1"), Store(dsn):
        pass
    monkeypatch.setattr(layout, "MIGRATIONS", [*layout.MIGRATIONS[:-1], "ALTER TABLE {s}.records ADD note text;"])
    with Store(dsn, frozen=False) as store:
        assert store["k"] == 1
    assert postgresql.execute(version) == [(2,)]


def test_statements_stay_prepared(postgresql: Server, postgresql_schema: str) -> None:
    """Nothing that is done in earnest makes the store believe that a pooler is in between."""
    dsn = postgresql.dsn(schema=postgresql_schema)
    use(dsn)
    with Store(dsn, frozen=False) as store:
        store.extend_many("s", ((t, t) for t in range(200_000)))  # one statement many times in one pipeline
        store.update({f"{i}": i for i in range(25_000)})
        session = store._writer.backend._session  # type: ignore[attr-defined]  # noqa: SLF001
        assert session.pool.prepare
        store.discard()


def test_a_table_that_is_altered_under_an_open_store(postgresql: Server, postgresql_schema: str) -> None:
    """A prepared statement whose result would change is refused by the server, and prepared anew."""
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store.set("k", 1)
        for _ in range(10):
            assert store["k"] == 1
        postgresql.execute(f'ALTER TABLE "{postgresql_schema}".records ADD note text')
        assert store["k"] == 1
        store.set("k", 2)


def test_nothing_stays_behind_in_a_session(postgresql: Server, postgresql_schema: str) -> None:
    """Behind a pooler the next client would have it."""
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False, durability="normal", timeout=7) as store:
        store.set("k", 1)
        store.discard()
        (ours,) = store._writer.backend._session.pool.connections  # type: ignore[attr-defined]  # noqa: SLF001
        connection = psycopg.Connection(ours._pgconn)  # noqa: SLF001
        connection.pgconn.exit_pipeline_mode()
        shown = connection.execute("SELECT name FROM pg_settings WHERE source = 'session'").fetchall()
        assert shown == []
        assert connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchall() == [(0,)]


@pytest.mark.parametrize("schema", ["public", 'with "quotes" {and} %s', "Grüße", "a.b", "a;b", "a--b", "a/*b", "a+b"])
def test_names_of_schemas(postgresql: Server, schema: str) -> None:
    postgresql.execute("CREATE DATABASE names")
    try:
        use(postgresql.dsn("names", schema=schema).replace("%2B", "+"))
        assert (schema,) in postgresql.execute("SELECT nspname FROM pg_namespace", "names")
    finally:
        postgresql.execute("DROP DATABASE names WITH (FORCE)")
