"""A service that Sentinel looks after, used while its master changes: by plan, by a crash, and by being cut off.

What was acknowledged is remembered outside of the store.
"""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis_load import after, writers
from redis_sentinels import SERVICE, Sentinel, Service
from redis_servers import Server, free_port
from waiting import until

from rstore import (
    ConflictError,
    InvalidArgumentError,
    OutcomeUnknownError,
    Store,
    StoreError,
    StoreNotAvailableError,
    Transaction,
)
from rstore.backends.redis.transaction.watched import WatchedKeys
from rstore.backends.redis.transport import client, rounds
from rstore.backends.redis.transport.dsn import parse

# What docs/redis.md grants.
RIGHTS = "&* -@all +client +psubscribe +sentinel|master +sentinel|get-master-addr-by-name +sentinel|replicas"
SECRET = "hunter2"  # noqa: S105 - opens servers of the tests only


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.kill()


@pytest.fixture
def service(whole: Service) -> Service:
    """Return a service that is whole and empty, whatever the test before has done to it."""
    whole.mend()
    whole.flush()
    return whole


def opened(dsn: str) -> Store:
    return Store(dsn, frozen=False, timeout=20)


def other_master(service: Service, before: Server) -> bool:
    return service.master() is not before


def test_all_models_follow_a_planned_failover_and_lose_nothing(service: Service) -> None:
    """No error, nothing lost, nothing done twice: what was on its way is looked for on the new master."""
    before = service.master()
    with writers(lambda: opened(service.dsn), expected=()) as results:
        after(results, 20)
        service.fail_over()
        after(results, 50)
    until(partial(other_master, service, before), "nobody takes over")
    with Store(service.dsn) as frozen:
        for result in results:
            result.check(frozen)
        assert frozen.check() == []


def test_nothing_that_replicas_confirmed_is_lost_with_the_master(service: Service) -> None:
    before = service.master()
    with writers(lambda: opened(f"{service.dsn}?wait_replicas=1")) as results:
        after(results, 20)
        before.kill()
        after(results, 50)
    until(partial(other_master, service, before), "nobody takes over")
    with Store(service.dsn) as frozen:
        for result in results:
            result.check(frozen)
        assert sum(len(result.unknown) for result in results) <= len(results)  # one that was on its way, each
        assert frozen.check() == []


def test_a_call_on_its_way_to_a_master_that_is_gone_ends_with_the_failover(service: Service) -> None:
    """Not with its time-out: its connection is closed when another server takes over."""
    before = service.master()
    with Store(service.dsn, frozen=False, timeout=60) as store:
        store["k"] = 1
        before.do("SET", "mark", 1)
        assert before.do("WAIT", 2, 20_000) == 2  # replicas are late, on a busy machine by more than a moment
        before.pause()
        try:
            start = time.monotonic()
            assert store["k"] == 1
            assert time.monotonic() - start < 30
            until(partial(other_master, service, before), "nobody takes over")
            store["k"] = 2
        finally:
            before.resume()
        for i in range(50):  # the one of before takes itself for a master still, and is not written to
            store[f"{i}"] = i
    service.mend()
    with Store(service.dsn) as frozen:
        assert dict(frozen) == {"k": 2, **{f"{i}": i for i in range(50)}}


def test_a_failover_that_is_given_up_holds_writers_no_longer(service: Service) -> None:
    """Both replicas are gone, which the sentinels have not noticed: none of them becomes a master."""
    before = service.master()
    for sentinel in service.sentinels:
        sentinel.do("SENTINEL", "SET", SERVICE, "failover-timeout", 3000)
        sentinel.do("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 20_000)
    replicas = service.replicas()
    try:
        with opened(service.dsn) as store:
            store["k"] = 0
            for replica in replicas:
                replica.pause()
            start = service.fail_over(wait=False)
            until(lambda: _holds(store), "nothing is held", pause_s=0.001)
            store["k"] = 1
            assert 1 < time.monotonic() - start < 15
            assert service.master() is before
            assert before.client().dbsize() > 0
            assert store["k"] == 1
    finally:
        for replica in replicas:
            replica.resume()
        for sentinel in service.sentinels:
            sentinel.do("SENTINEL", "SET", SERVICE, "failover-timeout", 10_000)
            sentinel.do("SENTINEL", "SET", SERVICE, "down-after-milliseconds", 1000)


def _holds(store: Store) -> bool:
    pool = store._writer.backend._client._nodes.only  # type: ignore[attr-defined]  # noqa: SLF001
    return bool(pool.changing)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("how", ["call", "waiting", "transaction"])
def test_an_answer_of_a_master_that_is_none_any_more_does_not_count(
    service: Service, monkeypatch: pytest.MonkeyPatch, *, lost: bool, how: str
) -> None:
    """It is looked for on the new master, which has got it, or has not."""
    before, inside = service.master(), how == "transaction"
    place: Any = WatchedKeys if inside else rounds if how == "waiting" else client
    name = "_receive" if inside else "read_outcome"
    read: Callable[..., Any] = getattr(place, name)
    left = iter([1, 0] if how == "waiting" else [0])  # the last reply to what is written

    def late(*arguments: Any) -> Any:
        reply = read(*arguments)
        if next(left) == 0:
            monkeypatch.undo()
            service.fail_over()
            until(lambda: pool.tenure.over, "the store has not heard of it")
            if lost:
                service.master().do("FLUSHALL")
        return reply

    with opened(f"{service.dsn}?wait_replicas={1 if how == 'waiting' else 0}") as store:
        store["k"] = 1
        pool = store._writer.backend._client._nodes.only  # type: ignore[attr-defined]  # noqa: SLF001
        monkeypatch.setattr(place, name, late)  # comes between a reply and its reader
        unknown = pytest.raises(OutcomeUnknownError) if lost else nullcontext()
        with unknown, store.transaction() if inside else nullcontext(store) as tx:
            tx["k"] = 2
        until(partial(other_master, service, before), "nobody takes over")
        assert store.get("k") == (None if lost else 2)


def test_each_transaction_is_done_once(service: Service) -> None:
    """Two threads count in transactions, one that reads all keys, and one that reads one."""
    done = [0, 0]
    unknown = [0, 0]
    stop = threading.Event()

    def count(which: int, store: Store) -> None:
        while not stop.is_set():
            try:
                with store.transaction() as tx:
                    tx.set(f"{which}", tx.get(f"{which}", 0) + 1)
                    if which:
                        len(tx)
                    tx.extend(f"s{which}", (done[which] + unknown[which], 1))
                done[which] += 1
            except ConflictError:
                continue
            except StoreError:
                unknown[which] += 1

    with opened(f"{service.dsn}?wait_replicas=1") as store:
        threads = [threading.Thread(target=count, args=(which, store)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        until(lambda: min(done) > 10, "nothing is counted")
        service.fail_over()
        soon = min(done) + 20
        until(lambda: min(done) > soon, "nothing is counted afterwards")
        stop.set()
        for thread in threads:
            thread.join()
        for which in (0, 1):
            assert done[which] <= store[f"{which}"] <= done[which] + unknown[which]


@pytest.mark.parametrize("crash", [False, True], ids=["planned", "crash"])
def test_a_transaction_that_a_failover_overtakes_is_done_again(service: Service, *, crash: bool) -> None:
    """It had asked for nothing yet, and its master is gone when it does."""
    tries = []

    def work(tx: Transaction) -> None:
        tries.append(1)
        tx.set("k", len(tries))
        if len(tries) == 1:
            before = service.master()
            if crash:
                before.kill()
                until(lambda: other_master(service, before), "nobody takes over")
            else:
                service.fail_over()
                until(lambda: nodes.only is not first, "the store goes on with the old one")

    with opened(service.dsn) as store:
        store["k"] = 0
        nodes = store._writer.backend._client._nodes  # type: ignore[attr-defined]  # noqa: SLF001
        first = nodes.only
        store.run(work)
        assert store["k"] == len(tries) == 2


def test_watching_and_computing_go_on_after_a_failover(service: Service) -> None:
    seen: list[object] = []
    with opened(service.dsn) as store, opened(service.dsn) as other:
        store["k"] = 0

        def watch() -> None:
            for change in other.watch("k"):
                seen.append(change.entry and change.entry.value)
                if seen[-1] == "end":
                    return

        def compute() -> int:
            service.fail_over()
            return 42

        thread = threading.Thread(target=watch)
        thread.start()
        time.sleep(0.1)
        store["k"] = 1
        until(lambda: 1 in seen, "nothing is seen")
        # Who computes a value keeps others from it by a lease, which the new master has, too.
        assert store.get_or_set("slow", compute) == 42
        assert other.get_or_set("slow", lambda: 43) == 42
        store["k"] = 2
        until(lambda: 2 in seen, "what comes after a failover is not seen")
        store["k"] = "end"
        thread.join(30)
        assert not thread.is_alive()


def _in_a_child(store: Store, started: threading.Event) -> None:
    for i in range(100):
        store.set("child", i)
        if i == 10:
            started.set()
        time.sleep(0.01)
        assert store["parent"] >= 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_that_is_open_across_a_fork_fails_over_on_both_sides(service: Service) -> None:
    context = multiprocessing.get_context("fork")
    with opened(service.dsn) as store:
        store.set("parent", 0)
        started = context.Event()
        child = context.Process(target=_in_a_child, args=(store, started))
        child.start()
        assert started.wait(30)
        service.fail_over(wait=False)
        for i in range(100):
            store.set("parent", i)
            time.sleep(0.01)
        child.join(60)
        assert child.exitcode == 0
        assert (store["child"], store["parent"]) == (99, 99)
        assert service.master().client().dbsize() > 0


# -- the sentinels ----------------------------------------------------------------------------------------------------


def test_one_sentinel_is_enough_and_an_open_store_needs_none(service: Service) -> None:
    for sentinel in service.sentinels[:2]:
        sentinel.kill()
    with opened(service.dsn) as store:
        store["k"] = 1
        service.sentinels[2].kill()
        assert store["k"] == 1
        store["k"] = 2
        assert store["k"] == 2
    start = time.monotonic()
    with pytest.raises(StoreNotAvailableError, match=f"no sentinel answers.*{SERVICE}.*are they running"):
        opened(service.dsn).open()
    assert time.monotonic() - start < 5
    for sentinel in service.sentinels:
        sentinel.start()


def test_a_sentinel_that_lags_behind_is_not_believed(service: Service, tmp_path: Path) -> None:
    """One that hears nothing of the others, and is asked with them, goes on telling of the master of before."""
    before = service.master()
    for server in service.servers:
        server.do("ACL", "SETUSER", "lone", "on", f">{SECRET}", "~*", "+@all", "resetchannels")
    lines = f"sentinel auth-user {SERVICE} lone", f"sentinel auth-pass {SERVICE} {SECRET}"
    with Sentinel(tmp_path, f"sentinel monitor {SERVICE} 127.0.0.1 {before.port} 2", *lines) as late:
        hosts = f"127.0.0.1:{late.port},{service.hosts}"
        with opened(f"redis+sentinel://{hosts}/{SERVICE}") as store:
            store["k"] = 1
            service.fail_over()
            service.mend()
            assert (late.master(), service.master()) == (before.port, service.master()) != (0, before)
            store["k"] = 2
            with Store(f"redis+sentinel://{hosts}/{SERVICE}", timeout=3) as frozen:
                assert frozen["k"] == 2


def test_a_replica_that_is_taken_for_the_master_is_not_written_to(service: Service) -> None:
    """Somebody demotes the master by hand: the sentinels notice, sooner or later."""
    with Store(service.dsn, frozen=False, timeout=0.5) as store:
        store["k"] = 1
        master, [replica, _] = service.master(), service.replicas()
        try:
            master.do("REPLICAOF", "127.0.0.1", replica.port)
            with pytest.raises(StoreNotAvailableError):
                store["k"] = 2
        finally:
            master.do("REPLICAOF", "NO", "ONE")
        until(lambda: _writes(store), "nothing is written")
        assert store["k"] == 2


def _writes(store: Store) -> bool:
    try:
        store["k"] = 2
    except StoreError:
        return False
    return True


def test_what_the_sentinels_do_not_know(service: Service) -> None:
    with pytest.raises(StoreNotAvailableError, match="no sentinel knows the service 'another'"):
        opened(f"redis+sentinel://{service.hosts}/another").open()
    with pytest.raises(StoreNotAvailableError, match="no sentinel"):
        opened(f"redis+sentinel://127.0.0.1:{service.servers[0].port}/{SERVICE}").open()


def test_users_and_passwords_of_servers_and_of_sentinels(tmp_path: Path) -> None:
    service = Service(
        tmp_path,
        options=("--requirepass", SECRET, "--masterauth", SECRET),
        lines=(f"sentinel auth-pass {SERVICE} {SECRET}", f"user looker on >{SECRET}2 {RIGHTS}"),
        password=SECRET,
    )
    try:
        options = f"sentinel_user=looker&sentinel_password={SECRET}2"
        dsn = f"redis+sentinel://:{SECRET}@{service.hosts}/{SERVICE}"
        with opened(f"{dsn}?{options}") as store:
            store["k"] = 1
            assert SECRET not in repr(store)
            before = service.master()
            service.fail_over()
            store["k"] = 1
            until(partial(other_master, service, before), "nobody takes over")
            with Store(f"{dsn}?{options}&read_from=replica") as frozen:
                until(lambda: frozen.get("k") == 1, "the replicas do not get it")
        for sentinel in service.sentinels:
            sentinel.do("ACL", "SETUSER", "default", "off")
        with opened(f"{dsn}/0?{options}") as store:
            assert store["k"] == 1
        for wrong in (dsn, f"{dsn}?{options}2", f"{dsn.replace(SECRET, 'x')}?{options}"):
            with pytest.raises(StoreNotAvailableError, match="user or the password") as refused:
                Store(wrong, frozen=False, timeout=5).open()
            assert SECRET not in str(refused.value)
    finally:
        service.kill()


# -- names and openings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dsn", "addresses", "service", "database"),
    [
        ("a,b:1,[::1]/main", (("a", 26379), ("b", 1), ("::1", 26379)), "main", 0),
        ("u:p%40ss@a/main/2", (("a", 26379),), "main", 2),
        ("a/ma%2Fin?db=3", (("a", 26379),), "ma/in", 3),
    ],
)
def test_what_a_dsn_says(dsn: str, addresses: object, service: str, database: int) -> None:
    target = parse(dsn, cluster=False, tls=False, sentinel=True)
    assert (target.addresses, target.service, target.database) == (addresses, service, database)
    assert "p@ss" not in repr(target)


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "host",
        "host/",
        "/main",
        "host/main/x",
        "host:x/main",
        "host/main?sentinel=1",
        "host/a b",
        "secret@host/main",
    ],
)
def test_what_is_no_dsn_is_refused(dsn: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Store(f"redis+sentinel://{dsn}").open()
    assert "secret" not in str(refused.value)


def test_a_closed_store_leaves_no_connection_and_no_thread(service: Service) -> None:
    def held() -> int:
        lists = [one.do("CLIENT", "LIST") for one in (*service.sentinels, *service.servers)]
        clients = sum(told.count(b"name=rstore:") for told in lists)
        return int(clients) + sum(thread.name in names for thread in threading.enumerate())

    names = ("rstore sentinel", "rstore asks")  # not the leases of other tests, which end in their time
    gc.collect()  # what other tests have not closed
    until(lambda: held() == 0, "something of other tests is left")
    store = opened(service.dsn).open()
    store["k"] = 1
    assert held() >= 3 + 3 + 1  # threads, subscriptions, and the connection to the master
    store.close()
    until(lambda: held() == 0, "something is left")
    forgotten: Callable[[], Store] = lambda: opened(service.dsn).open()  # noqa: E731
    forgotten()  # by a program that does not close its stores
    until(lambda: gc.collect() >= 0 and held() == 0, "something is left of what nobody closed", pause_s=0.1)


def test_nobody_listens_there() -> None:
    with pytest.raises(StoreNotAvailableError, match="no sentinel answers"):
        opened(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}").open()


def test_a_program_that_ends_may_still_write(service: Service) -> None:
    """When no thread can be started any more."""
    program = (
        "import atexit, sys\n"
        "from rstore import Store\n"
        "def last():\n"
        "    with Store(sys.argv[1], frozen=False) as store: store['last'] = 1\n"
        "atexit.register(last)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, service.dsn],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Store(service.dsn) as frozen:
        assert frozen["last"] == 1
