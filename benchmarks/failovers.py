"""The cost of a failover of Redis: how long nothing is acknowledged, and how many acknowledged writes are lost.

Four threads write while a master is replaced by plan, killed, or stopped; what they were told is kept outside of the
store and compared with what is there at the end. `python benchmarks/failovers.py [rounds]` prints a table, in which
each number is the worst of all rounds.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

from redis_proxy import Proxy
from redis_sentinels import Service
from redis_servers import Cluster, Server

from rstore import OutcomeUnknownError, Store, StoreError

WRITERS = 4
BEFORE_S, AFTER_S = 2.0, 10.0


class Told(NamedTuple):
    """The outcome of one write as its writer was told it, and the time."""

    key: str
    outcome: str
    at: float


class Result(NamedTuple):
    """The figures of one failover."""

    gap_s: float
    done: int
    unknown: int
    refused: int
    lost: int


def write(store: Store, who: int, told: list[Told], stop: threading.Event) -> None:
    """Write until told to stop."""
    i = 0
    while not stop.is_set():
        key = f"{who} {i}"
        i += 1
        try:
            store[key] = i
            outcome = "done"
        except OutcomeUnknownError:
            outcome = "unknown"
        except StoreError:
            outcome = "refused"
        told.append(Told(key, outcome, time.monotonic()))


def measure(dsn: str, strike: Callable[[], object], reader: str) -> Result:
    """Measure the outcome of writes to one DSN while something is done to the servers; `reader` tells what is left."""
    stop = threading.Event()
    told: list[list[Told]] = [[] for _ in range(WRITERS)]
    stores = [Store(dsn, frozen=False, timeout=30).open() for _ in range(WRITERS)]
    threads = [threading.Thread(target=write, args=(store, who, told[who], stop)) for who, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    time.sleep(BEFORE_S)
    strike()
    time.sleep(AFTER_S)
    stop.set()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    everything = [one for some in told for one in some]
    done = sorted(one.at for one in everything if one.outcome == "done")
    gap_s = max((after - before for before, after in pairwise(done)), default=0.0)
    with Store(reader) as left:
        there = set(left.keys())
    unknown, refused = (sum(one.outcome == outcome for one in everything) for outcome in ("unknown", "refused"))
    lost = sum(one.outcome == "done" and one.key not in there for one in everything)
    return Result(gap_s, len(done), unknown, refused, lost)


@contextmanager
def service(down_ms: int) -> Generator[Service]:
    """Yield a service of Sentinel, whole."""
    with tempfile.TemporaryDirectory() as directory:
        one = Service(Path(directory), down_ms=down_ms)
        try:
            yield one
        finally:
            one.kill()


@contextmanager
def cluster() -> Generator[Cluster]:
    """Yield a cluster of three masters with a replica each."""
    with tempfile.TemporaryDirectory() as directory:
        one = Cluster(Path(directory), node_timeout_ms=2000)
        try:
            yield one
        finally:
            one.kill()


def of_sentinel(strike: str, options: str = "", *, down_ms: int = 1000) -> Result:
    """Measure a service of Sentinel."""
    with service(down_ms) as one:
        master = one.master()
        strikes: dict[str, Callable[[], object]] = {
            "planned": one.fail_over, "killed": master.kill, "stopped": master.pause
        }  # fmt: skip
        result = measure(one.dsn + options, strikes[strike], one.dsn)
        if strike == "stopped":
            master.resume()
        return result


def of_proxy() -> Result:
    """Measure a planned failover behind a proxy that follows Sentinel, with a client that does not."""
    with service(1000) as one, Proxy(one.master().port) as proxy:

        def strike() -> None:
            one.fail_over()
            proxy.lead_to(one.master().port)

        return measure(f"redis://127.0.0.1:{proxy.port}", strike, one.dsn)


def of_cluster(strike: str, options: str = "") -> Result:
    """Measure a cluster, of which one of three masters is replaced; the gap is that of a namespace on it alone."""
    with cluster() as one:
        dsn = f"{one.dsn}?buckets=1{options.replace('?', '&')}"
        with Store(dsn, frozen=False) as store:
            store["first"] = 1
        master = next(server for server in one.masters() if int(server.do("DBSIZE")) > 1)

        def planned() -> None:
            mine = master.do("CLUSTER", "MYID")
            _replica_of(one, mine).do("CLUSTER", "FAILOVER")

        return measure(dsn, planned if strike == "planned" else master.kill, dsn)


def _replica_of(one: Cluster, master: bytes) -> Server:
    for server in one.servers:
        nodes = server.do("CLUSTER", "NODES").decode().splitlines()
        if any("myself,slave" in line and master.decode() in line for line in nodes):
            return server
    raise LookupError(master)


CASES: dict[str, Callable[[], Result]] = {
    "a proxy before them, planned": of_proxy,
    "Sentinel, planned": lambda: of_sentinel("planned"),
    "Sentinel, planned, wait_replicas=1": lambda: of_sentinel("planned", "?wait_replicas=1"),
    "Sentinel, master killed": lambda: of_sentinel("killed"),
    "Sentinel, master killed, wait_replicas=1": lambda: of_sentinel("killed", "?wait_replicas=1"),
    "Sentinel, master killed, noticed after 5 s": lambda: of_sentinel("killed", down_ms=5000),
    "Sentinel, master stopped": lambda: of_sentinel("stopped"),
    "Cluster, planned": lambda: of_cluster("planned"),
    "Cluster, master killed": lambda: of_cluster("killed"),
    "Cluster, master killed, wait_replicas=1": lambda: of_cluster("killed", "?wait_replicas=1"),
}


def main(rounds: int) -> None:
    """Print the table."""
    print("| | nothing acknowledged for | acknowledged and lost | unknown | refused |\n|---|---|---|---|---|")
    for name, case in CASES.items():
        results = [case() for _ in range(rounds)]
        worst = max(results, key=lambda one: one.lost / max(1, one.done))
        gap_s, unknown, refused = (
            max(getattr(one, what) for one in results) for what in ("gap_s", "unknown", "refused")
        )
        print(f"| {name} | {gap_s:.1f} s | {worst.lost:,} of {worst.done:,} | {unknown} | {refused} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 3)
