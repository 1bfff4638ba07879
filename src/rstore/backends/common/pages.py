"""Pages of a scan: cut by their number of records and by their size, and asked for one after the other."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from rstore.backends.contract import ReadTransaction
from rstore.backends.types import Found, Page, ScanQuery

PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page ends with the record that brings it to this size."""


def cut(found: Sequence[Found], limit: int, *, more: bool = False) -> Page:
    """Return the first records as a page: `limit` at most, fewer where they are large, one at least if there is any.

    `more`: whether further records follow those that were found.
    """
    sizes = list(accumulate(len(record) for _, record, _ in found[:limit]))
    page = list(found[: min(limit, bisect_left(sizes, PAGE_BYTES) + 1)])
    return Page(page, more or len(page) < len(found))


def pages_of(backend: ReadTransaction, query: ScanQuery, limit: int | None = None) -> Iterator[list[Found]]:
    """Yield the records that a query asks for, at most `limit`, a page of the query's own limit at a time."""
    size, more = query.limit, limit != 0
    while more:
        page, more = backend.scan(query if limit is None else query._replace(limit=min(limit, size)))
        if more:  # looked at before the page is handed out: the end of a transaction empties it
            query = query._replace(after=page[-1][0])
            limit = None if limit is None else limit - len(page)
            more = limit != 0
        yield page
