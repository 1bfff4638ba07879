"""A store that is used while the interpreter ends: what a verb does is done, or refused by an error of the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import operator, sys
from rstore import Store, StoreError, generate_key

dsn, when, key = sys.argv[1], sys.argv[2], sys.argv[3] or None
VERBS = {
    "set": lambda s: s.set("bye", 1),
    "set large": lambda s: s.set("large", "x" * 3_000_000),
    "get": lambda s: s.get("bye"),
    "items": lambda s: list(s.items()),
    "get_or_set": lambda s: s.get_or_set("computed", lambda: 1),
    "extend": lambda s: s.extend("s", (1, 1.0)),
    "extend_many": lambda s: s.extend_many("m", [(t, t) for t in range(70_000)]),
    "range": lambda s: len(s.range("m")),
    "range_columns": lambda s: len(s.range_columns("m")[0]),
    "resample": lambda s: s.resample("m", 1000),
    "downsample": lambda s: s.downsample("m", 50),
    "apply": lambda s: s.apply("e", {"a": 1}),
    "apply an operator": lambda s: s.apply("e", {"a": (operator.add, 1)}),
    "run": lambda s: s.run(lambda tx: tx.set("tx", 1)),
    "check": lambda s: s.check(),
    "stats": lambda s: s.stats(),
    "vacuum": lambda s: s.vacuum(),
    "discard": lambda s: s.discard(),
    "close": lambda s: s.close(),
}


def attempt(name, verb):
    try:
        verb()
    except StoreError as error:
        print(name, "refused", type(error).__name__)
    except BaseException as error:
        print(name, "RAW", type(error).__name__, error)
    else:
        print(name, "done")


class Worker:
    def __init__(self):
        self.store = Store(dsn, frozen=False, key=key, timeout=3)
        if when != "opened late":
            self.store.open()
        if when == "in use":
            self.store.extend_many("m", [(t, t) for t in range(70_000)])

    def __del__(self):
        if when == "opened late":
            attempt("open", self.store.open)
        for name, verb in VERBS.items():
            attempt(name, lambda: verb(self.store))


worker = Worker()
"""


@pytest.mark.parametrize("when", ["opened", "in use", "opened late"])
@pytest.mark.parametrize("key", ["", "A" * 43 + "="], ids=["plain", "sealed"])
@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgres", "redis"])
def test_nothing_raw_comes_while_the_interpreter_ends(
    request: pytest.FixtureRequest, tmp_path: Path, backend: str, key: str, when: str
) -> None:
    if backend in ("postgres", "redis"):
        dsn: str = request.getfixturevalue("postgresql_dsn" if backend == "postgres" else "redis_dsn")
    else:
        dsn = "memory://" if backend == "memory" else f"{tmp_path / 'store.db'}"
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, dsn, when, key], capture_output=True, text=True, timeout=60, check=True
    )
    lines = ended.stdout.splitlines()
    assert len(lines) == 19 + (when == "opened late"), ended.stderr
    assert not [line for line in lines if " RAW " in line]
    assert ended.stderr == ""
