"""The identity of a SQLite file, and of the files that lie beside it, by their names.

"There is none" and "cannot be told" are two answers: where the system gives none, `StoreNotAvailableError` is raised.
"""

from __future__ import annotations

import os
from typing import Final, TypeAlias

from rstore.errors import StoreNotAvailableError

Identity: TypeAlias = tuple[int, int]
"""The device and the number of a file: they tell it from every other one that is there at the same time."""

_ABSENT: Final = FileNotFoundError, NotADirectoryError


def status(path: str) -> os.stat_result | None:
    """Return the status of the file that bears a name, None if there is none."""
    try:
        return os.stat(path)
    except _ABSENT:
        return None
    except (OSError, ValueError) as error:
        raise unreachable(path, error) from error


def identity(path: str) -> Identity | None:
    """Return the identity of the file that bears a name, None if there is none."""
    found = status(path)
    return None if found is None else (found.st_dev, found.st_ino)


def is_there(path: str) -> bool:
    """Return whether a file bears a name. Not `os.path.exists`: it takes an error of the system for a no."""
    return status(path) is not None


def bears(path: str, known: Identity | None) -> bool:
    """Return whether the file of that identity bears a name, having made sure of a no.

    A moment without the directory, as of a volume that is mounted anew, must not pass for a file that was deleted.
    """
    found = identity(path)
    if found is None and _is_listed(path):
        found = identity(path)  # it was made again just now
        if found is None:
            raise StoreNotAvailableError(f"cannot tell what bears the name {path!r}: it is listed, and is not there")
    return found == known


def _is_listed(path: str) -> bool:
    directory, name = os.path.split(os.path.realpath(path))
    try:
        return name in os.listdir(directory)
    except _ABSENT:
        return False
    except OSError as error:
        raise unreachable(path, error) from error


def unreachable(path: str, error: Exception) -> StoreNotAvailableError:
    """Return the error for a file that the system does not let be reached."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StoreNotAvailableError(f"{path!r} cannot be reached: {reason}")


def wal_names(real_path: str) -> tuple[str, str]:
    """Return the names of the write-ahead log and its index.

    SQLite keeps them beside the file that a link leads to, not beside the link.
    """
    return real_path + "-wal", real_path + "-shm"


def has_wal(real_path: str) -> bool:
    """Return whether there is a write-ahead log with something in it; frozen connections leave empty ones."""
    wal = status(wal_names(real_path)[0])
    return wal is not None and wal.st_size > 0


def stamp(path: str) -> tuple[int, ...] | None:
    """Return numbers that change whenever a file is written to."""
    found = status(path)
    if found is None:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
