"""Pages of a scan: cut by their number of records and by their size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from rstore.backends.types import Found, Page

PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page ends with the record that brings it to this size."""


def cut(found: Sequence[Found], limit: int, *, more: bool = False) -> Page:
    """Return the first records as a page: `limit` at most, fewer where they are large, one at least if there is any.

    `more`: whether further records follow those that were found.
    """
    sizes = list(accumulate(len(record) for _, record, _ in found[:limit]))
    page = list(found[: min(limit, bisect_left(sizes, PAGE_BYTES) + 1)])
    return Page(page, more or len(page) < len(found))
