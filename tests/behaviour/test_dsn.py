"""What a store is told to be: a scheme and a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rstore import InvalidArgumentError, Store


@pytest.mark.parametrize(
    "dsn",
    ["mysql://host/db", "http://example.com", "sqlite+x://a", "", "sqlite://", "a\0b", 42, None, b"store.db", ["a"]],
    ids=repr,
)
def test_what_is_no_dsn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError), Store(dsn, frozen=False):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dsn", ["sqlite:x.db", "SQLITE:/x.db", "memory:x"])
def test_a_slip_of_the_pen_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match="://"):
        Store(dsn, frozen=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_named_and_its_password_is_not() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Store("mysql://user:hunter2@host/db")
    assert "mysql" in str(refused.value)
    assert "hunter2" not in str(refused.value)
