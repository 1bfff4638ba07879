"""The verbs around `apply`: the version that it depends on, whether it would be refused, and its note."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from rstore.arguments import check_key, check_timestamp
from rstore.backends.types import HEAD_ONLY
from rstore.events.heads import told_version
from rstore.events.recording import Proposing
from rstore.events.steps import ChangeFunction, FnRaised, State, steps_by, steps_of
from rstore.namespace import rereads
from rstore.verbs import Verbs


class EventChecks(Verbs):
    """Verbs that record nothing themselves."""

    def version(self, key: str) -> bytes | None:
        """Return the version of an event sequence, for `apply(…, if_version=…)`; None if the key is unknown.

        It is random, and every `apply` and every `prune` that drops something replaces it.

        >>> store.version('light') is None
        True
        >>> state = store.apply('light', {'on': True}, if_version=None)
        >>> version = store.version('light')
        >>> store.apply('light', {'on': False}, if_version=version)
        {'on': False}
        >>> store.version('light') == version
        False
        """
        session, key = self._reader, check_key(key)
        head = session.events.view(key, HEAD_ONLY).head
        return None if head is None else told_version(head)

    @rereads
    def check_change(self, key: str, state: State | ChangeFunction, t: int | None = None) -> dict[str, Any] | None:
        """Return the state that `apply(key, state, t)` would return now, and record nothing.

        Raises what `apply` would raise: `ChangeRefusedError`, `StoreIntegrityError` if `t` is taken, `HorizonError`.
        A frozen store answers as well. A concurrent change may come before a later `apply`: what is to be decided and
        recorded in one step is a function, `apply(key, fn)`.

        >>> import operator
        >>> store.apply('jar', {'coins': 3}, t=1)
        {'coins': 3}
        >>> store.check_change('jar', {'coins': (operator.sub, 1)}), store.current('jar')
        ({'coins': 2}, {'coins': 3})
        >>> store.check_change('jar', {'notes': (operator.add, 1)}, t=2)
        Traceback (most recent call last):
            ...
        rstore.errors.ChangeRefusedError: add on the item 'notes' of 'jar' in namespace 'docstrings' at t=2 is refused,
        nothing was recorded: 'notes' is not there; set it first
        """
        session, key = self._reader, check_key(key)
        at = None if t is None else check_timestamp(t)
        failed: Exception
        with session.naming(f"the event sequence {key!r}"):
            if isinstance(state, Mapping):
                change = steps_of(session, state)
                return Proposing(session, key, session.events).try_out(lambda _: change, at)
            try:
                return Proposing(session, key, session.events).try_out(steps_by(session, state), at)
            except FnRaised as raised:
                failed = raised.error
        raise failed

    def noting(self, /, **note: Any) -> AbstractContextManager[None]:
        """Add a note to every `apply` inside a block: its author, its reason.

        It counts for this thread or asyncio task, and for the transactions of this store that it begins. Inner blocks
        and a mapping as `apply(…, note=…)` are merged over outer ones; another explicit note replaces all of them.

        >>> with store.noting(by='ada', why='stocktaking'):
        ...     state = store.apply('shelf', {'books': 12}, note={'why': 'recount'})
        """
        return self._writer.setup.notes.block(note)
