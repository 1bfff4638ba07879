"""Inspects the wheel and the sdist in dist/ before they are published: `make release-check` builds them and runs this.

A file on a package index cannot be replaced, only withdrawn.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

NAME = "rlib_store"
MAX_WHEEL_BYTES = 700_000
MAX_SDIST_BYTES = 1_500_000
# The sdist is for building and testing: it leaves out what only a forge and an editor read.
NOT_IN_SDIST = (".editorconfig", ".github/", ".pre-commit-config.yaml")
METADATA = ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")


def run(*command: str) -> str:
    """Return the output of a command; a command that fails ends the check."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{' '.join(command)} has failed")
    return done.stdout


def check(statement: str, *, wrong: str | None) -> None:
    """Print a statement that holds, or end with what is `wrong`."""
    if wrong:
        sys.exit(f"not true that {statement}: {wrong}")
    print(f"  {statement}")


def only(pattern: str) -> Path:
    """Return the one file of that name in dist/."""
    found = list(Path("dist").glob(pattern))
    check(f"dist/ holds one {pattern}", wrong=None if len(found) == 1 else f"there are {len(found)}")
    return found[0]


def wheel_files(wheel: Path) -> dict[str, bytes]:
    """Return the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sdist_files(sdist: Path, version: str) -> set[str]:
    """Return the names of the files in a sdist, as they stand in the repository."""
    with tarfile.open(sdist) as archive:
        return {str(PurePosixPath(one.name).relative_to(f"{NAME}-{version}")) for one in archive if not one.isdir()}


def wheel_of_the_tree(room: Path) -> dict[str, bytes]:
    """Return the files in a wheel that is built from the working tree itself, not by way of a sdist."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(room))
    (wheel,) = room.glob("*.whl")
    return wheel_files(wheel)


def difference(found: set[str], expected: set[str]) -> str:
    """Return the names that are missing and those that are too many, "" if there are none."""
    missing, stray = sorted(expected - found), sorted(found - expected)
    return ", ".join([*(f"{name} is missing" for name in missing), *(f"{name} is stray" for name in stray)])


def heading_fault(version: str, tags: list[str]) -> str | None:
    """Return the fault of the newest heading of the changelog, or of a tag of this commit; None if there is none."""
    heading = re.search(r"^## ([^\s,]+), (\S+)$", Path("CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if heading is None or heading[1] != version:
        return f"its newest heading is not that of {version}"
    if not tags:
        return None
    if tags != [f"v{version}"]:
        return f"this commit bears the tag {', '.join(tags)}"
    return f"the tag {tags[0]} is there, and the heading has no date" if heading[2] == "unreleased" else None


def metadata_fault(metadata: Message, version: str) -> str | None:
    """Return the entries of the wheel's metadata that are wrong, None if none is."""
    expected = {
        "Name": "rlib-store",
        "Version": version,
        "License-Expression": "MIT",
        "License-File": "LICENSE",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }
    return ", ".join(f"{key}: {metadata[key]}" for key, value in expected.items() if metadata[key] != value) or None


def main() -> None:
    """Look at dist/, at the repository that it was built from, and at what the two say of one another."""
    check("the working tree is what is committed", wrong=run("git", "status", "--porcelain"))
    tracked = set(run("git", "ls-files").splitlines())
    wheel, sdist = only("*.whl"), only("*.tar.gz")
    version = wheel.name.split("-")[1]
    source = Path("src/rstore/__init__.py").read_text(encoding="utf-8")
    check(f"the version is {version}", wrong=None if f'__version__ = "{version}"' in source else "it is another one")
    check("the changelog and the tag agree", wrong=heading_fault(version, run("git", "tag", "--points-at").split()))

    inside = wheel_files(wheel)
    info = f"{NAME}-{version}.dist-info/"
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/rstore/")}
    check("the wheel holds the package", wrong=difference(set(inside), package | {info + name for name in METADATA}))
    check("the package is typed", wrong=None if "rstore/py.typed" in inside else "py.typed is missing")
    check("the wheel has its metadata", wrong=metadata_fault(message_from_bytes(inside[f"{info}METADATA"]), version))
    expected = {name for name in tracked if not name.startswith(NOT_IN_SDIST)}
    check("the sdist holds the repository", wrong=difference(sdist_files(sdist, version), expected | {"PKG-INFO"}))
    for path, limit in ((wheel, MAX_WHEEL_BYTES), (sdist, MAX_SDIST_BYTES)):
        size = path.stat().st_size
        check(f"{path.name} has {size:,} bytes", wrong=None if size <= limit else f"at most {limit:,} are expected")
    with tempfile.TemporaryDirectory() as room:
        built = wheel_of_the_tree(Path(room))
    unlike = {name for name in built.keys() | inside.keys() if built.get(name) != inside.get(name)}
    check("the wheel of the sdist is that of the tree", wrong=", ".join(sorted(unlike)))

    run(sys.executable, "-m", "check_wheel_contents", "--toplevel", "rstore", str(wheel))
    print(run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)), end="")
    print(f"rlib-store {version} can be released")


if __name__ == "__main__":
    main()
