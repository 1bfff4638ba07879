"""A SQLite file of which the system could not bring something to the disk.

After an `fsync` that failed, the system's memory of a file may differ from the disk for good, and the next `fsync`
says that all is well: PostgreSQL learnt it in 2018. So nothing is built on such a write-ahead log. All connections are
closed, the write-ahead log is read anew, which compares its checksums, and moved into the file as a whole, from where
every page is written and synced once more; only then the file is used again.
"""

from __future__ import annotations

import os

import apsw

from rstore.backends.sqlite.transport.forks import held
from rstore.backends.sqlite.transport.slot import Slot

_distrusted: set[str] = set()  # the real paths whose write-ahead log has to be moved first; guarded by the gate


def distrust(path: str) -> None:
    """Close all connections of this process to a file, leaving its write-ahead log as it is."""
    real_path = os.path.realpath(path)
    with held(lambda slot: os.path.realpath(slot.path) == real_path) as slots:
        _distrusted.add(real_path)
        for slot in slots:
            slot.leave_wal()
            slot.close()


def trust_again(slot: Slot, connection: apsw.Connection) -> None:
    """Move a distrusted write-ahead log into the file before a connection is used; the caller holds the gate."""
    if not _distrusted or (real_path := os.path.realpath(slot.path)) not in _distrusted:
        return
    slot.leave_wal()
    if next(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))[0]:
        raise apsw.BusyError("the log is to be moved into the file after an error of the disk, and is in use")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    _distrusted.discard(real_path)
