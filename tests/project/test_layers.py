"""Imports point one way, from what users call down to what moves bytes."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import rstore

ROOT = Path(rstore.__file__).parent

# From the bottom to the top; a module imports from lines below its own, and from those beside it where it says so.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("rstore.backends", "rstore.backends.common", "rstore.codec", "rstore.events", "rstore.log", "rstore.maintenance"),
    ("rstore.errors", "rstore.backends.common.after_commit", "rstore.backends.telemetry"),
    ("rstore.backends.common.interpreter",),
    ("rstore.backends.credentials",),
    ("rstore.backends.types",),
    ("rstore.backends.maintenance", "rstore.retry"),
    ("rstore.backends.contract", "rstore.codec.compression"),
    ("rstore.backends.plugins",),
    ("rstore.codec.blueprints", "rstore.codec.failures", "rstore.codec.pickle_grammar"),
    ("rstore.codec.building", "rstore.codec.numpy_blueprints"),
    ("rstore.codec.data_pickle",),
    ("rstore.codec.formats",),
    ("rstore.arguments", "rstore.events.operators", "rstore.backends.registry", "rstore.codec.serializers"),
    ("rstore.codec.numbers", "rstore.codec.secrets"),
    ("rstore.codec.ciphers", "rstore.codec.threads"),
    ("rstore.codec.columns", "rstore.codec.keys", "rstore.codec.changes"),
    ("rstore.codec.envelope",),
    ("rstore.codec.chunks",),
    ("rstore.log.reader",),
    ("rstore.log.writer", "rstore.events.state"),
    ("rstore.guard", "rstore.series.reader"),
    ("rstore.incarnation",),
    ("rstore.session",),
    ("rstore.events.history", "rstore.maintenance.checking", "rstore.maintenance.copying"),
    ("rstore.series.arrays", "rstore.series.inputs", "rstore.series.thinning", "rstore.series.writing"),
    ("rstore.series.points",),
    ("rstore.series.buckets",),
    ("rstore.series.columns", "rstore.series.grids", "rstore.series.lookups", "rstore.series.resampling"),
    ("rstore.series.tables",),
    ("rstore.keyvalue.keys", "rstore.keyvalue.records", "rstore.keyvalue.leases"),
    ("rstore.keyvalue.mapping", "rstore.keyvalue.entries", "rstore.keyvalue.atomic", "rstore.keyvalue.watching"),
    ("rstore.keyvalue", "rstore.series", "rstore.events.verbs", "rstore.maintenance.verbs"),
    ("rstore.models",),
    ("rstore.transactions",),
    ("rstore.store",),
    ("rstore",),
    ("rstore.testing",),
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
DRIVERS: dict[str, set[str]] = {
    "sqlite": {"apsw"},
    "memory": set(),
    "postgres": {"psycopg", "psycopg.adapt", "psycopg.conninfo", "psycopg.errors"},
    "redis": {"hiredis", "redis"},
}


def _module(path: Path) -> str:
    parts = ["rstore", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in sorted(ROOT.rglob("*.py"))}
CONTRACT = {
    "rstore.backends.contract",
    "rstore.backends.maintenance",
    "rstore.backends.credentials",
    "rstore.backends.telemetry",
    "rstore.backends.types",
    "rstore.backends.common.after_commit",
    "rstore.backends.common.interpreter",
    "rstore.errors",
}
BACKENDS = [name for name in MODULES if name.startswith(tuple(f"rstore.backends.{backend}" for backend in DRIVERS))]
TESTING = [name for name in MODULES if name.startswith("rstore.testing")]


def imports(module: str) -> set[str]:
    """Return the modules that a module imports, anywhere in it, and those that it imports names from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def test_every_module_has_its_layer() -> None:
    assert set(MODULES) - set(BACKENDS) - set(TESTING) == set(RANK) - {"rstore.testing"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(BACKENDS) - set(TESTING)))
def test_imports_point_down(module: str) -> None:
    for imported in imports(module):
        if imported.split(".")[0] == "rstore":
            assert RANK[imported] < RANK[module], f"{module} imports {imported}"


@pytest.mark.parametrize("module", BACKENDS)
def test_a_backend_imports_the_contract_the_errors_and_its_driver(module: str) -> None:
    name = module.split(".")[2]
    for imported in imports(module):
        if imported.split(".")[0] in sys.stdlib_module_names or imported in CONTRACT:
            continue
        # Or another file of the same backend.
        assert imported.startswith(f"rstore.backends.{name}.") or imported in DRIVERS[name], (
            f"{module} imports {imported}"
        )


@pytest.mark.parametrize("module", TESTING)
def test_the_suite_judges_by_the_public_names_only(module: str) -> None:
    for imported in imports(module):
        if imported.split(".")[0] == "rstore":
            assert imported == "rstore" or imported.startswith("rstore.testing"), f"{module} imports {imported}"


def test_the_library_imports_nothing_that_only_its_tests_need() -> None:
    for module in set(MODULES) - set(TESTING):
        assert not imports(module) & {"pytest", "hypothesis", "rstore.testing"}, module
