"""Runs the examples of the verbs, which doctest does not find: a verb names the store as its module."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import rstore
from rstore import Store

VERBS = [
    name for name in dir(Store) if not name.startswith("_") and ">>>" in (inspect.getdoc(getattr(Store, name)) or "")
]


@pytest.mark.parametrize("name", VERBS)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(f"memory://{uuid4()}", "docstrings", frozen=False) as store:
        names: dict[str, Any] = {"store": store, "rstore": rstore, "Store": Store}
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(parser.get_doctest(inspect.getdoc(getattr(Store, name)) or "", names, name, None, 0))
        assert runner.summarize(verbose=False).failed == 0
