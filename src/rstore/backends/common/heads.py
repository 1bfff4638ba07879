"""The conditions of a commit, and its effect on the head of a log."""

from __future__ import annotations

from collections.abc import Callable

from rstore.backends.types import ANY, Commit, Head, Position, Row


def admits(head: Head | None, commit: Commit) -> bool:
    """Return whether a log with this head, or none, meets the conditions of a commit."""
    if head is None and commit.create is None:
        return False
    epoch, version = (None, None) if head is None else (head.epoch, head.version)
    return commit.if_epoch in (ANY, epoch) and commit.if_version in (ANY, version)


def admits_ids(stored: Callable[[Position], bytes | None], commit: Commit) -> bool:
    """Return whether the ids that a commit puts are new, given how the body of a stored one is found."""
    found = (Row(t, seq, body) for t, seq, _ in commit.put_ids if (body := stored((t, seq))) is not None)
    return all(row in commit.drop_ids for row in found)


def changed(head: Head, commit: Commit) -> Head:
    """Return the head as a commit leaves it."""
    return Head(
        head.epoch if commit.epoch is None else commit.epoch,
        head.version if commit.version is None else commit.version,
        head.sealed,
        head.facts if commit.facts is None else commit.facts,
    )
