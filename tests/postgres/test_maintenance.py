"""A PostgreSQL schema as a whole: what a real server promises, each kind of damage, copies and space."""

from __future__ import annotations

import operator
import sqlite3
import threading
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Literal

import pytest
from postgresql import PASSWORD, Server

from rstore import NotSupportedError, Store, StoreError, generate_key


@pytest.mark.usefixtures("_synced")
@pytest.mark.parametrize(("durability", "survives"), [("full", True), ("normal", False)])
def test_durability_is_that_of_the_session_that_writes(
    postgresql_dsn: str, durability: Literal["full", "normal"], survives: bool
) -> None:
    with Store(postgresql_dsn, frozen=False, durability=durability) as store:
        told = store.durability()
        assert told[:4] == (survives, survives, True, False)
        assert told.settings["synchronous_commit"] == ("on" if survives else "off")
        with Store(postgresql_dsn) as frozen:
            assert frozen.durability()[:4] == (None, None, True, None)


@pytest.mark.usefixtures("_synced")
def test_durability_is_what_the_server_is_set_to(postgresql: Server, postgresql_dsn: str) -> None:
    with Store(postgresql_dsn, frozen=False) as store:
        with postgresql.setting("full_page_writes", "off"):
            while store.durability().settings["full_page_writes"] == "on":
                pass  # its sessions are told in a moment
            assert store.durability()[:3] == (True, False, False)
        with postgresql.setting("fsync", "off"):
            while store.durability().settings["fsync"] == "on":
                pass
            assert store.durability()[:3] == (True, False, False)
    committed = f"{postgresql_dsn}&options=-csynchronous_commit%3Dlocal"
    with Store(committed, frozen=False) as store:
        told = store.durability()
        assert told.settings["synchronous_commit"] == "local"
        assert told[:4] == (True, True, True, False)


DAMAGE: dict[str, tuple[str, tuple[str, str | None]]] = {
    "records of nobody": ("UPDATE {s}.records SET ns = 5", ("store", None)),
    "log of nobody": ("UPDATE {s}.logs SET ns = 5 WHERE key = 'hot'", ("series", "hot")),
    "log gone": ("DELETE FROM {s}.logs WHERE key = 'log'", ("events", "log")),
    "record flipped": ("UPDATE {s}.records SET record = '\\x7f00000000000000'::bytea || record", ("values", "k")),
    "row flipped": ("UPDATE {s}.hot SET body = '\\x7f' WHERE key = 'hot'", ("series", "hot")),
    "rows gone": ("DELETE FROM {s}.hot WHERE key = 'hot'", ("series", "hot")),
    "chunk flipped": ("UPDATE {s}.chunks SET body = set_byte(body, 40, 255 - get_byte(body, 40))", ("series", "many")),
    "chunks overlap": ("UPDATE {s}.chunks SET last_t = 19999 WHERE first_t = 0", ("series", "many")),
    "change gone": ("DELETE FROM {s}.hot WHERE key = 'log' AND t = 0", ("events", "log")),
}


def test_each_kind_of_damage_is_found(postgresql: Server, postgresql_schema: str) -> None:
    dsn, s = postgresql.dsn(schema=postgresql_schema), f'"{postgresql_schema}"'
    for name, (sql, expected) in DAMAGE.items():
        with Store(dsn, frozen=False, durability="normal") as store:
            store["k"] = 1
            store.extend("hot", (1, 1))
            store.extend_many("many", ((t, t) for t in range(20_000)))
            for t in range(3):
                store.apply("log", {"a": 0} if t == 0 else {"a": (operator.add, 1)}, t)
            assert store.check() == []
            postgresql.execute(sql.format(s=s))
            with Store(dsn) as frozen:
                found = {(finding.model, finding.key) for finding in frozen.check()}
            assert expected in found, name
            assert found <= {expected, ("store", None)}, name
        postgresql.empty(postgresql_schema)


def test_no_series_is_named_that_holds_nothing(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store.extend("there", (1, 1))
        # Stands for whatever comes between: two steps would show others, and a check, the first without the second.
        postgresql.execute(f'ALTER TABLE "{postgresql_schema}".hot ADD CONSTRAINT never CHECK (t <> 13)')
        for points in ([(13, 1)], [(12, 1), (13, 1)]):
            with pytest.raises(StoreError):
                store.extend("new", *points)
            assert store.timeseries() == ["there"]
            assert store.check() == []


def test_a_copy_is_of_one_moment_while_others_write(postgresql_dsn: str, tmp_path: Path) -> None:
    def write(who: int) -> None:
        for n in count(1):
            store[f"n{who}"] = n
            store.extend(f"s{who}", (n, n))
            done[who] = n
            if stop.is_set():
                return

    with Store(postgresql_dsn, frozen=False, durability="normal") as store:
        store.update({f"k{i}": b"x" * 200 for i in range(10_000)})
        for t in range(130):
            store.apply("log", {"a": t}, t)
        stop, done = threading.Event(), [0, 0]
        threads = [threading.Thread(target=write, args=(who,)) for who in range(2)]
        for thread in threads:
            thread.start()
        while not all(done):
            pass
        before = done.copy()
        store.backup(tmp_path / "copy.db")
        after = done.copy()
        stop.set()
        for thread in threads:
            thread.join()
        assert sum(after) > sum(before), "the writers stood still"
    with Store(tmp_path / "copy.db") as copy:
        assert copy.check() == []
        assert copy.count("k") == 10_000
        assert copy.current("log") == {"a": 129}
        for who in range(2):
            n, points = copy[f"n{who}"], copy.range(f"s{who}")
            assert points == [(t, t) for t in range(1, len(points) + 1)]
            assert before[who] <= len(points) <= n <= len(points) + 1 <= after[who] + 2
    with closing(sqlite3.connect(tmp_path / "copy.db")) as raw:  # so that reading it is as fast
        assert raw.execute("SELECT count(*) FROM checkpoints").fetchall() == [(1,)]


def test_vacuum_makes_tables_smaller(postgresql: Server, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    with Store(dsn, frozen=False, durability="normal") as store:
        store["stays"] = 1
        store.update({f"k{i}": b"x" * 1000 for i in range(3000)})
        store.delete_prefix("k")
        freed = store.vacuum().bytes
        assert freed is not None
        assert freed > 1_000_000
        assert store.find() == [("stays", 1)]
        with store.transaction(), pytest.raises(NotSupportedError):
            store.vacuum()


@pytest.mark.usefixtures("_synced")
def test_vacuum_leaves_the_tables_of_others_alone(postgresql: Server, postgresql_schema: str) -> None:
    with Store(postgresql.dsn(schema=postgresql_schema), frozen=False) as store:
        store["k"] = 1
    with postgresql.role("somebody"):
        postgresql.execute(f'GRANT USAGE ON SCHEMA "{postgresql_schema}" TO somebody')
        postgresql.execute(
            f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{postgresql_schema}" TO somebody'
        )
        with Store(postgresql.tcp_dsn("somebody", PASSWORD, schema=postgresql_schema), frozen=False) as store:
            assert store.vacuum() == (0, 0)
            assert store.check() == []
            assert store.namespaces() == ["default"]
            assert store.durability().survives_power_cut


def test_a_dump_as_it_is_documented(postgresql: Server) -> None:
    """By the programs that come with the server."""
    if not postgresql.has("pg_dump", "psql"):
        pytest.skip("pg_dump and psql are not among the binaries of this server")
    key = generate_key()
    try:
        for name in ("source", "restored"):
            postgresql.execute(f"CREATE DATABASE {name}")
        with Store(postgresql.dsn("source"), frozen=False) as store, store_with(key, "source", postgresql) as sealed:
            for one in (store, sealed):
                one.update({f"{i}": i for i in range(100)})
                one.extend_many("s", ((t, t) for t in range(20_000)))
                one.apply("e", {"a": 1}, 1)
                one.apply("e", {"a": (operator.add, 1)}, 2)
            before = [(one.find(), one.range("s"), one.events("e")) for one in (store, sealed)]
            at = "-h", str(postgresql.directory), "-p", str(postgresql.port), "-U", "postgres"
            dump = str(postgresql.directory / "dump.sql")
            postgresql.run("pg_dump", "--schema=rstore", *at, "-f", dump, "source")
            postgresql.run("psql", "-q", "-v", "ON_ERROR_STOP=1", *at, "-f", dump, "restored")
        with (
            Store(postgresql.dsn("restored"), frozen=False) as store,
            store_with(key, "restored", postgresql) as sealed,
        ):
            assert [(one.find(), one.range("s"), one.events("e")) for one in (store, sealed)] == before
            assert store.check() == sealed.check() == []
            store.update(a=1)
            store.extend("s", (20_000, 1))
            store.apply("e", {"a": 5})
            assert (store["a"], store.last("s"), store.current("e")) == (1, (20_000, 1), {"a": 5})
    finally:
        for name in ("source", "restored"):
            postgresql.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def store_with(key: str, database: str, postgresql: Server) -> Store:
    return Store(postgresql.dsn(database), "sealed", key, frozen=False)
