"""Removing a SQLite file in which nothing is left, and that nobody else uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import apsw

from rstore.backends.sqlite.link import Link, hold, release


def remove_if_unused(path: str, mine: Callable[[Link], bool], is_unused: Callable[[apsw.Connection], bool]) -> None:
    """Close one's own links, and remove the file if nobody else has it open and nothing is in it."""
    held = hold(mine)
    try:
        for link in held:
            link.close()
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            # Leaving WAL takes an exclusive lock: the proof of being alone. A newcomer could have entered it since.
            if connection.pragma("journal_mode", "delete") != "delete":
                return
            connection.execute("BEGIN EXCLUSIVE")
            if connection.pragma("journal_mode") == "delete" and is_unused(connection):
                with suppress(OSError):  # in a directory that others own, or that is gone, it stays, empty
                    os.unlink(os.path.realpath(path))
            connection.execute("ROLLBACK")
        except (apsw.BusyError, apsw.CantOpenError, apsw.IOError):
            return  # somebody entered, or is removing it and its log at this moment: all was deleted, and so it stays
        finally:
            connection.close()
    except apsw.CantOpenError:
        return  # somebody else removed it
    finally:
        release(held)
