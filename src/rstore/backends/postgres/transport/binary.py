"""Numbers, arrays and rows in PostgreSQL's binary format."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from struct import Struct, pack
from types import NoneType
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

from rstore.backends.types import Found
from rstore.errors import CorruptionError

_BYTEA: Final = 17
_INT8: Final = 20
_INT4: Final = 23
_TEXT: Final = 25

int4 = Struct("!i").pack
int8 = Struct("!q").pack
boolean = Struct("!?").pack

_size = Struct("!i").pack
_array = Struct("!iiIii").pack  # dimensions, whether there are NULLs, the type, how many, the first index


def number(result: pq.abc.PGresult, column: int = 0, row: int = 0) -> int:
    """Return a number of an answer."""
    return int.from_bytes(result.get_value(row, column) or b"", "big", signed=True)


def rows_of(result: pq.abc.PGresult, n: int) -> list[Any]:
    """Return the first rows of an answer as tuples; cell by cell it takes four times as long."""
    transformer = Transformer()
    transformer.set_pgresult(result)
    try:
        return transformer.load_rows(0, n, tuple)
    except (psycopg.Error, ValueError, struct.error) as error:  # what is of another type may be a date beyond all years
        raise changed() from error


def found_of(result: pq.abc.PGresult, n: int) -> list[Found]:
    """Return the first rows of an answer as records; those that were left behind are None."""
    found: list[Found] = rows_of(result, n)
    if found:  # a column at a time: one by one it would take as long as reading them
        keys, records, expiries = zip(*found, strict=True)
        if not (
            {*map(type, keys)} == {str}
            and {*map(type, records)} <= {bytes, NoneType}
            and {*map(type, expiries)} <= {int, NoneType}
        ):
            raise changed()
    return found


def changed() -> CorruptionError:
    """Return the error for an answer that holds what the layout rules out."""
    return CorruptionError("the tables of the store on the PostgreSQL server were changed, or are damaged")


def truth(result: pq.abc.PGresult, column: int) -> bool:
    """Return a boolean of the first row of an answer."""
    return result.get_value(0, column) == b"\1"


def texts(values: Iterable[str]) -> bytes:
    """Return an array of text."""
    return _blobs(_TEXT, [value.encode() for value in values])


def blobs(values: Sequence[bytes]) -> bytes:
    """Return an array of bytea."""
    return _blobs(_BYTEA, values)


def _blobs(kind: int, values: Sequence[bytes]) -> bytes:
    parts = chain.from_iterable(zip(map(_size, map(len, values)), values, strict=True))
    return _array(1, 0, kind, len(values), 1) + b"".join(parts)


def int8s(values: Sequence[int]) -> bytes:
    """Return an array of bigint."""
    return _numbers(_INT8, "iq", 8, values)


def int4s(values: Sequence[int]) -> bytes:
    """Return an array of int."""
    return _numbers(_INT4, "ii", 4, values)


def _numbers(kind: int, layout: str, size: int, values: Sequence[int]) -> bytes:
    n = len(values)
    return _array(1, 0, kind, n, 1) + pack("!" + layout * n, *chain.from_iterable(zip(repeat(size), values)))


def int8s_or_null(values: Sequence[int | None]) -> bytes:
    """Return an array of bigint in which None is NULL."""
    parts = (_size(-1) if value is None else _size(8) + int8(value) for value in values)
    return _array(1, 1, _INT8, len(values), 1) + b"".join(parts)
