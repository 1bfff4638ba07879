"""Cursors: how far a follower has told each sequence, as a string that outlives the process.

Nouns: a *place* (how far one sequence was told), a *scope* (which store and which sequences are followed) and a
*ledger* (the places of a follower, and what they were behind each change).
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from zlib import crc32

from rstore.errors import InvalidTypeError, InvalidValueError

_FORMAT: Final = 1
_HASH_BYTES: Final = 8
_begin = struct.Struct(">B8s8s")
_birth = struct.Struct(">Q")
_check = struct.Struct(">I")
_MOVES: Final = 1024
"""So many changes at least share one copy of all places, and twice as many as there are places."""


class Place(NamedTuple):
    """How far one sequence was told."""

    n: int = 0
    """All commits up to this one were told."""
    pruned_n: int = 0
    """It was known to be pruned up to this commit when it began to be told; 0 once that is behind."""
    skip: int = 0
    """So many events of the next commit were told, too."""


class Scope(NamedTuple):
    """What is followed: hashes of the identity of the namespace, and of the keys and the prefix."""

    store: bytes
    sequences: bytes

    @classmethod
    def of(cls, identity: bytes, keys: Sequence[str], prefix: str | None) -> Scope:
        """Return the scope of some sequences of a namespace."""
        names = "\0".join((*sorted(keys), "" if prefix is None else f"\0{prefix}"))
        return cls(_hash(identity), _hash(names.encode()))


def _hash(data: bytes) -> bytes:
    return sha256(b"rstore/cursor" + data).digest()[:_HASH_BYTES]


def pack_cursor(scope: Scope, places: Mapping[int, Place]) -> str:
    """Return the cursor that tells these places, by the births of the sequences."""
    births = sorted(places)
    body = bytearray(_begin.pack(_FORMAT, *scope))
    _put(body, len(births))
    body += b"".join(map(_birth.pack, births))
    unfinished: list[tuple[int, Place]] = []
    for i, birth in enumerate(births):
        place = places[birth]
        _put(body, place.n)
        if place.pruned_n or place.skip:
            unfinished.append((i, place))
    for i, place in unfinished:
        for number in (i, place.pruned_n, place.skip):
            _put(body, number)
    body += _check.pack(crc32(body))
    return _text(body)


def _text(body: bytes | bytearray) -> str:
    return binascii.b2a_base64(body, newline=False).translate(_URL_SAFE).decode().rstrip("=")


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


def _put(body: bytearray, number: int) -> None:
    while number > 0x7F:
        body.append(number & 0x7F | 0x80)
        number >>= 7
    body.append(number)


def _numbers(data: Iterator[int]) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
    if shift:
        raise ValueError("a number is cut short")


def unpack_cursor(cursor: Any, scope: Scope) -> dict[int, Place]:
    """Return the places that a cursor tells.

    Raises `InvalidValueError` if it is none, or is of another store, or of other sequences.
    """
    if not isinstance(cursor, str):
        raise InvalidTypeError(f"after is a cursor, the str of a change, not {type(cursor).__name__}")
    try:
        found, packed = _checked(cursor)
        places = _unpack_places(packed) if found == scope else {}
    except (ValueError, IndexError, StopIteration, struct.error) as error:
        raise InvalidValueError("after is no cursor, or was damaged: it takes the `cursor` of a change") from error
    if found.store != scope.store:
        raise InvalidValueError("the cursor is of another store or namespace, or the namespace was discarded since")
    if found.sequences != scope.sequences:
        raise InvalidValueError("the cursor is of other keys, or another prefix: follow those that it was given for")
    return places


def _checked(cursor: str) -> tuple[Scope, bytes]:
    """Return the scope of a cursor, and its places, packed."""
    raw = cursor.encode("ascii").translate(_FROM_URL_SAFE)
    body = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    packed, (check,) = body[: -_check.size], _check.unpack(body[-_check.size :])
    version, *hashes = _begin.unpack_from(packed)
    if crc32(packed) != check or version != _FORMAT or _text(body) != cursor:
        raise ValueError("it is damaged, or of a newer version")
    return Scope(*hashes), packed[_begin.size :]


def _unpack_places(data: bytes) -> dict[int, Place]:
    rest = iter(data)
    count = next(_numbers(rest))
    at = 1 if count < 0x80 else (count.bit_length() + 6) // 7
    end = at + count * _birth.size
    if end > len(data):
        raise ValueError("it is cut short")
    births = [birth for (birth,) in _birth.iter_unpack(data[at:end])]
    numbers = [*_numbers(iter(data[end:]))]
    places = {birth: Place(n) for birth, n in zip(births, numbers[:count], strict=True)}
    for i, pruned_n, skip in zip(*(numbers[count + k :: 3] for k in range(3)), strict=True):
        places[births[i]] = Place(places[births[i]].n, pruned_n, skip)
    return places


class Era:
    """The places at one moment, and the moves since then."""

    __slots__ = ("moves", "places", "scope")

    def __init__(self, scope: Scope, places: dict[int, Place]) -> None:
        self.scope = scope
        self.places = places
        self.moves: list[tuple[int, Place | None]] = []

    def cursor(self, moves: int) -> str:
        """Return the cursor behind so many moves."""
        places = self.places.copy()
        for birth, place in self.moves[:moves]:
            if place is None:
                places.pop(birth, None)
            else:
                places[birth] = place
        return pack_cursor(self.scope, places)


class Ledger:
    """The places of a follower; a mark in it tells what they were behind a change.

    Where many sequences are followed, a cursor is long, and most are never asked for: it is made when it is.
    """

    def __init__(self, scope: Scope, places: dict[int, Place]) -> None:
        self.places = places
        self._era = Era(scope, places.copy())

    @property
    def scope(self) -> Scope:
        """What is followed."""
        return self._era.scope

    def rescope(self, scope: Scope) -> None:
        """Go on in a namespace that was made anew."""
        self._era = Era(scope, self.places.copy())

    def move(self, birth: int, place: Place | None) -> None:
        """Put a sequence at a place; None forgets it."""
        if place is None:
            self.places.pop(birth, None)
        else:
            self.places[birth] = place
        self._era.moves.append((birth, place))
        if len(self._era.moves) > max(_MOVES, 2 * len(self.places)):
            self._era = Era(self._era.scope, self.places.copy())

    def mark(self) -> tuple[Era, int]:
        """Return a mark behind the last move."""
        era = self._era
        return era, len(era.moves)
