"""The version stands in one place, and the changelog agrees with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import rstore

ROOT = Path(__file__).parent.parent.parent
HEADING = re.compile(r"^## ([^,\n]+)(?:, (unreleased|\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def test_the_newest_heading_of_the_changelog_is_the_version() -> None:
    headings = HEADING.findall((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0][0] == rstore.__version__
    assert [version for version, when in headings[1:] if when == "unreleased"] == []


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).samefile(rstore.__file__)
