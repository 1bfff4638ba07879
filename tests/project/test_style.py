"""The rules of style that a program can check: files, class names, and the words of docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import rstore

ROOT = Path(rstore.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_LINES = 400

_circling = re.compile(r"(What|Whatever|Whoever|Who|(Return|Yield|Do|Raise|Whether|Say) (what|whatever))\b")
_no_noun = re.compile(r"\b(who|whom|whoever|whomever|nobody|somebody|anybody|everybody)\b", re.IGNORECASE)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_docstring_names_its_noun(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = [line for line, text in _docstrings(source) if _circling.match(text.strip())]
    assert not found, f"begins with What, Who or Return what: line {found}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_prose_names_the_actor(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    prose = [*_docstrings(source), *_comments(source)]
    found = [(line, *_no_noun.findall(text)) for line, text in prose if _no_noun.search(text)]
    assert not found, f"write the noun instead (a writer, another process, the caller): {found}"


def test_each_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(_name(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
