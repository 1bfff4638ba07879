"""The verbs about a store as a whole: namespaces, statistics, durability, checks, backups and vacuum."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from time import perf_counter
from typing import Final, NamedTuple

from rstore.backends.maintenance import Durability, Finding, Stats
from rstore.maintenance.checking import check_all
from rstore.maintenance.copying import back_up
from rstore.verbs import StoreVerbs

_MAX_FINDINGS: Final = 1000
_A_SWEEP: Final = 20_000
"""How many expired pairs go at once: others wait for the lock that long."""


class Reclaimed(NamedTuple):
    """The result of `vacuum`."""

    expired: int
    """How many pairs had expired, and are gone for good."""
    bytes: int | None
    """How much smaller the store is now; None where the backend does not say."""


class Maintenance(StoreVerbs):
    """Taking care of a store."""

    def namespaces(self) -> list[str]:
        """Return the names of all namespaces in the same file, schema, server or cluster, in order.

        >>> store.namespaces()
        ['docstrings']
        """
        return self._alone("namespaces").whole.namespaces()

    def ping(self) -> float:
        """Return how many seconds it took until the store answered: the file, or every server of it.

        It reads nothing that was stored, and is meant for health checks.

        Raises `StoreNotAvailableError` if the store cannot be reached, or does not answer within the time-out.

        >>> store.ping() < 30
        True
        """
        backend = self._alone("ping").whole
        begun = perf_counter()
        backend.ping()
        return perf_counter() - begun

    def stats(self) -> Stats:
        """Return how much the namespace holds: counts, and bytes as they are stored, without loading any of it.

        With `counters` of what went on behind the calls of this object: retries, waits, reconnections, failovers, lost
        replies, seals.

        Where others write meanwhile, a file and PostgreSQL tell of one moment, Redis does not.

        >>> store['a'] = 'one'
        >>> store.extend('temperature', (1, 20.5), (2, 21.0))
        2
        >>> store.stats().keys, store.stats().points
        (1, 2)
        >>> store.stats().counters['lost_replies']
        0
        """
        session = self._alone("stats")
        return replace(session.whole.stats(), counters=session.setup.telemetry.counts())

    def durability(self) -> Durability:
        """Return which accidents a call survives that has returned, as the backend is set up now.

        >>> from rstore import Store
        >>> with Store('file.db', frozen=False) as store:
        ...     store.durability().survives_power_cut
        True
        """
        return self._alone("durability").whole.durability()

    def check(self) -> list[Finding]:
        """Return the problems of the store, as (model, key, problem); an empty list means that it is sound.

        Everything in the namespace is read once, in constant memory, while others go on writing: whether it opens under
        the key, can be decoded, and agrees with what else is there. Nothing is unpickled. What the namespaces have in
        common, such as the file, is looked at as a whole. At most 1,000 findings are returned.

        >>> store.check()
        []
        """
        return list(islice(check_all(self._alone("check")), _MAX_FINDINGS))

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the store, as it is at one moment, into a new SQLite file, while others go on writing.

        The copy is a store: open it by its path, with the same namespace and key. Of a file all namespaces are copied,
        of PostgreSQL and `memory://` this one. It bears its name when it is whole and on the disk; only its owner may
        read it.

        Raises `InvalidValueError` if there is such a file already, and `NotSupportedError` on Redis, which has no
        moment to copy.

        >>> store.backup('copy.db')
        """
        session = self._alone("backup")
        back_up(session.whole, session.name, path)

    def vacuum(self) -> Reclaimed:
        """Remove all pairs that have expired, and give back space that is not used any more; return what came of it.

        On a file and on PostgreSQL everything is gone through, which takes a while, and a file needs as much free space
        as the store takes. Nothing is lost if it is interrupted.

        Raises `StoreBusyError` if others were in the way longer than the time-out.

        >>> store.vacuum().expired
        0
        """
        backend = self._alone("vacuum", writes=True).whole
        expired = 0
        while n := backend.sweep(_A_SWEEP):
            expired += n
        return Reclaimed(expired, backend.reclaim())
