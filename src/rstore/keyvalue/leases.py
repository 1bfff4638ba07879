"""Leases on the computation of a value, for which others wait.

A *lease* is a log without rows, of a kind of its own: it is in no list of keys, goes with the namespace, every backend
commits it by its version, and its facts say until when it holds, by the backend's clock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Final, Self

from rstore.backends.types import HEAD_ONLY, Commit, Head, Log, Model, NamespaceGone
from rstore.errors import StoreError
from rstore.keyvalue.atomic import Atomic
from rstore.log.writer import new_stamp
from rstore.namespace import Namespace, revives
from rstore.session import Session
from rstore.verbs import StoreVerbs

LEASE_S: Final = 5.0
"""How long a lease holds. A caller that computes longer renews it three times as often; a dead one does not."""


class Lease:
    """The right to compute the value of one key. One that was taken is given back at the end of `with`.

    The computing caller holds `held`, and the thread that renews the lease waits for it. A lock is released however a
    block is left: by an interrupt at any moment, too, when no code of the caller would run any more.
    """

    def __init__(self, namespace: Namespace, key: str) -> None:
        self._writable = namespace
        self._log = Log(Model.LEASES, key)
        self._token = b""
        self._renewer: Thread | None = None
        self.held = Lock()

    @revives
    def take(self) -> bool:
        """Return whether the lease is one's own now."""
        backend, token = self._writable.backend, new_stamp()
        incarnation = self._writable.incarnation
        view = backend.view(self._log, HEAD_ONLY)
        # One that ends later than any lease can is void: the clock was set back, say, and no caller would ever compute.
        left_ms = 0 if view.head is None else int.from_bytes(view.head.facts, "big") - view.now_ms
        if 0 < left_ms <= 2 * LEASE_S * 1000:
            return False
        facts = _until(view.now_ms)
        commit = Commit(
            create=Head(token, token, sealed=False, facts=facts),
            if_version=None if view.head is None else view.head.version,
            epoch=token,
            version=token,
            facts=facts,
        )
        self._token = token  # before it is taken: what is interrupted here may be done all the same
        if not (taken := backend.commit(self._log, commit, incarnation)):
            self._token = b""
        return taken

    def renew(self) -> None:
        """Renew it from now on, for as long as `held` is held."""
        if sys.is_finalizing():  # no thread begins any more: `start` would wait for ever
            return
        self._renewer = Thread(target=self._renew, name="rstore lease", daemon=True)
        self._renewer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewer is not None and self._renewer.is_alive():
            self._renewer.join()
        if self._token:
            # The value is stored, or what `factory` raised is on its way: what goes wrong here must not hide that, and
            # a lease that was not given back runs out.
            with suppress(StoreError):
                self._writable.backend.drop(self._log, if_version=self._token)

    def _renew(self) -> None:
        backend, incarnation = self._writable.backend, self._writable.incarnation
        # If it cannot be renewed, the lease runs out, and a second caller computes: the first of the two is stored.
        with suppress(StoreError, NamespaceGone):
            while not self.held.acquire(timeout=LEASE_S / 3):
                view = backend.view(self._log, HEAD_ONLY)
                commit = Commit(if_version=self._token, facts=_until(view.now_ms))
                if not backend.commit(self._log, commit, incarnation):
                    return


class Computing(StoreVerbs, Atomic):
    """Computing a value once for all callers: only a store waits for others, a transaction must not."""

    def _compute_once(self, session: Session, key: str, factory: Callable[[], Any], ttl_ms: int | None) -> Any:
        records = session.records
        retries = session.retries(f"others compute the value of {session.place(key)}, or died while they did,")
        while (record := records.find(key)) is None:
            with Lease(session, key) as lease:
                if lease.take():
                    with lease.held:
                        lease.renew()
                        # It may have been stored, and that lease given back, between two looks.
                        if records.find(key) is None:
                            stored = records.put_if(key, factory(), None, ttl_ms, reads=True)
                            if stored is not None:
                                return stored.value
                    retries.check()
                    continue
            retries.wait()
        return records.open_value(key, record)


def _until(now_ms: int) -> bytes:
    return (now_ms + round(LEASE_S * 1000)).to_bytes(8, "big")
