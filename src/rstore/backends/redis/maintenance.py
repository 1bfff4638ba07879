"""Redis as a whole: its namespaces, what they hold, what the servers promise, and whether what is there is sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from rstore.backends.maintenance import MODELS, RECORDS, Durability, Finding, Stats, no_namespace, stats_of
from rstore.backends.redis.client import Call, Script, parse_info
from rstore.backends.redis.commits import RedisCommits
from rstore.backends.redis.errors import Signal, unreachable
from rstore.backends.redis.layout import NAMESPACES, Place, is_name, names_of, registry_key, slot_of
from rstore.backends.redis.patience import Patience
from rstore.backends.redis.promises import SETTINGS, Promise, promise_of
from rstore.backends.redis.records import RedisRecords
from rstore.backends.types import Model
from rstore.errors import NotSupportedError, StoreError

_SURVEY: Final = Script("survey")
_SURVEY_LOGS: Final = Script("survey_logs")

_A_STEP: Final = 1000
"""So many records or rows one script looks at: a few milliseconds of the server's time."""
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
    """What concerns the server, or all servers of a cluster."""

    def _no_namespace(self, where: str) -> StoreError:
        return no_namespace(self, self._name, where)

    def namespaces(self) -> list[str]:
        slot = slot_of(NAMESPACES)
        found: list[bytes] = []
        cursor = b"0"
        while True:
            # Of one small key: the names of all others are not gone through.
            self._client.deadline.begin()
            cursor, named = self._client.call(Call(slot, (b"HSCAN", NAMESPACES, cursor, b"COUNT", b"%d" % _A_STEP)))
            names = list(dict.fromkeys(named[::2]))
            registries = [registry_key(name) for name in names]
            alive = self._run(Call(slot_of(key), (b"HGET", key, b"alive")) for key in registries)
            found += [name for name, one in zip(names, alive, strict=True) if one == b"1"]
            if cursor == b"0":
                return names_of(sorted(set(found)), "a namespace", around_damage=self.around_damage)

    # -- what there is ------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        return stats_of((model, *numbers) for model, numbers, _ in self._survey())

    def findings(self) -> Iterator[Finding]:
        self._refresh_all()
        incarnation, raised = self._look_up()
        lost = sum(place.incarnation != incarnation for place in self._places)
        if lost and raised:  # otherwise it is being created at this moment
            of = f"{lost} of {len(self._places)} buckets" if len(self._places) > 1 else "the bucket"
            yield Finding("store", None, f"{of} of the namespace lost the marker, and what is there is out of sight")
        for model, raw in self._damaged_names():
            yield Finding(MODELS[model], None, f"a name is damaged, it is no text: {raw!r}")
        for model, _, problems in self._survey():
            told: set[tuple[bytes, bytes]] = set()
            for key, code in zip(problems[::2], problems[1::2], strict=True):
                if (key, code) not in told and is_name(key):
                    told.add((key, code))
                    yield Finding(MODELS[model], key.decode(), _PROBLEMS[code])

    def _damaged_names(self) -> Iterator[tuple[int, bytes]]:
        low: bytes | None = b"-"
        while low is not None:
            found, edge = self._merged(low, b"+", _A_STEP, reverse=False, keys_only=True, heads=False)
            yield from ((RECORDS, key) for key, _, _ in found if not is_name(key))
            low = None if edge is None else b"(" + edge
        for model in (Model.SERIES, Model.EVENTS):
            yield from ((model, key) for key in self._names_of_logs(model) if not is_name(key))

    def _survey(self) -> Iterator[tuple[int, tuple[int, int, int], Sequence[bytes]]]:
        """Yield (model, (how many, how many rows in them, bytes), problems) of a part at a time, until all was seen."""

        def records(place: Place, begin: bytes) -> Call:
            keys = (place.marker_key, place.key_index, place.expiry_index)
            return _SURVEY.on(place.slot, keys, place.mark, begin, b"%d" % _A_STEP, write=False, again=True)

        for begin, n, size, problems in self._step_by_step(records, (b"-",)):
            del begin
            yield RECORDS, (n, 0, size), problems
        for model in (Model.SERIES, Model.EVENTS):

            def logs(place: Place, key: bytes, part: int, row: bytes, *, model: Model = model) -> Call:
                begin = (key, b"%d" % part, row, b"%d" % _A_STEP)
                return _SURVEY_LOGS.on(
                    place.slot, (place.marker_key, place.logs(model)), place.mark, *begin, write=False, again=True
                )

            for *_, n, rows, size, problems in self._step_by_step(logs, (b"-", 0, b"-")):
                yield model, (n, rows, size), problems

    def _step_by_step(self, ask: Callable[..., Call], first: tuple[Any, ...]) -> Iterator[list[Any]]:
        """Yield the replies of a script that deals with a bounded part of a bucket, in all buckets, until none is left.

        The script is given where to begin, and answers with where to go on, b"" at the end, before all else.
        """
        self._refresh_all()
        if not any(place.incarnation for place in self._places) and self._is_laid_out_anew():
            self._refresh_all()
        todo = [(place, first) for place in self._places]
        patience: Patience | None = None
        while todo := [(place, begin) for place, begin in todo if place.incarnation]:
            for place, _ in todo:
                with suppress(Signal):
                    self._fold(place)
            self._client.deadline.begin()  # whoever takes the steps may have paused between them
            replies = self._client.run([ask(place, *begin) for place, begin in todo])
            if all(isinstance(reply, Signal) for reply in replies):
                patience = self._again(patience)
            rest: list[tuple[Place, tuple[Any, ...]]] = []
            for (place, begin), reply in zip(todo, replies, strict=True):
                if isinstance(reply, Signal):
                    rest.append((self._refreshed(place), begin))
                elif isinstance(reply, Exception):
                    raise reply
                else:
                    yield reply
                    if reply[0]:
                        rest.append((place, tuple(reply[: len(first)])))
            todo = rest

    def ping(self) -> None:
        for (reply,) in self._client.ask_all((b"PING",)):
            if isinstance(reply, Exception):
                raise unreachable(reply, self._client.where) from reply

    # -- what the servers promise -------------------------------------------------------------------------------------

    def durability(self) -> Durability:
        questions = [(b"INFO",), *((b"CONFIG", b"GET", name) for name in _SETTINGS)]
        replies = self._client.ask_all(*questions)
        promises = [
            promise_of(parse_info(info) if isinstance(info, bytes) else {}, dict(_config(settings)))
            for info, *settings in replies
        ]
        return Promise.weakest(promises, wait_replicas=self._target.wait_replicas)

    def save(self, path: str) -> bool:
        raise NotSupportedError(
            "Redis has no moment that could be copied while others write: back up the server itself, with BGSAVE or a "
            "replica, see docs/redis.md"
        )

    # -- space --------------------------------------------------------------------------------------------------------

    def reclaim(self) -> None:
        self._refresh_all()
        for place in self._places:
            with suppress(Signal):
                self._fold(place)
        self._delete_garbage(self._places)


def _config(replies: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a server, as far as the user may ask for them."""
    for reply in replies:
        if not isinstance(reply, Exception):
            yield from zip(*[iter(one.decode() for one in reply)] * 2, strict=True)
