"""Leases on logs: the holder of one keeps others from committing, after it lost too many races.

Nouns: a *lease* (a key with a random token, that runs out) and a *leftover* (a lease of this backend that is no longer
held and could not be given back: the server was gone, or the reply to its taking was lost).

Nothing that is committed depends on a lease: a commit compares the stamps of its log as well. A lease may therefore be
short, so that a process that died keeps no other waiting for long; a process that lives renews it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import Final, TypeVar

from rstore.backends.redis.namespace.namespace import RedisNamespace, spot_of
from rstore.backends.redis.transport.calls import Script
from rstore.backends.redis.transport.deadline import CallRetries
from rstore.backends.redis.transport.errors import Signal
from rstore.backends.types import Log
from rstore.errors import StoreBusyError, StoreError

T = TypeVar("T")

_LEASE: Final = Script("lease")
_RELEASE: Final = Script("release")
_RENEW: Final = Script("renew")

LEASE_MS: Final = 3_000
"""How long a lease outlasts a holder that died. A living one renews it three times in this time."""
_LEFT_S: Final = 60.0
"""The time after which a leftover has run out, even on a server that was away."""
_POLL_S: Final = 0.005
RENEWER: Final = "rstore log"


class RedisLeases:
    """The leases of one backend. Threads share it."""

    def __init__(self, namespace: RedisNamespace) -> None:
        self._namespace = namespace
        self._client = namespace.client
        # By token: slot, name, and since when. Each thread adds and pops in one step.
        self._leftovers: dict[bytes, tuple[int, bytes, float]] = {}

    @contextmanager
    def hold(self, log: Log) -> Generator[bytes, None, None]:
        """Hold the lease on a log, and yield its token."""
        bucket = self._namespace.bucket_of_log(log)
        if not bucket.incarnation:
            bucket = self._namespace.current(spot_of(log))  # others look for the lease under its incarnation
        name, token = bucket.log(b"t", log), os.urandom(16)
        lasts_ms = b"%d" % LEASE_MS

        def attempt() -> None:
            if not self._client.call(_LEASE.on(bucket.slot, (name,), token, lasts_ms, write=True, again=True)):
                raise Signal("LEASED")

        alive = Lock()
        try:
            with self._namespace.unseen():
                self.unleased(log.key, attempt)
            with alive:  # however it is let go of
                renewer = Thread(target=self._renew, args=(bucket.slot, name, token, alive), name=RENEWER, daemon=True)
                if not sys.is_finalizing():  # then no thread begins, and this one would wait for that for ever
                    with suppress(RuntimeError):  # no thread can be had
                        renewer.start()
                yield token
        finally:
            now = time.monotonic()
            for old in [old for old, (*_, since) in list(self._leftovers.items()) if now - since > _LEFT_S]:
                self._leftovers.pop(old, None)
            self._leftovers[token] = (bucket.slot, name, now)
            # A lease that could not be given back does not undo the commits under it.
            self._give_back(token)

    def _renew(self, slot: int, name: bytes, token: bytes, alive: Lock) -> None:
        """Renew a lease until its holder lets go of a lock. A renewal that comes late finds that it is gone."""
        renew = _RENEW.on(slot, (name,), token, b"%d" % LEASE_MS, write=True, again=True)
        while not alive.acquire(timeout=LEASE_MS / 3000):
            self._namespace.deadline.begin()
            with suppress(StoreError):  # then it runs out, and the commit of its holder races with those of others
                self._client.call(renew)

    def _give_back(self, token: bytes) -> bool:
        """Give a leftover back; return whether that was done, and not by another thread."""
        leftover = self._leftovers.get(token)
        if leftover is None:
            return False
        slot, name, _ = leftover
        try:
            self._client.call(_RELEASE.on(slot, (name,), token, write=True, again=True))
        except StoreError:
            return False
        return self._leftovers.pop(token, None) is not None

    def unleased(self, key: str, attempt: Callable[[], T]) -> T:
        """Repeat an attempt until no other handle has a lease on the log, and return its result.

        Raises `StoreBusyError` if the time-out passes first.
        """
        retries: CallRetries | None = None
        while True:
            try:
                return attempt()
            except Signal as signal:
                if signal.code != "LEASED":
                    raise
                retries = retries or CallRetries(self._namespace.deadline)
                if not retries.allows(waiting=True):
                    raise StoreBusyError(
                        f"another writer holds {key!r} in the namespace {self._namespace.name!r} for longer than the "
                        "time-out; nothing was applied"
                    ) from signal
            if not any(self._give_back(token) for token in list(self._leftovers)):
                time.sleep(_POLL_S)
