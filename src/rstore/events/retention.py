"""The verbs by which history goes: `prune`, into an archive if one is named, and `forget`, without a trace."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from rstore.arguments import check_key, check_timestamp
from rstore.backends.types import Log, Model
from rstore.errors import InvalidTypeError, NotSupportedError
from rstore.events.archive import open_archive
from rstore.events.pruning import Keep, Pruner
from rstore.log.packing import Logs
from rstore.maintenance.copying import check_path
from rstore.verbs import StoreVerbs, Verbs


class Retention(Verbs):
    """Which part of the history of a sequence is kept."""

    def prune(
        self,
        *keys: str,
        remove: bool = True,
        before: int | None = None,
        dry_run: bool = False,
        archive: str | os.PathLike[str] | None = None,
    ) -> int:
        """Drop history that is not needed any more; return how many events went.

        Without `before`, the events that a later `setitem` or `delitem` of the same item supersedes. The horizon is the
        time of the latest such event. With `before`, a time in POSIX milliseconds, all changes before it are folded
        into a *baseline*: `setitem` events of the state behind them, at the time of the last one, which is the horizon.

        `current` stays what it is, with its timestamp, and so does `past` of every time from the horizon on. `past`
        raises `HorizonError` before it, `apply` at or before it. With `remove`, a key whose current state is empty is
        deleted, if no change from `before` on is left. Without, its state stays `{}`, and not None.

        `dry_run` returns the same number and writes nothing; a frozen store and a snapshot answer it as well.
        `archive` is the path of a SQLite store. What goes is put there first, under the same namespace, key and
        encryption key, and is on the disk before it goes here. Interrupted between the two, it is in both places, and
        pruning again does not double it. All events that went there are one sequence, read by the usual verbs; its
        states lack what stayed here.

        Raises `InvalidArgumentError` without a key, or if `archive` is this store; `NotSupportedError` for an
        `archive` inside a transaction, which may be undone; `StoreIntegrityError` if the archive has changes of another
        sequence under this key.

        >>> for reading in 20, 21, 22:
        ...     state = store.apply('sensor', {'value': reading})
        >>> store.prune('sensor', dry_run=True), store.prune('sensor'), store.current('sensor')
        (2, 2, {'value': 22})
        >>> import operator
        >>> for t in range(0, 50, 10):
        ...     state = store.apply('meter', {'total': (operator.add, 1) if t else 1}, t)
        >>> store.prune('meter', before=30, archive='archive.db'), store.past('meter', 30)
        (3, {'total': 4})
        >>> store.events('meter')[0]
        Event(timestamp=20, item='total', op=<built-in function setitem>, value=3)
        >>> from rstore import Store
        >>> with Store('archive.db', 'docstrings') as archive:
        ...     archive.past('meter', 10)
        {'total': 2}
        """
        _check_flag(remove, "remove")
        session = self._reader if _check_flag(dry_run, "dry_run") else self._writer
        if not keys:
            raise InvalidTypeError("prune takes at least one key; prune(*store.eventsources()) prunes all sequences")
        checked = sorted({check_key(key) for key in keys})  # one order for all, or they would wait for one another
        at = None if before is None else check_timestamp(before)
        path = None if archive is None else f"{check_path(archive, 'an archive')}"
        if dry_run:
            return sum(self._count(key, at, remove=remove) for key in checked)
        session = self._writer
        logs = session.events
        if path is not None and logs.written is not None:
            raise NotSupportedError("prune(archive=…) inside a transaction may be undone: call it outside of one")

        def prune_one(key: str, logs: Logs, keep: Keep | None) -> int:
            with session.naming(f"the event sequence {key!r}"):
                return logs.retry_conflicts(
                    key, lambda logs: Pruner(session, key, logs).try_prune(logs, at, remove=remove, keep=keep)
                )

        with ExitStack() as stack:
            keep = None if path is None else stack.enter_context(open_archive(session, path)).keep
            return logs.atomically(checked, lambda logs: sum(prune_one(key, logs, keep) for key in checked))

    def _count(self, key: str, before: int | None, *, remove: bool) -> int:
        session = self._reader
        with session.naming(f"the event sequence {key!r}"):
            return session.reread(lambda: Pruner(session, key).count(before, remove=remove))


class Forgetting(StoreVerbs):
    """Erasing."""

    def forget(self, *keys: str) -> int:
        """Erase event sequences, with every trace of them that the backend can reach; return how many there were.

        A series or a pair of the same name stays; afterwards the sequence is unknown, as if it had never been. All of
        them go at once, except on a Redis Cluster.

        On SQLite the whole file is written anew, without what it once held, and the write-ahead log is emptied: it
        takes as long as `vacuum`, and as much free space as the store. On Redis, replaced parts of sequences go that
        stay for ten minutes otherwise. On PostgreSQL the rows are deleted, and the server keeps their bytes until it
        has reused their place. Nothing reaches backups, archives of `prune`, replicas, the logs of a server, or the
        blocks that a disk has put aside: see docs/events.md.

        Raises `StoreBusyError` if readers of an older moment keep the file from being cleaned for longer than the
        time-out: the sequences are gone then, and their traces are not. Call it again, even though the keys are
        unknown. Raises `NotSupportedError` inside a transaction, and `InvalidArgumentError` without a key.

        >>> store.apply('patient 7', {'name': 'Ada'})
        {'name': 'Ada'}
        >>> store.forget('patient 7'), store.current('patient 7')
        (1, None)
        """
        session = self._alone("forget", writes=True)
        if not keys:
            raise InvalidTypeError("forget takes at least one key")
        checked = sorted({check_key(key) for key in keys})

        def drop(key: str, logs: Logs) -> bool:
            was_there = logs.drop(key)  # first: where it is refused, each id still keeps its change from coming twice
            logs.drop_ids(key)
            return was_there

        n = session.events.atomically(
            checked, lambda logs: sum(drop(key, logs) for key in checked), within=None, steps=2
        )
        for key in checked:
            session.states.drop(key)
        session.whole.erase([Log(model, key) for key in checked for model in (Model.EVENTS, Model.IDS)])
        return n


def _check_flag(flag: Any, name: str) -> bool:
    # Not `bool(flag)`: dry_run=None would prune.
    if not isinstance(flag, bool):
        raise InvalidTypeError(f"{name} is True or False, not {type(flag).__name__}")
    return flag
