"""Holds the documentation to the code: its examples run, and its tables are complete."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rstore
import rstore.errors
from rstore.backends.registry import SCHEMES
from rstore.backends.telemetry import Occurrence
from rstore.testing.suite import Suite

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("**/*.md"))]

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"^ *print\(.*\)(?: +|\n *)# (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All examples of a page are one script; the comment at or below each `print(…)` is what it prints."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    module = ModuleType(page.stem)  # which pickle and dataclasses look their classes up in
    monkeypatch.setitem(sys.modules, page.stem, module)
    for example in EXAMPLE.finditer(text):
        above = text.count("\n", 0, example.start(1))
        source = "\n" * above + example[1]  # so that a traceback names the line of the page
        exec(compile(source, str(page), "exec"), vars(module))  # noqa: S102 - the page is part of the project
        assert capsys.readouterr().out.splitlines() == PROMISE.findall(example[1]), f"{page.name}, line {above + 1}"


def test_readme_has_examples() -> None:
    assert len(EXAMPLE.findall(README.read_text(encoding="utf-8"))) >= 5


def test_readme_lists_exactly_the_verbs_that_exist() -> None:
    table = README.read_text(encoding="utf-8").partition("## All verbs\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`([a-z_]+)(?=[(`])", cell)}
    assert listed - {"iter", "len"} == {name for name in dir(rstore.Store) if not name.startswith("_")}


def test_readme_tells_all_parameters_of_a_store() -> None:
    section = README.read_text(encoding="utf-8").partition("## Opening a store\n")[2].partition("\n## ")[0]
    (call,) = re.findall(r"`Store\(([^`]*)\)`", section)
    told = [part for part in re.split(r",\s+", call) if part != "*"]
    parameters = inspect.signature(rstore.Store).parameters.values()
    assert told == [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert re.findall(r"^- \*\*(\w+)\*\*", section, re.MULTILINE) == [p.name for p in parameters]


def test_all_schemes_are_told() -> None:
    table = README.read_text(encoding="utf-8").partition("## Backends\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z+]+)://", table))
    assert told <= set(SCHEMES)
    assert {scheme.backend for scheme in SCHEMES.values()} <= {
        SCHEMES[name].backend for name in told | {name.replace("redis", "rediss") for name in told} if name in SCHEMES
    }
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    # That `valkey` may stand for `redis` in each of them is told as a rule.
    own = [name for name in SCHEMES if not name.startswith("valkey")]
    assert [name for name in own if not re.search(rf"(?<![a-z+]){re.escape(name)}://", pages)] == []


def test_counters_and_loggers_are_told() -> None:
    page = (ROOT / "docs" / "care.md").read_text(encoding="utf-8")
    table = page.partition("| counter |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [str(kind) for kind in Occurrence]
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    made = set(re.findall(r"""getLogger\("(rstore\.\w+)"\)""", source))
    assert made == set(re.findall(r"`(rstore\.\w+)`", page))


def test_readme_draws_the_tree_of_errors() -> None:
    drawn = re.search(r"^StoreError\n(?:[├│└ ].*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert drawn is not None
    assert drawn[0] in (rstore.errors.__doc__ or "")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(MAKE.findall(page.read_text(encoding="utf-8"))) <= targets


def test_the_page_on_backends_tells_what_a_backend_may_lack() -> None:
    table = (
        (ROOT / "docs" / "backends.md").read_text(encoding="utf-8").partition("| attribute |")[2].partition("\n\n")[0]
    )
    assert re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE) == [
        name for name, on in vars(Suite).items() if on is True
    ]
