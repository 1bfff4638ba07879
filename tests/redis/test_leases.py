"""Leases on logs of a server that goes away, of a holder that lives, of one that is slow, and of one that died."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_servers import Server
from waiting import until

from rstore import Store, StoreBusyError, StoreError, StoreNotAvailableError
from rstore.backends.redis.logs import leases
from rstore.backends.redis.transport.calls import Script
from rstore.backends.redis.transport.client import Client
from rstore.log import races


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture
def _contended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every change be made under a lease, as after some lost races."""
    monkeypatch.setattr(races, "RACES", 0)


def before_commit(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something once, before the next commit to a log is sent."""
    call = Client.call

    def calling(self: Client, one: Any) -> Any:
        if one.script is not None and one.script.sha == Script("commit").sha:
            monkeypatch.setattr(Client, "call", call)
            action()
        return call(self, one)

    monkeypatch.setattr(Client, "call", calling)


def leases_on(server: Server) -> list[bytes]:
    found: list[bytes] = server.do("KEYS", "rs{*}t*")
    return found


@pytest.mark.usefixtures("_contended")
@pytest.mark.parametrize("own", [True, False], ids=["own", "other"])
def test_a_log_is_open_again_after_its_server_restarted_under_a_lease(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    with Store(server.dsn, frozen=False, timeout=5) as store, Store(server.dsn, frozen=False, timeout=5) as other:
        store.apply("e", {"n": 0})
        other.apply("e", {"n": 1})

        def crash() -> None:
            assert leases_on(server)
            server.kill()

        before_commit(monkeypatch, crash)
        with pytest.raises(StoreError):
            store.apply("e", {"n": 2})
        server.start()
        assert leases_on(server)
        began = time.monotonic()
        (store if own else other).apply("e", {"n": (operator.add, 1)})
        # Its own it knows; that of a holder of which nothing is known runs out.
        assert time.monotonic() - began < (1 if own else leases.LEASE_MS / 1000 + 1)
        assert store.current("e") == {"n": 2}
        assert leases_on(server) == []


@pytest.mark.usefixtures("_contended")
def test_a_lease_of_which_the_taking_was_not_acknowledged_is_known_as_ones_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Client.call

    def calling(self: Client, one: Any) -> Any:
        done = call(self, one)
        if one.script is not None and one.script.sha == Script("lease").sha:
            monkeypatch.setattr(Client, "call", call)
            server.kill()
            raise StoreNotAvailableError("the reply was lost")
        return done

    with Store(server.dsn, frozen=False, timeout=5) as store:
        store.apply("e", {"n": 0})
        monkeypatch.setattr(Client, "call", calling)
        with pytest.raises(StoreNotAvailableError):
            store.apply("e", {"n": 1})
        server.start()
        assert leases_on(server)
        began = time.monotonic()
        store.apply("e", {"n": 2})
        assert time.monotonic() - began < 1
        assert [event.value for event in store.events("e") or ()] == [0, 2]


HOLDER = """
import sys, time
from rstore import Store
from rstore.log import races
from rstore.backends.redis.logs.commits import RedisCommits
races.RACES = 0
def commit(*_):
    print("held", flush=True)
    time.sleep(60)
RedisCommits._commit = commit
with Store(sys.argv[1], frozen=False) as store:
    store.apply("e", {"n": 5})
"""


def test_a_holder_that_died_keeps_nobody_waiting_for_long(server: Server) -> None:
    with Store(server.dsn, frozen=False, timeout=10) as store:
        store.apply("e", {"n": 0})
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, server.dsn], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        began = time.monotonic()
        store.apply("e", {"n": 1})
        assert time.monotonic() - began < leases.LEASE_MS / 1000 + 1
        assert store.current("e") == {"n": 1}


@pytest.mark.usefixtures("_contended")
def test_a_holder_that_is_slow_keeps_its_lease(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_MS", 300)
    with Store(server.dsn, frozen=False) as store, Store(server.dsn, frozen=False, timeout=0.1) as other:
        store.apply("e", {"n": 0})

        def be_slow() -> None:
            time.sleep(1)
            with pytest.raises(StoreBusyError, match=r"'e' in the namespace 'default'.*nothing was applied"):
                other.apply("e", {"n": 1})

        before_commit(monkeypatch, be_slow)
        store.apply("e", {"n": 2})
        other.apply("e", {"n": 3})
        assert [event.value for event in store.events("e") or ()] == [0, 2, 3]
        until(lambda: not any(thread.name == leases.RENEWER for thread in threading.enumerate()), "it is still renewed")


@pytest.mark.usefixtures("_contended")
def test_a_lease_that_ran_out_lets_no_change_happen_twice_or_not_at_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may think that they hold it: what is stored is compared all the same."""
    monkeypatch.setattr(leases, "LEASE_MS", 1)
    monkeypatch.setattr(leases.RedisLeases, "_renew", lambda *_: None)
    stores = [Store(server.dsn, frozen=False).open() for _ in range(4)]
    stores[0].apply("e", {"n": 0})

    def work(store: Store) -> None:
        for _ in range(25):
            store.apply("e", {"n": (operator.add, 1)})

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].current("e") == {"n": 100}
    assert len(stores[0].events("e") or ()) == 101
    for store in stores:
        store.close()


AT_THE_END = """
import sys
from rstore import Store
from rstore.log import races
races.RACES = 0
store = Store(sys.argv[1], frozen=False, timeout=5).open()
store.apply("e", {"n": 0})
class Last:
    def __del__(self):
        store.apply("e", {"n": 1})
        store.get_or_set("k", lambda: 2)
last = Last()
"""


def test_a_change_at_the_end_of_the_interpreter_starts_no_thread_that_never_begins(server: Server) -> None:
    program = [sys.executable, "-c", AT_THE_END, server.dsn]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    with Store(server.dsn) as store:
        assert (store.current("e"), store["k"]) == ({"n": 1}, 2)
