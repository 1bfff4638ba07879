"""Runs the short examples as a user would, and holds them to what they print."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

PRINTED = {
    "undo": """\
after two undos: {'title': 'Sirs', 'text': 'I protest!'}
after a redo: {'title': 'Sirs', 'text': 'I wonder.'}
anything to redo? False
after all undos: {}
all of it is kept: 14 events
""",
    "audit": """\
The trail:
  #1 2026-01-01 ada: tenant 'Miller'
  #1 2026-01-01 ada: rent 900
  #1 2026-01-01 ada: pets True
  #4 2026-04-01 cleo: rent 900 -> 930 (agreed upon in March)
  #2 2026-07-01 ada: rent 930 -> 950 (index of June)
  #3 2026-09-01 ben: pets True -> gone
In the order in which it was written:
  #1 2026-01-01 ada: rent 900
  #2 2026-07-01 ada: rent 930 -> 950 (index of June)
  #4 2026-04-01 cleo: rent 900 -> 930 (agreed upon in March)
The rent was last set by ada
The rent in May: 930
The rent in May, as it was believed before: 900
Since then:
  rent: 930 -> 950
  pets: True -> gone
""",
    "total": """\
accounts were opened: 5000
money went around: 5000
a payment was dated back: 5007
four counted at once: 4917 4917 4917 4917
it is a value like any other: 4917
and it is right: 4917
""",
}


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    assert ran.stdout == PRINTED[name]


def test_all_examples_are_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, "demo"}


def test_undo_and_redo_take_less_than_30_lines() -> None:
    tree = ast.parse((EXAMPLES / "undo.py").read_text(encoding="utf-8"))
    (document,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    source = (EXAMPLES / "undo.py").read_text(encoding="utf-8").splitlines()
    lines = source[document.lineno - 1 : document.end_lineno]
    assert len([line for line in lines if line]) < 30
