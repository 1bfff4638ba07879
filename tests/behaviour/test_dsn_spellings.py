"""Spellings of other libraries, slips, and paths that are no paths: refused, with the right spelling, never printed."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from rstore import InvalidArgumentError, Store

REFUSED = {
    "host=127.0.0.1 port=1 dbname=data user=app password=hunter2": "postgresql://USER",
    "dbname = data password = hunter2": "postgresql://USER",
    "password=hunter2 host=h": "postgresql://USER",
    "sqlite://host=h dbname=d password=hunter2": "postgresql://USER",
    "Server=h;Database=d;User Id=u;Password=hunter2;": "postgresql://USER",
    "driver=PostgreSQL;uid=u;pwd=hunter2": "postgresql://USER",
    "POSTGRES_PASSWORD=hunter2": "postgresql://USER",
    "u:hunter2@h/d": "without its scheme",
    "u:hunter2@h:5432": "without its scheme",
    "//u:hunter2@h:5432/d": "without its scheme",
    "sqlite://:hunter2@h:6379/0": "without its scheme",
    "postgresql+psycopg://u:hunter2@h/d": "postgresql://",
    "postgresql+asyncpg://u:hunter2@h/d": "postgresql://",
    "POSTGRES+psycopg2://u:hunter2@h/d": "postgres://",
    "psql://u:hunter2@h/d": "postgresql://",
    "sqlite+aiosqlite:///x.db": "sqlite://",
    "sqlite+pysqlite:///x.db": "sqlite://",
    "sqlite3:///x.db": "sqlite://",
    "file:///tmp/x.db": "sqlite://",
    "redis+async://u:hunter2@h": "redis://",
    "jdbc:postgresql://u:hunter2@h/d": "begins with SCHEME://",
    " redis://u:hunter2@h": "begins with SCHEME://",
    "\tpostgresql://u:hunter2@h/d": "begins with SCHEME://",
    '"redis://u:hunter2@h"': "begins with SCHEME://",
    "'postgresql://u:hunter2@h/d'": "begins with SCHEME://",
    "redis:://u:hunter2@h": "",
    "redis//u:hunter2@h": "begins with SCHEME://",
    "postgresql//u:hunter2@h/d": "begins with SCHEME://",
    "rediss:/u:hunter2@h": "",
    "REDIS_URL=redis://u:hunter2@h": "begins with SCHEME://",
    "sqlite:// redis://u:hunter2@h": "begins with SCHEME://",
    "redis://u:hunter2@h\n": "line break",
    "postgresql://u:hunter2@h/d ": "line break",
    "sqlite:///:memory:": "memory://",
    "sqlite://:memory:": "memory://",
    ":memory:": "memory://",
    "sqlite:///:memory:?cache=shared": "memory://",
    "file::memory:?cache=shared": "frozen=True",
    "file:x.db?mode=ro": "frozen=True",
    "sqlite://file:x.db?mode=rwc": "frozen=True",
    "~/x.db": "expanduser",
    "~": "expanduser",
    "~ada/x.db": "expanduser",
    "sqlite://~/x.db": "expanduser",
    "..": "directory",
    "sqlite:///tmp/.": "directory",
}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dsn", REFUSED, ids=repr)
def test_what_is_meant_in_another_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, *, frozen: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError) as refused:
        Store(dsn, frozen=frozen)
    assert REFUSED[dsn] in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    assert list(tmp_path.iterdir()) == []
    assert not Path("/:memory:").exists()


@pytest.mark.skipif(os.name == "nt", reason="there these are paths")
@pytest.mark.parametrize("dsn", ["C:\\data\\x.db", "c:/x.db", "sqlite://C:/x.db"])
def test_a_path_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match="Windows"):
        Store(dsn, frozen=False)


@pytest.mark.parametrize("dsn", ["postgresql://u:hunter2@h/d", "redis://u:hunter2@h", "rediss+cluster://:hunter2@h"])
def test_a_path_object_that_was_a_dsn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    """It has lost a slash, and would be a path in a directory of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError) as refused:
        Store(Path(dsn), frozen=False)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["a.", "a..", "a ", " a", "a%20b", "%41", "%", "x.db?mode=ro", "a~", "~a", "a=b", "ahost=1", "redis.db",
     "10:30@h.db", "postgresql", "hostname=x", "...", "\u202e"],
)  # fmt: skip
def test_odd_names_are_taken_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    spellings: list[Any] = [name, f"./{name}", tmp_path / name, f"sqlite://{tmp_path}/{name}", f"sqlite://{name}"]
    for i, dsn in enumerate(spellings):
        with Store(dsn, frozen=False) as store:
            store["k"] = i
        assert os.listdir(tmp_path) == [name]  # noqa: PTH208 - as the system tells them
        with Store(dsn) as frozen:
            assert frozen["k"] == i
        for rest in set(os.listdir(tmp_path)) - {name}:  # noqa: PTH208 - what a reader may have left
            (tmp_path / rest).unlink()


@pytest.mark.parametrize("name", ["~", "file:x.db", "C:\\x.db", "host=x", ":memory:x", "u:p@h:1"])
def test_what_looks_like_something_else_has_a_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(tmp_path / name, frozen=False) as store:
        store["k"] = 1
    with Store(Path(name)) as store:
        assert store["k"] == 1


@pytest.mark.parametrize(
    ("dsn", "name"),
    [("u:hunter2@h/d?dbname=e", "dbname"), ("u:hunter2@h/d?host=g", "host"), ("u:hunter2@h/d?user=v", "user"),
     ("u:hunter2@h:1/d?port=2", "port"), ("u:hunter2@h/d?password=hunter3", "password"), ("h/d?pool=1&pool=2", "pool"),
     ("h/d?schema=a&%73chema=b", "schema"), ("h/d?sslmode=require&sslmode=disable", "sslmode")],
)  # fmt: skip
def test_what_a_dsn_says_twice(dsn: str, name: str) -> None:
    """Of two databases the one that is not meant could be written to, and of two modes of TLS the weaker one hold."""
    with pytest.raises(InvalidArgumentError, match=f"says twice what its {name} is") as refused:
        Store(f"postgresql://{dsn}").open()
    assert "hunter" not in "".join(traceback.format_exception(refused.value))
