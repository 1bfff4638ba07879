"""Distributions that look installed: what pip leaves of one that registers backends, in a folder of the import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def add_distribution(folder: Path, name: str, schemes: Mapping[str, str], version: str = "1.0") -> None:
    """Make a distribution that registers schemes, each with its `module:Class`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"{scheme} = {value}\n" for scheme, value in schemes.items()]
    (info / "entry_points.txt").write_text("".join(["[rstore.backends]\n", *lines]), encoding="utf-8")
