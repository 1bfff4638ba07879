"""Checkpoints that were made under another schema version, or by other fold rules, made anew behind a commit."""

from __future__ import annotations

from typing import Final

from rstore.backends.common.after_commit import behind_commit
from rstore.backends.types import FIRST, Commit, Row
from rstore.events.checkpoints import seal_checkpoint
from rstore.events.history import History
from rstore.events.replay import Replay
from rstore.events.state import State
from rstore.log.packing import Logs
from rstore.session import Session

_TRIES: Final = 3
"""Where concurrent writers are faster each time, the checkpoints of the past stay useless until the next version."""


def renew_checkpoints(session: Session, key: str, logs: Logs) -> None:
    """Replace all checkpoints of a sequence, so that reads of its past need not fold all changes again and again.

    It folds the whole sequence once. Where it fails, reading takes longer, and is right all the same.
    """
    with behind_commit(f"the renewal of the checkpoints of {logs.namespace.place(key)}"):
        renewer = _Renewer(session, key, logs)
        any(renewer.try_renew() for _ in range(_TRIES))


class _Renewer(History):
    def __init__(self, session: Session, key: str, logs: Logs) -> None:
        super().__init__(session, key, logs)
        self._writer = logs

    def try_renew(self) -> bool:
        """Replace the checkpoints; return False if a concurrent change was faster."""
        incarnation, view = self._writer.incarnation, self._logs.view(self._key)
        if view.head is None:
            return True
        facts, checkpoints = self.facts(view.head), list[Row]()
        replay = Replay(view.head, facts, State(self._codec, facts.horizon), view.now_ms)
        for change in self._upcast_changes(view):
            if replay.fold(change):
                place = self._envelope, self._key, view.head, change.position
                checkpoints.append(seal_checkpoint(*place, replay.state, replay.tally))
        self.check_whole(view.head, replay.tally)
        commit = Commit(if_version=view.head.version, drop_checkpoints_from=FIRST, put_checkpoints=checkpoints)
        return self._writer.commit(self._key, commit, incarnation)
