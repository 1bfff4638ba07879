"""Measured programs side by side: each is a process, and they take turns.

Nouns: a *contestant* (a program with its arguments, under a name) and its *results*.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

from peers import make_cache

Name = TypeVar("Name", bound=Hashable)

PROGRAMS: Final = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Contestant:
    """A program of `programs/` with its arguments; `python` is that of a peer, `rounds` is for slow ones."""

    program: str
    arguments: Mapping[str, Any]
    python: Path | None = None
    rounds: int | None = None


@dataclass
class Results:
    """What each repetition of one contestant measured, by the name of the figure."""

    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __getitem__(self, name: str) -> float:
        return median(self.figures[name])

    def ratio(self, name: str, to: Results) -> float:
        """Return the median of the ratios of each repetition to the one of another contestant in the same round."""
        return median(a / b for a, b in zip(self.figures[name], to.figures[name], strict=False))  # slow ones have fewer

    def worst(self, name: str) -> float:
        """Return the largest of all repetitions."""
        return max(self.figures[name])


def compete(contestants: Mapping[Name, Contestant], rounds: int) -> dict[Name, Results]:
    """Run the contestants in turns, A B A B ..., so that what slows the machine down for a while slows down all.

    Their names are a word, or the first cells of a row.
    """
    results = {name: Results() for name in contestants}
    children = {name: _start(one) for name, one in contestants.items()}
    try:
        for i in range(rounds):
            print(f"  round {i + 1} of {rounds} ...", file=sys.stderr, flush=True)
            for name, child in children.items():
                if i >= (contestants[name].rounds or rounds):
                    continue
                for figure, value in _ask(child, name).items():
                    results[name].figures[figure].append(value)
        for child in children.values():
            child.communicate()
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    return results


def _start(contestant: Contestant) -> subprocess.Popen[str]:
    python, environment = Path(sys.executable), dict(os.environ)
    if contestant.python is not None:
        python = contestant.python
        environment.pop("PYTHONPATH", None)  # it may lead to this release
    arguments = json.dumps({"directory": str(make_cache()), **contestant.arguments})
    command: Sequence[str] = (str(python), str(PROGRAMS / f"{contestant.program}.py"), arguments)
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - the programs are our own


def _ask(child: subprocess.Popen[str], name: Hashable) -> dict[str, float]:
    if child.stdin is None or child.stdout is None:
        raise TypeError("a child has pipes")
    child.stdin.write("\n")
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"{name} ended early; what it said is above")
    figures: dict[str, float] = json.loads(line)
    return figures
