"""Removing a SQLite file in which nothing is left, and that no other connection uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress

import apsw

from rstore.backends.sqlite.transport.filesystem import Identity, identity
from rstore.backends.sqlite.transport.forks import held
from rstore.backends.sqlite.transport.slot import Slot
from rstore.errors import StoreBusyError, StoreError


def remove_if_unused(
    path: str,
    opened: Identity,
    mine: Callable[[Slot], bool],
    is_unused: Callable[[apsw.Connection], bool],
    timeout_s: float,
) -> None:
    """Close the slots of this store, and remove the file that was opened if nothing is in it and no other has it open.

    With anything in the way the file stays, empty.
    """
    with suppress(StoreBusyError), held(mine, timeout_s) as slots:
        for slot in slots:
            slot.close()
        real_path = os.path.realpath(path)  # once: a symbolic link may be turned meanwhile
        with suppress(apsw.Error, StoreError, OSError), _parent(real_path) as (name, parent):
            if identity(real_path) != opened:
                return
            with closing(apsw.Connection(real_path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
                # Leaving WAL takes an exclusive lock: the proof of being alone. Others may have entered it since.
                if connection.pragma("journal_mode", "delete") != "delete":
                    return
                connection.execute("BEGIN EXCLUSIVE")
                if connection.pragma("journal_mode") == "delete" and is_unused(connection):
                    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if (found.st_dev, found.st_ino) == opened:
                        os.unlink(name, dir_fd=parent)
                connection.execute("ROLLBACK")


@contextmanager
def _parent(real_path: str) -> Generator[tuple[str, int | None], None, None]:
    """Yield the name of a file in its directory, and the directory, whatever becomes of its name."""
    if os.unlink not in os.supports_dir_fd:  # on Windows, where a file that is open stays
        yield real_path, None
        return
    parent = os.open(os.path.dirname(real_path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield os.path.basename(real_path), parent
    finally:
        os.close(parent)
