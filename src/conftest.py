"""Gives each example in a docstring an empty directory and an open, empty `store`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rstore import Store


@pytest.fixture(autouse=True)
def _store_of_the_example(
    doctest_namespace: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with Store("memory://", "docstrings", frozen=False) as store:
        doctest_namespace["store"] = store
        yield
        store.discard()
