"""The verbs that ask an event sequence for its past: `past`, `diff`, `events`, `history`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, overload

from rstore.arguments import check_count, check_int64, check_item, check_key, check_range, check_timestamp
from rstore.backends.types import HEAD_ONLY, LAST, Position
from rstore.errors import InvalidTypeError
from rstore.events.change import ABSENT, Change, Event
from rstore.events.listing import EventLister
from rstore.events.operators import Operator, check_operator
from rstore.events.reading import end_of
from rstore.events.replay import Replay
from rstore.events.states import StateReader
from rstore.events.telling import Teller
from rstore.namespace import rereads
from rstore.session import ReadSession
from rstore.verbs import Verbs

_Answer: TypeAlias = dict[str, Any] | tuple[int, dict[str, Any]] | None


class Asking(Verbs):
    """Sequences of changes to a dict, asked for what was, and for how it came about."""

    @overload
    def past(
        self, key: str, t: int, withtimestamp: Literal[False] = False, *, known: int | None = None
    ) -> dict[str, Any] | None: ...
    @overload
    def past(
        self, key: str, t: int, withtimestamp: Literal[True], *, known: int | None = None
    ) -> tuple[int, dict[str, Any]] | None: ...
    @overload
    def past(self, key: str, t: int, withtimestamp: bool, *, known: int | None = None) -> _Answer: ...
    @overload
    def past(
        self, key: str, *, n: int, withtimestamp: Literal[False] = False, known: int | None = None
    ) -> dict[str, Any] | None: ...
    @overload
    def past(
        self, key: str, *, n: int, withtimestamp: Literal[True], known: int | None = None
    ) -> tuple[int, dict[str, Any]] | None: ...
    @overload
    def past(
        self, key: str, t: Iterable[int], withtimestamp: Literal[False] = False, *, known: int | None = None
    ) -> list[dict[str, Any] | None]: ...
    @overload
    def past(
        self, key: str, t: Iterable[int], withtimestamp: Literal[True], *, known: int | None = None
    ) -> list[tuple[int, dict[str, Any]] | None]: ...
    @rereads
    def past(
        self,
        key: str,
        t: int | Iterable[int] | None = None,
        withtimestamp: bool = False,
        *,
        known: int | None = None,
        n: int | None = None,
    ) -> Any:
        """Return the state as it was at time `t`, the changes at `t` included; None if the key was unknown then.

        Of several times, return a list of states, all read in one pass as of one moment. `known` asks for the state as
        it was believed at that moment, in POSIX milliseconds of the backend's clock: changes that were recorded later
        do not take part, whenever they are dated. In place of a time, `n` names a commit: the state behind its change,
        of which several may share one millisecond. With `withtimestamp`, return (timestamp of the last change, state).

        Raises `HorizonError` if the history of that time, of what was known then, or of that commit was pruned;
        `InvalidArgumentError` for a commit that there is not.

        >>> store.apply('light', {'on': True}, t=1000)
        {'on': True}
        >>> store.apply('light', {'on': False}, t=2000)
        {'on': False}
        >>> store.past('light', 1500), store.past('light', 500)
        ({'on': True}, None)
        >>> store.past('light', [500, 1500]), store.past('light', n=1)
        ([None, {'on': True}], {'on': True})
        """
        session, key = self._reader, check_key(key)
        if (t is None) is (n is None):
            raise InvalidTypeError("past takes a time t, several times, or a commit n")
        asked = None if known is None else check_int64(known, "known")
        several = t is not None and not isinstance(t, int) and _is_several(t)
        with session.naming(f"the event sequence {key!r}"):
            reader = StateReader(session, key)
            if several:
                times = [end_of(check_timestamp(one)) for one in t]  # type: ignore[union-attr]
                found = reader.states(times, asked) if times else []
                return [_decoded(session, one, withtimestamp=withtimestamp) for one in found]
            if n is None:
                position: Position | None = end_of(check_timestamp(t))
            else:
                position = reader.position_of(check_int64(n, "n"))
            if position is None:
                return None
            if n is not None:
                reader.check_commit(n, position)
            if asked is not None:
                return _decoded(session, reader.states([position], asked)[0], withtimestamp=withtimestamp)
            replay = reader.read(position)
            reader.check_horizon(replay.facts.horizon, position[0])
            return answer(replay, withtimestamp=withtimestamp)

    @rereads
    def diff(self, key: str, t1: int, t2: int | None = None) -> dict[str, tuple[Any, Any]] | None:
        """Return the items that differ between two times: {item: (value at t1, value at t2)}.

        None if the key is unknown. Without `t2`, compare with the current state, changes dated in the future included.
        `ABSENT`, which is false, stands for an item that is not there. Values are compared as they are stored, so that
        1 and 1.0 differ.

        Raises `HorizonError` if the history of one of the times was pruned.

        >>> store.apply('page', {'title': 'Home', 'draft': True}, t=1000)
        {'title': 'Home', 'draft': True}
        >>> import operator
        >>> store.apply('page', {'title': 'Start', 'draft': (operator.delitem, None)}, t=2000)
        {'title': 'Start'}
        >>> store.diff('page', 1000)
        {'title': ('Home', 'Start'), 'draft': (True, ABSENT)}
        """
        session, key = self._reader, check_key(key)
        one, other = end_of(check_timestamp(t1)), LAST if t2 is None else end_of(check_timestamp(t2))
        decode = session.codec.decode
        with session.naming(f"the event sequence {key!r}"):
            reader = StateReader(session, key)
            before, after = reader.states([one, other])
            if before is after is None and session.events.view(key, HEAD_ONLY).head is None:
                return None
            left, right = ({} if found is None else found[1] for found in (before, after))
            return {
                item: (
                    decode(left[item]) if item in left else ABSENT,
                    decode(right[item]) if item in right else ABSENT,
                )
                for item in {**left, **right}
                if left.get(item) != right.get(item)
            }

    @rereads
    def events(
        self,
        key: str,
        start: int | None = None,
        end: int | None = None,
        ops: Callable[..., Any] | Iterable[Callable[..., Any]] | None = None,
        *,
        item: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[Event] | None:
        """Return the events from `start` to `end`, both included, in order; None if the key is unknown.

        `ops` is one operator or several: only their events are returned, and with `item` only those of one item. With
        `limit`, return at most so many; in `reverse`, the last ones, from the last one on.

        >>> import operator
        >>> store.apply('jar', {'coins': 1}, t=1)
        {'coins': 1}
        >>> store.apply('jar', {'coins': (operator.add, 2)}, t=2)
        {'coins': 3}
        >>> store.events('jar', ops=operator.add)
        [Event(timestamp=2, item='coins', op=<built-in function add>, value=2)]
        >>> store.events('jar', reverse=True, limit=1) == store.events('jar', ops=operator.add)
        True
        """
        session, key = self._reader, check_key(key)
        lo, hi = check_range(start, end)
        names = None if ops is None else frozenset(one.name for one in _operators(ops))
        chosen = None if item is None else check_item(item)
        most = None if limit is None else check_count(limit, "limit")
        with session.naming(f"the event sequence {key!r}"):
            return EventLister(session, key).events((lo, 0), end_of(hi), names, chosen, most, reverse=reverse)

    def history(
        self,
        key: str,
        item: str | None = None,
        start: int | None = None,
        end: int | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Change]:
        """Yield the events from `start` to `end`, both included, in order, each as a `Change` with all that is known.

        That is when it happened and when it was recorded, the value of its item before and after it, the note and the
        id of the change that it belongs to. All are of the moment at which the first one was asked for, whatever is
        recorded meanwhile, and only a few are in memory. With `item`, only changes of that item are told; in `reverse`,
        the last one comes first; with `limit`, at most so many are told. `before` is None if the item was not there,
        `after` behind a `delitem`. Of a pruned sequence, history begins with the first change after the horizon; an
        unknown one has none.

        The change that an item owes its value to, and its note:

        >>> store.apply('page', {'title': 'Home'}, t=1000)
        {'title': 'Home'}
        >>> store.apply('page', {'title': 'Start', 'draft': True}, t=2000)
        {'title': 'Start', 'draft': True}
        >>> [change] = store.history('page', 'title', reverse=True, limit=1)
        >>> change.n, change.t, change.before, change.after, change.note
        (2, 2000, 'Home', 'Start', None)

        Close the iterator, or read it to its end: until then the store cannot reuse the space of what was replaced.

        Raises `HorizonError` if `start` is not after the horizon, for a value before it is unknown; `ConflictError` if
        the store was closed or discarded, or the process forked, before the rest of it was read, or in `reverse`, the
        sequence was pruned or removed.
        """
        session, key = self._reader, check_key(key)
        chosen = None if item is None else check_item(item)
        first, last = (
            None if one is None else check_int64(one, what) for one, what in ((start, "start"), (end, "end"))
        )
        most = None if limit is None else check_count(limit, "limit")
        return self._while_open(_history(session, key, chosen, first, last, most, reverse=reverse))


def _history(
    session: ReadSession,
    key: str,
    item: str | None,
    start: int | None,
    end: int | None,
    limit: int | None,
    *,
    reverse: bool,
) -> Iterator[Change]:
    with session.naming(f"the event sequence {key!r}"):
        yield from Teller(session, key).tell(start, end, item, reverse=reverse, limit=limit)


def answer(replay: Replay, *, withtimestamp: bool) -> _Answer:
    """Return the state of a replay; None if nothing had happened."""
    if replay.last is None:
        return None
    state = replay.state.values()
    return (replay.last[0], state) if withtimestamp else state


def _decoded(session: ReadSession, found: tuple[int, Mapping[str, bytes]] | None, *, withtimestamp: bool) -> _Answer:
    if found is None:
        return None
    decode = session.codec.decode
    state = {item: decode(encoded) for item, encoded in found[1].items()}
    return (found[0], state) if withtimestamp else state


def _is_several(t: Any) -> bool:
    # By trying: an array without dimensions has the method of one, and is a number.
    try:
        iter(t)
    except TypeError:
        return False
    return not isinstance(t, str | bytes)


def _operators(ops: Any) -> list[Operator]:
    if callable(ops) or isinstance(ops, str):
        return [check_operator(ops)]
    try:
        several = list(ops)
    except TypeError as error:
        raise InvalidTypeError("ops is an operator, or several") from error
    return [check_operator(op) for op in several]
