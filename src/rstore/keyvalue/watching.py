"""Watching keys: changes are told as they happen.

Nouns: a *change* (a key and what it holds now) and a *watch* (the iterator of changes).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from math import inf
from time import monotonic
from typing import Final, NamedTuple

from rstore.arguments import check_edge, check_key, check_timeout
from rstore.backends.types import HEAD_ONLY, Found, Log, Model, ScanQuery, Watcher, version_of
from rstore.keyvalue.record_store import Entry
from rstore.keyvalue.records import Records, prefix_end
from rstore.lookout import Lookout
from rstore.session import StoreSession
from rstore.verbs import StoreVerbs

_FRESH_S: Final = 0.1
_MAX_AT_ONCE: Final = 100
_MAX_BYTES: Final = 1024 * 1024
_KEYS_A_QUESTION: Final = 500


class Watched(NamedTuple):
    """A key that changed, and its entry as it is now; None if the key is gone."""

    key: str
    entry: Entry | None


class Watch(Lookout[Watched]):
    """An iterator of changes, with a connection of its own until it ends or is closed; `Store.watch` returns it.

    Threads may share it; each change goes to one of them. An error does not end it: asked again, it goes on, and misses
    nothing.
    """

    _verb = "watch"

    def __init__(
        self,
        session: StoreSession,
        watcher: AbstractContextManager[Watcher],
        heads: Callable[[], Iterator[Found]],
        check: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self._session = session
        self._heads = heads
        self._told: dict[str, bytes] = {}  # the version of each key that is there, as it was told last
        # Keys that may have changed, without their records: a slow caller gets the state of the moment it asks at.
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._read: dict[str, Found | None] = {}  # the first of them, read ahead
        self._read_at = -inf
        self._at_once = 1
        super().__init__(watcher, check, timeout_s)

    def _look(self, *, first: bool) -> float:
        """Find the keys that have another version than the one that was told, and when the next one expires."""
        gone, next_expiry_ms = set(self._told), inf
        for key, head, expires_ms in self._heads():
            gone.discard(key)
            version = version_of(head)
            if first:
                self._told[key] = version
            elif self._told.get(key) != version:
                self._changed[key] = None
            if expires_ms is not None:
                next_expiry_ms = min(next_expiry_ms, expires_ms)
        self._changed.update(dict.fromkeys(sorted(gone)))
        return inf if next_expiry_ms == inf else max(0.0, (next_expiry_ms - self._now_ms()) / 1000)

    def _is_told(self) -> bool:
        return not self._changed

    def _now_ms(self) -> int:
        # By the backend's clock, which alone judges expiry. The view of a log that cannot be there says what it is.
        return self._session.backend.view(Log(Model.LEASES, ""), HEAD_ONLY).now_ms

    def _tell(self) -> Watched | None:
        """Return the next change, by what is there at this moment; None if nothing is left to be told."""
        while self._changed:
            key = next(iter(self._changed))
            if key not in self._read or monotonic() > self._read_at + _FRESH_S:
                self._read_ahead()
            found = self._read.pop(key)
            del self._changed[key]
            if found is None:
                if self._told.pop(key, None) is not None:
                    return Watched(key, None)
            elif self._told.get(key) != (version := version_of(found[1])):
                self._told[key] = version
                return Watched(key, self._session.records.open_entry(found))
        return None

    def _read_ahead(self) -> None:
        keys = list(islice(self._changed, self._at_once))
        self._read_at = monotonic()
        self._read = {**dict.fromkeys(keys), **{found[0]: found for found in self._session.backend.fetch(keys)}}
        size = sum(len(found[1]) for found in self._read.values() if found is not None)
        self._at_once = min(2 * self._at_once, _MAX_AT_ONCE) if size < _MAX_BYTES else 1


class Watching(StoreVerbs, Records):
    """The verb that watches keys: only a store has it, since a transaction sees no changes."""

    def watch(self, *keys: str, prefix: str | None = None, timeout: float | None = None) -> Watch:
        """Return an iterator of the changes of some keys from now on, by any writer, in any process.

        It watches the keys given, those that begin with `prefix`, or both; all if neither is given. Each change is a
        `Watched(key, entry)` with the latest state: several changes between two looks are one, and `entry` is None if
        the key was deleted or has expired. A key whose expiry alone is changed, by `touch`, has not changed. The
        iteration ends when nothing has changed for `timeout` seconds; without, it goes on until it is closed.

        The connection that it takes is let go of when it ends, is closed by `close()` or `with`, or is thrown away, as
        after `break`. Raises `StoreClosedError` while it waits if another thread closes the store, and in the child
        after a fork.

        >>> changes = store.watch('user', prefix='user:', timeout=0)
        >>> store.update({'user:ada': 1815, 'user:alan': 1912, 'other': 0})
        >>> store.delete('user:alan')
        1
        >>> [(key, entry.value) for key, entry in changes]
        [('user:ada', 1815)]
        """
        session = self._alone("watch")

        def check() -> None:
            session.check_open()
            self._alone("watch")

        asked = tuple(dict.fromkeys(check_key(key) for key in keys))
        if prefix is not None or not asked:
            prefix = "" if prefix is None else check_edge(prefix, "prefix")
        timeout_s = inf if timeout is None else check_timeout(timeout)
        # Those that the prefix finds are not asked for twice.
        single = [key for key in asked if prefix is None or not key.startswith(prefix)]

        def heads() -> Iterator[Found]:
            for i in range(0, len(single), _KEYS_A_QUESTION):
                yield from session.backend.fetch(single[i : i + _KEYS_A_QUESTION], heads=True)
            if prefix is not None:
                yield from self._scan(session, ScanQuery(1, prefix, prefix_end(prefix), heads=True))

        watcher = session.whole.watcher(single, prefix)
        return Watch(session, watcher, heads, check, timeout_s)
