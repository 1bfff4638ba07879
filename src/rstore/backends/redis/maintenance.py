"""Redis as a whole: its namespaces, what they hold, how durable the servers are, and whether what is there is sound."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from rstore.backends.common.names import is_name
from rstore.backends.maintenance import MODELS, RECORDS, Durability, Finding, Stats, no_namespace, stats_of
from rstore.backends.redis.durability import SETTINGS, ServerDurability, durability_of
from rstore.backends.redis.logs.commits import RedisCommits
from rstore.backends.redis.namespace.bucket import NAMESPACES, Bucket, names_of, registry_key
from rstore.backends.redis.records.records import RedisRecords
from rstore.backends.redis.transport.calls import Call, Script, slot_of
from rstore.backends.redis.transport.client import parse_info
from rstore.backends.redis.transport.errors import Signal, unreachable
from rstore.backends.types import Log, Model, ScanQuery
from rstore.errors import NotSupportedError

_ERASE: Final = Script("erase")
_SURVEY: Final = Script("survey")
_SURVEY_LOGS: Final = Script("survey_logs")

_A_STEP: Final = 1000
"""How many records or rows one script looks at: it holds up all other clients meanwhile."""
_ENTRY_BYTES: Final = 40
_BODY_ID_BYTES: Final = 12
_SPECIAL: Final = re.compile(rb"[\\*?\[\]^-]")
_PROBLEMS: Final = {
    b"record": "the index names it, and there is no record: the server may have evicted it",
    b"expiry": "its record and the index do not agree on whether it expires",
    b"head": "the index names it, and it has no head, or one of which a part is missing",
    b"member": "a row or a chunk of it is cut short",
    b"body": "the body of a chunk is missing: the server may have evicted it",
    b"passing": "the body of a chunk is about to expire",
}
_SETTINGS: Final = tuple(name.encode() for name in SETTINGS)


class RedisMaintenance(RedisRecords, RedisCommits):
    """The methods on the namespace, and on the servers, as a whole."""

    def open(self) -> None:
        self._deadline.begin()
        if not self.namespace.open() and self.namespace.frozen:
            raise no_namespace(self, self.namespace.name, f"on the Redis server {self.namespace.target}")

    def namespaces(self) -> list[str]:
        slot = slot_of(NAMESPACES)
        found: list[bytes] = []
        cursor = b"0"
        while True:
            # Of one small key: the names of all others are not gone through.
            self._deadline.begin()
            cursor, named = self._client.call(Call(slot, (b"HSCAN", NAMESPACES, cursor, b"COUNT", b"%d" % _A_STEP)))
            names = list(dict.fromkeys(named[::2]))
            registries = [registry_key(name) for name in names]
            alive = self.namespace.run(Call(slot_of(key), (b"HGET", key, b"alive")) for key in registries)
            found += [name for name, one in zip(names, alive, strict=True) if one == b"1"]
            if cursor == b"0":
                return names_of(sorted(set(found)), "a namespace", around_damage=self.around_damage)

    def stats(self) -> Stats:
        self._deadline.begin()
        return stats_of((model, *numbers) for model, numbers, _ in self._survey())

    def findings(self) -> Iterator[Finding]:
        self._deadline.begin()
        buckets = self.namespace.refresh()
        incarnation, raised = self.namespace.look_up()
        lost = sum(bucket.incarnation != incarnation for bucket in buckets)
        if lost and raised:  # otherwise it is being created at this moment
            of = f"{lost} of {len(buckets)} buckets" if len(buckets) > 1 else "the bucket"
            yield Finding("store", None, f"{of} of the namespace lost the marker, and what is there is out of sight")
        for model, raw in self._damaged_names():
            yield Finding(MODELS[model], None, f"a name is damaged, it is no text: {raw!r}")
        for model, _, problems in self._survey():
            for key, code in dict.fromkeys(zip(problems[::2], problems[1::2], strict=True)):
                if is_name(key):
                    yield Finding(MODELS[model], key.decode(), _PROBLEMS[code])

    def _damaged_names(self) -> Iterator[tuple[int, bytes]]:
        low: bytes | None = b"-"
        while low is not None:
            self._deadline.begin()  # as in each step below: the caller may have paused before it
            found, edge = self._merged(low, b"+", ScanQuery(_A_STEP, keys_only=True))
            yield from ((RECORDS, key) for key, _, _ in found if not is_name(key))
            low = None if edge is None else b"(" + edge
        for model in (Model.SERIES, Model.EVENTS):
            self._deadline.begin()
            yield from ((model, key) for key in self._names_of_logs(model) if not is_name(key))

    def _survey(self) -> Iterator[tuple[int, tuple[int, int, int], Sequence[bytes]]]:
        """Yield (model, (how many, how many rows in them, bytes), problems) of a part at a time, until all was seen."""

        def records(bucket: Bucket, begin: tuple[Any, ...]) -> Call:
            arguments = (bucket.mark, *begin, b"%d" % _A_STEP)
            return _SURVEY.on(bucket.slot, self.absorbed(bucket).indexes, *arguments, write=False, again=True)

        for _, n, size, problems in self._surveyed(records, (b"-",)):
            yield RECORDS, (n, 0, size), problems
        for model in (Model.SERIES, Model.EVENTS):

            def logs(bucket: Bucket, begin: tuple[Any, ...], *, model: Model = model) -> Call:
                key, part, row = begin
                arguments = (bucket.mark, key, b"%d" % part, row, b"%d" % _A_STEP)
                keys = (bucket.marker_key, bucket.logs(model))
                return _SURVEY_LOGS.on(bucket.slot, keys, *arguments, write=False, again=True)

            for *_, n, rows, size, problems in self._surveyed(logs, (b"-", 0, b"-")):
                yield model, (n, rows, size), problems

    def _surveyed(self, ask: Callable[[Bucket, tuple[Any, ...]], Call], first: tuple[Any, ...]) -> Iterator[list[Any]]:
        """Yield the replies of a script that is told where to begin, and answers first with where to go on."""
        self._deadline.begin()

        def rest(begin: tuple[Any, ...], reply: Any) -> tuple[Any, ...] | None:
            return tuple(reply[: len(begin)]) if reply[0] else None

        return self.namespace.replies(ask, first, rest)

    def ping(self) -> None:
        self._deadline.begin()
        for (reply,) in self._client.ask_all((b"PING",)):
            if isinstance(reply, Exception):
                raise unreachable(reply, self._client.where) from reply

    def durability(self) -> Durability:
        self._deadline.begin()
        questions = [(b"INFO",), *((b"CONFIG", b"GET", name) for name in _SETTINGS)]
        servers = [
            durability_of(parse_info(info) if isinstance(info, bytes) else {}, _config(settings))
            for info, *settings in self._client.ask_all(*questions)
        ]
        return ServerDurability.weakest(servers, wait_replicas=self.namespace.target.wait_replicas)

    def save(self, path: str) -> bool:
        raise NotSupportedError(
            "Redis has no moment that could be copied while others write: back up the server itself, with BGSAVE or a "
            "replica, see docs/redis.md"
        )

    def erase(self, logs: Sequence[Log]) -> None:
        self._deadline.begin()
        for bucket in {bucket.slot: bucket for bucket in map(self.namespace.bucket_of_log, logs)}.values():
            self.namespace.delete_garbage([bucket])
            # Bodies that were replaced, or staged by a commit that failed, are in no index. Those of other logs go as
            # well: their readers read again, and their writers stage again.
            pattern, cursor = _escaped(bucket.body(bytes(_ENTRY_BYTES))[:-_BODY_ID_BYTES]) + b"*", b"0"
            while True:
                self._deadline.begin()
                scan = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _A_STEP)
                cursor, names = self._client.call(Call(bucket.slot, scan, write=True))  # of a master: replicas are late
                if names:
                    self._client.call(_ERASE.on(bucket.slot, names, write=True, again=True))
                if cursor == b"0":
                    break

    def reclaim(self) -> None:
        self._deadline.begin()
        for bucket in self.namespace.refresh():
            with suppress(Signal):
                self.absorbed(bucket)
        self.namespace.delete_garbage(self.namespace.buckets)


def _escaped(name: bytes) -> bytes:
    """Return a name as a pattern that matches it alone."""
    return _SPECIAL.sub(rb"\\\g<0>", name)


def _config(replies: Sequence[Any]) -> dict[str, str]:
    """Return the settings of a server, as far as the user may ask for them."""
    told = [part.decode() for reply in replies if not isinstance(reply, Exception) for part in reply]
    return dict(zip(told[::2], told[1::2], strict=True))
