"""Synchronous standbys: what none of them has confirmed does not count as stored, however the wait for them ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from postgres_proxy import Proxy
from postgresql import PASSWORD, Server
from waiting import until

from rstore import OutcomeUnknownError, Store


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    """A server that waits for a standby, and none comes unless a test starts one."""
    with Server(wal_level="replica") as server, server.role("somebody", "SUPERUSER"):
        with Store(server.dsn(), frozen=False) as store:
            store.set("k", "old")
            store.extend("s", (0, "old"), (9, "old"))
            store.apply("e", {"count": 0})
        await_standbys(server, "*")
        yield server
        await_standbys(server, "")


def await_standbys(server: Server, names: str) -> None:
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    server.execute("SELECT pg_reload_conf()")
    until(lambda: server.execute("SHOW synchronous_standby_names") == [(names,)], "the setting is not taken over")


@pytest.fixture
def proxy(primary: Server) -> Iterator[Proxy]:
    proxy = Proxy(primary)
    yield proxy
    proxy.stop()


def await_waiting(server: Server) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    until(lambda: server.execute(waiting), "nobody waits for a standby")


def outcome(write: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Return a thread that writes, and what it raises."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread, raised


def transact(store: Store) -> None:
    with store.transaction() as tx:
        tx["k"] = "new"


WRITES: dict[str, Callable[[Store], Any]] = {
    "set": lambda s: s.set("k", "new"),
    "update": lambda s: s.update(k="new", l=1),
    "incr": lambda s: s.incr("n"),
    "delete": lambda s: s.delete("k"),
    "extend": lambda s: s.extend("s", (1, "new")),
    "a new series": lambda s: s.extend("t", (1, "new"), (2, "new")),
    "remove": lambda s: s.remove("s", start=0, end=0),
    "remove all": lambda s: s.remove("s"),
    "apply": lambda s: s.apply("e", {"count": 1}),
    "prune": lambda s: s.prune("e"),
    "transaction": transact,
    "a new namespace": lambda s: Store(s._dsn, "another", frozen=False, timeout=0.2).open(),  # noqa: SLF001
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_wait_for_standbys_that_is_over_says_so(primary: Server, write: Callable[[Store], Any]) -> None:
    with Store(primary.dsn(), frozen=False, timeout=0.2) as store:
        with pytest.raises(OutcomeUnknownError, match="committed on the primary, but no standby has confirmed it"):
            write(store)
        told = store.durability()
        assert (told.copied, "standby" in told.meaning) == (False, False)
    with Store(primary.dsn(), frozen=False, durability="normal", timeout=0.2) as store:
        write(store)  # waits for no disk and no standby
        assert store.durability().copied is False


def test_a_session_that_is_ended_while_it_waits_for_standbys(primary: Server) -> None:
    with Store(primary.dsn(), frozen=False, timeout=20) as store:
        store.get("k")
        writer, raised = outcome(lambda: store.set("k", "unconfirmed"))
        await_waiting(primary)
        primary.terminate()
        writer.join()
        assert ([type(error) for error in raised], store["k"]) == ([OutcomeUnknownError], "unconfirmed")
        assert "no standby has confirmed it" in str(raised[0])


def test_a_look_waits_for_standbys_too(primary: Server, proxy: Proxy) -> None:
    """Nobody heard the warning, and the write is there."""
    with Store(primary.tcp_dsn("somebody", PASSWORD, port=proxy.port), frozen=False, timeout=0.5) as store:
        store.get("k")
        proxy.answers_to_lose = 1
        began = monotonic()
        writer, raised = outcome(lambda: store.set("k", "unheard"))
        await_waiting(primary)
        primary.terminate()  # the proxy loses the warning
        writer.join()
        assert ([type(error) for error in raised], store["k"]) == ([OutcomeUnknownError], "unheard")
        assert "no standby has confirmed it" in str(raised[0])
        assert monotonic() - began < 0.5 + 3


def test_a_standby_that_confirms(primary: Server, proxy: Proxy) -> None:
    with Server(hot_standby="on") as standby:
        standby.stop()
        standby.remove_data()
        standby.run(
            "pg_basebackup", "-D", str(standby.data), "-h", str(primary.directory), "-p", str(primary.port),
            "-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        standby.start()
        with Store(primary.tcp_dsn("somebody", PASSWORD, port=proxy.port), frozen=False, timeout=20) as store:
            until(lambda: store.durability().copied, "the standby is not synchronous")
            assert "a standby has confirmed it" in store.durability().meaning
            store.set("k", "confirmed")
            proxy.answers_to_lose = 1
            store.set("k", "confirmed by a look")
            assert proxy.answers_to_lose == 0
            primary.execute("CREATE ROLE blind LOGIN; GRANT USAGE ON SCHEMA rstore TO blind")
            primary.execute("GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA rstore TO blind")
            with Store(primary.dsn(user="blind"), frozen=False) as blind:
                assert blind.durability().copied is None
            primary.execute("DROP OWNED BY blind; DROP ROLE blind")
            with Store(standby.dsn()) as copy:
                until(lambda: copy["k"] == "confirmed by a look", "the standby does not follow")


def test_nothing_is_done_behind_a_transaction_that_no_standby_confirmed(primary: Server) -> None:
    keys = [f"{i}" for i in range(30)]
    with Store(primary.dsn(), "many", frozen=False, durability="normal") as store:
        for key in keys:
            store.extend(key, (1, 1))
    with Store(primary.dsn(), "many", frozen=False, timeout=1) as store:
        began = monotonic()
        with pytest.raises(OutcomeUnknownError), store.transaction() as tx:
            tx.remove(*keys)
        assert monotonic() - began < 1 + 3
    assert len(primary.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")) <= 1
    with Store(primary.dsn(), "many", frozen=False, durability="normal") as store:
        assert store.timeseries() == []
