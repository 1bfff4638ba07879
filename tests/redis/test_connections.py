"""Connections to Redis: how many there are, what they are called, and as whom they log in."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from interrupting import Interrupting
from redis_sentinels import SERVICE, Service
from redis_servers import Cluster, Server, executables
from waiting import until

from rstore import InvalidArgumentError, Store, StoreBusyError, StoreNotAvailableError
from rstore.backends.redis.transport import nodes, places
from rstore.backends.redis.transport import pool as pool_module
from rstore.backends.redis.transport.deadline import CallDeadline
from rstore.backends.redis.transport.dsn import parse
from rstore.backends.redis.transport.pool import RedisPool
from rstore.backends.telemetry import Telemetry

SECRET = "hunter2"  # noqa: S105 - opens servers of the tests only


def pool_of(store: Store) -> RedisPool:
    pool: RedisPool = store._reader.backend._client._nodes.of(0)  # type: ignore[attr-defined]  # noqa: SLF001
    return pool


def clients(server: Server) -> list[dict[str, str]]:
    """Return who is connected, but for the test itself."""
    lines = server.do("CLIENT", "LIST").decode().splitlines()
    told = [dict(part.split("=", 1) for part in line.split(" ")) for line in lines]
    return [one for one in told if one["name"]]


# -- how many ---------------------------------------------------------------------------------------------------------


def test_more_threads_than_connections_take_turns(server: Server) -> None:
    most = 0
    with Store(f"{server.dsn}?max_connections=3", frozen=False) as store:

        def work(who: int) -> None:
            for i in range(100):
                store.set(f"{who} {i}", i)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(20)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(clients(server)))
        assert len(store) == 2000
    assert 1 < most <= 3


def test_who_gets_no_connection_in_time_is_told_the_bound(server: Server) -> None:
    with Store(f"{server.dsn}?max_connections=2", frozen=False, timeout=0.3) as store:
        store["k"] = 1
        pool = pool_of(store)
        held = [pool.take(checked=False) for _ in range(2)]
        start = time.monotonic()
        with pytest.raises(StoreBusyError, match=r"all 2 connections .* max_connections .*nothing was applied"):
            store["k"] = 2
        assert 0.25 < time.monotonic() - start < 5
        threading.Timer(0.1, pool.give, [held.pop()]).start()
        store["k"] = 3
        assert store["k"] == 3
        pool.give(held.pop())


def test_who_waits_longest_is_served_first(server: Server) -> None:
    served: list[int] = []
    with Store(f"{server.dsn}?max_connections=1", frozen=False) as store:
        store["k"] = 1
        pool = pool_of(store)
        held = pool.take(checked=False)

        def get(who: int) -> None:
            mine = pool.take(checked=False)
            served.append(who)
            pool.give(mine)

        threads = [threading.Thread(target=get, args=(who,)) for who in range(5)]
        for thread in threads:
            thread.start()
            time.sleep(0.06)  # they look up now and then while they wait, and keep their places
        pool.give(held)
        for thread in threads:
            thread.join()
    assert served == [0, 1, 2, 3, 4]


def test_no_place_is_lost_with_a_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to a server that closes it, nor to an interrupt at any point of a call."""
    with Store(f"{server.dsn}?max_connections=2", frozen=False, timeout=2) as store:
        errors = []
        for i in range(10):
            store["k"] = i
            server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert store["k"] == i

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        for name in ("read_response", "send_packed_command", "connect"):
            for _ in range(5):
                with monkeypatch.context() as patch:
                    patch.setattr(redis.Connection, name, interrupt)
                    if name == "connect":
                        pool_of(store).drop_idle()
                    try:
                        store["k"] = 1
                    except KeyboardInterrupt as error:
                        errors.append(error)  # whose traceback holds the connection
        assert len(errors) == 15
        store["k"] = 2
        assert store["k"] == 2


def test_an_interrupt_costs_no_place_wherever_it_comes(server: Server) -> None:
    errors: list[KeyboardInterrupt] = []
    files = {pool_module.__file__, places.__file__}
    with Store(f"{server.dsn}?max_connections=1", frozen=False, timeout=5) as store:
        store["k"] = n = 0
        while len(errors) == n:
            n += 1
            pool_of(store).drop_idle()  # so that a call connects anew
            sys.setprofile(Interrupting(n, files))
            try:
                store["k"] = n
            except KeyboardInterrupt as error:
                errors.append(error)
            finally:
                sys.setprofile(None)
            start = time.monotonic()
            for one in errors[-1:]:
                one.__traceback__ = None  # which holds the connection, if it had one
            assert store["k"] <= n
            assert time.monotonic() - start < 5
        assert n > 20


def test_an_interrupt_keeps_nobody_from_asking_the_cluster(redis_cluster: Cluster, redis_cluster_dsn: str) -> None:
    """Who serves what is asked by one thread at a time: it must not stay its turn for ever."""
    with Store(redis_cluster_dsn, frozen=False, timeout=5) as store:
        look_again = store._writer.backend._client.look_again  # type: ignore[attr-defined]  # noqa: SLF001
        assert interrupted_everywhere(look_again, {nodes.__file__}) > 20
        assert redis_cluster.servers


def test_servers_that_a_cluster_names_no_more_are_forgotten() -> None:
    """Where each new one has another address, the time to ask them all would grow without end."""
    target = parse("10.0.0.0:7000", cluster=True, tls=False)
    found = nodes.Nodes(target, CallDeadline(1.0), Telemetry())
    for i in range(50):
        found._take_over(None, [[0, 16383, [b"10.0.0.%d" % i, 7000, b""], [b"10.0.1.%d" % i, 7000, b""]]])  # noqa: SLF001
    assert [pool.where for pool in found.all()] == ["10.0.0.49:7000"]
    assert len(found._pools) == 1  # noqa: SLF001
    found.close()


def interrupted_everywhere(look_again: Callable[[], object], files: set[str]) -> int:
    """Interrupt at each place in turn, and have another thread ask then; return how many places there are."""
    n, interrupted = 0, True
    while interrupted:
        n, interrupted = n + 1, False
        sys.setprofile(Interrupting(n, files))
        try:
            look_again()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.setprofile(None)
        other = threading.Thread(target=look_again)
        start = time.monotonic()
        other.start()
        other.join()
        assert time.monotonic() - start < 4, f"after an interrupt at event {n}"
    return n


def test_a_server_may_take_a_moment_to_connect_to_whatever_the_timeout(server: Server) -> None:
    with Store(server.dsn, frozen=False, timeout=0) as store:
        store["k"] = 1
        pool_of(store).drop_idle()
        server.do("CLIENT", "PAUSE", 300, "ALL")
        assert store["k"] == 1


def test_transactions_do_not_wait_for_one_another(server: Server) -> None:
    """Each keeps a connection that watches what it has read, and needs another one to read."""
    with Store(f"{server.dsn}?max_connections=2", frozen=False, timeout=3) as store:
        store.update(a=1, b=2)
        both = threading.Barrier(2)
        counted: list[int] = []

        def count(name: str) -> None:
            with store.transaction() as tx:
                tx.set(f"{name} {len(tx.range('s'))}", 1)
                both.wait(10)
                counted.append(tx["a"])

        threads = [threading.Thread(target=count, args=(name,)) for name in "xy"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counted == [1, 1]


def test_each_server_of_a_cluster_has_a_bound_of_its_own(redis_cluster: Cluster, redis_cluster_dsn: str) -> None:
    with Store(f"{redis_cluster_dsn}?max_connections=1", frozen=False) as store:
        work = [threading.Thread(target=store.set, args=(f"{i}", i)) for i in range(100)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert len(store) == 100
        assert [len(clients(master)) for master in redis_cluster.masters()] == [1, 1, 1]


@pytest.mark.parametrize("value", ["0", "-1", "x", ""])
def test_what_is_no_bound_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgumentError, match="max_connections"):
        Store(f"redis://h?max_connections={value}").open()


# -- what they are called ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "options", "name"),
    [
        ("default", "", "rstore:default"),
        ("né è\n:", "", "rstore:n%C3%A9%20%C3%A8%0A%3A"),
        ("x" * 255, "", "rstore:" + "x" * 193),
        ("default", "?client_name=billing", "billing"),
    ],
)
def test_a_connection_says_whose_it_is(server: Server, namespace: str, options: str, name: str) -> None:
    with Store(f"{server.dsn}{options}", namespace, frozen=False) as store:
        store["k"] = 1
        assert {one["name"] for one in clients(server)} == {name}


def test_it_says_so_once_and_not_with_each_call(server: Server) -> None:
    with Store(server.dsn, frozen=False) as store:
        before = server.client().info("stats")["total_commands_processed"]
        for i in range(10):
            store["k"] = i
        assert server.client().info("stats")["total_commands_processed"] - before <= 10 * 10
        calls = server.client().info("commandstats")
        assert sum(told["calls"] for name, told in calls.items() if "client" in name and "setinfo" not in name) <= 3


def test_a_user_who_may_not_say_it_gets_in(server: Server) -> None:
    server.do("ACL", "SETUSER", "mute", "on", f">{SECRET}", "~*", "+@all", "-client")
    with Store(f"redis://mute:{SECRET}@127.0.0.1:{server.port}", frozen=False) as store:
        store["k"] = 1
        assert store["k"] == 1


def test_a_newer_server_is_told_the_library(tmp_path: Path) -> None:
    for executable in executables().values():
        with Server(tmp_path, executable=executable) as server, Store(server.dsn, frozen=False):
            [told] = clients(server)
            version = server.client().info("server")["redis_version"].split(".")
            assert told.get("lib-name") == ("rstore" if (int(version[0]), int(version[1])) >= (7, 2) else None)


# -- as whom they log in ----------------------------------------------------------------------------------------------


class Rotating:
    """Passwords of a user of which only the latest is right."""

    def __init__(self, *servers: Server, user: str = "ada") -> None:
        self._servers = servers
        self._user = user
        self.n = 0
        self.asked = 0
        self.rotate()

    def rotate(self) -> None:
        self.n += 1
        for server in self._servers:
            server.do("ACL", "SETUSER", self._user, "reset", "on", f">{self.password}", "~*", "&*", "+@all")
            server.do("CLIENT", "KILL", "USER", self._user)

    @property
    def password(self) -> str:
        return f"{SECRET}-{self.n}"

    def __call__(self) -> tuple[str, str]:
        self.asked += 1
        return self._user, self.password


def test_each_new_connection_asks_for_the_password(server: Server) -> None:
    rotating = Rotating(server)
    with Store(server.dsn, frozen=False, credentials=rotating) as store:
        for i in range(5):
            store["k"] = i
            assert store["k"] == i
            rotating.rotate()
            time.sleep(0.002)  # a connection that was in use a moment ago is not looked at
        assert store["k"] == 4
        assert 5 <= rotating.asked <= 12
        assert SECRET not in repr(store)


def test_a_password_for_the_user_that_the_dsn_names(server: Server) -> None:
    rotating = Rotating(server)
    for user in ("ada@", "ada:@"):
        dsn = f"redis://{user}127.0.0.1:{server.port}"
        with Store(dsn, frozen=False, credentials=lambda: rotating.password) as store:
            store["k"] = 1


def test_watching_transactions_and_a_cluster_ask_as_well(redis_cluster: Cluster, redis_cluster_dsn: str) -> None:
    rotating = Rotating(*redis_cluster.servers)
    try:
        with Store(f"{redis_cluster_dsn}?buckets=4", frozen=False, credentials=rotating) as store:
            changes = store.watch(timeout=10)
            store["k"] = 1
            assert next(changes).key == "k"
            rotating.rotate()
            store.update({f"{i}": i for i in range(20)})
            assert len(store) == 21
            assert next(changes).key
            changes.close()
    finally:
        for one in redis_cluster.servers:
            one.do("ACL", "DELUSER", "ada")


def test_it_is_asked_after_a_failover_too(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        rotating = Rotating(*service.servers)
        with Store(service.dsn, frozen=False, credentials=rotating) as store:
            store["k"] = 1
            before = service.master().port
            service.fail_over(wait=False)
            rotating.rotate()
            until(lambda: service.master().port != before, f"{SERVICE} does not fail over")
            store["k"] = 2
            assert store["k"] == 2
    finally:
        service.kill()


def test_a_wrong_one_is_told_and_not_shown(server: Server) -> None:
    rotating = Rotating(server)
    with pytest.raises(StoreNotAvailableError, match="user or the password") as refused:
        Store(server.dsn, credentials=lambda: ("ada", "hunter3")).open()
    assert "hunter" not in str(refused.value)
    with Store(server.dsn, frozen=False, credentials=rotating, timeout=2) as store:
        store["k"] = 1

        def fail() -> tuple[str, str]:
            raise LookupError("the vault is sealed")

        pool_of(store).drop_idle()
        rotating.__class__ = type("Failing", (Rotating,), {"__call__": lambda _: fail()})
        with pytest.raises(StoreNotAvailableError, match="raised LookupError"):
            store["k"] = 2


def test_two_passwords_are_one_too_many(server: Server) -> None:
    with pytest.raises(InvalidArgumentError, match="leave one of them out") as refused:
        Store(f"redis://ada:{SECRET}@127.0.0.1:{server.port}", credentials=lambda: "x").open()
    assert SECRET not in str(refused.value)
