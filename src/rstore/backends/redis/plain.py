"""The namespace as it is outside of transactions, and what a transaction asks of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from rstore.backends.redis.changes import Changes, Command, stamps_of
from rstore.backends.redis.client import Call, Script
from rstore.backends.redis.errors import LostReplyError, Signal
from rstore.backends.redis.layout import BODY_ID_BYTES, Place, pack_chunk, unpack_chunk
from rstore.backends.redis.maintenance import RedisMaintenance
from rstore.backends.redis.optimistic import Watch
from rstore.backends.redis.patience import Deadline, Patience
from rstore.backends.types import LAST, Chunk, Head, Log, Position, RolledBack
from rstore.errors import NotSupportedError, OutcomeUnknownError

_FINISH: Final = Script("finish")

Seen = tuple[bytes, int | None]
"""The version of a record, and when it expires."""


class Plain(RedisMaintenance):
    """Every method is done at once."""

    @property
    def transactional(self) -> bool:
        return len(self._places) == 1

    def begin(self, *, create: bool) -> Place:
        """Return the one place of a transaction; without an incarnation, if there is no namespace and none is to be made."""
        patience: Patience | None = None
        while True:
            if not self.transactional:
                raise NotSupportedError(
                    f"the namespace {self._name!r} lies in {len(self._places)} buckets, and a transaction in one: "
                    "create it with ?buckets=1 in the DSN, or on a single server"
                )
            place = self._current(lambda: self._places[0])
            if not place.incarnation and create and not self._frozen:
                self.create()
                place = self._current(lambda: self._places[0])
            try:
                self._fold(place)
            except Signal:
                patience = self._again(patience)
                continue
            return place

    @property
    def deadline(self) -> Deadline:
        """Until when the call of a thread has to be over."""
        return self._client.deadline

    def watch(self, place: Place) -> Watch:
        """Return a connection that watches nothing yet."""
        return Watch(self._client, place.slot)

    def now_ms(self, place: Place) -> int:
        """Return the server's clock."""
        seconds, micros = self._client.call(Call(place.slot, (b"TIME",)))
        return int(seconds) * 1000 + int(micros) // 1000

    def index(self, place: Place, log: Log) -> dict[Position, bytes]:
        """Return the index of the chunks of a log."""
        entries = self._client.call(Call(place.slot, (b"ZRANGE", place.log(b"c", log), b"0", b"-1")))
        return self.indexed(entries)

    @staticmethod
    def indexed(entries: Iterable[bytes]) -> dict[Position, bytes]:
        """Return entries of an index by the positions of the first rows."""
        return {unpack_chunk(entry, b"").first: entry for entry in entries}

    def with_bodies(self, place: Place, log: Log, entries: Sequence[bytes]) -> list[Chunk]:
        """Return chunks with their bodies."""
        bodies = self._bodies(place, entries)
        if bodies is None:
            raise RolledBack(f"what was read of {log.key!r} in the namespace {self._name!r} was replaced long ago")
        return [unpack_chunk(entry, body) for entry, body in zip(entries, bodies, strict=True)]

    def stage(self, place: Place, chunks: Sequence[Chunk]) -> list[bytes]:
        """Put the bodies of chunks where nobody sees them, and return their entries."""
        entries = [pack_chunk(chunk, os.urandom(BODY_ID_BYTES)) for chunk in chunks]
        self._stage(place, entries, chunks)
        return entries

    def finishing(
        self,
        place: Place,
        changes: Changes,
        seen: dict[str, Seen | None],
        heads: dict[Log, Head | None],
        since_ms: int | None,
    ) -> Command:
        """Return the one command that does what a transaction has changed, if what it has seen is still so."""
        leased = {place.log(b"t", log): self._token(log) for log, one in changes.logs.items() if one.leased}
        staged = [place.body(entry) for one in changes.logs.values() for entry in one.put_chunks.values()]
        commands = changes.commands(place, self._namespace) if changes else []
        keys = [place.marker_key, place.expiry_index]
        keys += [place.records + key.encode() for key in seen]
        keys += [place.log(b"h", log) for log in heads]
        keys += [*leased, *staged]
        keys += [command[1] for command in commands]
        arguments = [place.mark, b"" if since_ms is None else b"%d" % since_ms]
        arguments += (b"%d" % len(seen), b"%d" % len(heads), b"%d" % len(leased), b"%d" % len(staged))
        for one in seen.values():
            version, expires_ms = one or (b"", None)
            arguments += (version, b"" if expires_ms is None else b"%d" % (expires_ms - 1))
        for head in heads.values():
            arguments += (b"", b"", b"") if head is None else (head.epoch, head.version, head.facts)
        arguments += leased.values()
        for verb, _, *rest in commands:
            arguments += (verb, b"%d" % len(rest), *rest)
        # By its source: a script that the server does not know would be found out too late, when nothing is watched.
        return (b"EVAL", _FINISH.source, b"%d" % len(keys), *keys, *arguments)

    def finish(self, watch: Watch, command: Command, *, writes: bool) -> bytes:
        """Run the command that ends a transaction, and return what it answers."""
        replicas = self._target.wait_replicas if writes else 0
        return bytes(watch.finish(command, replicas=replicas, wait_ms=self._client.wait_ms()))

    def found_done(self, place: Place, changes: Changes) -> bool:
        """Return whether one of the stamps that a transaction leaves is found: random bytes that nobody else has."""
        return self._found_out(place, lambda: self._is_done(changes))

    def _is_done(self, changes: Changes) -> bool:
        puts = {key: held.record for key, held in changes.records.items() if held and held.record}
        some = list(puts)[:10]
        if any(record == puts[key] for key, record, _ in self.fetch(some)):
            return True
        logs = [(log, one) for log, one in changes.logs.items() if one.stamps]
        return any(
            one.stamps & stamps_of(self.view(log, LAST, LAST, rows=False, bodies=False).head) for log, one in logs[:10]
        )

    def await_leases(self, place: Place, changes: Changes) -> None:
        """Wait until nobody has a lease on a log that a transaction commits to."""
        logs = [log for log, one in changes.logs.items() if one.leased and not self._token(log)]
        leased = [place.log(b"t", log) for log in logs]

        def look() -> None:
            if leased and self._client.call(Call(place.slot, (b"EXISTS", *leased))):
                raise Signal("LEASED")

        self._unleased(", ".join(log.key for log in logs[:3]), look)

    def collect(self, place: Place) -> None:
        """Delete what nobody can see any more."""
        self._collect([place])

    def unknown(self, lost: LostReplyError) -> OutcomeUnknownError:
        """Return the error of a transaction of which nobody knows what became."""
        return self._unknown("a transaction was committed", lost)
