"""`typing/api.py` is checked by mypy and pyright with all else; here it is run, and wrong use shown to be noticed."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "typing" / "api.py"


def test_the_api_as_it_is_typed_also_runs(tmp_path: Path) -> None:
    runpy.run_path(str(API))["main"](tmp_path)


WRONG = (
    "store.set(5, 1)",
    "store.range('k', n='5')",
    "store.extend('k', 5)",
    "store.extend('k', ('now', 2))",
    "store.apply('k', [('a', 1)])",
    "Store('a', serializer='yaml')",
    "Store('a', durability='sometimes')",
    "Store('a', key=5)",
    "x: int = store.current('k')",
    "store.events('k', ops='add')",
)


@pytest.mark.slow
def test_wrong_use_is_a_type_error(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    source = tmp_path / "wrong.py"
    source.write_text(
        "from rstore import Store\n\n\ndef use(store: Store) -> None:\n    " + "\n    ".join(WRONG) + "\n"
    )
    root = Path(__file__).parents[2]
    output, _, status = api.run(["--strict", "--config-file", str(root / "pyproject.toml"), str(source)])
    assert status == 1, output
    for line, wrong in enumerate(WRONG, 5):
        assert output.count(f"wrong.py:{line}: error") == 1, (wrong, output)
    assert output.count(" error: ") == len(WRONG), output
