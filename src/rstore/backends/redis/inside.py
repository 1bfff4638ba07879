"""What every method of a transaction begins with: what it watches, what it has seen, what it has changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rstore.backends.redis.changes import Changes
from rstore.backends.redis.layout import Place
from rstore.backends.redis.plain import Plain, Seen
from rstore.backends.types import ANY, ExpectedIncarnation, Head, Log, NamespaceGone, RolledBack
from rstore.errors import NotSupportedError

MOST: Final = 6_000
"""So many records and rows a transaction reads and changes at most: its end is one script, which others wait for."""
_WATCHED: Final = 4
"""So many of them a watched key counts for: the server looks through all that are watched for each that is added."""


class Inside:
    """One transaction, for one thread. What it reads it reads as others do; what it writes stays here until the end."""

    def __init__(self, plain: Plain, place: Place, *, serializable: bool) -> None:
        self._serializable = serializable
        self._plain = plain
        self._place = place
        self._watch = plain.watch(place)
        self._changes = Changes()
        self._seen: dict[str, Seen | None] = {}
        self._heads: dict[Log, Head | None] = {}
        self._since_ms: int | None = None  # since when nothing may expire: a run of keys was read

    def create(self) -> bytes:
        if self._nowhere:
            raise self._overtaken("the namespace")
        return self._place.incarnation

    @property
    def _nowhere(self) -> bool:
        """Whether there was no namespace when it began."""
        return not self._place.incarnation

    def facts(self) -> tuple[bytes | None, dict[str, bytes]]:
        incarnation, facts = self._plain.facts()
        if incarnation != (self._place.incarnation or None):
            raise self._overtaken("the namespace")
        return incarnation, facts

    def _check_incarnation(self, incarnation: ExpectedIncarnation) -> None:
        """Raise `NamespaceGone` if the namespace is there, and of another incarnation."""
        if not self._nowhere and incarnation not in (ANY, self._place.incarnation):
            raise NamespaceGone

    def _expect(self, incarnation: bytes) -> None:
        if incarnation != self._place.incarnation or self._nowhere:
            raise NamespaceGone

    def _watching(self, keys: Iterable[bytes]) -> None:
        """Watch keys that are about to be read, unless others may change them."""
        if self._serializable:
            self._always_watching(keys)

    def _always_watching(self, keys: Iterable[bytes]) -> None:
        if new := self._watch.missing(keys):
            self._grow(_WATCHED * len(new))
            self._watch.add(new)

    def _grow(self, n: int) -> None:
        """Refuse to become larger by so much than one script may be."""
        changes = self._changes
        read = len(self._seen) + len(self._heads) + _WATCHED * len(self._watch)
        if read + len(changes.records) + changes.n + n > MOST:
            raise NotSupportedError(
                f"a transaction on Redis ends as one script, of {MOST:,} records and rows at most: split it"
            )

    def _overtaken(self, what: str) -> RolledBack:
        return RolledBack(f"somebody else changed {what} during a transaction; nothing was applied")
