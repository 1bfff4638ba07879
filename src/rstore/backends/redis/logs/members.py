"""Members of the sorted sets of a log: positions and entries as bytes that sort as positions do."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from rstore.backends.types import MAX_SEQ, Chunk, Position, Row
from rstore.errors import CorruptionError

_BODY_ID_BYTES: Final = 12
REPLACED_MS: Final = 600_000
"""How long the body of a replaced chunk stays, for readers that have read the index already."""
_POSITION: Final = struct.Struct(">QI")
_POSITION_BYTES: Final = 12
_CHUNK: Final = struct.Struct(">QIQII")
_META_AT: Final = 40
_ZERO: Final = 2**63  # makes signed timestamps sort as unsigned bytes


def pack_position(position: Position) -> bytes:
    """Return a position as 12 bytes that sort as positions do."""
    return _POSITION.pack(position[0] + _ZERO, position[1])


def behind(position: Position) -> bytes:
    """Return the position behind another, packed."""
    return pack_position((position[0], position[1] + 1))


def pack_rows(rows: Iterable[Row]) -> list[bytes]:
    """Return rows as members of a sorted set; of two at one position, the later one."""
    pack = _POSITION.pack
    members = [pack(t + _ZERO, seq) + body for t, seq, body in rows]
    if len(members) > 1:
        members = list({member[:_POSITION_BYTES]: member for member in members}.values())
    return members


def unpack_rows(members: Iterable[bytes]) -> list[Row]:
    """Return members of a sorted set as rows."""
    unpack = _POSITION.unpack_from
    rows = []
    try:
        for member in members:
            t, seq = unpack(member)
            if seq > MAX_SEQ:
                raise CorruptionError("a row on the Redis server is at an impossible position")
            rows.append(Row(t - _ZERO, seq, member[_POSITION_BYTES:]))
    except struct.error as error:
        raise CorruptionError("a row on the Redis server was cut short") from error
    return rows


def check_order(members: Sequence[bytes]) -> None:
    """Refuse members of a sorted set that are out of order: one of them has another score."""
    if members != sorted(members):
        raise CorruptionError("what is indexed on the Redis server is out of order")


def pack_chunk(chunk: Chunk) -> bytes:
    """Return the index entry of a chunk: all but the body, for whose key it draws a new name."""
    (t, seq), (last_t, last_seq) = chunk.first, chunk.last
    index = _CHUNK.pack(t + _ZERO, seq, last_t + _ZERO, last_seq, chunk.n)
    return index + os.urandom(_BODY_ID_BYTES) + chunk.meta


def unpack_chunk(entry: bytes, body: bytes) -> Chunk:
    """Return a chunk from its entry in the index, and its body."""
    if len(entry) < _META_AT:
        raise CorruptionError("a chunk on the Redis server was cut short")
    t, seq, last_t, last_seq, n = _CHUNK.unpack_from(entry)
    if not (seq <= MAX_SEQ and last_seq <= MAX_SEQ and 0 < n <= MAX_SEQ):
        raise CorruptionError("a chunk on the Redis server is at an impossible position")
    return Chunk((t - _ZERO, seq), (last_t - _ZERO, last_seq), n, entry[_META_AT:], body)
