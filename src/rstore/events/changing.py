"""The verbs that change a sequence by what it was: `revert` and `undo`; and `apply_many`, which loads one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from rstore.arguments import check_int64, check_item, check_key, check_timestamp
from rstore.errors import InvalidTypeError
from rstore.events.gathering import Gathered, gather
from rstore.events.loading import Loader, LoadPlan
from rstore.events.steps import encode_note
from rstore.events.undoing import Outcome, Undoer
from rstore.log.packing import Logs
from rstore.session import Session
from rstore.verbs import Verbs

NewChange: TypeAlias = tuple[str, int, Mapping[str, Any]] | tuple[str, int, Mapping[str, Any], Any]
"""A change to load: the key, POSIX milliseconds, the state as `apply` takes it, and optionally a note."""

_GROUP_CHANGES: Final = 4096
"""Sequences with so many new changes in all share a commit."""


class Changing(Verbs):
    """Taking back changes, and loading many."""

    def revert(self, key: str, t: int, items: Iterable[str] | None = None) -> dict[str, Any] | None:
        """Return to the state of time `t`, by one change dated now; return the current state.

        The change sets what was different then, and deletes what was not there: of all items, or of those that are
        given. History is kept, and a `revert` can be undone like any other change. Nothing is recorded if nothing
        differs. A time before the first change had no items. Returns None if the key is unknown.

        Raises `HorizonError` if the history of that time was pruned. Concurrent changes do not get lost: it starts
        again, and raises `StoreBusyError` if others were faster until the time-out.

        >>> store.apply('page', {'title': 'Home', 'text': 'Welcome'}, t=1000)
        {'title': 'Home', 'text': 'Welcome'}
        >>> store.apply('page', {'text': 'Spam', 'link': 'http://spam.example'}, t=2000)
        {'title': 'Home', 'text': 'Spam', 'link': 'http://spam.example'}
        >>> store.revert('page', 1500)
        {'title': 'Home', 'text': 'Welcome'}
        """
        session, key = self._writer, check_key(key)
        at = check_timestamp(t)
        chosen = None if items is None else _checked_items(items)
        return _retried(session, key, lambda undoer: undoer.try_revert(at, chosen))

    def undo(self, key: str, n: int) -> dict[str, Any] | None:
        """Take back the change of commit number `n`, by one change dated now; return the current state.

        `n` counts the changes of the sequence in the order of their commits, from 1 on. An item that no later change
        touched gets back the value that it had before, or is deleted if it was not there. Behind later changes only
        arithmetic is taken back, and only if that gives exactly what would be there without the change: an `add` of 5
        by a `sub` of 5 as long as the later ones add and subtract as well. Later changes behind which the item is again
        what it was before them do not count: so several are undone from the last one back. To redo, undo the undoing.

        Raises `ChangeRefusedError` if a later change builds upon it, and tells which one: its `n`, `t`, `item` and
        `op`. Raises `InvalidValueError` if there is no such commit, and `HorizonError` if it was pruned.

        >>> import operator
        >>> for t, op, n in (1, operator.setitem, 10), (2, operator.add, 5), (3, operator.sub, 2):
        ...     state = store.apply('stock', {'apples': (op, n)}, t)
        >>> store.undo('stock', 1)
        Traceback (most recent call last):
            ...
        rstore.errors.ChangeRefusedError: commit 1 of 'stock' in namespace 'docstrings' cannot be undone, nothing was
        recorded: add on the item 'apples' in commit 2 at t=2 builds upon it
        >>> store.undo('stock', 2)
        {'apples': 8}
        """
        session, key = self._writer, check_key(key)
        commit = check_int64(n, "n")
        return _retried(session, key, lambda undoer: undoer.try_undo(commit))

    def apply_many(self, changes: Iterable[NewChange]) -> int:
        """Load changes in bulk, and return how many were recorded.

        Each is `(key, t, state)`: a key, POSIX milliseconds, and a change as `apply` takes it; or with a note as a
        fourth element. They come in any order, for any number of sequences, new ones or such that are there, at the
        end or in the past. Several changes of one time keep their order, so that a history goes into another store as
        it was. Empty changes are left out.

        All changes of one sequence are recorded together or not at all. First all are checked; then the sequences are
        replayed and committed in the order of their keys, short ones in groups of up to 4,096 changes. If a sequence is
        refused, those of earlier groups stay recorded, and those of its group and of later ones are not. More than
        about a million events, or 256 MiB of large values, are taken in parts of that size, and the same goes for each
        part. Within `transaction()` all of it is one step.

        Raises `ChangeRefusedError` if a change, or a later one behind it, could not be replayed, and tells its `key`,
        `t`, `item` and `op`; `StoreIntegrityError` if the sequence has a change at one of the times already;
        `HorizonError` if the history of one was pruned; `InvalidArgumentError` for what is no change.

        >>> import operator
        >>> store.apply_many([
        ...     ('account', 1000, {'owner': 'Ada', 'balance': 10}),
        ...     ('account', 2000, {'balance': (operator.add, 5)}),
        ...     ('account', 2000, {'balance': (operator.add, 7)}),
        ... ])
        3
        >>> store.current('account')
        {'owner': 'Ada', 'balance': 22}
        """
        session = self._writer
        done, last = 0, dict[str, int]()
        for some in gather(session, changes):
            for group in _groups(some):
                _load(session, group, last)
                done += sum(map(len, group.values()))
            last |= {key: max(given.t) for key, given in some.items()}
        return done


def _retried(session: Session, key: str, attempt: Callable[[Undoer], Outcome | None]) -> dict[str, Any] | None:
    note = encode_note(session, key, session.setup.notes.merged(None))
    with session.naming(f"the event sequence {key!r}"):
        (state,) = session.events.retry_conflicts(key, lambda logs: attempt(Undoer(session, key, logs, note)))
    session.events.maybe_pack(key, 1)
    return state


def _checked_items(items: Iterable[str]) -> list[str]:
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise InvalidTypeError(f"items are several, as in [item], not {type(items).__name__}")
    return list(dict.fromkeys(map(check_item, items)))


def _groups(some: dict[str, Gathered]) -> Iterator[dict[str, Gathered]]:
    """Divide sequences into groups that share a commit: one a sequence would have the disk wait for each."""
    group, size = dict[str, Gathered](), 0
    for key in sorted(some):  # one order for all, or they would wait for one another
        if group and size + len(some[key]) > _GROUP_CHANGES:
            yield group
            group, size = {}, 0
        group[key] = some[key]
        size += len(some[key])
    if group:
        yield group


def _load(session: Session, group: dict[str, Gathered], last: dict[str, int]) -> None:
    """Record the changes of some sequences; `last` tells until when the same call has recorded changes before."""
    plans = {}
    for key, given in group.items() if len(group) > 1 else ():
        with session.naming(f"the event sequence {key!r}"):
            plans[key] = session.events.attempted(_planning(session, key, given, last.get(key)))

    def carry_out(logs: Logs) -> list[str]:
        return [key for key, plan in plans.items() if plan is None or not Loader(session, key, logs).carry_out(plan)]

    lost = session.events.atomically([*plans], carry_out, create=True, within=None) if plans else [*group]
    for key in lost:
        with session.naming(f"the event sequence {key!r}"):
            session.events.retry_conflicts(key, _loading(session, key, group[key], last.get(key)))
    for key, given in group.items():
        session.events.maybe_pack(key, len(given))


def _planning(session: Session, key: str, given: Gathered, open_t: int | None) -> Callable[[Logs], LoadPlan | None]:
    return lambda logs: Loader(session, key, logs).try_plan(given, open_t)


def _loading(session: Session, key: str, given: Gathered, open_t: int | None) -> Callable[[Logs], int | None]:
    return lambda logs: Loader(session, key, logs).try_load(given, open_t)
