"""Finding the change of one commit, by the summaries of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rstore.backends.types import FIRST, LAST, Position, ViewQuery
from rstore.errors import HorizonError, InvalidValueError
from rstore.events.moment import Moment
from rstore.events.reading import Reading

_PROBES: Final = 12


class CommitFinder(Reading):
    """One event sequence, in which commits are looked for."""

    def position_of(self, n: int) -> Position | None:
        """Return the position of the change of one commit; None if the sequence is unknown.

        Raises `InvalidValueError` for a commit that there is not, `HorizonError` for one whose change was pruned away.
        """
        near = self.near_end(LAST)
        if near is not None:
            with self._logs.snapshot(self._key, near, LAST) as snapshot:
                position = _found(Moment(self._logs, self._key, snapshot), n)
            if position is not None or (position := self._probed(n, near)) is not None:
                return position
        with self._logs.snapshot(self._key, FIRST, LAST) as snapshot:
            moment = Moment(self._logs, self._key, snapshot)
            if moment.head is None:
                return None
            tip, facts = self.tip(moment.head), self.facts(moment.head)
            if 0 < n <= tip.n and (position := _found(moment, n)) is not None:
                return position
        if facts.horizon is not None and 0 < n <= facts.pruned_n:
            raise self.pruned_away(n, facts.horizon)
        raise InvalidValueError(f"{self._place} has no commit {n}: its last one is {tip.n}")

    def pruned_away(self, n: int, horizon: int) -> HorizonError:
        """Return the error for a commit of which too little is left."""
        return HorizonError(
            f"the history of {self._place} was pruned: the change of commit {n}, or the state behind it, is gone",
            key=self._key,
            horizon=horizon,
        )

    def _probed(self, n: int, end: Position) -> Position | None:
        """Return the position of a commit if a few chunks that are likely to have it do; it lies before `end`.

        As if commits came at a steady rate, in the order of their positions. All chunks are listed otherwise, which
        takes 5 µs each (benchmarks: `history`).
        """
        view = self._logs.view(self._key, ViewQuery(limit=1, bodies=False))
        if view.head is None or not view.chunks:
            return None
        (lo, _), (hi, _), lo_n, hi_n = view.chunks[0].first, end, 1, self.tip(view.head).n
        for _ in range(_PROBES):
            if not (lo <= hi and lo_n <= n <= hi_n):
                return None
            t = lo + (hi - lo) * (n - lo_n) // max(1, hi_n - lo_n)
            view = self._logs.view(self._key, ViewQuery((t, 0), limit=1, bodies=False))
            if view.head is None or not view.chunks:
                return None
            chunk = view.chunks[0]
            commits = self._logs.open_commits(self._key, chunk, view.head)
            if commits is None:
                return None
            if n < commits.first_n:
                hi, hi_n = chunk.first[0] - 1, commits.first_n - 1
            elif n > commits.last_n:
                lo, lo_n = chunk.last[0], commits.last_n + 1
            else:
                with self._logs.snapshot(self._key, chunk.first, chunk.last) as snapshot:
                    return _found(Moment(self._logs, self._key, snapshot), n)
        return None


def _found(moment: Moment, n: int) -> Position | None:
    """Return the position of a commit; None if it is not there."""
    positions = (moment.find(section, n) for section in _likely(moment, n))
    return next((position for position in positions if position is not None), None)


def _likely(moment: Moment, n: int) -> Iterator[int]:
    """Yield the sections that may have the change of a commit, the likeliest ones first."""
    lo, hi, seen = 0, len(moment), set[int]()
    while lo < hi:  # as if the commits were in the order of their positions, which most are
        middle = (lo + hi) // 2
        commits = moment.commits(middle)
        if commits is None or commits.first_n <= n <= commits.last_n:
            seen.add(middle)
            yield middle
        if commits is None or n < commits.first_n:
            hi = middle
        else:
            lo = middle + 1
    for i in range(len(moment)):
        if i not in seen:
            commits = moment.commits(i)
            if commits is None or commits.first_n <= n <= commits.last_n:
                yield i
