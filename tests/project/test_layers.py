"""Imports point one way, from what users call down to what moves bytes, and no module imports itself by a detour."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rstore

ROOT = Path(rstore.__file__).parent

# From the bottom to the top: a module imports from lower layers, and from its own where that makes no circle. A name
# with a dot at its end stands for all modules of that package that are not named elsewhere.
LAYERS: dict[str, tuple[str, ...]] = {
    "errors": ("rstore.errors", "rstore.forks", "rstore.backends", "rstore.backends.telemetry"),
    "contract": (
        "rstore.backends.types",
        "rstore.backends.contract",
        "rstore.backends.maintenance",
        "rstore.backends.credentials",
        "rstore.backends.common.",
    ),
    "backends": tuple(f"rstore.backends.{name}." for name in ("memory", "sqlite", "postgres", "redis")),
    "registry": ("rstore.backends.plugins", "rstore.backends.registry"),
    "codec": ("rstore.arguments", "rstore.codec."),
    "namespace": ("rstore.notes", "rstore.guard", "rstore.incarnation", "rstore.namespace"),
    "models": (
        "rstore.log.",
        "rstore.keyvalue.record_store",
        "rstore.events.operators",
        "rstore.events.state",
        "rstore.events.heads",
        "rstore.events.checkpoints",
        "rstore.events.replay",
        "rstore.events.state_cache",
        "rstore.series.reader",
        "rstore.series.writing",
    ),
    "session": ("rstore.session", "rstore.verbs", "rstore.lookout"),
    "verbs": ("rstore.keyvalue.", "rstore.series.", "rstore.events.", "rstore.maintenance.", "rstore.models"),
    "store": ("rstore.transactions", "rstore.store"),
    "public": ("rstore",),
    "testing": ("rstore.testing.",),
}
RANK = {layer: rank for rank, layer in enumerate(LAYERS)}
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


def layer_of(module: str) -> str | None:
    """Return the layer that names a module, or else the closest package around it."""
    layers = {name: layer for layer, names in LAYERS.items() for name in names}
    package = f"{module}."
    while module not in layers and package not in layers and "." in package[:-1]:
        package = package[:-1].rpartition(".")[0] + "."
    return layers.get(module) or layers.get(package)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    here = layer_of(module)
    assert here is not None, f"{module} is in no layer"
    for imported in imports(module) & MODULES.keys():
        there = layer_of(imported)
        assert there is not None, f"{imported} is in no layer"
        assert RANK[there] <= RANK[here], f"{module} imports {imported}"


def test_no_module_imports_itself_by_a_detour() -> None:
    # Wherever in it an import stands: one that type checkers alone follow, or a function, would be a circle as well.
    try:
        TopologicalSorter({module: imports(module) & MODULES.keys() for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("module", BACKENDS)
def test_a_backend_imports_the_contract_the_errors_and_its_driver(module: str) -> None:
    name = module.split(".")[2]
    for imported in imports(module):
        assert (
            layer_of(imported) in ("errors", "contract")
            or imported.split(".")[0] in sys.stdlib_module_names
            or imported in DRIVERS[name]
            or imported.startswith(f"rstore.backends.{name}.")
        ), f"{module} imports {imported}"


@pytest.mark.parametrize("module", TESTING)
def test_the_suite_judges_by_the_public_names_only(module: str) -> None:
    for imported in imports(module):
        if imported.split(".")[0] == "rstore":
            assert imported == "rstore" or imported.startswith("rstore.testing"), f"{module} imports {imported}"


def test_the_library_imports_nothing_that_only_its_tests_need() -> None:
    for module in set(MODULES) - set(TESTING):
        assert not imports(module) & {"pytest", "hypothesis", "rstore.testing"}, module
