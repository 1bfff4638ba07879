"""The benchmarks run: each program measures something, and the command prints its tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from redis_servers import executables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

NEW: dict[str, Any] = {"first_release": False, "options": {"durability": "normal"}}
REDIS: dict[str, Any] = {"executable": str(next(iter(executables().values())))}
PROGRAMS: dict[str, dict[str, Any]] = {
    "bulk": {"n": 4500, "distinct": True, **NEW},
    "changes": {"n": 200, "parts": 1, "calls": 10},
    "event_changes": {"library": "rstore", "n": 5, "calls": 10, "before": 2, "durability": "normal"},
    "event_loads": {"library": "rstore", "n": 3000, "sequences": 2, "durability": "normal"},
    "floats": {"n": 5000, "calls": 3, **NEW},
    "history": {"n": 300, "calls": 20},
    "keys": {"n": 100, "calls": 10},
    "large": {"dsn": "sqlite://{directory}/large.db", "size": 2_000_000, "kind": "array"},
    "paths": {"path": "Client.call", **REDIS},
    "pairs": {"n": 100, "calls": 20, "library": "rstore"},
    "pairs_clients": {"library": "rstore", "clients": 2, "duration_s": 0.1, "durability": "normal"},
    "pairs_huge": {"n": 100, "calls": 20},
    "server": {"task": "pairs", "library": "rstore", "n": 100, "calls": 10},
    "server_changes": {"library": "rstore", "n": 5, "calls": 10, "before": 2, "waiting": True},
    "serializers": {"serializer": "data", "value": "a dataclass", "calls": 10},
    "series": {"n": 2500, "calls": 10, "library": "rstore"},
    "series_huge": {"n": 5000, "calls": 3},
    "series_tuples": {"n": 3000, "overwrites": 30},
    "singles": {"calls": 20, **NEW},
    "redis_clients": {"clients": 2, "calls": 20},
    "redis_memory": {"library": "rstore", "keys": 100, "points": 2000, **REDIS},
    "redis_spread": {"keys": 300, "series": 30},
    "redis_keys": {"n": 100, "calls": 10, **REDIS},
    "redis_pairs": {"n": 100, "calls": 20, "library": "rstore", **REDIS},
    "redis_speed": {"n": 4500, "changes": 60, "calls": 10, "first_release": False, **REDIS},
}
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_measure(
    name: str,
    key: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Each program also compares what it reads with what it wrote, and ends if that differs."""
    monkeypatch.syspath_prepend(BENCHMARKS / "programs")
    arguments = PROGRAMS[name] | ({} if name in ("keys", "paths", "serializers") else {"key": key})
    if name in ("server", "server_changes"):
        arguments["dsn"] = request.getfixturevalue("postgresql_dsn")
    if name == "redis_clients":
        arguments["dsn"] = request.getfixturevalue("redis_dsn")
    if name == "redis_spread":
        arguments["dsn"] = request.getfixturevalue("redis_cluster_dsn")
        arguments["ports"] = [server.port for server in request.getfixturevalue("redis_cluster").masters()]
    repetitions: Iterator[dict[str, float]] = import_module(name).measure(tmp_path, **arguments)
    for figures in islice(repetitions, 2):
        assert figures
        assert all(isfinite(value) and value >= 0 for value in figures.values()), figures


def test_programs_are_all_here() -> None:
    assert {path.stem for path in (BENCHMARKS / "programs").glob("*.py")} == {
        "child",
        "pair_stores",
        "redis_server",
        *PROGRAMS,
    }


@pytest.mark.slow
def test_quick_run_prints_tables() -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "keys"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tables = [line for line in printed.splitlines() if line.startswith("### ")]
    assert tables == ["### `has` and `len`"]
    assert "|  1,000 |" in printed


def test_unknown_section_is_refused() -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "nothing"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "unknown: nothing; sections are bulk, pairs, clients" in refused.stderr
