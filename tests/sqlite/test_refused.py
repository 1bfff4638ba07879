"""What is no store, or none of this version: refused by the right error that names the path, and left as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from processes import snapshot

from rstore import CorruptionError, Store, StoreError, StoreNotAvailableError


def make_store(path: Path) -> None:
    with Store(path, frozen=False) as store:
        store.update({f"{i}": "x" * 300 for i in range(300)})
        store.extend_many("s", ((t, t) for t in range(5000)))


def run(path: Path, *statements: str) -> None:
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def cut(path: Path, size: Callable[[int], int]) -> None:
    make_store(path)
    os.truncate(path, size(path.stat().st_size))


def newer(path: Path) -> None:
    make_store(path)
    run(path, "PRAGMA user_version = 99")


REFUSED: dict[str, tuple[Callable[[Path], object], type[StoreError], str]] = {
    "foreign": (lambda path: run(path, "CREATE TABLE t (x)"), StoreNotAvailableError, "another application"),
    "foreign, with a log": (
        lambda path: run(path, "PRAGMA journal_mode = wal", "CREATE TABLE t (x)"),
        StoreNotAvailableError,
        "another application",
    ),
    "foreign, without a table": (
        lambda path: run(path, "PRAGMA application_id = 77"),
        StoreNotAvailableError,
        "another application",
    ),
    "tables of the same names": (
        lambda path: run(path, "CREATE TABLE namespaces (id, name, birth)", "CREATE TABLE records (ns, key)"),
        StoreNotAvailableError,
        "another application",
    ),
    "first release": (
        lambda path: run(path, *(f"CREATE TABLE {name} (x)" for name in ("_kv", "_ts", "_es"))),
        StoreNotAvailableError,
        "0.1",
    ),
    "newer": (newer, StoreNotAvailableError, "newer version"),
    "text": (lambda path: path.write_text("no database\n" * 500), StoreNotAvailableError, "not a database"),
    "a line": (lambda path: path.write_text("no database\n"), StoreNotAvailableError, "not a database"),
    "a byte": (lambda path: path.write_bytes(b"x"), StoreNotAvailableError, "not a database"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 8192), StoreNotAvailableError, "not a database"),
    "half": (lambda path: cut(path, lambda size: size // 2), CorruptionError, ""),
    "half and some": (lambda path: cut(path, lambda size: size // 2 + 100), CorruptionError, ""),
    "but one page": (lambda path: cut(path, lambda size: size - 4096), CorruptionError, ""),
    "a page": (lambda path: cut(path, lambda _: 4096), CorruptionError, ""),
    "a header": (lambda path: cut(path, lambda _: 100), StoreNotAvailableError, "not a database"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "writable"])
@pytest.mark.parametrize(("make", "error", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_store(
    path: Path, make: Callable[[Path], object], error: type[StoreError], reason: str, frozen: bool
) -> None:
    make(path)
    before = snapshot(path.parent)
    store = Store(path, frozen=frozen)
    for _ in range(2):
        with pytest.raises(error) as refused:
            store.open()
        assert type(refused.value) is error
        assert str(path) in str(refused.value)
        assert reason in str(refused.value)
        assert snapshot(path.parent) == before


def test_a_missing_file_frozen(path: Path) -> None:
    with pytest.raises(StoreNotAvailableError) as refused, Store(path):
        pass
    assert str(path) in str(refused.value)
    assert list(path.parent.iterdir()) == []


def test_a_missing_namespace_frozen(path: Path) -> None:
    make_store(path)
    before = snapshot(path.parent)
    with pytest.raises(StoreNotAvailableError) as refused, Store(path, "another"):
        pass
    assert str(path) in str(refused.value)
    assert "another" in str(refused.value)
    assert snapshot(path.parent) == before


def test_an_empty_file(path: Path) -> None:
    path.touch()
    before = snapshot(path.parent)
    with pytest.raises(StoreNotAvailableError) as refused, Store(path):
        pass
    assert str(path) in str(refused.value)
    assert snapshot(path.parent) == before
    with Store(path, frozen=False) as store:  # a file that somebody made for it, with the mode it is to have
        store.set("k", 1)
    with Store(path) as store:
        assert store["k"] == 1


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "writable"])
def test_a_directory(path: Path, frozen: bool) -> None:
    path.mkdir()
    with pytest.raises(StoreNotAvailableError) as refused, Store(path, frozen=frozen):
        pass
    assert str(path) in str(refused.value)
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "writable"])
def test_a_directory_that_does_not_exist(path: Path, frozen: bool) -> None:
    with pytest.raises(StoreNotAvailableError) as refused, Store(path / "store.db", frozen=frozen):
        pass
    assert str(path) in str(refused.value)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "writable"])
def test_a_path_below_a_file(path: Path, frozen: bool) -> None:
    path.touch()
    with pytest.raises(StoreNotAvailableError), Store(path / "store.db", frozen=frozen):
        pass
    assert path.stat().st_size == 0


def test_a_store_that_was_refused_opens_when_it_is_there(path: Path) -> None:
    store = Store(path)
    with pytest.raises(StoreNotAvailableError):
        store.open()
    make_store(path)
    with store:
        assert len(store) == 300
