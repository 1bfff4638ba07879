"""What is read of a SQLite file as it was at one moment, by a connection that stays there."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

import apsw

from rstore.backends.sqlite.link import Link
from rstore.errors import ConflictError, StoreError

T = TypeVar("T")


class _One:
    """What belongs to all threads alike."""

    def __init__(self, link: Link) -> None:
        self.link = link


class Pinned:
    """A connection that reads from one moment; threads take turns."""

    def __init__(
        self,
        link: Link,
        connection: apsw.Connection,
        translated: Callable[[apsw.Error | UnicodeDecodeError], StoreError],
    ) -> None:
        self._translated = translated
        self.local = _One(link)
        self._connection = connection

    @contextmanager
    def pinned(self) -> Generator[Pinned, None, None]:
        """Keep to this moment."""
        yield self

    def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return what `work` reads.

        Raises `ConflictError` if the moment is lost.
        """
        link = self.local.link
        with link.lock:
            if link.connection is not self._connection:
                raise ConflictError("the store was closed, discarded or forked while it was being read: read again")
            while True:
                try:
                    result = work(self._connection)
                except apsw.ThreadingViolationError:  # who began it is in a statement that runs without the lock
                    time.sleep(0.0001)
                except (apsw.Error, UnicodeDecodeError) as error:
                    raise self._translated(error) from error
                else:
                    break
            if link.stamp is not None and link.is_stale():  # it is read without locks
                raise ConflictError("somebody changed the file while it was being read: read again")
            return result
