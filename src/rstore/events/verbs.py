"""The event-sequence verbs: a dict with its history, replayable to any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, overload

from rstore.arguments import check_item, check_key, check_range, check_timestamp
from rstore.backends.types import MAX_SEQ, ViewQuery
from rstore.codec.changes import Step, Tally
from rstore.codec.upcasting import upcast_changes
from rstore.errors import CorruptionError, InvalidTypeError, SerializationError
from rstore.events.history import History
from rstore.events.operators import OPERATORS, SETITEM, Operator, check_operator, stored_operator
from rstore.events.pruning import Pruner
from rstore.events.recording import Recorder
from rstore.events.replay import Replay
from rstore.log.packing import Logs
from rstore.namespace import rereads
from rstore.session import Session
from rstore.verbs import Verbs


class Event(NamedTuple):
    """One operator applied to one item: POSIX milliseconds, the item, the operator function, and its operand."""

    timestamp: int
    item: str
    op: Callable[..., Any]
    value: Any


class Events(Verbs):
    """Sequences of changes to a dict; a timestamp is POSIX milliseconds."""

    def apply(self, key: str, state: Mapping[str, Any], t: int | None = None) -> dict[str, Any] | None:
        """Record a change, and return the current state.

        `{item: value}` sets an item, `{item: (op, operand)}` applies one of the operators `setitem delitem add sub mul
        truediv floordiv mod pow concat neg not_` of the module `operator` to it; of `delitem`, `neg` and `not_` the
        operand is None. The name of an operator in its place, as in `("add", 1)`, is refused: `(setitem, ("add", 1))`
        sets such a tuple. All items of one call are one change: recorded together or not at all. Without `t` the change
        happens now and is the last one; with `t`, also in the past, from where on it takes part in history. An empty
        change records nothing.

        Raises `ChangeRefusedError` if the change, or a later one behind it, could not be replayed;
        `StoreIntegrityError` if `t` is taken; `HorizonError` if the history of that time was pruned.

        >>> import operator
        >>> store.apply('account', {'owner': 'Ada', 'balance': 10})
        {'owner': 'Ada', 'balance': 10}
        >>> store.apply('account', {'balance': (operator.add, 5)})
        {'owner': 'Ada', 'balance': 15}
        """
        session, key = self._writer, check_key(key)
        at = None if t is None else check_timestamp(t)
        steps = _steps(session, state)
        if not steps:
            return self.current(key)
        logs = session.events
        try:  # as `naming` does, without its frames
            current = logs.retry_conflicts(key, lambda logs: Recorder(session, key, logs).try_apply(steps, at))
        except (SerializationError, CorruptionError) as error:
            raise session.named(error, f"the event sequence {key!r}") from error.__cause__ or error
        logs.maybe_pack(key, 1)  # behind the lock: concurrent writers must not wait for a compression
        return current

    @overload
    def current(self, key: str, withtimestamp: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def current(self, key: str, withtimestamp: Literal[True]) -> tuple[int, dict[str, Any]] | None: ...
    @overload
    def current(self, key: str, withtimestamp: bool) -> dict[str, Any] | tuple[int, dict[str, Any]] | None: ...
    @rereads
    def current(self, key: str, withtimestamp: bool = False) -> dict[str, Any] | tuple[int, dict[str, Any]] | None:
        """Return the state behind the last change, future ones included; None if the key is unknown.

        With `withtimestamp`, return (timestamp of the last change, state).
        """
        session, key = self._reader, check_key(key)
        with session.naming(f"the event sequence {key!r}"):
            return _answer(History(session, key).read(), withtimestamp=withtimestamp)

    @overload
    def past(self, key: str, t: int, withtimestamp: Literal[False] = False) -> dict[str, Any] | None: ...
    @overload
    def past(self, key: str, t: int, withtimestamp: Literal[True]) -> tuple[int, dict[str, Any]] | None: ...
    @overload
    def past(self, key: str, t: int, withtimestamp: bool) -> dict[str, Any] | tuple[int, dict[str, Any]] | None: ...
    @rereads
    def past(self, key: str, t: int, withtimestamp: bool = False) -> dict[str, Any] | tuple[int, dict[str, Any]] | None:
        """Return the state as it was at time `t`, the changes at `t` included; None if the key was unknown then.

        Raises `HorizonError` if the history of that time was pruned.

        >>> store.apply('light', {'on': True}, t=1000)
        {'on': True}
        >>> store.apply('light', {'on': False}, t=2000)
        {'on': False}
        >>> store.past('light', 1500), store.past('light', 500)
        ({'on': True}, None)
        """
        session, key = self._reader, check_key(key)
        history, at = History(session, key), check_timestamp(t)
        with session.naming(f"the event sequence {key!r}"):
            replay = history.read((at, MAX_SEQ))
            history.check_horizon(replay.facts.horizon, at)
            return _answer(replay, withtimestamp=withtimestamp)

    @rereads
    def events(
        self,
        key: str,
        start: int | None = None,
        end: int | None = None,
        ops: Callable[..., Any] | Iterable[Callable[..., Any]] | None = None,
    ) -> list[Event] | None:
        """Return the events from `start` to `end`, both included, in order; None if the key is unknown.

        `ops` is one operator or several: only their events are returned.

        >>> import operator
        >>> store.apply('jar', {'coins': 1}, t=1)
        {'coins': 1}
        >>> store.apply('jar', {'coins': (operator.add, 2)}, t=2)
        {'coins': 3}
        >>> store.events('jar', ops=operator.add)
        [Event(timestamp=2, item='coins', op=<built-in function add>, value=2)]
        """
        session, key = self._reader, check_key(key)
        first, last = check_range(start, end)
        lo, hi = (first, 0), (last, MAX_SEQ)
        names = None if ops is None else {one.name for one in _operators(ops)}
        view = session.events.view(key, ViewQuery(lo, hi))
        if view.head is None:
            return None
        decode = session.codec.decode
        with session.naming(f"the event sequence {key!r}"):
            changes = [*session.events.changes(key, view, lo, hi)]
            if start is None and end is None:  # nothing tells whether a part is whole
                History(session, key).check_whole(view.head, Tally.of_all(changes))
            return [
                Event(change.t, item, stored_operator(op).function, None if encoded is None else decode(encoded))
                for change in upcast_changes(changes, session.codec)
                for item, op, encoded in change.steps
                if names is None or op in names
            ]

    def prune(self, *keys: str, remove: bool = True) -> int:
        """Drop the events that a later `setitem` or `delitem` of the same item supersedes; return how many.

        `current` stays what it is. `past` stays exact from the horizon on, the time of the latest such supersession,
        and raises `HorizonError` before it. With `remove`, a key whose current state is empty is deleted.

        Raises `InvalidArgumentError` without a key.

        >>> for reading in 20, 21, 22:
        ...     state = store.apply('sensor', {'value': reading})
        >>> store.prune('sensor'), store.current('sensor')
        (2, {'value': 22})
        """
        session = self._writer
        if not keys:
            raise InvalidTypeError("prune takes at least one key; prune(*store.eventsources()) prunes all sequences")
        checked = sorted({check_key(key) for key in keys})  # one order for all, or they would wait for one another

        def prune_one(key: str, logs: Logs) -> int:
            with session.naming(f"the event sequence {key!r}"):
                return logs.retry_conflicts(key, lambda logs: Pruner(session, key, logs).try_prune(remove=remove))

        return session.events.atomically(checked, lambda logs: sum(prune_one(key, logs) for key in checked))

    def eventsources(self) -> list[str]:
        """Return the keys of all event sequences, in order."""
        return self._reader.events.keys()

    def eventsequences(self) -> list[str]:
        """Return the same as `eventsources`; the name that the first release had."""
        return self.eventsources()


def _answer(replay: Replay, *, withtimestamp: bool) -> dict[str, Any] | tuple[int, dict[str, Any]] | None:
    if replay.last is None:
        return None
    state = replay.state.values()
    return (replay.last[0], state) if withtimestamp else state


def _steps(session: Session, state: Mapping[str, Any]) -> list[Step]:
    """Return the steps of a change, their values encoded."""
    if type(state) is not dict and not isinstance(state, Mapping):  # a dict costs no look at its bases
        raise InvalidTypeError(f"a change is a mapping {{item: value or (op, operand)}}, not {type(state).__name__}")
    steps = []
    for item, value in state.items():
        item = check_item(item)  # noqa: PLW2901 - a plain str from here on
        operator, operand = _operation(item, value)
        if not operator.unary:
            try:
                steps.append(Step(item, operator.name, session.codec.encode(operand)))
            except SerializationError as error:
                raise session.named(error, f"the item {item!r} of a change") from error.__cause__ or error
        elif operand is None:
            steps.append(Step(item, operator.name, None))
        else:
            raise InvalidTypeError(f"{operator.name} on the item {item!r} takes no operand: pass None")
    return steps


def _operation(item: str, value: Any) -> tuple[Operator, Any]:
    """Return the operator and the operand that a value stands for: a 2-tuple led by a callable, or a plain value."""
    if type(value) is tuple and len(value) == 2:
        if callable(value[0]):
            try:
                return check_operator(value[0]), value[1]
            except InvalidTypeError as error:
                raise InvalidTypeError(f"item {item!r}: {error}") from error
        if isinstance(value[0], str) and value[0] in OPERATORS:
            raise InvalidTypeError(
                f"item {item!r}: ({value[0]!r}, …) would replace its value by a tuple: write (operator.{value[0]}, …), "
                f"or to set the tuple, (operator.setitem, ({value[0]!r}, …))"
            )
    return SETITEM, value


def _operators(ops: Any) -> list[Operator]:
    if callable(ops) or isinstance(ops, str):
        return [check_operator(ops)]
    try:
        several = list(ops)
    except TypeError as error:
        raise InvalidTypeError("ops is an operator, or several") from error
    return [check_operator(op) for op in several]
