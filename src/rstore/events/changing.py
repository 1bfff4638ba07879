"""The verbs that change a sequence by what it was: `revert` and `undo`; and `apply_many`, which loads one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from rstore.events.gathering import Gathered, gather
from rstore.events.loading import Loader
from rstore.log.packing import Logs
from rstore.session import Session
from rstore.verbs import Verbs

NewChange: TypeAlias = tuple[str, int, Mapping[str, Any]] | tuple[str, int, Mapping[str, Any], Any]
"""A change to load: the key, POSIX milliseconds, the state as `apply` takes it, and optionally a note."""


class Changing(Verbs):
    """Taking back changes, and loading many."""

    def apply_many(self, changes: Iterable[NewChange]) -> int:
        """Record changes in bulk."""
        session = self._writer
        done, last = 0, dict[str, int]()
        for some in gather(session, changes):
            for key, given in some.items():
                with session.naming(f"the event sequence {key!r}"):
                    done += _load(session, key, given, last.get(key))
                session.events.maybe_pack(key, len(given))
                last[key] = max(given.t)
        return done


def _load(session: Session, key: str, given: Gathered, open_t: int | None) -> int:
    def attempt(logs: Logs) -> int | None:
        return Loader(session, key, logs).try_load(given, open_t)

    return session.events.retry_conflicts(key, attempt)
