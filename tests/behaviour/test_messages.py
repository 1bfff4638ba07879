"""Messages of mistakes: they name the store's verbs, the things that are there instead, and the way out."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from rstore import DataPickle, SerializationError, Store, StoreError, StoreNotAvailableError


@pytest.mark.parametrize("verb", ["set", "scan", "range", "to_pandas", "resample", "apply", "past", "check", "watch"])
def test_a_wrong_keyword_is_told_of_the_store(verb: str) -> None:
    store: Any = Store("memory://")
    with pytest.raises(TypeError, match=rf"Store\.{verb}\(\) got an unexpected keyword argument 'foo'"):
        getattr(store, verb)("key", foo=1)


def test_verbs_can_be_pickled_as_before() -> None:
    assert pickle.loads(pickle.dumps(Store.range)) is Store.range  # noqa: S301 - of our own
    assert pickle.loads(pickle.dumps(operator.methodcaller("range", "s")))  # noqa: S301 - the same


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgres", "redis"])
def test_a_namespace_that_is_missing_is_told_with_those_there_are(
    request: pytest.FixtureRequest, tmp_path: Path, backend: str
) -> None:
    if backend in ("postgres", "redis"):
        dsn: str = request.getfixturevalue("postgresql_dsn" if backend == "postgres" else "redis_dsn")
    else:
        dsn = "memory://messages" if backend == "memory" else f"{tmp_path / 'store.db'}"
    for i in range(12):
        Store(dsn, f"space {i:02}", frozen=False).open().close()
    with pytest.raises(StoreNotAvailableError, match=r"'nowhere' .*; there are 'space 00', .*'space 09', …$"):
        Store(dsn, "nowhere").open()
    for i in range(12):
        with Store(dsn, f"space {i:02}", frozen=False) as store:
            store.discard()


def test_a_schema_that_was_restored_without_its_rows_is_told(postgresql: Any, postgresql_schema: str) -> None:
    dsn = postgresql.dsn(schema=postgresql_schema)
    Store(dsn, frozen=False).open().close()
    postgresql.execute(f'DELETE FROM "{postgresql_schema}".format')
    for frozen in (True, False):
        with pytest.raises(StoreNotAvailableError, match="restored without its rows"):
            Store(dsn, frozen=frozen).open()
    postgresql.execute(f"INSERT INTO \"{postgresql_schema}\".format VALUES ('rstore', 1)")


SECRET = "hunter2"  # noqa: S105 - of no server
SLIPS: dict[str, Callable[[Store], Any]] = {
    r"names none: give a path": lambda s: s.backup(f"postgresql://ada:{SECRET}@host/data"),
    r"holds one: it begins with SCHEME": lambda s: s.backup(f" redis://ada:{SECRET}@host"),
    r"memory:// is shared": lambda s: s.backup(":memory:"),
    r"^a key is a str, not list: pass each of several as an argument of its own": lambda s: s.delete(["a"]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"^a namespace is a str, not bool: pass frozen=… by its name": lambda _: Store("a.db", False),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"^frozen is True or False, not NoneType$": lambda _: Store("a.db", frozen=None),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r", not module$": lambda _: Store("a.db", serializer=pickle),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"^n is an int, not str: int\(…\) reads digits$": lambda s: s.tail("x", "5"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"write operator\.add$": lambda s: s.events("account", ops="add"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"allow=\[Plain\]$": lambda _: DataPickle(allow=Plain),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    r"Plain is no dataclass.* store their parts": lambda _: DataPickle(allow=[Plain]),
    r"its port a number up to 65535": lambda _: Store(f"redis://ada:{SECRET}@host:99999", frozen=False).open(),
    r"unsupported operand type\(s\) for \+: 'int' and 'str'":
        lambda s: s.apply("account", {"balance": (operator.add, SECRET)}),
}  # fmt: skip


class Plain:
    """A class that is no data."""


@pytest.mark.parametrize("says", SLIPS)
def test_a_slip_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with Store("store.db", frozen=False) as store:
        store.apply("account", {"balance": 1})
        with pytest.raises(StoreError, match=says) as refused:
            SLIPS[says](store)
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.db"]


def test_a_backup_may_be_named_by_its_dsn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store("store.db", frozen=False) as store:
        store["a"] = 1
        store.backup("sqlite://copy.db")
    with Store("copy.db") as copy:
        assert copy["a"] == 1


COLOR = Enum("COLOR", "RED")
UNFIT: dict[str, tuple[Any, list[tuple[str, Any]]]] = {
    "json": ("json", [
        (r"type dict cannot be dumped with a key of type tuple; make a str of it", {(1, 2): SECRET}),
        (r"type list cannot be dumped: it holds one of type dict with a key of type tuple", [{(1, 2): SECRET}]),
        (r"type COLOR cannot be dumped; store its parts", COLOR(1)),
        (r"type type cannot be dumped; store its name", Plain),
    ]),
    "msgpack": ("msgpack", [(r"type int cannot be dumped; it is too large: store str", 2**70)]),
    "data": ("data", [
        (r"builtin_function_or_method, .* store its name", len), (r"builtins\.function, .* store its name", lambda: 1),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("serializer", UNFIT)
def test_what_a_serializer_does_not_take_is_told_by_its_kind(serializer: str) -> None:
    chosen, values = UNFIT[serializer]
    with Store(f"memory://unfit-{serializer}", frozen=False, serializer=chosen) as store:
        for says, value in values:
            with pytest.raises(SerializationError, match=says) as refused:
                store["k"] = value
            assert SECRET not in str(refused.value)
        assert store.keys() == []
