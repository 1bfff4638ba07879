"""Prints the lower bounds of pyproject.toml as constraints for pip: what `make test-oldest` tests with."""

import re
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)[^;]*?>=([\d.]+)")

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
requirements = [
    *project["project"]["dependencies"],
    *(one for extra in project["project"]["optional-dependencies"].values() for one in extra),
    *(one for one in project["dependency-groups"]["test"] if isinstance(one, str)),
]
# A lower bound is a version that there is. (`name==2.0.*` would be the newest of its fixes.)
print(*sorted({f"{bound[1]}=={bound[2]}" for one in requirements if (bound := BOUND.match(one))}), sep="\n")
