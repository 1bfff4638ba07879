"""The form of a commit's subject, as the hook of commit messages checks it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

fault_of = runpy.run_path(str(Path(__file__).parent.parent.parent / ".ci" / "check_subject.py"))["fault_of"]


@pytest.mark.parametrize(
    "message",
    [
        "redis: name the node that failed",
        "sqlite: " + "x" * 64,
        "docs: say what a time-out bounds\n\nThe page named one of three.\n# a comment of git\n",
        "Merge branch 'other'",
        'Revert "Written long ago"',
        "fixup! redis: name the node that failed",
    ],
)
def test_a_subject_that_is_taken(message: str) -> None:
    assert fault_of(message) is None


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Name the node that failed", "area: what"),
        ("Redis: name the node that failed", "area: what"),
        ("redis: name the node that failed.", "full stop"),
        ("redis:name the node", "area: what"),
        ("redis: ", "area: what"),
        ("sqlite: " + "x" * 65, "73 characters"),
        ("redis: name the node\nthat failed", "empty line"),
        ("", "area: what"),
    ],
)
def test_a_subject_that_is_refused(message: str, expected: str) -> None:
    assert expected in fault_of(message)
