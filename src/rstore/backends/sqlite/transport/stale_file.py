"""A SQLite file that has lost its name, or its write-ahead log: the log is moved into the file that it belongs to.

SQLite finds the log by its name: the next connection to another file of this name would take it for that file's. So it
is unlinked as well, if it is still the one that was opened. A log that was removed beneath its connection is found by
no other one: it is moved into the file, too, unless others have begun another log since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import apsw

from rstore.backends.common.backoff import Deadline
from rstore.backends.sqlite.transport.errors import translated
from rstore.backends.sqlite.transport.filesystem import identity, is_there, unreachable, wal_names
from rstore.backends.sqlite.transport.forks import held
from rstore.backends.sqlite.transport.slot import Slot, all_slots
from rstore.errors import CorruptionError, StoreBusyError


def leave(path: str, timeout_s: float) -> None:
    """Close all connections of this process to files of a name that was seen to have changed hands."""
    real_path = os.path.realpath(path)
    _leave(lambda slot: os.path.realpath(slot.path) == real_path, path, timeout_s)


def _leave(chosen: Callable[[Slot], bool], path: str, timeout_s: float) -> None:
    with held(chosen, timeout_s) as slots:
        lost = None
        for slot in slots:  # which may have different files: the name may have changed hands more than once
            try:
                _retire(slot, path, timeout_s)
            except CorruptionError as error:  # the log is lost: the next call goes to the one that others have begun
                lost = error
            slot.close()
        if lost is not None:
            raise lost


def leave_early(path: str, slot: Slot, timeout_s: float) -> None:
    """Close the connection of a slot, which may be one to a file that was replaced while it was opened."""
    try:
        _retire(slot, path, timeout_s)
    finally:
        slot.close()


def are_others(path: str) -> bool:
    """Return whether this process has other files of the name open; it stays true only while the gate is held."""
    some = [slot for slot in all_slots() if slot.connection is not None]
    return bool(some) and any(map(_of_another(path), some))  # mostly there are none, and the file is not asked for


def leave_others(path: str, timeout_s: float) -> None:
    """Close the connections of this process to other files of the name, before the one that bears it is opened."""
    if are_others(path):
        _leave(_of_another(path), path, timeout_s)


def _of_another(path: str) -> Callable[[Slot], bool]:
    real_path = os.path.realpath(path)
    now, wal = identity(real_path), identity(wal_names(real_path)[0])
    return lambda slot: (
        slot.connection is not None
        and slot.transaction is None  # a transaction finds out by itself
        and ((bool(slot.wal_files) and slot.opened != now) or (slot.wal is not None and slot.wal[1] != wal))
        and os.path.realpath(slot.path) == real_path
    )


def _retire(slot: Slot, path: str, timeout_s: float) -> None:
    slot.calm()
    if slot.connection is None or not slot.wal_files:
        return
    if slot.moved():
        if not slot.connection.in_transaction:  # else it reads from a moment, and is about to lose it
            _empty_wal(slot.connection, path, timeout_s)
        for name, opened in slot.wal_files.items():
            if opened is not None and identity(name) == opened:
                try:
                    os.unlink(name)
                except FileNotFoundError:  # others were faster
                    pass
                except OSError as error:  # and no file of this name can be opened as long as it is there
                    raise unreachable(name, error) from error
    elif slot.has_lost_wal() and not slot.connection.in_transaction:
        _save_lost_wal(slot.connection, path, timeout_s)


def _save_lost_wal(connection: apsw.Connection, path: str, timeout_s: float) -> None:
    if not is_there(wal_names(os.path.realpath(path))[0]):
        _empty_wal(connection, path, timeout_s)
        return
    # Another log is there: its writers go by what the file was, which must not change beneath them.
    _, frames, moved = next(connection.execute("PRAGMA wal_checkpoint(NOOP)"))
    if frames != moved:
        raise CorruptionError(
            f"the write-ahead log of {path!r} was removed while it was in use, and others have begun another one: what "
            "was written last is not in the file; look at check(), and let no other SQLite library of this process "
            "open the file"
        )


def _empty_wal(connection: apsw.Connection, path: str, timeout_s: float) -> None:
    """Move the write-ahead log into the file, waiting for readers of what the file was before."""
    deadline = Deadline(timeout_s)
    while True:
        try:
            busy, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() or (0, 0, 0)
        except apsw.Error as error:
            raise translated(error, path, timeout_s) from error
        if not busy and frames == moved:
            return
        if deadline.is_over:
            raise StoreBusyError(f"{path!r} was replaced, and others still read the file that was there")
        time.sleep(0.002)
