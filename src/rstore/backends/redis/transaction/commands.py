"""Commands that change sorted sets, each with so many members as a script can hand over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rstore.backends.redis.logs.members import behind, pack_position
from rstore.backends.redis.transport.connection import Command
from rstore.backends.types import Position

_MEMBERS_A_COMMAND: Final = 400


def many(verb: bytes, name: bytes, members: Sequence[bytes | tuple[bytes, bytes]]) -> Iterator[Command]:
    """Yield the commands that do something with any number of members of a set."""
    for i in range(0, len(members), _MEMBERS_A_COMMAND):
        piece = members[i : i + _MEMBERS_A_COMMAND]
        yield verb, name, *(part for one in piece for part in (one if isinstance(one, tuple) else (one,)))


def adding(name: bytes, members: Iterable[bytes]) -> Iterator[Command]:
    """Yield the commands that add members to a sorted set that is in their own order."""
    return many(b"ZADD", name, [(b"0", member) for member in members])


def emptying(name: bytes, position: Position) -> Command:
    """Return the command that removes the member at a position."""
    return b"ZREMRANGEBYLEX", name, b"[" + pack_position(position), b"(" + behind(position)
