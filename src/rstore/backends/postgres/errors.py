"""The words of PostgreSQL as errors of rstore: the one place where the driver's exceptions are translated."""

from __future__ import annotations

import re
from typing import Final

import psycopg

from rstore.backends.types import RolledBack
from rstore.errors import (
    CorruptionError,
    NotSupportedError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreNotAvailableError,
)


class Passed(RolledBack, StoreBusyError):  # noqa: N818 - as its base
    """The transaction was undone so that others could pass, or because another session would know its statements."""


class CutOff(RolledBack, StoreNotAvailableError):  # noqa: N818 - the same
    """The connection was lost before the end of the transaction."""


RETRY: Final = {"40001", "40P01"}
"""Serialization failure and deadlock: all was undone, and the same again may well succeed."""
ABORTED: Final = "25P02"
"""An earlier statement of the transaction has failed, and so does whatever follows."""
NOT_PREPARED: Final = {"26000", "42P05"}
"""A prepared statement is not there, or is there already: a pooler changes the session under our hands."""
CHANGED_PLAN: Final = "0A000"
"""Among other things: a table was altered since the statement was prepared."""
READ_ONLY: Final = "25006"
TAKEN: Final = "23505"
"""A unique violation: an id is there already, which the commit was to put."""
CANCELLED: Final = "57014"
IN_THE_FUTURE: Final = "22023"
"""Of `pg_xact_status`: the server has not given that number to any transaction yet."""

ENDED: Final = {"25P03", "25P04"}
"""The server has ended the session in the middle of a transaction, of which nothing was applied."""
LIMITS: Final = {
    "57014": "statement_timeout",
    "55P03": "lock_timeout",
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
}
"""The limits of an administrator, by the code of the error by which the server enforces them."""

READ_ONLY_HINT: Final = (
    "the server only reads: it is a standby, or default_transaction_read_only is on; connect to the primary (several "
    "hosts and target_session_attrs=read-write find it)"
)
_RIGHTS_HINT: Final = (
    "the user lacks a right: a writer needs USAGE on the schema and SELECT, INSERT, UPDATE and DELETE on its tables, a "
    "reader USAGE and SELECT, and the first writer CREATE on the database or on an empty schema"
)

_KINDS: Final[dict[str, tuple[type[StoreError], str]]] = {
    "25006": (StoreNotAvailableError, READ_ONLY_HINT),
    "42501": (StoreNotAvailableError, _RIGHTS_HINT),
    "53100": (StoreFullError, "the server's disk is full; nothing was applied"),
    "53200": (StoreFullError, "the server is out of memory; nothing was applied"),
    "53400": (StoreFullError, "a limit of the server is reached; nothing was applied"),
    "54000": (NotSupportedError, "PostgreSQL cannot hold it"),
    "22P05": (NotSupportedError, "the database's encoding cannot hold it: create it with ENCODING 'UTF8'"),
    "55P03": (StoreBusyError, "others kept it locked; nothing was applied"),
    "57014": (StoreBusyError, "it was given up after the time-out; nothing was applied"),
    "25P03": (StoreNotAvailableError, "the transaction did nothing for too long; nothing was applied"),
    "25P04": (StoreNotAvailableError, "the transaction took too long; nothing was applied"),
    **dict.fromkeys(RETRY, (StoreBusyError, "concurrent writers were faster again and again; nothing was applied")),
    "42P01": (StoreNotAvailableError, "the tables of the store are not there"),
    "3F000": (StoreNotAvailableError, "the schema of the store is not there"),
    "42703": (StoreNotAvailableError, "the schema holds tables of another application"),
    "42P07": (StoreNotAvailableError, "the schema holds tables of another application; name another with ?schema="),
    "22003": (CorruptionError, "a column of the store's tables was changed, or is damaged"),
    **dict.fromkeys(("22P03", "42804", "42883"), (CorruptionError, "a column of the store's tables was changed")),
    "42P10": (CorruptionError, "a table of the store lacks its primary key"),
    "XX001": (CorruptionError, "the server's data is damaged"),
    "XX002": (CorruptionError, "an index of the server is damaged"),
}

# libpq has no codes for what goes wrong before the session begins, only the server's words. Where these are in another
# language the hint is missing, and the words are there all the same.
_REFUSED: Final = (
    (r"not permitted to log in", "ALTER ROLE … LOGIN lets it, or connect as another user"),
    (r"permission denied for database", "GRANT CONNECT ON DATABASE … TO the user lets it in"),
    (r"password|authentication|pg_hba|role .* does not exist", "check the user, the password and pg_hba.conf"),
    (r"database .* does not exist", "create it with CREATE DATABASE … ENCODING 'UTF8', or name another one"),
    (r"could not translate host name|resolve host", "check the name of the host"),
    (r"[Cc]onnection refused|No such file or directory", "is the server running, and is this its port?"),
    (r"certificate|SSL", "check sslmode and the certificates"),
)
_FULL: Final = re.compile(
    r"too many (clients|connections)|remaining connection slots|no more connections allowed|query_wait_timeout"
)
_POOLER_HINT: Final = (
    "PgBouncer had no session of the server free for so long; nothing was applied: raise its default_pool_size, or "
    "keep transactions short"
)
_STARTING: Final = re.compile(r"the database system is (starting up|shutting down|in recovery mode|not yet accepting)")


def is_refused_by_pooler(error: psycopg.Error) -> bool:
    """Return whether PgBouncer had no session of the server to spare: it has passed nothing on."""
    return error.sqlstate == "08P01" and "query_wait_timeout" in str(error)


def translated(error: psycopg.Error, place: str) -> StoreError:
    """Return the error of rstore for what the server refused; it names the place, never a value."""
    if is_refused_by_pooler(error):
        return StoreBusyError(f"{place}: {words(error)}; {_POOLER_HINT}")
    kind, hint = _KINDS.get(error.sqlstate or "", (StoreNotAvailableError, ""))
    return kind(f"{place}: {words(error)}" + (f"; {hint}" if hint else ""))


def limited(error: psycopg.Error, place: str, setting: str, value: str) -> StoreError:
    """Return the error of rstore for what the server gave up of itself, after a time that an administrator has set."""
    kind, _ = _KINDS[error.sqlstate or ""]
    if value:
        why = f"the server ended it after its {setting} of {value}, which is not the timeout of the store"
    else:
        why = "an administrator or another program had it cancelled"
    return kind(f"{place}: {words(error)}; {why}; nothing was applied")


def is_taken(error: StoreError) -> bool:
    """Return whether a single call was undone because an id is there already."""
    cause = error.__cause__
    return not isinstance(error, RolledBack) and isinstance(cause, psycopg.Error) and cause.sqlstate == TAKEN


def is_temporary(error: psycopg.Error) -> bool:
    """Return whether a refused connection may be accepted in a moment."""
    return bool(_STARTING.search(str(error))) or is_full(error)


def is_full(error: psycopg.Error) -> bool:
    """Return whether a connection was refused because there are too many."""
    return bool(_FULL.search(str(error)))


def unreachable(error: psycopg.Error, place: str) -> StoreError:
    """Return the error of rstore for a connection that could not be opened."""
    said = words(error)
    if is_full(error):
        return StoreBusyError(
            f"{place}: {said}; all of its connections stayed taken for the time-out: raise max_connections, use fewer "
            "(?pool= bounds those of one store), or put PgBouncer in front"
        )
    hint = next((hint for pattern, hint in _REFUSED if re.search(pattern, said)), "")
    return StoreNotAvailableError(f"{place}: {said}" + (f"; {hint}" if hint else ""))


def words(error: BaseException | None) -> str:
    """Return the server's message in one line, without its details: these may quote what was sent."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((primary or str(error)).split()) or type(error).__name__
