"""The chain over all changes of a sequence, computed anew: to be compared with the head, or a digest kept elsewhere.

Nouns: a *link* (the hash of one change) and a *digest* as users keep it (commit number, prunes, and the hash).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple, Self

from rstore.backends.types import MIN_INT64
from rstore.codec.changes import Facts, Tip, linked
from rstore.errors import InvalidTypeError, InvalidValueError

_N_BYTES: Final = 8
_SHAPE: Final = re.compile(r"(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,9})\.([A-Za-z0-9_-]{43})")


class Digest(NamedTuple):
    """The digest of a sequence, to be kept elsewhere."""

    n: int
    """The number of its last commit."""
    prunes: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.n}.{self.prunes}.{urlsafe_b64encode(self.hash).decode().rstrip('=')}"

    @classmethod
    def of(cls, tip: Tip, facts: Facts) -> Self:
        """Return the digest of a sequence as it is."""
        return cls(tip.n, facts.prunes, tip.digest)

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Return the digest that `str` has written."""
        if not isinstance(text, str):
            raise InvalidTypeError(f"a digest is a str, as digest() returns it, not {type(text).__name__}")
        found = _SHAPE.fullmatch(text)
        if found is None:
            raise InvalidValueError("that is not a digest: pass a str that digest() or verify() has returned")
        return cls(int(found[1]), int(found[2]), urlsafe_b64decode(found[3] + "="))


class Broken(Exception):  # noqa: N818 - a signal to the caller, which knows the place
    """The changes are not those that were committed; the message says in what."""


class Chain:
    """Links added in the order of positions, and chained in the order of commits.

    First come the changes that the last prune left, in the order of positions, then each commit since, without a gap.
    A link whose turn has not come is held: about 100 bytes for each change that was dated back, until those before it
    were seen, and none for a sequence that only grew at its end.
    """

    def __init__(self, tip: Tip, facts: Facts, wanted: int | None) -> None:
        """`wanted` is the number of the commit behind which the digest is compared with another one."""
        self._at_wanted: bytes | None = None
        self._tip = tip
        self._pruned_n = facts.pruned_n
        self._wanted = wanted
        self._digest = Tip().digest
        self._n = 0
        self._recorded = MIN_INT64
        self._pending: list[bytes] = []  # number, recorded time and link of each: bytes sort as the numbers do
        self._left = tip.tally.n - max(0, tip.n - facts.pruned_n)
        """How many of the changes that the last prune left were not seen yet."""
        if self._left < 0:
            raise Broken(f"it has {tip.tally.n:,} changes, and {tip.n - facts.pruned_n:,} commits since it was pruned")
        if not self._left:
            self._begin()

    def add(self, n: int, recorded: int, link: bytes) -> None:
        """Add the change at the next position.

        Raises `Broken`.
        """
        if n <= self._pruned_n:
            if not self._left:
                raise Broken(f"commit {n} is one more than there were when it was pruned")
            self._digest = linked(self._digest, link)
            self._recorded = max(self._recorded, recorded)
            self._left -= 1
            if not self._left:
                self._begin()
        elif not self._left and n == self._n + 1:
            self._follow(n, recorded, link)
        else:
            bits = n.to_bytes(_N_BYTES, "big") + (recorded - MIN_INT64).to_bytes(_N_BYTES, "big")
            heappush(self._pending, bits + link)
        while self._pending and not self._left and (n := _number(self._pending[0])) <= self._n + 1:
            if n <= self._n:
                raise Broken(f"commit {n} is there twice")
            bits = heappop(self._pending)
            self._follow(n, int.from_bytes(bits[8:16], "big") + MIN_INT64, bits[16:])

    def _begin(self) -> None:
        """Go on with the commits since the last prune."""
        self._n = min(self._pruned_n, self._tip.n)
        if self._n == self._wanted:
            self._at_wanted = self._digest

    def _follow(self, n: int, recorded: int, link: bytes) -> None:
        if recorded < self._recorded:
            raise Broken(f"commit {n} was recorded before the one ahead of it")
        self._n, self._recorded = n, recorded
        self._digest = linked(self._digest, link)
        if n == self._wanted:
            self._at_wanted = self._digest

    def finish(self, wanted: bytes | None) -> None:
        """Compare the whole chain with the last commit that the head tells of, and a part of it with a digest.

        Raises `Broken`.
        """
        if self._left:
            raise Broken(f"{self._left:,} changes are missing of those that were left when it was pruned")
        if self._n != self._tip.n:
            raise Broken(f"commit {self._n + 1} is missing")
        if self._digest != self._tip.digest:
            raise Broken("its changes are not those that were committed, or not in that order")
        if self._recorded > self._tip.recorded or (self._n > self._pruned_n and self._recorded < self._tip.recorded):
            raise Broken("its last commit was not recorded when the head says")
        if wanted is not None and self._at_wanted != wanted:
            raise Broken(f"its commits up to {self._wanted} are not those of the digest")


def _number(pending: bytes) -> int:
    return int.from_bytes(pending[:_N_BYTES], "big")
