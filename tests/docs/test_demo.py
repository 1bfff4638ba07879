"""Runs the demo as a user would, twice in the same place."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rstore import Store

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def run_demo(room: Path) -> str:
    command = [sys.executable, "-W", "error", str(DEMO)]
    return subprocess.run(command, cwd=room, check=True, capture_output=True, encoding="utf-8").stdout


@pytest.mark.slow
def test_demo_runs_twice(tmp_path: Path) -> None:
    run_demo(tmp_path)
    printed = run_demo(tmp_path)

    assert "{'weather': 'snow', 'changes': 5}" in printed
    assert printed.count("2016-01-01, 2016-01-02, 2016-01-03") == 4
    assert printed.count("not there") == 3
    assert "2014-01-01" in printed, "a season"
    assert "2014-10-01" in printed
    assert "daily high" in printed
    assert "WrongKeyError: " in printed
    assert "key=[new, old]" in " ".join(printed.split()), "brackets are no markup"
    assert "FrozenStoreError: " in printed
    assert "\x1b" not in printed, "colours do not belong into a pipe"
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.slow
def test_what_the_demo_searches_for_is_in_an_unencrypted_file(tmp_path: Path) -> None:
    demo = runpy.run_path(str(DEMO))
    path = tmp_path / "plain.db"
    with Store(path, frozen=False) as store:
        demo["write_weather"](store, demo["load_csv"]())
        demo["write_facts"](store)

    content = path.read_bytes()
    for value in ("Seattle, Washington", "NOAA daily summaries", "drizzle"):
        assert value.encode() in content
