"""Removing a SQLite file in which nothing is left, and that nobody else uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress

import apsw

from rstore.backends.sqlite.link import Link, hold, release
from rstore.backends.sqlite.place import Identity, identity
from rstore.errors import StoreBusyError, StoreError


def remove_if_unused(
    path: str,
    opened: Identity,
    mine: Callable[[Link], bool],
    is_unused: Callable[[apsw.Connection], bool],
    timeout_s: float,
) -> None:
    """Close one's own links, and remove the file that was opened if nobody else has it open and nothing is in it.

    Whatever is in the way: what was in the file is deleted, and the file stays.
    """
    try:
        held = hold(mine, timeout_s)
    except StoreBusyError:
        return
    try:
        for link in held:
            link.close()
        place = os.path.realpath(path)  # once: a link that is turned meanwhile leads to a file of somebody else
        with suppress(apsw.Error, StoreError, OSError), _parent(place) as (name, parent):
            if identity(place) != opened:
                return
            with closing(apsw.Connection(place, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
                # Leaving WAL takes an exclusive lock: the proof of being alone. A newcomer could have entered it since.
                if connection.pragma("journal_mode", "delete") != "delete":
                    return
                connection.execute("BEGIN EXCLUSIVE")
                if connection.pragma("journal_mode") == "delete" and is_unused(connection):
                    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if (found.st_dev, found.st_ino) == opened:
                        os.unlink(name, dir_fd=parent)
                connection.execute("ROLLBACK")
    finally:
        release(held)


@contextmanager
def _parent(place: str) -> Generator[tuple[str, int | None], None, None]:
    """Keep to the directory that a file lies in, whatever becomes of its name; give the name of the file in it."""
    if os.unlink not in os.supports_dir_fd:  # on Windows, where a file that is open stays
        yield place, None
        return
    parent = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield os.path.basename(place), parent
    finally:
        os.close(parent)
