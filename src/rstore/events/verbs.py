"""The event-sequence verbs: a dict with its history, replayable to any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

from rstore.arguments import check_id, check_key, check_timestamp, check_version
from rstore.backends.types import ANY, Expected
from rstore.codec.changes import Step
from rstore.errors import CorruptionError, SerializationError
from rstore.events.asking import Asking, answer
from rstore.events.history import History
from rstore.events.ids import Current, Once
from rstore.events.recording import Recorder
from rstore.events.steps import ChangeFunction, FnRaised, State, Steps, encode_note, steps_by, steps_of
from rstore.log.packing import Logs
from rstore.namespace import rereads
from rstore.session import Session


class Events(Asking):
    """Sequences of changes to a dict; a timestamp is POSIX milliseconds."""

    def apply(
        self,
        key: str,
        state: State | ChangeFunction,
        t: int | None = None,
        *,
        if_version: Expected = ANY,
        id: str | None = None,  # noqa: A002 - the name that everyone knows
        note: Any = None,
    ) -> dict[str, Any] | None:
        """Record a change, and return the current state.

        `{item: value}` sets an item, `{item: (op, operand)}` applies one of the operators `setitem delitem add sub mul
        truediv floordiv mod pow concat neg not_` of the module `operator` to it; of `delitem`, `neg` and `not_` the
        operand is None. The name of an operator in its place, as in `("add", 1)`, is refused: `(setitem, ("add", 1))`
        sets such a tuple. All items of one call are one change: recorded together or not at all. Without `t` the change
        happens now and is the last one; with `t`, also in the past, from where on it takes part in history. An empty
        change records nothing.

        A function in place of the mapping gets the current state, a dict of its own (`{}` if the key is unknown), and
        returns the change. It is called again after a concurrent one, and then perhaps under the lock of the sequence:
        it should be quick, have no effects of its own, and leave the store alone. If it raises, nothing is recorded.

        With `if_version` the change is recorded only if the sequence still has that version (as `version` tells it), or
        for None only if there is none. `note` is any value, kept with the change: its author, its reason.

        With `id`, a str of 1 to 255 UTF-8 bytes, the change is applied once: the same id with the same change records
        nothing more and returns the current state, from any process and after any error, such as
        `OutcomeUnknownError`. The id of an empty change is not kept. Ids are kept for the `id_ttl` of the store.

        Raises `ChangeRefusedError` if the change, or a later one behind it, could not be replayed;
        `StoreIntegrityError` if `t` is taken; `HorizonError` if the history of that time was pruned; `ConflictError`
        (with `expected` and `actual`) if there is another version, or the id is that of another change;
        `SerializationError` if a value or the note cannot be dumped; `StoreBusyError` if concurrent changes were faster
        until the time-out.

        >>> import operator
        >>> store.apply('account', {'owner': 'Ada', 'balance': 10})
        {'owner': 'Ada', 'balance': 10}
        >>> store.apply('account', {'balance': (operator.add, 5)})
        {'owner': 'Ada', 'balance': 15}
        """
        session, key = self._writer, check_key(key)
        at = None if t is None else check_timestamp(t)
        expected = ANY if if_version is ANY else check_version(if_version)
        noted = encode_note(session, key, note := session.setup.notes.merged(note))
        steps = steps_of(session, state) if isinstance(state, Mapping) else steps_by(session, state)
        once = None if id is None else Once(session, key, check_id(id), state, at, note)
        if callable(steps):
            return self._apply_function(session, key, steps, at, expected, noted, once)
        if not steps and expected is ANY:
            return self.current(key)
        if not steps or once is not None:
            change = steps or (lambda _: steps)  # nothing to record, only a version to look at
            return self._apply_function(session, key, change, at, expected, noted, once)
        logs = session.events
        try:  # as `naming` does, without its frames
            current = logs.retry_conflicts(
                key, lambda logs: Recorder(session, key, logs, expected, noted).try_apply(steps, at)
            )
        except (SerializationError, CorruptionError) as error:
            raise session.named(error, f"the event sequence {key!r}") from error.__cause__ or error
        logs.maybe_pack(key, 1)  # behind the lock: concurrent writers must not wait for a compression
        return current

    def _apply_function(
        self,
        session: Session,
        key: str,
        steps: Steps | Sequence[Step],
        t: int | None,
        expected: Expected,
        note: bytes | None,
        once: Once | None,
    ) -> dict[str, Any] | None:
        """Record the change that a function makes of the current state, or one with an id."""

        def attempt(logs: Logs) -> Current | None:
            recorder = Recorder(session, key, logs, expected, note)
            recorder.once = once
            apply = partial(recorder.try_change, steps, t) if callable(steps) else partial(recorder.try_steps, steps, t)
            return apply() if once is None else once.attempt(logs, apply)

        failed: Exception
        with session.naming(f"the event sequence {key!r}"):
            try:
                (current,) = session.events.retry_conflicts(key, attempt)
            except FnRaised as raised:
                failed = raised.error
            else:
                session.events.maybe_pack(key, 1)
                return current
        raise failed

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
            return answer(History(session, key).read(), withtimestamp=withtimestamp)

    def eventsources(self) -> list[str]:
        """Return the keys of all event sequences, in order."""
        return self._reader.events.keys()

    def eventsequences(self) -> list[str]:
        """Return the same as `eventsources`; the name that the first release had."""
        return self.eventsources()
