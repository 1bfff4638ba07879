"""Following event sequences: each change is told once, in the order of the commits of its sequence.

Nouns: a *follower* (the iterator of changes), a *cursor* (where it goes on, as a string).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from math import inf
from typing import Any, Final, NamedTuple, Self

from rstore.arguments import check_edge, check_key, check_timeout
from rstore.backends.types import HEAD_ONLY, MAX_INT64, Head, Log, Model, Watcher, identity_of
from rstore.errors import ConflictError, HorizonError
from rstore.events.change import Change
from rstore.events.cursors import Era, Ledger, Place, Scope, unpack_cursor
from rstore.events.feeding import Feed, PrunedAhead, Told, told_from_the_start
from rstore.events.history import History
from rstore.keyvalue.records import prefix_end
from rstore.lookout import Lookout
from rstore.session import StoreSession
from rstore.verbs import StoreVerbs

_MOMENTS: Final = 3
"""After so many moments that were lost in a row, the error is the caller's."""
_NAMED: Final = 3


class Sequences(NamedTuple):
    """Which sequences are followed: those of some keys, and those whose keys begin with a prefix."""

    keys: tuple[str, ...]
    prefix: str | None


class Followed(Change):
    """A change as a follower tells it, equal to the `Change` of `history` but for the values before and behind it."""

    key: str
    """The key of its sequence."""
    _mark: tuple[Era, int]

    @classmethod
    def of(cls, change: Change, key: str, mark: tuple[Era, int]) -> Self:
        """Return a change of a sequence; `mark` tells how far its follower was behind it."""
        followed = cls._make(change)
        followed.__dict__.update(key=key, _mark=mark)
        return followed

    @property  # in place of the field, since most cursors are never asked for
    def cursor(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where `follow` goes on behind it; made when it is asked for."""
        era, moves = self._mark
        return era.cursor(moves)

    def __repr__(self) -> str:
        return f"<{self.key!r}: {super().__repr__()}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # As a change with its cursor: the places of the follower are many.
        return _restored, (tuple(self)[:-1], self.key, self.cursor)


class _Restored(Followed):
    """A change that was pickled."""

    _cursor: str

    @property
    def cursor(self) -> str:
        """Where `follow` goes on behind it."""
        return self._cursor

    def __repr__(self) -> str:
        return f"<{self.key!r}: {Change(*self)!r}>"


def _restored(fields: tuple[Any, ...], key: str, cursor: str) -> Followed:
    restored = _Restored._make((*fields, ""))
    restored.__dict__.update(key=key, _cursor=cursor)
    return restored


class Follow(Lookout[Followed]):
    """An iterator of changes, with a connection of its own until it ends or is closed; `Store.follow` returns it.

    Threads may share it; each change goes to one of them. An error does not end it: asked again, it goes on.
    """

    _verb = "follow"

    def __init__(
        self,
        session: StoreSession,
        followed: Sequences,
        ledger: Ledger,
        after: str | None,
        check: Callable[[], None],
        timeout_s: float,
        watcher: AbstractContextManager[Watcher],
    ) -> None:
        self._session = session
        self._followed = followed
        self._ledger = ledger
        self._after = after
        self._versions: dict[str, bytes] = {}  # of each sequence that is there, as it was when it was looked at last
        self._births: dict[str, int] = {}
        self._due: OrderedDict[str, None] = OrderedDict()  # may have changes that were not told
        self._removed: dict[int, str | None] = {}  # with the key, if it is known
        self._reading: Generator[Told, None, None] | None = None
        self._lost_moments = 0
        super().__init__(watcher, check, timeout_s)
        self._held.callback(self._stop_reading)

    @property
    def cursor(self) -> str:
        """Where `follow` goes on behind the change that was told last, or the error that was raised last."""
        era, moves = self._ledger.mark()
        return era.cursor(moves)

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()

    def _heads(self) -> list[tuple[str, Head]]:
        backend = self._session.whole
        found: dict[str, Head] = {}
        keys, prefix = self._followed
        if prefix is not None:
            found.update(backend.heads(Model.EVENTS, prefix, prefix_end(prefix)))
        single = [key for key in keys if prefix is None or not key.startswith(prefix)]
        if single:
            views = backend.views([Log(Model.EVENTS, key) for key in single], HEAD_ONLY)
            found.update((key, view.head) for key, view in zip(single, views, strict=True) if view.head is not None)
        return [*found.items()]

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self, *, first: bool) -> float:
        """Find the sequences that have another version than when they were looked at last."""
        heads, known = self._heads(), len(self._births)
        for key, head in heads:
            if self._versions.get(key) != head.version:
                self._see(key, head, first=first)
        there = {key for key, _ in heads}
        for key in [key for key in self._versions if key not in there]:
            del self._versions[key]
            self._due.pop(key, None)
            self._removed[self._births.pop(key)] = key
        if first:
            births = set(self._births.values())
            self._removed.update((birth, None) for birth in self._ledger.places if birth not in births)
        if self._removed or not known:
            scope = _scope(self._session, self._followed)
            if scope != self._ledger.scope:  # made anew, under its name
                self._ledger.rescope(scope)
        return inf

    def _see(self, key: str, head: Head, *, first: bool) -> None:
        history = History(self._session, key)
        tip = history.tip(head)
        before = self._births.get(key)
        if before is not None and before != tip.birth:
            self._removed[before] = key
        place = self._ledger.places.get(tip.birth)
        if place is None:
            place = Place()
            if first and self._after is None:
                place = Place(tip.n)
            elif first and self._after == "":
                place = told_from_the_start(history.facts(head), tip)
            self._ledger.move(tip.birth, place)
        if tip.n != place.n or place.skip:
            self._due[key] = None
        self._births[key], self._versions[key] = tip.birth, head.version

    # -- telling ------------------------------------------------------------------------------------------------------

    def _is_told(self) -> bool:
        return not (self._due or self._removed)

    def _tell(self) -> Followed | None:
        if self._removed:
            raise self._forget()
        while self._due:
            key = next(iter(self._due))
            birth = self._births[key]
            if self._reading is None:
                place = self._ledger.places.get(birth, Place())
                self._reading = self._read(key, birth, place)
            try:
                told = next(self._reading, None)
            except PrunedAhead as ahead:
                self._reading = None
                self._ledger.move(birth, Place(ahead.n))
                raise ahead.error from None
            except ConflictError:  # the moment was lost, as when it was read for too long
                self._reading = None
                self._lost_moments += 1
                if self._lost_moments > _MOMENTS:
                    self._lost_moments = 0
                    raise
                continue
            except BaseException:
                self._reading = None
                raise
            self._lost_moments = 0
            if told is None:
                self._reading = None
                del self._due[key]
                place = self._ledger.places.get(birth, Place())
                if place.pruned_n:  # all that a prune has left was told
                    self._ledger.move(birth, Place(place.pruned_n))
                continue
            self._ledger.move(birth, told.place)
            return Followed.of(told.change, key, self._ledger.mark())
        return None

    def _read(self, key: str, birth: int, place: Place) -> Generator[Told, None, None]:
        with (
            self._session.naming(f"the event sequence {key!r}"),
            closing(Feed(self._session, key).tell(birth, place)) as told,
        ):
            yield from told

    def _forget(self) -> HorizonError:
        """Return the error for sequences that were removed, and follow them no longer."""
        removed, self._removed = self._removed, {}
        for birth in removed:
            self._ledger.move(birth, None)
        keys = [key for key in removed.values() if key is not None]
        named = ", ".join(map(repr, keys[:_NAMED])) + (" …" if len(keys) > _NAMED else "")
        what = f"the event sequences {named}" if keys else "event sequences"
        return HorizonError(
            f"{len(removed):,} of the sequences that are followed in namespace {self._session.name!r} were removed, "
            f"perhaps before all of their changes were told: {what}",
            key=keys[0] if keys else "",
            horizon=MAX_INT64,
        )


class Following(StoreVerbs):
    """The verb that follows event sequences: only a store has it, since a transaction sees no changes."""

    def follow(
        self, *keys: str, prefix: str | None = None, after: str | None = None, timeout: float | None = None
    ) -> Follow:
        """Return an iterator of the changes of event sequences, as they are committed, by any writer in any process.

        It follows the sequences of the keys given, those whose keys begin with `prefix`, or both; all if neither is
        given. Each change is told once, in the order of the commits (`n`) of its sequence, those in the past among
        them: a `Change` for each of its events, whose `key` names the sequence. `before` and `after` are the current
        values of its item before and behind the commit, so that differences add up. Its `cursor` is a string to be
        kept: `after=cursor` goes on behind it, also in another process. Without `after` it begins now, with `after=""`
        with the first change that is there. The iteration ends when nothing was committed for `timeout` seconds;
        without, it goes on until it is closed.

        A cursor tells of each sequence that is followed: it takes 52 characters for one, and 12 to 16 for each more.

        Raises, when it is asked for the next change, `HorizonError` if changes were pruned away before they were told,
        or a sequence was removed: asked again, it goes on behind them. A sequence that was removed and made again is
        told from its first change on. Raises `InvalidValueError` if the cursor is of another store, or of other keys;
        `StoreIntegrityError` if the store was set back to an older state; `NotSupportedError` inside a transaction.

        >>> changes = store.follow('cart', after='', timeout=0)
        >>> store.apply('cart', {'apples': 1})
        {'apples': 1}
        >>> store.apply('cart', {'apples': 3, 'pears': 2})
        {'apples': 3, 'pears': 2}
        >>> [(change.n, change.item, change.before, change.after) for change in changes]
        [(1, 'apples', None, 1), (2, 'apples', 1, 3), (2, 'pears', None, 2)]
        >>> next(store.follow('cart', after=changes.cursor, timeout=0), None)
        """
        session = self._alone("follow")

        def check() -> None:
            session.check_open()
            self._alone("follow")

        asked = tuple(dict.fromkeys(check_key(key) for key in keys))
        if prefix is not None or not asked:
            prefix = "" if prefix is None else check_edge(prefix, "prefix")
        timeout_s = inf if timeout is None else check_timeout(timeout)
        followed = Sequences(asked, prefix)
        scope = _scope(session, followed)
        # Before there is a watcher, which would have to be closed.
        ledger = Ledger(scope, {} if after is None or after == "" else unpack_cursor(after, scope))
        watcher = session.whole.log_watcher(Model.EVENTS)
        return Follow(session, followed, ledger, after, check, timeout_s, watcher)


def _scope(session: StoreSession, followed: Sequences) -> Scope:
    incarnation, _ = session.whole.facts()
    return Scope.of(b"" if incarnation is None else identity_of(incarnation), *followed)
