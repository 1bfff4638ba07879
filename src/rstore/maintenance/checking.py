"""Checks whether a store is sound: its bytes open under the key, they decode, and its parts agree.

No pickle is loaded, since it could run code that a writer chose: only its first and last bytes are read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from rstore.arguments import key_or_none
from rstore.backends.common.pages import pages_of
from rstore.backends.maintenance import MODELS, RECORDS, Finding
from rstore.backends.types import (
    FIRST,
    Chunk,
    Head,
    Log,
    LogSnapshot,
    Model,
    Position,
    Row,
    ScanQuery,
    ViewQuery,
    position_after,
)
from rstore.codec.change_meta import commits_of
from rstore.codec.changes import OPS, Step, StoredChange, Tally, unpack_change
from rstore.codec.chunk_meta import pack_meta, unpack_meta
from rstore.codec.columns import Kind
from rstore.codec.envelope import MAGIC
from rstore.codec.segments import Segment
from rstore.codec.serializers import Codec, has_own_codec, is_native
from rstore.errors import ConflictError, CorruptionError, EncryptionError, SerializationError
from rstore.events.checkpoints import open_checkpoint
from rstore.events.heads import open_facts, open_tip, problem_of
from rstore.events.ids import ID_BYTES
from rstore.events.state import CannotFold, Run, State
from rstore.log.reader import LogReader, Section, position_of, sections
from rstore.series.reader import AT_ONCE
from rstore.session import StoreSession

_A_PAGE: Final = 1000
_TRIES: Final = 3
"""How often a log is checked whose check a concurrent write disturbs."""
_UNSOUND: Final = (CorruptionError, EncryptionError, SerializationError)
"""Errors that are findings; every other error says that nothing can be found out."""
_OPAQUE: Final = b""
"""Stands for a value that is not computed, since loading its operands could run code."""


def check_all(session: StoreSession) -> Iterator[Finding]:
    """Yield all that is wrong with a namespace, and with the store around it."""
    session.refresh(session.envelope)  # so that a concurrent `discard`, or a new key, is no finding
    yield from _or_why_not("store", session.whole.findings())
    yield from _or_why_not(MODELS[RECORDS], _check_values(session))
    for model, logs in ((Model.SERIES, session.series), (Model.EVENTS, session.events)):
        yield from _or_why_not(MODELS[model], _check_logs(session, logs, model))
    yield from _or_why_not(MODELS[Model.EVENTS], _check_ids(session))


def _or_why_not(model: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except CorruptionError as error:
        yield Finding(model, None, str(error))


def _check_values(session: StoreSession) -> Iterator[Finding]:
    backend = session.whole.reading_around_damage()
    after = None
    for records in pages_of(backend, ScanQuery(_A_PAGE)):
        for key, record, _ in records:
            if after is not None and key <= after:
                yield Finding(MODELS[RECORDS], key, "it comes in the wrong place: the index of keys is damaged")
                return
            after = key
            if key_or_none(key) is None:
                yield Finding(MODELS[RECORDS], key, "its name is one that no key can have")
            try:
                session.records.check(key, record)
            except _UNSOUND as error:
                yield Finding(MODELS[RECORDS], key, str(error))


def _check_ids(session: StoreSession) -> Iterator[Finding]:
    for key in session.whole.reading_around_damage().logs(Model.IDS):
        lo: Position | None = FIRST
        while lo is not None:
            rows = session.events.ids(key, ViewQuery(lo, limit=_A_PAGE, bodies=False)).rows
            if any(len(row.body) != ID_BYTES for row in rows):
                yield Finding(MODELS[Model.EVENTS], key, "an id of a change is damaged")
            lo = position_after(position_of(rows[-1])) if len(rows) == _A_PAGE else None


def _check_logs(session: StoreSession, logs: LogReader, model: Model) -> Iterator[Finding]:
    for key in session.whole.reading_around_damage().logs(model):
        if key_or_none(key) is None:
            yield Finding(MODELS[model], key, "its name is one that no key can have")
        for problem in _problems_of_log(session, logs, model, key):
            yield Finding(MODELS[model], key, problem)


def _problems_of_log(session: StoreSession, logs: LogReader, model: Model, key: str) -> list[str]:
    look = _LogLook(session, logs, model, key)
    for _ in range(_TRIES):
        look = _LogLook(session, logs, model, key)
        try:
            look.run()
        except ConflictError as error:  # a concurrent write has replaced or dropped a part of it
            look.doubts.append(str(error))
        except _UNSOUND as error:
            look.problems.append(str(error))
        if not look.doubts:
            return look.problems
        # A concurrent write between two calls makes their answers contradict each other.
        if logs.view(key, ViewQuery(hi=FIRST, rows=False, bodies=False)).head == look.head:
            return look.problems + look.doubts
    return look.problems


class _LogLook:
    """One look at a log: problems, which are certain, and doubts, which a concurrent write may explain."""

    def __init__(self, session: StoreSession, logs: LogReader, model: Model, key: str) -> None:
        self.problems: list[str] = []
        self.doubts: list[str] = []
        self.head: Head | None = None
        self._session = session
        self._logs = logs
        self._model = model
        self._key = key

    def run(self) -> None:
        """Check all of the log, and fill `problems` and `doubts`."""
        # The backend's own snapshot: that of the log reader refuses a log with impossible chunks as a whole.
        with self._session.whole.log_snapshot(Log(self._model, self._key)) as snapshot:
            view, self.head = snapshot.view, snapshot.view.head
            if view.head is None:
                return
            if not view.rows and not view.chunks:
                self._look_for_rows(view.head)
            rows = self._open_rows(view.head, view.rows)
            chunks = self._open_chunks(snapshot)
            if self._model is Model.SERIES:
                deque(chunks, maxlen=0)
            else:
                self._replay(view.head, _merged(sections(view.chunks, rows), chunks))

    def _look_for_rows(self, head: Head) -> None:
        if self._model is Model.EVENTS and open_facts(self._session.envelope, self._key, head).baseline is not None:
            return  # pruned to one without items, of which only the head tells
        # A log may get its head a moment before its first rows.
        view = self._logs.view(self._key, ViewQuery(limit=1, bodies=False))
        if view.head is not None and not view.rows and not view.chunks:
            self.doubts.append("it is named, and holds nothing")

    # -- rows and chunks ----------------------------------------------------------------------------------------------

    def _open_rows(self, head: Head, rows: Sequence[Row]) -> list[Row]:
        """Return those hot rows that can be opened."""
        opened, failed, first = [], 0, ""
        if (problem := self._logs.problem_of_rows(rows)) is not None:
            self.problems.append(problem)
            return []
        for row in rows:
            try:
                if (row.body[:1] == bytes((MAGIC,))) != head.sealed:
                    raise CorruptionError("it is not as the log is, all encrypted or all not")
                body = self._logs.open_row(self._key, row, head)
                if self._model is Model.SERIES:
                    self._session.codec.check(body)
            except _UNSOUND as error:
                failed, first = failed + 1, first or f"the first at {row.t}: {error}"
            else:
                opened.append(row._replace(body=body))
        if failed:
            self.problems.append(f"{failed} rows are damaged, {first}")
        return opened

    def _open_chunks(self, snapshot: LogSnapshot) -> Iterator[Segment | None]:
        """Yield the segment of each chunk, None if it cannot be opened, in constant memory."""
        chunks = snapshot.view.chunks
        for some in chunks[:1], *pairwise(chunks):
            if (problem := self._logs.problem_of_chunks(some)) is not None:
                self.problems.append(problem)
        for start in range(0, len(chunks), AT_ONCE):
            for chunk in snapshot.bodies(chunks[start : start + AT_ONCE]):
                segment: Segment | None = None
                try:
                    segment = self._open_chunk(chunk)
                except _UNSOUND as error:
                    self.problems.append(f"the chunk at {chunk.first[0]}: {error}")
                yield segment

    def _open_chunk(self, chunk: Chunk) -> Segment:
        segment = self._logs.open_chunk(self._key, chunk, self.head)
        if (problem := self._logs.problem_of_segment(chunk, segment, order=True)) is not None:
            raise CorruptionError(problem)  # also of what is sealed
        if self._model is Model.SERIES:
            if segment.column.kind is Kind.ENCODED:
                for encoded in segment.column.encoded():
                    self._session.codec.check(encoded)
            computed = unpack_meta(pack_meta(segment), chunk.n, chunk.last[0] - chunk.first[0])
            if not _agree(self._logs.open_meta(self._key, chunk, self.head), computed):
                raise CorruptionError("its summary does not agree with its points")
        elif self._logs.open_commits(self._key, chunk, self.head) not in (None, commits_of(segment)):
            raise CorruptionError("its summary does not agree with its changes")
        return segment

    # -- changes ------------------------------------------------------------------------------------------------------

    def _replay(self, head: Head, rows: Iterable[Row]) -> None:
        """Fold all changes, and compare what they come to with the states that were kept on the way."""
        session, envelope = self._session, self._session.envelope
        state = _CheckedState(session.codec, open_facts(envelope, self._key, head).horizon)
        kept = [position_of(checkpoint) for checkpoint in session.whole.checkpoints(Log(self._model, self._key))]
        for row in rows:
            while kept and kept[-1] < position_of(row):
                self._compare(kept.pop(), state)
            try:
                change = unpack_change(*row)
                for step in change.steps:
                    if step.encoded is not None:
                        session.codec.check(step.encoded)
                state.fold(state.known_steps(change), change.t)
                state.tally = state.tally.plus(change)
            except CannotFold as error:
                self.problems.append(f"it cannot be replayed at {row.t}, item {error.step.item!r}")
                return
            except _UNSOUND as error:
                self.problems.append(f"the change at {row.t}: {error}")
                return
        if self.problems:
            return  # the missing changes explain any difference
        while kept:
            self._compare(kept.pop(), state)
        if (problem := problem_of(state.tally, open_tip(envelope, self._key, head).tally)) is not None:
            self.doubts.append(problem)

    def _checkpoint(self, at: Position) -> Row | None:
        """Return the newest checkpoint up to a position."""
        query = ViewQuery(hi=FIRST, rows=False, bodies=False, from_checkpoint=at)
        return self._logs.view(self._key, query).checkpoint

    def _compare(self, at: Position, state: _CheckedState) -> None:
        checkpoint, session = self._checkpoint(at), self._session
        if self.problems or checkpoint is None or position_of(checkpoint) != at:
            return
        try:
            found = open_checkpoint(session.envelope, session.codec, self._key, self.head, checkpoint, None)
        except _UNSOUND as error:
            self.problems.append(f"the checkpoint at {at[0]}: {error}")
            return
        if found is not None and not (state.agrees(found[0]) and state.tally == found[1]):
            self.doubts.append(f"the checkpoint at {at[0]} is not what the changes come to")


class _CheckedState(State):
    """A state that is computed only where everything in it is of a type with a codec of its own."""

    __slots__ = ("tally",)

    def __init__(self, codec: Codec, horizon: int | None) -> None:
        super().__init__(codec, horizon)
        self.tally = Tally()
        """Which changes it was computed from."""

    def known_steps(self, change: StoredChange) -> Sequence[Step]:
        """Return the steps of a change; a value that the program has to bring to its schema version is opaque.

        So is every result of a change of a newer version.
        """
        version = self._codec.schema_version
        if change.schema == version or (change.schema < version and self._codec.upcast is None):
            return change.steps
        known = {"delitem"} if change.schema > version else {*OPS} - {"setitem"}
        return [step if step.op in known else Step(step.item, "setitem", _OPAQUE) for step in change.steps]

    def _compute(self, step: Step, *, recorded: bool) -> bytes:
        if self._is_opaque(step):
            return _OPAQUE
        computed = super()._compute(step, recorded=recorded)
        return computed if is_native(computed) else _OPAQUE

    def _compute_later(self, step: Step) -> None:
        opaque = self._is_opaque(step)
        if not opaque:
            super()._compute_later(step)
            value = self._computed[step.item][0]
            opaque = (value.kind is not str) if type(value) is Run else not has_own_codec(value)
        if opaque:
            self._computed.pop(step.item, None)
            self._items[step.item] = _OPAQUE

    def _is_opaque(self, step: Step) -> bool:
        known = self._items.get(step.item)
        return known is not None and not (is_native(known) and (step.encoded is None or is_native(step.encoded)))

    def agrees(self, other: State) -> bool:
        """Return whether another state is the same, as far as this one was computed."""
        self.settle()
        mine, theirs = self._items, other._items  # noqa: SLF001 - of its base
        return mine.keys() == theirs.keys() and all(value in (_OPAQUE, theirs[item]) for item, value in mine.items())


def _merged(parts: Iterable[Section], segments: Iterator[Segment | None]) -> Iterator[Row]:
    """Yield all rows in order; a hot row wins over the row of a chunk at the same position."""
    for chunk, rows in parts:
        if chunk is None:
            yield from rows
            continue
        segment = next(segments, None)
        merged = {} if segment is None else {position_of(row): row for row in _rows_of(segment)}
        merged |= {position_of(row): row for row in rows}
        yield from (merged[position] for position in sorted(merged))


def _rows_of(segment: Segment) -> Iterator[Row]:
    positions = (segment.position(i) for i in range(len(segment)))
    return (Row(t, seq, body) for (t, seq), body in zip(positions, segment.column.encoded(), strict=True))


def _agree(told: object, computed: object) -> bool:
    """Return whether two summaries say the same; another processor may add floats up in another order."""
    if isinstance(told, tuple) and isinstance(computed, tuple):
        return len(told) == len(computed) and all(map(_agree, told, computed))
    if isinstance(told, float) and isinstance(computed, float):
        return (
            told == computed
            or (math.isnan(told) and math.isnan(computed))
            or math.isclose(told, computed, rel_tol=1e-6, abs_tol=1e-6)
        )
    return told == computed
