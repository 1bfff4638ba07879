"""Watching keys: changes are told as they happen.

Nouns: a *change* (a key and what it holds now) and a *watch* (the iterator of changes).
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from math import inf
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Final, NamedTuple, Self

from rstore.arguments import check_edge, check_key, check_timeout
from rstore.backends.types import HEAD_ONLY, Found, Log, Model, ScanQuery, Watcher, version_of
from rstore.errors import StoreClosedError
from rstore.keyvalue.record_store import Entry
from rstore.keyvalue.records import Records, prefix_end
from rstore.session import StoreSession
from rstore.verbs import StoreVerbs

_SLICE_S: Final = 0.05
"""The longest wait in one piece: so soon a watch notices that another thread has closed it or the store."""
_SELDOM: Final = 20
"""Unprompted looks use at most 1/20 of the time; those that a writer prompted use at most half of it."""
_FRESH_S: Final = 0.1
_MAX_AT_ONCE: Final = 100
_MAX_BYTES: Final = 1024 * 1024
_KEYS_A_QUESTION: Final = 500


class Watched(NamedTuple):
    """A key that changed, and its entry as it is now; None if the key is gone."""

    key: str
    entry: Entry | None


class Watch(Iterator[Watched]):
    """An iterator of changes, with a connection of its own until it ends or is closed; `Store.watch` returns it.

    Threads may share it; each change goes to one of them. An error does not end it: asked again, it goes on, and misses
    nothing.
    """

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
        self._check = check  # raises if the store is closed, or this thread is inside a transaction
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._closed = False
        self._lock = Lock()  # guards everything below
        self._held = ExitStack()
        self._told: dict[str, bytes] = {}  # the version of each key that is there, as it was told last
        # Keys that may have changed, without their records: a slow caller gets the state of the moment it asks at.
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._read: dict[str, Found | None] = {}  # the first of them, read ahead
        self._read_at = -inf
        self._at_once = 1
        self._look_at = self._rest_until = -inf  # when to look although nothing was heard, and when not to look yet
        self._watcher = self._held.enter_context(watcher)
        try:
            self._look(first=True)
        except BaseException:
            self._held.close()
            raise

    def __next__(self) -> Watched:
        if os.getpid() != self._pid:
            raise StoreClosedError("a watch does not outlive a fork: it is the parent's; call watch() in this process")
        try:
            with self._lock:
                return self._next()
        except StopIteration:
            self._closed = True
            raise
        finally:
            if self._closed:
                self.close()

    def close(self) -> None:
        """End the iteration, also one that waits in another thread, and let go of the connection."""
        self._closed = True
        if self._lock.acquire(blocking=False):  # else its holder closes when it is done
            try:
                self._held.close()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _next(self) -> Watched:
        deadline = monotonic() + self._timeout_s
        while not self._closed:
            self._check()
            if (change := self._tell()) is not None:
                return change
            now = monotonic()
            over = now >= deadline
            if now < self._rest_until and not over:
                time.sleep(min(self._rest_until - now, deadline - now, _SLICE_S))
                continue
            heard = self._watcher.wait(max(0.0, min(deadline - now, self._look_at - now, _SLICE_S)))
            # A change that is not always heard has to be looked for before the wait ends without one.
            if heard or monotonic() >= self._look_at or (over and self._watcher.every_s is not None):
                self._look()
            if over and not self._changed:
                break
        raise StopIteration

    def _look(self, *, first: bool = False) -> None:
        """Find the keys that have another version than the one that was told, and when to look again."""
        self._look_at = -inf  # if this fails
        began = monotonic()
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
        due_s = inf if next_expiry_ms == inf else max(0.0, (next_expiry_ms - self._now_ms()) / 1000)
        ended = monotonic()
        took_s, every_s = ended - began, self._watcher.every_s
        self._rest_until = ended + took_s
        self._look_at = ended + min(due_s, inf if every_s is None else max(every_s, _SELDOM * took_s))

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
