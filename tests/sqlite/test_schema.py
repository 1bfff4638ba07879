"""A file whose schema somebody changed: refused, or of no effect and told by `check`, and never obeyed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from rstore import CorruptionError, Store, StoreError, StoreNotAvailableError
from rstore.backends.sqlite.transport import file as sqlite_file

OLD_RECORDS = """CREATE TABLE records (
  ns INTEGER NOT NULL, key TEXT NOT NULL,
  record BLOB, blob INTEGER,             -- one of them: a large record lies in blobs, so that lookups stay shallow
  expires_ms INTEGER,
  PRIMARY KEY (ns, key),
  CHECK ((record IS NULL) <> (blob IS NULL))
) STRICT, WITHOUT ROWID"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    with Store(path, frozen=False) as store:
        store.update(a=1, large="x" * 5000)
        store.extend("series", (1, 1.5))
        store.apply("log", {"n": 1}, 1)
    return path


def execute(path: Path, *statements: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(f"{path}")
    connection.config(apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1)
    try:
        return [row for statement in statements for row in connection.execute(statement)]
    finally:
        connection.close()


COLUMNS = {
    "namespaces": "id name birth",
    "facts": "ns name fact",
    "records": "ns key record blob expires_ms",
    "blobs": "id record",
    "logs": "id ns model key epoch version sealed facts",
    "hot": "log t seq body",
    "chunks": "id log first_t first_seq last_t last_seq n meta body",
    "checkpoints": "log t seq body",
}


def test_columns_keep_their_names(path: Path) -> None:
    """They are a part of the format: earlier versions of the library open the same files."""
    for table, columns in COLUMNS.items():
        assert " ".join(str(row[1]) for row in execute(path, f"PRAGMA table_info({table})")) == columns


def rename(old: str, new: str) -> str:
    return f"UPDATE sqlite_schema SET sql = replace(sql, '{old}', '{new}')"


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
CHANGED = {
    "view for namespaces": (
        "ALTER TABLE namespaces RENAME TO n",
        f"CREATE VIEW namespaces AS SELECT id, name, birth FROM n WHERE ({ENDLESS} SELECT count(*) FROM c)",
    ),
    "view for records": (
        "ALTER TABLE records RENAME TO r",
        "CREATE VIEW records AS SELECT ns, key, zeroblob(900000000) AS record, blob, expires_ms FROM r",
    ),
    "table without types": ("ALTER TABLE hot RENAME TO h", "CREATE TABLE hot (log, t, seq, body)"),
    "computed column": ("ALTER TABLE blobs ADD COLUMN more BLOB AS (zeroblob(900000000))",),
    "column more": ("ALTER TABLE logs ADD COLUMN more INTEGER",),
    "table missing": ("DROP TABLE blobs",),
    "keys that differ by case alone are one": (rename("key TEXT NOT NULL,", "key TEXT COLLATE NOCASE NOT NULL,"),),
    "what is there stays": (rename("PRIMARY KEY (ns, key)", "PRIMARY KEY (ns, key) ON CONFLICT IGNORE"),),
    "unique index": ("CREATE UNIQUE INDEX one ON records (ns, record)",),
    "unique index under another name": (
        "CREATE UNIQUE INDEX one ON blobs (record)",
        "UPDATE sqlite_schema SET tbl_name = 'other' WHERE name = 'one'",
    ),
    "unique index missing": ("DROP INDEX chunks_first",),
    "trigger instead of a table": (
        "ALTER TABLE facts RENAME TO f",
        "CREATE TRIGGER facts AFTER INSERT ON records BEGIN DELETE FROM hot; END",
    ),
}


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "writable"])
@pytest.mark.parametrize("statements", CHANGED.values(), ids=CHANGED)
def test_changed_tables_are_refused_at_opening(path: Path, statements: tuple[str, ...], frozen: bool) -> None:
    execute(path, *statements)
    with pytest.raises(CorruptionError, match=r"missing|changed|unique index"):
        Store(path, frozen=frozen).open()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pragma_user_version", "PRAGMA_application_id", "pragma_encoding"])
def test_a_table_in_the_place_of_a_mark_is_refused(path: Path, name: str) -> None:
    execute(path, f"CREATE TABLE {name} (x)", f"INSERT INTO {name} VALUES (1)")
    with pytest.raises(StoreError):
        Store(path).open()


def test_a_database_in_utf_16_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    schema = [f"{sql}" for (sql,) in execute(path, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL") if sql]
    other = tmp_path / "other.db"
    marks = "PRAGMA application_id = 0x72737472", "PRAGMA user_version = 1"
    execute(other, "PRAGMA encoding = 'UTF-16'", *(one for one in schema if "sqlite_sequence" not in one), *marks)
    for frozen in (True, False):
        with pytest.raises(StoreNotAvailableError, match="UTF-16le"):
            Store(other, frozen=frozen).open()


def test_tables_that_others_add_on_purpose_are_tolerated(path: Path) -> None:
    execute(
        path,
        "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
        "CREATE TABLE _litestream_lock (id INTEGER)",
        "CREATE UNIQUE INDEX theirs ON _litestream_lock (id)",
        "CREATE VIEW report AS SELECT key, length(record) FROM records",
        "CREATE INDEX by_size ON records (length(record))",
        "DROP INDEX records_expiry",
        "ANALYZE",
    )
    with Store(path, frozen=False) as store:
        store["b"] = 2
        assert store.keys() == ["a", "b", "large"]
        assert [finding.problem for finding in store.check()] == ["its index 'records_expiry' is missing"]


def test_a_file_of_an_earlier_version_is_no_changed_one(path: Path) -> None:
    execute(
        path, "PRAGMA journal_mode = delete", f"UPDATE sqlite_schema SET sql = '{OLD_RECORDS}' WHERE name = 'records'"
    )
    with Store(path, frozen=False) as store:
        store.update(b=1, large="y" * 6000)
        assert store.keys() == ["a", "b", "large"]
        assert store.check() == []


PLANTED = (
    "CREATE TRIGGER audit AFTER INSERT ON records BEGIN DELETE FROM records WHERE key = 'audit'; END",
    "CREATE TRIGGER undo AFTER UPDATE ON records BEGIN UPDATE records SET record = x'1000' WHERE key = new.key; END",
    "CREATE TRIGGER rows AFTER INSERT ON hot BEGIN DELETE FROM hot; END",
    "CREATE TRIGGER keep BEFORE DELETE ON records BEGIN SELECT RAISE(IGNORE); END",
)


def write_and_check(store: Store) -> None:
    store["audit"] = "written"
    store["a"] = 2
    store.extend("series", (2, 2.5))
    assert store.delete("large") == 1
    assert store.find() == [("a", 2), ("audit", "written")]
    assert store.range("series")[-1] == (2, 2.5)


def test_a_planted_trigger_is_not_run_and_is_told(path: Path) -> None:
    execute(path, *PLANTED)
    with Store(path, frozen=False) as store:
        write_and_check(store)
        problems = [finding.problem for finding in store.check()]
    assert [name for name in ("audit", "undo", "rows", "keep") if any(repr(name) in one for one in problems)] == [
        "audit", "undo", "rows", "keep",
    ]  # fmt: skip
    assert execute(path, "SELECT count(*) FROM blobs") == [(0,)]


def test_a_trigger_planted_while_the_store_is_open_is_not_run(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store["a"] = 1
        execute(path, *PLANTED)
        write_and_check(store)


def test_the_triggers_of_the_file_need_not_be_what_they_were(path: Path) -> None:
    execute(
        path,
        "DROP TRIGGER records_deleted",
        "DROP TRIGGER records_replaced",
        "CREATE TRIGGER records_replaced AFTER UPDATE ON records BEGIN DELETE FROM records; END",
    )
    with Store(path, frozen=False) as store:
        store["large"] = "y" * 6000
        assert execute(path, "SELECT count(*) FROM blobs") == [(1,)]
        store["a"] = 2
        assert [finding.problem for finding in store.check()] == [
            "its trigger 'records_replaced' was changed",
            "its trigger 'records_deleted' is missing",
        ]
        store.vacuum()
        with store.transaction() as inside:
            inside.delete("large")
        assert execute(path, "SELECT count(*) FROM blobs") == [(0,)]


def test_no_large_value_stays_behind_after_what_takes_connections_anew(path: Path) -> None:
    with Store(path, frozen=False) as store:
        with suppress(KeyError), store.transaction() as inside:
            del inside["large"]
            raise KeyError
        assert len(store["large"]) == 5000
        store.vacuum()
        store.clear()
        store["large"] = "y" * 6000
        store["large"] = 1
        assert store.check() == []
    assert execute(path, "SELECT count(*) FROM blobs") == [(0,)]


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "CHECK_EVERY_S", 0.0)
    monkeypatch.setattr("rstore.backends.sqlite.transport.opening.CHECK_EVERY_S", 0.0)


@pytest.mark.usefixtures("looking_often")
def test_tables_that_change_while_the_store_is_open_are_noticed(path: Path) -> None:
    with Store(path, frozen=False) as store, Store(path) as reader:
        assert store.keys() == reader.keys() == ["a", "large"]
        execute(path, "CREATE TABLE other (x)")
        assert store.keys() == reader.keys() == ["a", "large"]
        execute(path, "CREATE UNIQUE INDEX one ON records (ns, record)")
        for each in (store, reader):
            with pytest.raises(CorruptionError, match="unique index"):
                each.keys()
