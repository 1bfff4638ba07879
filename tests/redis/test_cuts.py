"""A connection that is cut at every place of what a verb sends and is answered, and a ledger outside of the store.

What was acknowledged is there, what was refused is not, and of what is unknown there is all or nothing. Nothing is done
twice, nothing raw is raised, and none of it takes long.
"""

from __future__ import annotations

import operator
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
from redis_cutter import Cutter, Side
from redis_servers import Server

from rstore import ConflictError, OutcomeUnknownError, Store, StoreBusyError, StoreError, StoreNotAvailableError

KEY = "cnN0b3JlLnRlc3Rpbmcgc2VhbHMgd2l0aCB0aGlzISE="
PLACES: Final = int(os.environ.get("RSTORE_CUTS", "8"))
"""So many places, drawn from the ends of the pieces and from within; 1000000 for every byte."""
MAX_S: Final = 4.0

VERBS: dict[str, Callable[[Store], object]] = {
    "set": lambda s: s.set("k", "new"),
    "set with a ttl": lambda s: s.set("k", "new", ttl=600),
    "set of a large value": lambda s: s.set("k", "new" * 400_000),
    "update": lambda s: s.update({f"u{i}": i for i in range(20)}),
    "bulk": lambda s: s.update({f"u{i}": i for i in range(2100)}),
    "set_many": lambda s: s.set_many({"k": 2, "m": 3}),
    "add": lambda s: s.add("new", 1),
    "incr": lambda s: s.incr("n"),
    "modify": lambda s: s.modify("n", lambda n: n + 1),
    "setdefault": lambda s: s.setdefault("new", 1),
    "get_or_set": lambda s: s.get_or_set("new", lambda: 1),
    "touch": lambda s: s.touch("k", 600),
    "pop": lambda s: s.pop("k"),
    "delete": lambda s: s.delete("k", "n"),
    "delete_prefix": lambda s: s.delete_prefix("k"),
    "clear": lambda s: s.clear(),
    "extend": lambda s: s.extend("s", (3, 3), (9, 9)),
    "extend a new one": lambda s: s.extend("new", (3, 3)),
    "extend_many": lambda s: s.extend_many("s", [(i, i) for i in range(2000)]),
    "remove a range": lambda s: s.remove("s", start=2),
    "remove": lambda s: s.remove("s"),
    "apply": lambda s: s.apply("e", {"n": (operator.add, 1)}),
    "apply to a new one": lambda s: s.apply("new", {"n": 1}),
    "apply with an id": lambda s: s.apply("e", {"n": (operator.add, 1)}, id="once"),
    "apply in the past": lambda s: s.apply("e", {"m": 7}, 5),
    "prune": lambda s: s.prune("e"),
    "transaction": lambda s: s.run(_move),
    "transaction that deletes": lambda s: s.run(lambda tx: tx.delete("k")),
    "discard": lambda s: s.discard(),
}
SEALED: Final = ("set", "update", "extend", "apply", "transaction")
"""Verbs that are also cut with a key: their bytes on the wire are longer then, and nothing else."""
READS: dict[str, Callable[[Store], Any]] = {
    "get": lambda s: s.get("k"), "has": lambda s: "k" in s, "get_many": lambda s: s.get_many(["k", "n"]),
    "find": lambda s: s.find(), "len": len, "range": lambda s: s.range("s"), "current": lambda s: s.current("e"),
    "events": lambda s: [tuple(event) for event in s.events("e") or ()], "timeseries": lambda s: s.timeseries(),
    "check": lambda s: s.check(), "stats": lambda s: s.stats(), "namespaces": lambda s: s.namespaces(),
}  # fmt: skip


def _move(tx: Any) -> None:
    tx["n"] += 1
    tx.extend("s", (7, 7))
    tx.apply("e", {"n": (operator.add, 1)})


def begin(server: Server, key: str | None) -> None:
    """Bring the store to the state that each verb finds."""
    server.do("FLUSHALL")
    with Store(server.dsn, key=key, frozen=False) as direct:
        direct.update(k="old", n=1)
        direct.extend("s", (1, 1), (2, 2))
        direct.apply("e", {"n": 1}, 1)
        direct.apply("e", {"n": 2}, 9)


def ledger(server: Server, key: str | None) -> Any:
    """Return all that there is, as another handle sees it."""
    with Store(server.dsn, key=key, frozen=False) as direct:
        state = (
            direct.find(),
            [bool(direct.entry(name).expires) for name in direct],  # type: ignore[union-attr]
            {name: direct.range(name) for name in direct.timeseries()},
            {name: [tuple(event)[1:] for event in direct.events(name) or ()] for name in direct.eventsources()},
        )
        assert direct.check() == []
        return state


def places(pieces: list[int], randomly: random.Random) -> list[int]:
    """Return where to cut: at the beginning and the end of each piece, beside them, and somewhere in between."""
    total, found = 0, {0}
    for size in pieces:
        found |= {total + 1, total + size - 1, total + size}
        total += size
    within = range(total)
    found |= set(within if total <= PLACES else randomly.sample(within, max(1, PLACES // 4)))
    drawn = sorted(at for at in found if 0 <= at < total)
    if len(drawn) > PLACES:
        drawn = sorted({drawn[0], drawn[-1], *randomly.sample(drawn, PLACES)})
    return drawn


@pytest.fixture
def cutter(redis_server: Server) -> Iterator[Cutter]:
    with Cutter(redis_server.port) as cutter:
        yield cutter


def opened(cutter: Cutter, key: str | None) -> Store:
    """Return an open store that gives up soon; a busy machine may be slower than that while it opens."""
    store = Store(f"redis://127.0.0.1:{cutter.port}", key=key, frozen=False, timeout=0.1)
    while True:
        try:
            return store.open()
        except (StoreNotAvailableError, StoreBusyError):
            assert not cutter.cuts


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "key"), [*((name, None) for name in VERBS), *((name, KEY) for name in SEALED)])
def test_a_write_that_is_cut_anywhere(redis_server: Server, cutter: Cutter, name: str, key: str | None) -> None:
    verb, randomly = VERBS[name], random.Random(name)
    begin(redis_server, key)
    before = ledger(redis_server, key)
    store = opened(cutter, key)
    cutter.count()
    verb(store)
    seen = cutter.seen
    after = ledger(redis_server, key)
    store.close()
    assert before != after
    outcomes = {"done": 0, "refused": 0, "unknown": 0}
    sides: tuple[Side, ...] = ("requests", "replies")
    for side in sides:
        for at in places(seen[side], randomly):
            for for_good in (False, True):
                begin(redis_server, key)
                store = opened(cutter, key)
                cutter.cut(side, at, for_good=for_good)
                began, raised = time.monotonic(), None
                try:
                    verb(store)
                except StoreError as error:
                    raised = error
                took_s = time.monotonic() - began
                cutter.count()
                where = f"{side} cut at {at}, {for_good=}: {raised!r}"
                assert took_s < MAX_S, where
                now = ledger(redis_server, key)
                if raised is None:
                    assert now == after, where
                    outcomes["done"] += 1
                elif isinstance(raised, OutcomeUnknownError):
                    assert now in (before, after) or name == "discard", where
                    outcomes["unknown"] += 1
                else:
                    assert now == before, where
                    outcomes["refused"] += 1
                store.close()
    assert outcomes["done"] + outcomes["unknown"] > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_change_with_an_id_is_tried_again_behind_any_cut(
    redis_server: Server, cutter: Cutter, key: str | None
) -> None:
    """Whatever the first try has said, and although it may be on its way still: behind the second it is there once."""
    verb, randomly = VERBS["apply with an id"], random.Random("id")
    begin(redis_server, key)
    store = opened(cutter, key)
    cutter.count()
    verb(store)
    seen = cutter.seen
    after = ledger(redis_server, key)
    store.close()
    unknown = 0
    sides: tuple[Side, ...] = ("requests", "replies")
    for side in sides:
        for at in places(seen[side], randomly):
            for for_good in (False, True):
                begin(redis_server, key)
                store = opened(cutter, key)
                cutter.cut(side, at, for_good=for_good)
                try:
                    verb(store)
                except StoreError as error:
                    unknown += isinstance(error, OutcomeUnknownError)
                cutter.count()
                store.close()
                with opened(cutter, key) as store:
                    assert verb(store) == {"n": 3}
                    with pytest.raises(ConflictError):
                        store.apply("e", {"n": 7}, id="once")
                assert ledger(redis_server, key) == after
    assert unknown > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", READS)
def test_a_read_that_is_cut_anywhere(redis_server: Server, cutter: Cutter, name: str) -> None:
    """It goes on, on another connection; where there is none, it says so."""
    read, randomly = READS[name], random.Random(name)
    begin(redis_server, None)
    with opened(cutter, None) as store:
        read(store)  # now the server knows the scripts
        cutter.count()
        expected = read(store)
        seen = cutter.seen
        sides: tuple[Side, ...] = ("requests", "replies")
        for side in sides:
            for at in places(seen[side], randomly):
                for for_good in (False, True):
                    cutter.cut(side, at, for_good=for_good)
                    began = time.monotonic()
                    found: Any = None
                    try:
                        found = read(store)
                    except StoreError as error:
                        found = error
                    assert found == expected or (for_good and isinstance(found, StoreError)), (at, found)
                    assert time.monotonic() - began < MAX_S
                    cutter.count()


def test_a_cut_while_it_opens(redis_server: Server, cutter: Cutter) -> None:
    begin(redis_server, None)
    cutter.count()
    opened(cutter, None).close()
    seen = cutter.seen
    sides: tuple[Side, ...] = ("requests", "replies")
    for side in sides:
        for at in places(seen[side], random.Random(1)):
            cutter.cut(side, at, for_good=False)
            store = Store(f"redis://127.0.0.1:{cutter.port}", frozen=False, timeout=0.1)
            with suppress(StoreError), store:
                assert store["k"] == "old"
            cutter.count()
            store = opened(cutter, None)
            assert store["k"] == "old"
            store.close()
