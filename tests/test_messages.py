"""What messages name: the store's verbs, and what there is instead of what was asked for."""

from __future__ import annotations

import operator
import pickle
from pathlib import Path
from typing import Any

import pytest

from rstore import Store, StoreNotAvailableError


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
