"""The archive of pruned changes: a store file that has what went from the same sequence of another store."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rstore.backends.registry import make_checked_backend
from rstore.backends.types import FIRST, LAST, MIN_INT64, Commit, Head, Options, Row
from rstore.codec.changes import Facts, Step, StoredChange, Tip, next_digest, pack_change
from rstore.codec.upcasting import upcast_change
from rstore.errors import InvalidValueError, StoreIntegrityError
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.heads import seal_facts, seal_tip
from rstore.events.history import History
from rstore.events.passage import Layout, passage
from rstore.events.replay import Replay
from rstore.events.state import CannotFold, State
from rstore.log.packing import Logs
from rstore.log.writer import new_stamp
from rstore.session import Session, StoreSession

_FACTS: Final = Facts(horizon=MIN_INT64, pruned_n=2**63 - 1)
"""Of a sequence in an archive: all of its history is told, any commit number may be missing, and the digest goes by the
order of positions. They never change, since the rows of a sealed log are bound to them."""

Pair: TypeAlias = tuple[StoredChange | None, StoredChange | None]
"""A change that the archive has, and one that is to be added, at the same position."""


@contextmanager
def open_archive(session: Session, path: str) -> Generator[Archive, None, None]:
    """Open the archive at a path, for the same namespace and under the same encryption keys.

    Raises `InvalidValueError` if it is the store itself, or a copy of its file.
    """
    setup = session.setup
    options = Options(frozen=False, durability="full", timeout_s=setup.timeout_s, telemetry=setup.telemetry)
    backend = make_checked_backend("sqlite", path, session.name, options)
    try:
        backend.open()
        archive = StoreSession(backend, setup._replace(incarnations=setup.incarnations.elsewhere()))
        if archive.incarnation == session.incarnation:
            raise InvalidValueError(f"{path!r} is the store itself, or a copy of its file: an archive is another one")
        yield Archive(archive, path)
    finally:
        backend.close()


class Archive:
    """The store file that keeps what goes."""

    def __init__(self, session: StoreSession, path: str) -> None:
        self._session = session
        self._path = path

    def keep(self, key: str, birth: int, facts: Facts, gone: Callable[[], Iterator[StoredChange]]) -> None:
        """Add changes of the sequence of a birth, with these facts, unless they are there; they are on the disk then.

        Raises `StoreIntegrityError` if the archive has changes of another sequence under this key.
        """
        session, baseline_n = self._session, facts.baseline_n
        session.events.retry_conflicts(
            key, lambda logs: _ArchivedSequence(session, key, logs, self._path, birth).try_add(gone, baseline_n)
        )


class _ArchivedSequence(History):
    """One sequence in an archive."""

    def __init__(self, session: Session, key: str, logs: Logs, path: str, birth: int) -> None:
        super().__init__(session, key, logs)
        self._writer = logs
        self._path = path
        self._birth = birth

    def try_add(self, gone: Callable[[], Iterator[StoredChange]], baseline_n: int) -> bool | None:
        """Add changes at their positions; return True, or None if a concurrent writer was faster.

        Behind the last change they are appended. Before it, where the archive has other steps of the same changes, all
        of it is laid out anew.
        """

        def new() -> Iterator[StoredChange]:
            return (self._brought(change) if change.n == baseline_n else change for change in gone())

        first = next(new(), None)
        if first is None:
            return True
        logs, key = self._writer, self._key
        incarnation, known = logs.incarnation, self.read()
        head = known.head
        logs.check_kind(key, head)
        if known.last is not None and known.tip.birth != self._birth:
            raise self._foreign(known.last[0])
        begun = head or logs.new_head(seal_facts(self._envelope, key, _FACTS))
        if known.last is None or first.position > known.last or self._is_last(first, known, baseline_n):
            replay = known.copy()
            commit = self._added(replay, begun, known.tip, ((None, change) for change in new()), baseline_n)
        else:
            with logs.snapshot(key, FIRST, LAST) as snapshot:
                view = snapshot.view
                if view.head is None or view.head != head:
                    return None
                replay = Replay(begun, known.facts, State(self._codec, known.facts.horizon), 0)
                pairs = _paired(passage(logs, key, snapshot), new())
                commit = self._added(replay, begun, Tip(), pairs, baseline_n)
            drop_chunks = [chunk.first for chunk in view.chunks]
            commit = commit._replace(drop_rows=view.rows, drop_chunks=drop_chunks, drop_checkpoints_from=FIRST)
        if head is None:
            commit = commit._replace(create=begun, if_version=None)
        else:
            commit = commit._replace(if_version=head.version, if_epoch=head.epoch)
        return logs.commit(key, commit, incarnation) or None

    def _is_last(self, first: StoredChange, known: Replay, baseline_n: int) -> bool:
        """Return whether the first change that goes is a baseline, and the archive ends with the changes behind it."""
        if first.n != baseline_n or first.position != known.last:
            return False
        return not any(_is_needed(step, known.state, at_once=True) for step in first.steps)

    def _added(self, replay: Replay, head: Head, tip: Tip, pairs: Iterator[Pair], baseline_n: int) -> Commit:
        """Return the commit that puts changes behind those of a replay, whose last commit is `tip`."""
        envelope, key = self._envelope, self._key
        layout, checkpoints = Layout(self._writer, key, head), list[Row]()
        digest, n, recorded = tip.digest, tip.n, tip.recorded
        for known, new in pairs:
            change = self._joined(replay.state, known, new, baseline_n)
            if change is None:
                continue
            body = pack_change(change)
            change = change._replace(size=len(body))
            digest = next_digest(digest, *change.position, body, tagged=change.tag > 0)
            n, recorded = max(n, change.n), max(recorded, change.recorded)
            layout.add(change)
            try:
                if replay.fold(upcast_change(change, self._codec)):
                    place = key, head, change.position
                    checkpoints.append(seal_checkpoint(envelope, *place, replay.state, replay.tally))
            except CannotFold as error:
                raise self._foreign(change.t) from error.__cause__
        rows, chunks = layout.finish()
        return Commit(
            version=seal_tip(envelope, key, head, Tip(n, recorded, digest, replay.tally, self._birth)),
            epoch=new_stamp(),
            put_rows=rows,
            put_chunks=chunks,
            put_checkpoints=checkpoints,
        )

    def _joined(
        self, state: State, known: StoredChange | None, new: StoredChange | None, baseline_n: int
    ) -> StoredChange | None:
        """Return the change at one position: what the archive has of it, and the steps that it lacks."""
        if new is None:
            return known
        is_baseline = new.n == baseline_n
        if known is not None and not is_baseline and _identity(known) != _identity(new):
            raise self._foreign(new.t)
        there = () if known is None else {step.item for step in known.steps}
        steps = [step for step in new.steps if step.item not in there and _is_needed(step, state, at_once=is_baseline)]
        if known is not None:
            if steps and known.schema != new.schema:
                known = self._brought(known)
            return known._replace(steps=[*known.steps, *steps])
        return new._replace(steps=steps) if steps else None

    def _brought(self, change: StoredChange) -> StoredChange:
        """Return a change brought to the store's schema version, as the states are that it is compared with."""
        return upcast_change(change, self._codec)._replace(schema=self._codec.schema_version)

    def _foreign(self, t: int) -> StoreIntegrityError:
        return StoreIntegrityError(
            f"the archive {self._path!r} has changes of {self._place}, up to t={t}, that are not of this sequence: "
            "perhaps it was removed and begun anew; name another archive; nothing was pruned"
        )


def _identity(change: StoredChange) -> tuple[int, int, int]:
    return change.n, change.recorded, change.tag


def _is_needed(step: Step, state: State, *, at_once: bool) -> bool:
    """Return whether a step adds something: one of a baseline does not where the archive knows how it came to be."""
    if at_once:
        return state.encoded().get(step.item) != step.encoded
    return step.op != "delitem" or step.item in state


def _paired(known: Iterator[StoredChange], new: Iterator[StoredChange]) -> Iterator[Pair]:
    """Yield the changes of both in order of position, those at one position together."""
    left, right = next(known, None), next(new, None)
    while left is not None or right is not None:
        before = right is None or (left is not None and left.position <= right.position)
        behind = left is None or (right is not None and right.position <= left.position)
        yield left if before else None, right if behind else None
        if before:
            left = next(known, None)
        if behind:
            right = next(new, None)
