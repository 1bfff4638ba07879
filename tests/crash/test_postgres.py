"""The server crashes under load and comes back: what was acknowledged is there, and nothing is there twice."""

from __future__ import annotations

import operator
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
import pytest
from postgresql import Server, check_schema
from waiting import until

from rstore import OutcomeUnknownError, Store, StoreError, StoreNotAvailableError, Transaction

pytestmark = pytest.mark.server

CRASHES = 3


@dataclass
class Witness:
    """What a writer was told: this is done, or perhaps."""

    sure: list[int] = field(default_factory=list)
    unsure: list[int] = field(default_factory=list)


def until_done(change: Callable[[], object]) -> None:
    """Try a change with an id again until the server has answered."""
    while True:
        try:
            change()
        except StoreError:
            time.sleep(0.01)
        else:
            return


def test_the_server_crashes_under_load() -> None:
    stop = threading.Event()
    witnesses: dict[str, Witness] = {}

    def keep_on(name: str, write: Callable[[int], object]) -> None:
        witness = witnesses[name] = Witness()
        i = 0
        while not stop.is_set():
            i += 1
            try:
                write(i)
            except OutcomeUnknownError:
                witness.unsure.append(i)
            except StoreError:
                time.sleep(0.01)  # not applied
            else:
                witness.sure.append(i)

    with Server() as server:
        with Store(server.dsn(), frozen=False, timeout=10) as store:
            store.apply("e", {"count": 0})
            store.apply("o", {"count": 0})
            writes: dict[str, Callable[[int], object]] = {
                "values": lambda i: store.set(f"{i}", i),
                "series": lambda i: store.extend("s", (i, i)),
                "bulk": lambda i: store.extend_many("bulk", ((t, i) for t in range(i * 2000, (i + 1) * 2000))),
                "ids": lambda i: until_done(lambda: store.apply("o", {"count": (operator.add, 1)}, id=f"{i}")),
                "changes": lambda i: store.apply("e", {"count": (operator.add, 1), "last": i}),
            }
            threads = [threading.Thread(target=keep_on, args=write) for write in writes.items()]
            for thread in threads:
                thread.start()
            for _ in range(CRASHES):
                time.sleep(1)
                server.stop(signal.SIGQUIT)
                server.start()
            time.sleep(1)
            stop.set()
            for thread in threads:
                thread.join()
        check_schema(server, "rstore")
        with Store(server.dsn()) as store:
            found = {
                "values": {int(key) for key in store},
                "series": {t for t, _ in store.range("s")},
                "bulk": {i for _, i in store.range("bulk")},
                "ids": {int(change.id or 0) for change in store.history("o")} - {0},
                "changes": {
                    event.value for event in store.events("e", ops=operator.setitem) or () if event.item == "last"
                },
            }
            assert len(store.range("bulk")) == 2000 * len(found["bulk"])
            count, once = ((store.current(key) or {})["count"] for key in "eo")
    for name, witness in witnesses.items():
        assert len(witness.sure) > 20, name
        assert set(witness.sure) <= found[name] <= {*witness.sure, *witness.unsure}, name
    assert count == len(found["changes"])
    assert once == len(witnesses["ids"].sure) == len(found["ids"])  # nothing of these is unsure


def test_what_waits_for_a_lock_when_the_server_crashes_was_not_done() -> None:
    """To each session it says that it ends, as it does where the wait for standbys ends: that is not meant here."""
    with Server() as server, Store(server.dsn(), frozen=False, timeout=8) as store:
        store.update(a=1, b=2)
        tries: list[int] = []

        def change(tx: Transaction) -> None:
            tries.append(1)
            tx["a"] = 9

        verbs: list[tuple[LiteralString, Callable[[], object], type[StoreError] | None]] = [
            ("SELECT FROM rstore.records FOR UPDATE", lambda: store.set("a", 7), OutcomeUnknownError),
            ("LOCK TABLE rstore.records", lambda: store["a"], StoreNotAvailableError),
            ("SELECT FROM rstore.records FOR UPDATE", lambda: store.run(change), None),  # again, until it is done
        ]
        for lock, verb, raises in verbs:
            outcomes: list[object] = []
            with psycopg.connect(server.conninfo()) as locked:
                locked.execute(lock)
                thread = threading.Thread(target=lambda: outcomes.append(outcome(verb)))  # noqa: B023 - joined below
                thread.start()
                until(lambda: server.execute("SELECT 1 FROM pg_locks WHERE NOT granted"), "nobody waits for the lock")
                server.stop(signal.SIGQUIT)
                server.start()
                thread.join()
                locked.close()
            (result,) = outcomes
            if raises is None:
                assert not isinstance(result, OutcomeUnknownError)
            else:
                assert type(result) is raises or (raises is StoreNotAvailableError and result == 1)
                assert "committed" not in str(result)
            assert store["a"] == (1 if result is not None else 9)


def outcome(verb: Callable[[], object]) -> object:
    """Return what a verb returns or raises."""
    try:
        return verb()
    except StoreError as error:
        return error
