"""Projecting: a value that is derived from the changes of event sequences, kept with the cursor of those it counts."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final, TypeVar

from rstore.arguments import check_key
from rstore.errors import InvalidTypeError, InvalidValueError
from rstore.events.following import Follow, Followed, Following
from rstore.session import StoreSession

V = TypeVar("V")

_AT_ONCE: Final = 1000
"""So many changes are counted at most before the value is stored."""
_VALUE, _CURSOR = "value", "cursor"


class Projecting(Following):
    """The verb that keeps a derived value."""

    def project(
        self,
        name: str,
        fn: Callable[[V, Followed], V],
        *keys: str,
        prefix: str | None = None,
        initial: V | None = None,
        timeout: float | None = 0,
    ) -> V | None:
        """Keep a value that is derived from all changes of some event sequences; return it.

        `fn(value, change)` returns the value with one more change; it begins with `initial`. The sequences are those
        that `follow` takes. The key `name` holds `{"value": …, "cursor": …}`, written as one, so that each change
        counts once, whenever the process dies, and however many project at once: one of them wins, and the others go
        on from there. `fn` may be called again for changes whose value was not stored, so it should have no other
        effects. By default it counts what was committed and returns; it goes on until nothing was committed for
        `timeout` seconds, with None until it is interrupted.

        Raises `HorizonError` if changes were pruned away, or a sequence was removed, before they were counted, at each
        call: to begin anew with what is there, or with another `fn`, delete the key. Raises `InvalidValueError` for
        other keys or another prefix, and for a name that holds another value; `NotSupportedError` inside a transaction.

        >>> state = store.apply('account:ada', {'balance': 10})
        >>> state = store.apply('account:alan', {'balance': 20})
        >>> def total(sum, change):
        ...     return sum + (change.after or 0) - (change.before or 0)
        >>> store.project('total', total, prefix='account:', initial=0)
        30
        >>> state = store.apply('account:ada', {'balance': 15})
        >>> store.project('total', total, prefix='account:', initial=0), store['total']['value']
        (35, 35)
        """
        session, name = self._alone("project", writes=True), check_key(name)
        if not callable(fn):
            raise InvalidTypeError(f"project takes a function of a value and a change, not {type(fn).__name__}")
        retries = session.retries(f"others keep projecting {session.place(name)}")
        while True:
            projection = _Projection(session, name, fn, initial)
            with self.follow(*keys, prefix=prefix, after=projection.cursor, timeout=timeout) as changes:
                if projection.run(changes):
                    value: V | None = projection.value
                    return value
            retries.wait()


class _Projection:
    """A value between two stores of it."""

    def __init__(self, session: StoreSession, name: str, fn: Callable[[Any, Followed], Any], initial: Any) -> None:
        self._session = session
        self._name = name
        self._fn = fn
        self.value: Any = deepcopy(initial)
        self.cursor = ""
        self._version: bytes | None = None
        entry = session.records.find_entry(name)
        if entry is None:
            return
        held = entry.value
        if type(held) is not dict or held.keys() != {_VALUE, _CURSOR} or type(held[_CURSOR]) is not str:
            raise InvalidValueError(f"{session.place(name)} holds a value that is no projection: project another name")
        self.value, self.cursor, self._version = held[_VALUE], held[_CURSOR], entry.version

    def run(self, changes: Follow) -> bool:
        """Count changes until there are no more; return False if another process has stored the value meanwhile."""
        if self._version is None and not self._store(changes.cursor):  # an unknown sequence has begun since
            return False
        for change in changes:
            more: Followed | None = change
            counted = 0
            while more is not None:
                self.value = self._fn(self.value, more)
                counted += 1
                if counted % _AT_ONCE == 0 and not self._store(changes.cursor):
                    return False
                more = changes.at_hand()
            if not self._store(changes.cursor):
                return False
        return True

    def _store(self, cursor: str) -> bool:
        held = {_VALUE: self.value, _CURSOR: cursor}
        put = self._session.records.put_if(self._name, held, self._version, None)
        if put is None:
            return False
        self._version = put.version
        return True
