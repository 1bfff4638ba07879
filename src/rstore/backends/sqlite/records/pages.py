"""Pages of records: cut by number and by size, and checked."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from operator import itemgetter
from types import NoneType
from typing import Any, Final

from rstore.backends.common.pages import PAGE_BYTES
from rstore.backends.sqlite.cells import found_of, unsound
from rstore.backends.types import Found, Page

_RECORD_OF: Final = itemgetter(1)


def page_of_small(rows: list[Any], limit: int) -> Page | None:
    """Return a page of rows, one more than it holds if more follow; None if a record lies elsewhere, and is NULL."""
    if (kinds := {*map(type, map(_RECORD_OF, rows))}) - {bytes}:
        return None if NoneType in kinds else Page(found_of(rows[:limit]), more=len(rows) > limit)
    # They are sorted, and SQLite sorts what is no text in front of all text or behind it.
    if rows and not type(rows[0][0]) is type(rows[-1][0]) is str:
        found_of(rows)
    return Page(rows[:limit], more=len(rows) > limit)


def page_of(rows: Iterable[Any], limit: int) -> Page:
    """Return a page of rows of any size, reading no more of them than it holds and one."""
    found: list[Found] = []
    size = 0
    for row in rows:
        if len(found) == limit or size > PAGE_BYTES:
            return Page(found, more=True)
        key, record, expires = row
        if type(record) is not bytes or type(key) is not str or not (expires is None or type(expires) is int):
            raise unsound([row])
        found.append(row)
        size += len(record)
    return Page(found, more=False)


def page_around_damage(rows: Iterable[Any], limit: int) -> Page:
    """Return a page of rows whose keys come as bytes, without those that are damaged."""
    found: list[Found] = []
    for raw, record, expires in rows:
        if len(found) == limit:
            return Page(found, more=True)
        if type(raw) is bytes and type(record) is bytes and type(expires) in (int, NoneType):
            with suppress(UnicodeDecodeError):
                found.append((raw.decode(), record, expires))
    return Page(found, more=False)
