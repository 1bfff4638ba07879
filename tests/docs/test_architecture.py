"""Holds the pages about the code to the code: every file and every name in them exists, and the tree is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "rstore"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
BACKENDS = ROOT / "docs" / "backends.md"
PAGES = [ARCHITECTURE, ROOT / "docs" / "glossary.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|lua)|(?:[\w.-]+/)+)`")
LISTED = re.compile(r"`((?:\w+/)*\w+\.py)`: ((?:`[\w.]+`(?:,\s+|\s+and\s+)?)+)")
"""A file and the names in it: `log/writer.py`: `Logs.rewrite`, `new_stamp`."""
IN_PROSE = re.compile(r"`(\w+(?:\.\w+)*)`\s+\(`((?:\w+/)*\w+\.py)`\)")
"""A name and its file: `Logs.rewrite` (`log/writer.py`)."""
DRAWN = re.compile(r"<text[^>]*>([\w/]+(?:\.py|/))(?:, ([\w/]+\.py))?</text>")


def names_in(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the names that statements define, those in classes behind the name of the class."""
    for statement in body:
        match statement:
            case ast.ClassDef():
                yield prefix + statement.name
                yield from names_in(statement.body, f"{prefix}{statement.name}.")
            case ast.FunctionDef():
                yield prefix + statement.name
            case ast.Assign() | ast.AnnAssign():
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
            case _:
                pass


def is_there(path: str) -> bool:
    """Return whether a path leads somewhere, from the package or from the root."""
    return (PACKAGE / path).exists() or (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_names_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert [path for path in FILE.findall(text) if not is_there(path)] == []
    named = [
        (path, name)
        for path, names in LISTED.findall(text)
        for name in re.findall(r"[\w.]+", names.replace(" and ", ""))
    ]
    named += [(path, name) for name, path in IN_PROSE.findall(text)]
    defined = {path: set(names_in(ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body)) for path, _ in named}
    assert [(path, name) for path, name in named if name not in defined[path]] == []


def test_modules_for_authors_of_backends_exist() -> None:
    modules = set(re.findall(r"`(rstore(?:\.[a-z_]+)+)`", BACKENDS.read_text(encoding="utf-8"))) - {"rstore.backends"}
    paths = {module: module.removeprefix("rstore.").replace(".", "/") for module in modules}
    assert [name for name, path in paths.items() if not (is_there(f"{path}.py") or is_there(path))] == []


def test_drawing_names_what_exists() -> None:
    drawn = DRAWN.findall((ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8"))
    paths = [path for pair in drawn for path in pair if path]
    assert len(paths) > 10
    assert [path for path in paths if not list(PACKAGE.rglob(path.rstrip("/")))] == []


def test_tree_is_complete() -> None:
    (tree,) = re.findall(
        r"^## The tree\n.*?^```text\n(.*?)^```$", ARCHITECTURE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    told: set[str] = set()
    above: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        above[(len(line) - len(line.lstrip())) // 2 :] = [name]
        assert len(line.split(maxsplit=1)) == 2, f"{name} has no description"
        told.add("".join(above))
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    files = {path for path in files if not path.startswith("testing/") and not path.endswith("__init__.py")}
    assert {path for path in told if path.endswith(".py")} == files
    folders = {f"{path.rpartition('/')[0]}/" for path in files if "/" in path}
    assert folders <= {path for path in told if path.endswith("/")}
