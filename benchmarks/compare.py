"""Measure this checkout beside another one of rstore, in turns, and print the ratios as a table in Markdown.

`python benchmarks/compare.py PYTHON` takes the interpreter of an environment in which the other checkout is installed,
from before a change for example: `git worktree add ../before REVISION; make -C ../before .venv/.has-test`, and then
`../before/.venv/bin/python`. `--only WORD` chooses the rows that hold a word, `--rounds N` repeats each row so often.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

from contest import Contestant, Results, compete
from lab import KEY
from redis_section import redis_server
from table import Table, number

# The tests know how to start a server.
sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))
from postgresql import Server

BEFORE: Final = "before"
AFTER: Final = "after"

_MAX_ROUNDS: Final = {"bulk": 5, "series": 5, "series_tuples": 3, "floats": 5, "redis_speed": 3, "keys": 5}


def cases(dsn: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, program and arguments of each row."""
    for kind, key in (("plain", None), ("encrypted", KEY)):
        for durability, calls in (("normal", 4_000), ("full", 500)):
            pairs = {"library": "rstore", "n": 20_000, "calls": calls, "durability": durability}
            yield f"pairs, {durability}, {kind}", "pairs", pairs | ({"key": key} if key else {})
        single = {"calls": 2_000, "key": key, "first_release": False, "options": {"durability": "normal"}}
        yield f"one point, normal, {kind}", "singles", single
        yield f"series by the column, {kind}", "series", {
            "n": 1_000_000, "calls": 200, "library": "rstore", "key": key, "durability": "normal",
        }  # fmt: skip
        yield f"a million tuples, {kind}", "bulk", {
            "n": 1_000_000, "key": key, "distinct": True, "first_release": False, "options": {"durability": "normal"},
        }  # fmt: skip
        yield f"a series of floats, {kind}", "floats", {
            "n": 1_000_000, "calls": 1_000, "key": key, "first_release": False, "options": {"durability": "full"},
        }  # fmt: skip
        yield f"a sequence, {kind}", "changes", {"n": 20_000, "parts": 10, "calls": 500, "key": key}
        server = {"library": "rstore", "dsn": dsn, "n": 20_000, "key": key}
        yield f"PostgreSQL, pairs, {kind}", "server", {**server, "task": "pairs", "calls": 200}
        yield f"PostgreSQL, many pairs, {kind}", "server", {**server, "task": "many"}
        yield f"PostgreSQL, points, {kind}", "server", {**server, "task": "speed", "n": 1_000_000}
        redis = {"library": "rstore", "executable": redis_server(), "n": 20_000, "calls": 500}
        yield f"Redis, pairs, {kind}", "redis_pairs", redis | ({"key": key} if key else {})
    yield "PostgreSQL, one change", "server_changes", {
        "dsn": dsn, "n": 1_000, "calls": 200, "before": 20, "waiting": True, "library": "rstore",
    }  # fmt: skip
    yield "has and len", "keys", {"n": 100_000, "calls": 2_000}


def main() -> None:
    """Run the rows that were asked for."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="the interpreter of the other checkout")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name holds a word")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="how often to repeat each row")
    arguments = parser.parse_args()
    table = Table(
        "This checkout beside another one",
        "row | figure | before | after | ratio",
        "Both take turns; times are medians, and a ratio is the median of the ratios of each turn: below 1 this one is "
        "faster. A word in the name of a figure says which part of the calls it is of.",
    )
    with Server(max_connections=100) as server:
        for name, program, given in cases(server.dsn()):
            if arguments.only not in name:
                continue
            print(name, file=sys.stderr, flush=True)
            table.rows += _rows(name, _compete(program, given, arguments.python, arguments.rounds))
    print(table)


def _compete(program: str, given: dict[str, Any], other: Path, rounds: int) -> Mapping[str, Results]:
    contestants = {BEFORE: Contestant(program, given, other), AFTER: Contestant(program, given)}
    if "dsn" in given:
        # Each in a schema of its own: the two may differ in what they store.
        for side, contestant in list(contestants.items()):
            own = {
                **given,
                "dsn": f"{given['dsn']}&schema={side}" if "?" in given["dsn"] else f"{given['dsn']}?schema={side}",
            }
            contestants[side] = Contestant(program, own, contestant.python)
    return compete(contestants, min(rounds, _MAX_ROUNDS.get(program, rounds)))


def _rows(name: str, results: Mapping[str, Results]) -> Iterator[tuple[str, ...]]:
    before, after = results[BEFORE], results[AFTER]
    for figure in before.figures:
        pairs = zip(after.figures[figure], before.figures[figure], strict=True)
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        if ratios:
            yield name, figure, number(before[figure]), number(after[figure]), f"{median(ratios):.2f}"


if __name__ == "__main__":
    main()
