"""The meta of a chunk of changes: which commits are in it, and when they were recorded, without unpacking it."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from rstore.codec.columns import Kind
from rstore.codec.segments import Segment
from rstore.errors import CorruptionError

_FORMAT: Final = 1
_meta = struct.Struct(">BBQQqq")


class CommitRange(NamedTuple):
    """The smallest and the largest commit number in a chunk, and the smallest and the largest recorded time."""

    first_n: int
    last_n: int
    first_recorded: int
    last_recorded: int


def commits_of(segment: Segment) -> CommitRange:
    """Return the range of the commits of some changes."""
    n, recorded = segment.column.data.n, segment.t + segment.column.data.lags
    return CommitRange(int(n.min()), int(n.max()), int(recorded.min()), int(recorded.max()))


def pack_commits(segment: Segment) -> bytes:
    """Return the meta of a chunk of changes."""
    return _meta.pack(_FORMAT, Kind.CHANGES, *commits_of(segment))


def unpack_commits(meta: bytes, rows: int) -> CommitRange:
    """Return the range of the commits of a chunk of so many changes.

    Raises `CorruptionError` for a range that they cannot have.
    """
    if len(meta) != _meta.size or meta[:2] != bytes((_FORMAT, Kind.CHANGES)):
        raise CorruptionError("a chunk's meta is damaged, or written by a newer version")
    _, _, *numbers = _meta.unpack(meta)
    commits = CommitRange(*numbers)
    if not 0 < commits.first_n <= commits.last_n - rows + 1 or commits.first_recorded > commits.last_recorded:
        raise CorruptionError("a chunk's meta contradicts itself, or its chunk")
    return commits
