"""CPython's own tests of mappings, held to a store.

What a store's documentation makes different from a dict is in `DictLike`: all else passes as it is. (`keys()` is a list
and `values()` and `items()` are views that stream, which these tests do not mind.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rstore import Store

mapping_tests = pytest.importorskip("test.mapping_tests", reason="this Python comes without its tests")


class DictLike(Store):
    """A store with the two habits of a dict that it does without."""

    def __bool__(self) -> bool:
        return len(self) > 0  # a store is always true

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Store) else NotImplemented  # it is equal only to itself

    __hash__ = Store.__hash__


class TestStore(mapping_tests.BasicTestMappingProtocol):  # type: ignore[misc, name-defined]
    @pytest.fixture(autouse=True)
    def _stores(self, tmp_path: Path) -> Any:
        self.path = tmp_path
        self.stores: list[Store] = []
        yield
        for store in self.stores:
            store.close()

    def _empty_mapping(self) -> Store:
        store = DictLike(self.path / f"{len(self.stores)}.db", frozen=False, durability="normal")
        self.stores.append(store.open())
        return store


def test_a_store_keeps_its_own_habits(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db", frozen=False) as one, Store(tmp_path / "a.db", frozen=False) as other:
        assert one
        assert one != other
        assert one == one  # noqa: PLR0124 - what is asked
