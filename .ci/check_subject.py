"""Checks the subject of a commit message: `area: what`, in at most 72 characters. CONTRIBUTING.md lists the areas."""

import re
import sys
from pathlib import Path

MAX_CHARACTERS = 72
SUBJECT = re.compile(r"[a-z][a-z0-9_-]*: \S.*[^\s.]")
GIT_WROTE = ("Merge ", "Revert ", "fixup! ", "squash! ", "amend! ")


def fault_of(message: str) -> str | None:
    """Return the fault of a message's subject, None if there is none. Lines that begin with # are comments of Git."""
    subject, _, rest = re.sub(r"^#.*\n?", "", message, flags=re.MULTILINE).strip().partition("\n")
    if subject.startswith(GIT_WROTE):
        return None
    if not SUBJECT.fullmatch(subject):
        return f"{subject!r} is not of the form `area: what`, without a full stop"
    if len(subject) > MAX_CHARACTERS:
        return f"{subject!r} has {len(subject)} characters, and a subject has at most {MAX_CHARACTERS}"
    if rest and not rest.startswith("\n"):
        return "an empty line divides the subject from the body"
    return None


if __name__ == "__main__":
    sys.exit(fault_of(Path(sys.argv[1]).read_text(encoding="utf-8")))
