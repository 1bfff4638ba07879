"""A SQLite file of which the system could not bring something to the disk.

After an `fsync` that failed, what the system has in memory of a file may differ from the disk for good, and the next
`fsync` says that all is well: PostgreSQL learnt it in 2018. So nothing is built on what such a log holds. All
connections are closed, the log is read anew, which compares its checksums, and moved into the file as a whole, from
where every page is written and synced once more; only then the file is used again.

Nouns: a *doubt* (a place whose log has to be moved first).
"""

from __future__ import annotations

import os

import apsw

from rstore.backends.sqlite.link import Link, hold, release

_doubts: set[str] = set()  # guarded by the gate


def distrust(path: str) -> None:
    """Close all connections of this process to a file, leaving its log as it is."""
    place = os.path.realpath(path)
    held = hold(lambda link: os.path.realpath(link.path) == place)
    try:
        _doubts.add(place)
        for link in held:
            link.leave_log()
            link.close()
    finally:
        release(held)


def dispel(link: Link, connection: apsw.Connection) -> None:
    """Move the log into the file, if there is a doubt, before a connection is used; for whoever holds the gate."""
    if not _doubts or (place := os.path.realpath(link.path)) not in _doubts:
        return
    link.leave_log()
    if next(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))[0]:
        raise apsw.BusyError("the log is to be moved into the file after an error of the disk, and is in use")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    _doubts.discard(place)
