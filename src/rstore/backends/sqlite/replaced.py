"""A SQLite file that bears its name no more, or whose log does: what is in the log is moved into the file.

The log is found by its name: whoever opens another file of this name next would take it for that file's. It is moved
into the file that it belongs to, and unlinked if it is still the one that was opened. A log that somebody has removed
beneath us is found by nobody: it is moved into the file, too, unless others have begun another one since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import apsw

from rstore.backends.sqlite.errors import translated
from rstore.backends.sqlite.link import Link, all_links, hold, release
from rstore.backends.sqlite.place import identity, is_there, log_names, unreachable
from rstore.errors import CorruptionError, StoreBusyError


def leave(path: str, mine: Link, timeout_s: float) -> None:
    """Close all connections of this process to what bears the name or did, after one link was seen to have another."""
    place = os.path.realpath(path)
    held = hold(lambda link: os.path.realpath(link.path) == place, timeout_s)
    try:
        try:
            _retire(mine, path, timeout_s)
        except CorruptionError:  # the log is lost, and the next call goes to the one that others have begun
            for link in held:
                link.close()
            raise
        for link in held:
            link.close()
    finally:
        release(held)


def are_others(path: str) -> bool:
    """Return whether this process has other files of the name open; only whoever holds the gate can rely on it."""
    some = [link for link in all_links() if link.connection is not None]
    return bool(some) and any(map(_of_another(path), some))  # mostly there are none, and the file is not asked for


def leave_others(path: str, timeout_s: float) -> None:
    """Close the connections of this process to other files of the name, before the one that bears it is opened."""
    if not are_others(path):
        return
    held = hold(_of_another(path), timeout_s)
    try:
        for link in held:
            _retire(link, path, timeout_s)
            link.close()
    finally:
        release(held)


def _of_another(path: str) -> Callable[[Link], bool]:
    place = os.path.realpath(path)
    now, log = identity(place), identity(log_names(place)[0])
    return lambda link: (
        link.connection is not None
        and link.bound is None  # a transaction finds out by itself
        and ((bool(link.logs) and link.opened != now) or (link.log is not None and link.log[1] != log))
        and os.path.realpath(link.path) == place
    )


def _retire(link: Link, path: str, timeout_s: float) -> None:
    link.calm()
    if link.connection is None or not link.logs:
        return
    if link.moved():
        if not link.connection.in_transaction:  # else it reads from a moment, and is about to lose it
            _empty_log(link.connection, path, timeout_s)
        for log, opened in link.logs.items():
            if opened is not None and identity(log) == opened:
                _remove(log)
    elif link.has_lost_log() and not link.connection.in_transaction:
        _save_lost_log(link.connection, path, timeout_s)


def _remove(log: str) -> None:
    try:
        os.unlink(log)
    except FileNotFoundError:  # others were faster
        pass
    except OSError as error:  # and no file of this name can be opened as long as it is there
        raise unreachable(log, error) from error


def _save_lost_log(connection: apsw.Connection, path: str, timeout_s: float) -> None:
    if not is_there(log_names(os.path.realpath(path))[0]):
        _empty_log(connection, path, timeout_s)
        return
    # Another log is there: whoever writes it goes by what the file was, which must not change beneath them.
    _, frames, moved = next(connection.execute("PRAGMA wal_checkpoint(NOOP)"))
    if frames != moved:
        raise CorruptionError(
            f"the write-ahead log of {path!r} was removed while it was in use, and others have begun another one: what "
            "was written last is not in the file; look at check(), and let no other SQLite library of this process "
            "open the file"
        )


def _empty_log(connection: apsw.Connection, path: str, timeout_s: float) -> None:
    """Move what is in the log into the file, waiting for those who still read what the file was before."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() or (0, 0, 0)
        except apsw.Error as error:
            raise translated(error, path, timeout_s) from error
        if not busy and frames == moved:
            return
        if time.monotonic() > deadline:
            raise StoreBusyError(f"{path!r} was replaced, and others still read the file that was there")
        time.sleep(0.002)
