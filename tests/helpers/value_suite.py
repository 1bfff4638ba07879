"""Tests that every backend would pass as one does: they are about values, operators and arguments, far above it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstore.testing.suite import Suite


class ValueSuite(Suite):
    """Runs once, on SQLite, since it asks a backend for nothing that the conformance suite does not ask for."""

    @pytest.fixture
    def dsn(self, tmp_path: Path) -> str:
        return f"sqlite://{tmp_path}/store.db"
