"""Opening a connection by a deadline, over several hosts and addresses.

By libpq alone, and not by `psycopg.connect`: that gives each address two seconds at least, so that several silent ones
take longer than any time-out.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from random import SystemRandom
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from rstore.backends.common.backoff import Deadline
from rstore.backends.common.interpreter import check_running
from rstore.backends.postgres.transport.sockets import poll_until

# A peer that is gone without a word is noticed in a minute, not in the two hours of most systems.
_KEEPALIVE: Final = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
_ASKED_FOR: Final = ("host", "hostaddr", "port", "connect_timeout", "target_session_attrs", "load_balance_hosts")
_IMPOSSIBLE: Final = {"ssl_min_protocol_version": "none"}
"""Lets libpq read its options and connect to nothing."""
_STANDBY_FIRST: Final = "prefer-standby"


def connect(parameters: dict[str, str], deadline: Deadline) -> pq.abc.PGconn | psycopg.Error:
    """Return a connection, or the error that says why there is none.

    The remaining hosts share the remaining time; `connect_timeout` may give each one less. The error is returned and
    not raised: in a traceback, the variables of this file would show the password.
    """
    check_running("the server cannot be connected to")
    known = _known(parameters)
    keepalive = {} if any(name.startswith("keepalives") for name in known) else _KEEPALIVE
    attempts = [{**keepalive, **parameters, **attempt} for attempt in _attempts(known)]
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", known.get("connect_timeout", "0")):
        return psycopg.OperationalError("connect_timeout is not a whole number of seconds")
    max_s = float(known.get("connect_timeout", 0))
    errors: list[str] = []
    for i, attempt in enumerate(attempts):
        share_s = deadline.left_s / (len(attempts) - i)
        if max_s > 0:
            share_s = min(share_s, max_s)
        pgconn = pq.PGconn.connect_start(make_conninfo("", **attempt).encode())
        state = poll_until(pgconn, pgconn.connect_poll, Deadline(share_s))
        if state == pq.PollingStatus.OK:
            return pgconn
        error = pgconn.get_error_message() if state == pq.PollingStatus.FAILED else "no answer in time"
        pgconn.finish()
        if error not in errors:
            errors.append(error)
    return psycopg.OperationalError("; ".join(errors))


def _known(parameters: dict[str, str]) -> dict[str, str]:
    """Return the options of libpq that say where to connect, with those of a service file and of the environment."""
    asking = pq.PGconn.connect_start(make_conninfo("", **(parameters | _IMPOSSIBLE)).encode())
    known = {option.keyword.decode(): (option.val or b"").decode() for option in asking.info}
    asking.finish()
    return {
        name: value for name, value in known.items() if value and (name in _ASKED_FOR or name.startswith("keepalives"))
    }


def _attempts(known: dict[str, str]) -> list[dict[str, str]]:
    """Return parameters for one address each, in the order in which they are to be tried."""
    attempts = [*_addresses(known)]
    if known.get("load_balance_hosts") == "random":
        SystemRandom().shuffle(attempts)
    if known.get("target_session_attrs") == _STANDBY_FIRST and len(attempts) > 1:
        sessions = ("standby", "any")
        return [{**attempt, "target_session_attrs": wanted} for wanted in sessions for attempt in attempts]
    return attempts


def _addresses(known: dict[str, str]) -> Iterator[dict[str, str]]:
    hosts, addresses, ports = (known[name].split(",") if name in known else [] for name in ("host", "hostaddr", "port"))
    n = max(len(hosts), len(addresses), 1)
    if not {len(hosts), len(addresses)} <= {0, n} or len(ports) not in (0, 1, n):
        yield {}  # libpq says what is wrong
        return
    for i in range(n):
        one = {name: values[i] for name, values in (("host", hosts), ("hostaddr", addresses)) if values}
        if ports:
            one["port"] = ports[i % len(ports)]
        if addresses or not hosts or hosts[i][:1] in ("", "/", "@") or hosts[i][1:2] == ":":
            yield one  # an address, or a socket in a directory
        else:
            for address in _resolved(hosts[i]):
                yield {**one, **address}


def _resolved(host: str) -> list[dict[str, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [{}]  # libpq says so
    return [{"hostaddr": str(address[0])} for *_, address in found]
