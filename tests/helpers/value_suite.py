"""Tests that every backend would pass as one does: they are about values, operators and arguments, far above it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from rstore.testing.flavours import KEY, PICKLED, Flavour, JsonStore
from rstore.testing.suite import Suite

FLAVOURS: Final = (
    *PICKLED,
    Flavour("plain-subclass", JsonStore),
    Flavour("sealed-subclass", JsonStore, key=KEY),
    Flavour("plain-data", serializer="data"),
    Flavour("plain-json", serializer="json"),
    Flavour("sealed-json", key=KEY, serializer="json"),
    Flavour("plain-msgpack", serializer="msgpack"),
    Flavour("sealed-msgpack", key=KEY, serializer="msgpack"),
)


class AllFlavours(Suite):
    """In all flavours: serializers are far above what differs between backends, and one backend shows them."""

    @pytest.fixture(params=FLAVOURS, ids=str)
    def flavour(self, request: pytest.FixtureRequest) -> Flavour:
        """Return how the test keeps its values."""
        flavour: Flavour = request.param
        return flavour


class ValueSuite(AllFlavours):
    """Runs once, on SQLite, since it asks a backend for nothing that the conformance suite does not ask for."""

    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/store.db"
