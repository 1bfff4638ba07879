"""Questions about one connection that are asked on another one."""

from __future__ import annotations

from typing import Final

import psycopg

from rstore.backends.common.backoff import Deadline
from rstore.backends.postgres.dsn import PostgresPlace
from rstore.backends.postgres.errors import is_full
from rstore.backends.postgres.transport.binary import boolean, int4, truth
from rstore.backends.postgres.transport.connect import connect
from rstore.backends.postgres.transport.pool import ConnectionPool
from rstore.backends.postgres.transport.protocol import Failed, Lost, PostgresConnection
from rstore.backends.postgres.transport.statements import Statement
from rstore.errors import StoreError

MIN_TIMEOUT_S: Final = 0.1
"""A time-out of 0 says not to wait for others; the statement itself needs a moment."""
_PROBE_S: Final = 5.0
"""A server has this long to tell on another connection that it is at work."""
_IDLE: Final = Statement("""
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
  WHERE pid = $1::int AND (state = ANY ('{idle,idle in transaction,idle in transaction (aborted)}'::text[])
    OR (NOT $2::boolean AND wait_event_type = 'Lock')))""")
_SETTING: Final = Statement("SELECT current_setting($1::text, true)")


def is_at_work(place: PostgresPlace, connection: PostgresConnection, timeout_s: float, *, waits: bool) -> bool | None:
    """Ask on another connection whether the server is at work on this one; None: there is no answer.

    `waits`: it may wait for a lock, which the server bounds. `pg_stat_activity` does not know a connection to a
    pooler: there any answer counts as work.
    """
    deadline = Deadline(min(max(timeout_s, 1.0), _PROBE_S))
    try:
        pgconn = connect(place.login(), deadline)  # not of the pool, in which this may be the only one
    except StoreError:  # there are no credentials now
        return None
    if isinstance(pgconn, psycopg.Error):
        return True if is_full(pgconn) else None
    probe = PostgresConnection(pgconn, prepare=False)
    try:
        asked = _IDLE, (int4(connection.pid), boolean(waits))
        (found,) = probe.run([asked], max(deadline.left_s, MIN_TIMEOUT_S), asking=False)
    except (Lost, Failed):
        return None
    finally:
        probe.close()
    return not truth(found, 0)


def setting_of(pool: ConnectionPool, name: str) -> str | None:
    """Return the value with which a session begins, empty where that is no limit; None if that cannot be told now."""
    try:
        connection = pool.take(Deadline(MIN_TIMEOUT_S))
    except StoreError:
        return None
    try:
        (found,) = connection.run([(_SETTING, (name.encode(),))], MIN_TIMEOUT_S, asking=False)
    except (Lost, Failed):
        pool.drop(connection)
        return None
    finally:
        pool.give_back(connection)
    value = (found.get_value(0, 0) or b"").decode()
    return "" if value == "0" else value
