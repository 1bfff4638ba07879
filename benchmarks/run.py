"""Measure rstore beside other libraries, and print the tables as Markdown.

- `python benchmarks/run.py` measures everything; README.md beside this file says what and how.
- `python benchmarks/run.py pairs keys` measures some sections; `millions` is measured only so: it takes many minutes.
- `python benchmarks/run.py --readme` measures everything, and puts the tables and the plot into README.md.
- `python benchmarks/run.py series --plot FILE.svg` draws the plot alone.
- `python benchmarks/run.py --quick` measures a hundredth, without peers and network: does it run at all?
"""

from __future__ import annotations

import os
import platform
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile
from time import perf_counter, sleep
from typing import Final

import apsw
from lab import Lab
from peers import make_cache, make_peers
from plot import Bars
from sections import LONG, SECTIONS
from table import Table

README: Final = Path(__file__).parent / "README.md"
PLOT: Final = README.with_name("series.svg")
MARK: Final = "<!-- Below: what run.py --readme has measured. -->\n"


def main() -> None:
    """Run the sections that were asked for."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS | LONG))
    parser.add_argument("--quick", action="store_true", help="measure a hundredth, once, without peers and network")
    parser.add_argument("--readme", action="store_true", help="measure everything, and put the tables into README.md")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw what section series measures")
    arguments = parser.parse_args()
    if arguments.readme and (arguments.quick or arguments.sections):
        parser.error("README.md shows everything, measured in full")
    if unknown := set(arguments.sections) - set(SECTIONS | LONG):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; sections are {', '.join(SECTIONS | LONG)}")

    lab = Lab(quick=True) if arguments.quick else Lab(make_peers())
    printed = ""
    bars: list[Bars] = []
    for text in report(lab, arguments.sections or SECTIONS, bars):
        print(text, end="", flush=True)
        printed += text
    if arguments.plot and not bars:
        parser.error("--plot needs the section series, measured in full")
    for path in [*([PLOT] if arguments.readme else ()), *([arguments.plot] if arguments.plot else ())]:
        bars[0].save(path)
    if arguments.readme:
        printed = f"![{bars[0].title}]({PLOT.name})\n\n{printed}"
        above, mark, _ = README.read_text(encoding="utf-8").partition(MARK)
        README.write_text(above + mark + "\n" + printed, encoding="utf-8")


def report(lab: Lab, sections: Iterable[str], bars: list[Bars]) -> Iterator[str]:
    """Yield what comes of each section as soon as it is there, and collect what can be drawn."""
    yield f"{describe_machine()}\n"
    goals = Table("Goals", "what | goal | measured | reached")
    for name in sections:
        print(f"{name} ...", file=sys.stderr, flush=True)
        section = (SECTIONS | LONG)[name](lab)
        for table in section.tables:
            yield f"\n{table}"
        goals.rows += [goal.cells() for goal in section.goals]
        bars += section.bars
    if goals.rows and not lab.quick:  # what is measured a hundred times smaller reaches nothing
        yield f"\n{goals}"


def describe_machine() -> str:
    """Return a line on what this is measured with."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), "
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}; an fsync takes {time_fsync():.0f} µs."
    )


def time_fsync() -> float:
    """Return the median of some, in microseconds: it tells what full durability costs here."""
    taken = []
    with TemporaryFile(dir=make_cache()) as file:
        for _ in range(20):
            file.write(os.urandom(4096))
            file.flush()
            begin = perf_counter()
            os.fsync(file.fileno())
            taken.append((perf_counter() - begin) * 1e6)
            sleep(0.001)
    return median(taken)


if __name__ == "__main__":
    main()
