"""Cursors: strings that tell how far a follower has told each sequence, and outlive the process.

Nouns: a *place* (how far one sequence was told), a *scope* (which store and which sequences are followed) and a
*ledger* (the places of a follower, and what they were behind each change).
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np

from rstore.errors import InvalidTypeError, InvalidValueError

_FORMAT: Final = 1
_HASH_BYTES: Final = 8
_begin = struct.Struct(">B8s8sIBI")
_unfinished = struct.Struct(">IQII")
_BIRTH: Final = ">u8"
_WIDTHS: Final = (1, 2, 4, 8)
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
    prunes: int = 0
    """How often it had been pruned then; 0 together with `pruned_n`."""


class Scope(NamedTuple):
    """Which sequences are followed: hashes of the identity of the namespace, and of the keys and the prefix."""

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
    ordered = [places[birth] for birth in births]
    n = [one.n for one in ordered]
    unfinished = [(i, *one[1:]) for i, one in enumerate(ordered) if one.pruned_n or one.skip]
    width = _width(max(n, default=0))
    body = b"".join(
        (
            _begin.pack(_FORMAT, *scope, len(births), width, len(unfinished)),
            np.array(births, _BIRTH).tobytes(),
            np.array(n, f">u{width}").tobytes(),
            *(_unfinished.pack(*one) for one in unfinished),
        )
    )
    return _text(body + _check.pack(crc32(body)))


def _width(n: int) -> int:
    """Return in how many bytes all numbers up to `n` are told."""
    return next(width for width in _WIDTHS if n < 1 << 8 * width)


def _text(body: bytes) -> str:
    return binascii.b2a_base64(body, newline=False).translate(_URL_SAFE).decode().rstrip("=")


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


def unpack_cursor(cursor: Any, scope: Scope) -> dict[int, Place]:
    """Return the places that a cursor tells.

    Raises `InvalidValueError` if it is none, or is of another store, or of other sequences.
    """
    if not isinstance(cursor, str):
        raise InvalidTypeError(f"after is a cursor, the str of a change, not {type(cursor).__name__}")
    try:
        found, places = _checked(cursor)
    except (ValueError, IndexError, struct.error) as error:
        raise InvalidValueError("after is no cursor, or was damaged: it takes the `cursor` of a change") from error
    if found.store != scope.store:
        raise InvalidValueError("the cursor is of another store or namespace, or the namespace was discarded since")
    if found.sequences != scope.sequences:
        raise InvalidValueError("the cursor is of other keys, or another prefix: follow those that it was given for")
    return places


def _checked(cursor: str) -> tuple[Scope, dict[int, Place]]:
    """Return the scope of a cursor, and its places."""
    raw = cursor.encode("ascii").translate(_FROM_URL_SAFE)
    body = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    packed, (check,) = body[: -_check.size], _check.unpack(body[-_check.size :])
    version, store, sequences, count, width, left = _begin.unpack_from(packed)
    # As it is written, so that two cursors are of the same places only if they are the same.
    if crc32(packed) != check or version != _FORMAT or _text(body) != cursor or width not in _WIDTHS:
        raise ValueError("it is damaged, or of a newer version")
    numbers_at = _begin.size + 8 * count
    unfinished_at = numbers_at + width * count
    if len(packed) != unfinished_at + left * _unfinished.size:
        raise ValueError("it is cut short")
    births: list[int] = np.frombuffer(packed, _BIRTH, count, _begin.size).tolist()
    n: list[int] = np.frombuffer(packed, f">u{width}", count, numbers_at).tolist()
    places = dict(zip(births, map(Place, n), strict=True))
    for i, *more in _unfinished.iter_unpack(packed[unfinished_at:]):
        places[births[i]] = Place(n[i], *more)
    return Scope(store, sequences), places


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
        """Which sequences are followed, of which store."""
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
