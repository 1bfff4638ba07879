"""Rows of a file, as far as they are what the layout says.

A damaged byte, or another program, may have put anything into a column: each is checked once, where it is read, and no
layer above has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import apsw

from rstore.backends.common.names import is_name
from rstore.backends.types import MAX_SEQ, Chunk, Found, Head, Row
from rstore.errors import CorruptionError

_SECOND: Final = itemgetter(1)
_THIRD: Final = itemgetter(2)
_EXPIRY: Final = {int, NoneType}


def rows_of(found: Iterable[Any]) -> list[Row]:
    """Return the rows of a log."""
    rows = [*map(Row._make, found)]
    if rows:  # a column at a time, by loops in C: one by one it would take as long as reading them
        seqs = {*map(_SECOND, rows)}
        if not (
            # They are sorted, and SQLite sorts what is no number behind all numbers.
            type(rows[0].t) is type(rows[-1].t) is int
            and {*map(type, map(_THIRD, rows))} == {bytes}
            and ({*map(type, seqs)} == {int} and min(seqs) >= 0 and max(seqs) <= MAX_SEQ)
        ):
            raise CorruptionError("a row of a log holds what cannot be one")
    return rows


def chunk_of(row: Any) -> Chunk:
    """Return a chunk; its body is NULL where it was not asked for."""
    first_t, first_seq, last_t, last_seq, n, meta, body = row
    if not (
        type(first_t) is type(first_seq) is type(last_t) is type(last_seq) is type(n) is int
        and type(meta) is bytes
        and (body is None or type(body) is bytes)
        and 0 <= first_seq <= MAX_SEQ
        and 0 <= last_seq <= MAX_SEQ
        and 0 < n <= MAX_SEQ
    ):
        raise CorruptionError("a chunk of a log holds what cannot be one")
    return Chunk((first_t, first_seq), (last_t, last_seq), n, meta, body or b"")


def head_of(row: Any) -> Head:
    """Return the head of a log."""
    epoch, version, sealed, facts = row
    if not type(epoch) is type(version) is type(facts) is bytes:
        raise CorruptionError("the head of a log holds what cannot be one")
    return Head(epoch, version, bool(sealed), facts)


def found_of(found: Iterable[Any]) -> list[Found]:
    """Return records with their keys."""
    records: list[Found] = list(found)
    if records:
        keys, bodies, expiries = zip(*records, strict=True)
        if not ({*map(type, keys)} == {str} and {*map(type, bodies)} == {bytes} and {*map(type, expiries)} <= _EXPIRY):
            raise unsound(records)
    return records


def unsound(records: Sequence[Any]) -> CorruptionError:
    """Return the error for records of which at least one is damaged."""
    for key, record, _ in records:
        if type(key) is str and type(record) is not bytes:
            return missing(key)
    return CorruptionError("a record holds what cannot be one: check() says more")


def missing(key: str) -> CorruptionError:
    """Return the error for a record that is there, and whose value is not."""
    return CorruptionError(f"the value of {key!r} is missing from the file, or damaged")


def bytes_of(cell: Any, what: str) -> bytes:
    """Return a cell that holds bytes."""
    if type(cell) is not bytes:
        raise CorruptionError(f"{what} is damaged")
    return cell


def names_of(connection: apsw.Connection, column: str, bindings: dict[str, Any], what: str) -> list[str]:
    """Return the names in a column, given as `column FROM table …`."""
    try:
        names = [name for (name,) in connection.execute(f"SELECT {column}", bindings)]
        if {*map(type, names)} <= {str}:
            return names
    except UnicodeDecodeError as error:
        raise damaged_name(connection, column, bindings, what) from error
    raise damaged_name(connection, column, bindings, what)


def damaged_name(connection: apsw.Connection, column: str, bindings: dict[str, Any], what: str) -> CorruptionError:
    """Return the error for a column of names that could not be read, naming the first that is damaged."""
    for raw in damaged_names(connection, column, bindings):
        return CorruptionError(f"the name {raw!r} of {what} is damaged, it is no text")
    return CorruptionError(f"{what} is damaged: check() says more")


def damaged_names(connection: apsw.Connection, column: str, bindings: dict[str, Any]) -> Iterator[bytes]:
    """Yield the names in a column that are no text."""
    name, _, rest = column.partition(" ")
    # SQLite's text may be any bytes, and the driver makes str of it; a blob it hands over as it is.
    for kind, raw in connection.execute(f"SELECT typeof({name}), CAST({name} AS BLOB) {rest}", bindings):
        if kind != "text" or not is_name(raw):
            yield raw if type(raw) is bytes else b""
