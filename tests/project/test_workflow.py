"""The workflow of the forge runs targets of the Makefile, and all that a change has to pass."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def found(pattern: str, path: str) -> set[str]:
    """Return the words in all that a pattern finds in a file."""
    matches = re.findall(pattern, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return {word for match in matches for word in match.split()}


def test_the_workflow_runs_targets_that_there_are_and_all_of_the_gate() -> None:
    workflow = found(r"\btarget: \[?([a-z -]+)", ".github/workflows/ci.yml")
    assert workflow <= found(r"^([a-z-]+):", "Makefile")
    assert found(r"^for target in (.*); do$", ".ci/run") <= workflow | {"docs"}  # which `make test` runs too
