"""The verbs that hold a sequence to what was committed: `digest` and `verify`."""

from __future__ import annotations

from typing import Final

from rstore.arguments import check_key
from rstore.backends.types import (
    FIRST,
    HEAD_ONLY,
    LAST,
    MIN_INT64,
    Head,
    Log,
    LogSnapshot,
    Model,
    Position,
    Row,
    ViewQuery,
)
from rstore.codec.changes import Facts, Tally, link_of, pack_change
from rstore.codec.serializers import Codec
from rstore.codec.upcasting import upcast_change
from rstore.errors import CorruptionError, EncryptionError, HorizonError, PlaintextError
from rstore.events.chain import Broken, Chain, Digest
from rstore.events.checkpoints import open_checkpoint
from rstore.events.heads import problem_of
from rstore.events.history import History
from rstore.events.passage import passage
from rstore.events.state import CannotFold, State
from rstore.log.reader import LogReader, position_of
from rstore.namespace import rereads
from rstore.verbs import Verbs

_TRIES: Final = 5
"""How often a sequence is gone through whose states are replaced meanwhile."""


class Proofs(Verbs):
    """Proofs that a sequence is what was committed."""

    @rereads
    def digest(self, key: str) -> str | None:
        """Return a short string that identifies all commits of a sequence, in their order; None if it is unknown.

        Keep it where the writers of the store cannot write: `verify(key, digest)` holds the sequence to it later,
        whatever was committed since. It takes one short read, and tells nothing of the content but whether a guess of
        all of it is right.

        >>> store.apply('deed', {'owner': 'Ada'}, t=1)
        {'owner': 'Ada'}
        >>> store.digest('deed').split('.')[:2]
        ['1', '0']
        """
        session, key = self._reader, check_key(key)
        history = History(session, key)
        with session.naming(f"the event sequence {key!r}"):
            head = session.events.view(key, HEAD_ONLY).head
            return None if head is None else str(Digest.of(history.tip(head), history.facts(head)))

    @rereads
    def verify(self, key: str, digest: str | None = None) -> str | None:
        """Read a whole sequence, and check that it is what was committed; return its digest, None if it is unknown.

        It compares the chain over all commits with the head, looks for gaps in the commit numbers and for times of
        recording that go back, and folds all changes to compare them with the states that are kept. With an encryption
        key, all of it has to open, so that any change that was edited, moved, swapped, put back or taken out is
        noticed. Without one, so are accidents, and edits that do not compute the hashes anew. An earlier `digest`
        helps with both: the sequence has to contain the same commits up to there, which it does not if it was put back
        to an older state. docs/events.md says what is not noticed.

        It holds the state, a few chunks, and about 100 bytes for each change that was dated back.

        Raises `TamperedError` with an encryption key, else `CorruptionError`, naming the first finding;
        `HorizonError` for a digest from before a `prune`; `InvalidArgumentError` for a string that is none.

        >>> store.apply('will', {'heir': 'Ada'}, t=1)
        {'heir': 'Ada'}
        >>> kept = store.digest('will')
        >>> store.apply('will', {'heir': 'Bob'}, t=2)
        {'heir': 'Bob'}
        >>> store.verify('will', kept) == store.digest('will')
        True
        """
        session, key = self._reader, check_key(key)
        told = None if digest is None else Digest.parse(digest)
        with session.naming(f"the event sequence {key!r}"):
            return _Verifier(session, key).run(told)


class _Verifier(History):
    """One event sequence, to be verified."""

    def run(self, told: Digest | None) -> str | None:
        """Return the digest of the sequence, None if it is unknown."""
        tries = 0
        while True:
            tries += 1
            with self._logs.snapshot(self._key, FIRST, LAST) as snapshot:
                head = snapshot.view.head
                if head is None:
                    if told is not None:
                        raise self._logs.unsound(self._key, "it is gone, and a digest of it was kept")
                    return None
                found, doubt = self._read_all(head, snapshot, told)
            # A concurrent change may have replaced a state since the snapshot. Where that happens each time, it is left
            # open: a state that goes with other changes is refused by each reader.
            if doubt is None or tries == _TRIES:
                return str(found)
            if self._logs.view(self._key, HEAD_ONLY).head == head:
                raise self._logs.unsound(self._key, doubt)

    def _read_all(self, head: Head, snapshot: LogSnapshot, told: Digest | None) -> tuple[Digest, str | None]:
        """Return the digest, and what is wrong with a state that is kept unless it was replaced meanwhile."""
        self._check_kind(head)
        facts, tip = self.facts(head), self.tip(head)
        now = Digest.of(tip, facts)
        if told is not None:
            self._check_age(told, now, facts)
        kept = _KeptStates(self._logs, self._codec, self._key, head)
        state, n, tags, top = State(self._codec, facts.horizon), 0, 0, 0
        at: Position = FIRST
        last: Position | None = None
        try:
            chain = Chain(tip, facts, None if told is None else told.n)
            for change in passage(self._logs, self._key, snapshot):
                at = change.position
                while kept.next_at is not None and kept.next_at < at:
                    kept.compare(state, Tally().joined(n, tags, top))
                _check_order(last, at)
                chain.add(change.n, change.recorded, link_of(*at, pack_change(change), tagged=change.tag > 0))
                state.fold(upcast_change(change, self._codec).steps, change.t)
                n, tags, top, last = n + 1, tags + change.tag, max(top, change.n), at
            state.settle()
            kept.compare_last(last, state, Tally().joined(n, tags, top))
            _check_tally(Tally().joined(n, tags, top), tip.tally)
            chain.finish(None if told is None else told.hash)
        except Broken as error:
            raise self._logs.unsound(self._key, f"{error}") from None
        except CannotFold as error:
            if self._codec.upcast is not None:
                raise self._unreplayable(at[0], error) from error.__cause__
            problem = f"it cannot be replayed at t={at[0]}, item {error.step.item!r}"
            raise self._logs.unsound(self._key, problem) from error.__cause__
        return now, kept.doubt

    def _check_kind(self, head: Head) -> None:
        if self._envelope.keyed and not head.sealed and not self._namespace.setup.incarnations.opens_plaintext:
            raise PlaintextError(f"the event sequence {self._place} is not encrypted, and the store has a key")

    def _check_age(self, told: Digest, now: Digest, facts: Facts) -> None:
        """Refuse a digest that the sequence cannot be held to, or that tells of more than there is."""
        if told.prunes < now.prunes or (told.prunes == now.prunes and told.n < min(facts.pruned_n, now.n)):
            raise HorizonError(
                f"the history of {self._place} was pruned since the digest was taken, and cannot be held to it",
                key=self._key,
                horizon=MIN_INT64 if facts.horizon is None else facts.horizon,
            )
        if told.prunes > now.prunes or told.n > now.n:
            raise self._logs.unsound(
                self._key, f"it ends at commit {now.n}, after {now.prunes} prunes, before the digest was taken"
            )


def _check_order(last: Position | None, at: Position) -> None:
    if last is not None and at <= last:
        raise Broken(f"its changes are out of order at t={at[0]}")


def _check_tally(found: Tally, told: Tally) -> None:
    if (problem := problem_of(found, told)) is not None:
        raise Broken(problem)


class _KeptStates:
    """The checkpoints of a sequence, compared one after another with the states behind its changes."""

    def __init__(self, logs: LogReader, codec: Codec, key: str, head: Head) -> None:
        self._logs, self._codec, self._key, self._head = logs, codec, key, head
        checkpoints = logs.namespace.backend.checkpoints(Log(Model.EVENTS, key))
        self._left = [position_of(checkpoint) for checkpoint in checkpoints]
        self.doubt: str | None = None

    @property
    def next_at(self) -> Position | None:
        """Where the next one stands."""
        return self._left[-1] if self._left else None

    def compare(self, state: State, tally: Tally) -> None:
        """Compare the next one with the state that the changes up to there come to."""
        at = self._left.pop()
        query = ViewQuery(hi=FIRST, rows=False, bodies=False, from_checkpoint=at)
        checkpoint = self._logs.view(self._key, query).checkpoint
        found, problem = None, f"the state that was kept at t={at[0]} is gone"
        if checkpoint is not None and position_of(checkpoint) == at:
            try:
                found = self._open(checkpoint)
            except (EncryptionError, CorruptionError) as error:
                problem = f"the state that was kept at t={at[0]} does not open: {error}"
            else:
                problem = f"the state that was kept at t={at[0]} is not what its changes come to"
                if found is None:  # of other fold rules, and so never used
                    return
        if found is not None and found[1] == tally:
            if not self._agree(found[0], state):
                raise Broken(problem)  # whatever was done meanwhile: it was made of these changes
            return
        self.doubt = self.doubt or problem

    def compare_last(self, last: Position | None, state: State, tally: Tally) -> None:
        """Compare the one behind the last change; there is none after it."""
        while self._left and last is not None and self._left[-1] <= last:
            self.compare(state, tally)
        if self._left:
            self.doubt = self.doubt or f"a state was kept at t={self._left[-1][0]}, behind its last change"

    def _agree(self, kept: State, folded: State) -> bool:
        one, other = ({step.item: step.encoded for step in state.steps()} for state in (kept, folded))
        if one.keys() != other.keys():
            return False
        # Equal values may be pickled in two ways, as objects are shared or not; and NaN differs from itself.
        differing = [item for item, encoded in one.items() if encoded != other[item]]
        values = [
            [self._codec.decode(state.encoded().get(item, b"")) for item in differing] for state in (kept, folded)
        ]
        return values[0] == values[1] or repr(values[0]) == repr(values[1])

    def _open(self, checkpoint: Row) -> tuple[State, Tally] | None:
        return open_checkpoint(self._logs.envelope, self._codec, self._key, self._head, checkpoint, None)
