"""A log at one moment, read bit by bit: a transaction of its own, on a connection that nobody else has meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rstore.backends.base import Chunk, Snapshot
from rstore.backends.postgres_binary import int4, int4s, int8, int8s
from rstore.backends.postgres_connections import Ask, Connections
from rstore.backends.postgres_link import Call, Result, Statement
from rstore.backends.postgres_view import view_of

Name = tuple[bytes, bytes, bytes]
"""Namespace, model and key of a log."""


class _Snapshot(Snapshot):
    """What the first statement of a REPEATABLE READ transaction saw, and what later ones still see."""

    def __init__(self, found: Result, ask: Ask, bodies: Statement, name: Name) -> None:
        self.view = view_of(found)
        self._ask = ask
        self._bodies = bodies
        self._name = name

    def bodies(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        if not chunks:
            return []
        firsts = sorted(chunk.first for chunk in chunks)
        times, seqs = zip(*firsts, strict=True)
        last_t, last_seq = firsts[-1]
        found = self._ask((self._bodies, (*self._name, int8s(times), int4s(seqs), int8(last_t), int4(last_seq))))
        bodies = {first: found.get_value(i, 0) or b"" for i, first in enumerate(firsts)}
        return [chunk._replace(body=bodies[chunk.first]) for chunk in chunks]


@contextmanager
def snapshot(connections: Connections, query: Call, bodies: Statement, name: Name) -> Generator[Snapshot]:
    """Return what the query of a view finds, and the bodies of its chunks when they are asked for."""
    with connections.moment(query) as (found, ask):
        yield _Snapshot(found, ask, bodies, name)
