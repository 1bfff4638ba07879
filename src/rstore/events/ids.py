"""Changes with an id, applied once.

Nouns: the *ids* of a sequence (hot rows of a log beside it) and *once* (one change that is to be applied once).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from hashlib import sha512
from typing import Any, Final, TypeAlias

from rstore.backends.types import LAST, MAX_INT64, MAX_SEQ, Position, Row, ViewQuery
from rstore.errors import ConflictError, CorruptionError, StoreIntegrityError
from rstore.events.canonical import told_of
from rstore.events.history import History
from rstore.events.steps import FnRaised
from rstore.log.packing import Logs
from rstore.session import Session

_LOOKED_AT: Final = 4
"""Rows that one look moves. Positions are random, so that those behind any place are a sample of all: each look drops
the expired ones among them, and about a third of the live ones in number is left."""
_PRINT_BYTES: Final = 16
_place: Final = struct.Struct(">qI")
_expiry: Final = struct.Struct(">q")
ID_BYTES: Final = _expiry.size + _PRINT_BYTES
"""The size of the body of an id: when it expires, and a fingerprint of its change."""


Current: TypeAlias = tuple[dict[str, Any] | None]


class Once:
    """One change of one sequence, which is applied once under its id."""

    def __init__(self, session: Session, key: str, id_: str, change: Any, t: int | None, note: Any = None) -> None:
        """`change` is as the caller has passed it: a mapping, or a function, which is the same one each time."""
        self.id = id_
        self.put: list[Row] = []
        self.drop: list[Row] = []
        self.incarnation = b""
        """The rows are those of this one alone."""
        self._session = session
        self._key = key
        self._told = digest_of_change(change, t, note, session.codec.encode)

    def attempt(self, logs: Logs, apply: Callable[[], Current | None]) -> Current | None:
        """Return the current state behind the change, applied now or before; None if a concurrent one was faster.

        It is in a tuple: of a sequence that was removed since, it is None.

        Raises `ConflictError` if the id is that of another change.
        """
        if self._is_applied(logs):
            return self._current(logs)
        try:
            return apply()
        except (StoreIntegrityError, ConflictError, FnRaised):
            if not self._is_applied(logs):  # a concurrent call with the same id may be the reason
                raise
            return self._current(logs)

    def _current(self, logs: Logs) -> Current:
        replay = History(self._session, self._key, logs).read()
        return (None if replay.last is None else replay.state.values(),)

    def _is_applied(self, logs: Logs) -> bool:
        """Look for the id, and note which rows the commit puts and drops."""
        name, self.incarnation = self.id.encode(), logs.incarnation
        names = logs.envelope.fingerprints(self._key, b"id" + name)
        prints = logs.envelope.fingerprints(self._key, b"change" + self._told + name)
        self.put, self.drop = [], []
        for at, told in zip(map(_position, names), (one[:_PRINT_BYTES] for one in prints), strict=True):
            view = logs.ids(self._key, ViewQuery(at, LAST, _LOOKED_AT, bodies=False))
            ttl_ms = self._session.setup.id_ttl_ms
            for row in view.rows:
                if len(row.body) != ID_BYTES:
                    raise CorruptionError(f"an id of {self._session.place(self._key)} is damaged")
                if _expiry.unpack_from(row.body)[0] <= view.now_ms:
                    self.drop.append(row)
                elif row[:2] == at:
                    if row.body[_expiry.size :] != told:
                        raise ConflictError(
                            f"under the id {self.id!r} another change of {self._session.place(self._key)} was applied "
                            "before; nothing was recorded"
                        )
                    return True
            expires_ms = MAX_INT64 if ttl_ms is None else min(view.now_ms + ttl_ms, MAX_INT64)
            self.put.append(Row(*at, _expiry.pack(expires_ms) + told))
        self.drop = sorted(set(self.drop))
        return False


def _position(digest: bytes) -> Position:
    t, seq = _place.unpack_from(digest)
    return t, seq & MAX_SEQ


def digest_of_change(change: Any, t: int | None, note: Any, encode: Callable[[Any], bytes]) -> bytes:
    """Return the digest of a change, the same for each way to write it; of a function its place alone counts."""
    steps = None
    if isinstance(change, Mapping):
        steps = {str(item): _told_of_step(value, encode) for item, value in change.items()}
    return sha512(told_of([t, told_of(note, encode), steps], encode)).digest()


def _told_of_step(value: Any, encode: Callable[[Any], bytes]) -> tuple[str, bytes]:
    if type(value) is tuple and len(value) == 2 and callable(value[0]):
        return value[0].__name__, told_of(value[1], encode)
    return "setitem", told_of(value, encode)
