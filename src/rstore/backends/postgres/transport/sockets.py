"""Waiting for sockets, with an end."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

from psycopg import pq

from rstore.backends.common.backoff import Deadline

READ: Final = 1
WRITE: Final = 4


def waiter(fd: int) -> Callable[[int, float | None], int]:
    """Return the function that waits until a socket is ready to `READ`, to `WRITE` or both, and tells which.

    It returns 0 when the time is up.
    """
    if not hasattr(select, "poll"):  # Windows
        return lambda events, timeout_s: _select(fd, events, timeout_s)
    reading, either = select.poll(), select.poll()
    reading.register(fd, select.POLLIN)
    either.register(fd, select.POLLIN | select.POLLOUT)
    poll = {READ: reading.poll, READ | WRITE: either.poll, WRITE: either.poll}

    def wait(events: int, timeout_s: float | None) -> int:
        ready = poll[events](None if timeout_s is None else max(0.0, timeout_s * 1000))
        # Whatever is wrong with a socket is found by reading it.
        return 0 if not ready else (ready[0][1] & select.POLLOUT and WRITE) | (ready[0][1] & ~select.POLLOUT and READ)

    return wait


def _select(fd: int, events: int, timeout_s: float | None) -> int:
    readable, writable, broken = select.select(
        [fd] if events & READ else [],
        [fd] if events & WRITE else [],
        [fd],
        None if timeout_s is None else max(0.0, timeout_s),
    )
    return (READ if readable or broken else 0) | (WRITE if writable else 0)


def poll_until(
    making: pq.abc.PGconn | pq.abc.PGcancelConn, poll: Callable[[], int], deadline: Deadline
) -> pq.PollingStatus:
    """Return the state of a connection that is being made: made, failed, or its last one at the deadline."""
    while (state := pq.PollingStatus(poll())) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        events = READ if state == pq.PollingStatus.READING else WRITE
        if not waiter(making.socket)(events, deadline.left_s):
            break
    return state
